"""Five folds of the PBC forecast: the latent SDE against the baselines and against itself without noise.

    python tests/bench/pbc_folds.py --out tests/bench/results/pbc_folds.json

Each patient is scored once, by models that were trained on the other folds. Two tasks: the second half of each series,
and years 2 to 5 from what was known at year 2. The table is per value, in units of the training fold's standardised
channels; differences are paired, their standard errors over patients. About half an hour on two cores.
"""

import argparse
import json
import platform
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
from rich.console import Console

from nde import runs
from nde.config import load_config
from nde.report import compare, render, sample_forecast, score, Scores
from nde.tasks import member_key
from nde.tasks.forecast import build_cut

CONFIG = Path(__file__).parents[2] / "configs" / "latent_sde_pbc.toml"
TASKS = {"second half": "second_half", "landmark, years 2 to 5": "landmark"}
ENSEMBLE, WITHOUT_NOISE = "latent SDE, ensemble", "latent ODE, ensemble (no noise)"


def train_fold(fold: int, overrides: list[str], folder: Path, console: Console) -> tuple[runs.Run, float]:
    """Train one fold into a folder; the run, and the seconds of training with compilation."""
    found = runs.prepare(load_config(CONFIG, [f"data.fold={fold}", *overrides]))
    folder.mkdir(parents=True)
    run = runs.Run.create(folder, *found)
    started = time.perf_counter()
    if not runs.train(run, console):
        raise SystemExit("stopped by a signal.")
    return run, time.perf_counter() - started


def single_scores(run: runs.Run, cut_by: str) -> list[Scores]:
    """The scores of each member alone, with all the samples."""
    problem, settings = run.problem, run.config.evaluate.model_copy(update={"cut": cut_by})
    times, values, mask = problem.arrays(problem.split.test)
    cut = build_cut(settings, problem.panel.time_scale).cut(times, mask)
    key = member_key(run.config, 0, "forecasts")
    given, ids = (times, values, cut.context, times), problem.ids(problem.split.test)
    (models,) = run.models().values()
    forecasts = (sample_forecast([model], *given, series=ids, samples=settings.samples, key=key) for model in models)
    return [score(forecast.law, values, cut.targets) for forecast in forecasts]


def main() -> None:
    """Train, score, print, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "pbc_folds.json")
    parser.add_argument("--folds", type=int, default=5, help="how many of the five folds to run")
    parser.add_argument("overrides", nargs="*", help="section.key=value over the config")
    options = parser.parse_args()
    console = Console(width=120)
    parts: dict[str, list[dict[str, Scores]]] = {task: [] for task in TASKS}
    divergences, seconds = [], {ENSEMBLE: [], WITHOUT_NOISE: []}
    with tempfile.TemporaryDirectory() as work:
        for fold in range(options.folds):
            sde, spent = train_fold(fold, options.overrides, Path(work) / f"sde{fold}", console)
            seconds[ENSEMBLE].append(spent)
            quiet = [*options.overrides, "model.diffusion_scale=0"]
            ode, spent = train_fold(fold, quiet, Path(work) / f"ode{fold}", console)
            seconds[WITHOUT_NOISE].append(spent)
            for name, task in TASKS.items():
                evaluation = sde.evaluate(cut=task)
                scores = {ENSEMBLE if m == evaluation.method else m: s for m, s in evaluation.scores.items()}
                without = ode.evaluate(cut=task)
                scores[WITHOUT_NOISE] = without.scores[without.method]
                for member, single in enumerate(single_scores(sde, task)):
                    scores[f"latent SDE, member {member} alone"] = single
                parts[name].append(scores)
                if task == "second_half":
                    divergences.extend(evaluation.kl_path.values())
    report(console, parts, np.concatenate(divergences), seconds, options)


def report(console: Console, parts, divergences, seconds, options) -> None:
    """Print a table for each task and write all of it as JSON."""
    kl = {
        "mean": float(divergences.mean()),
        "median": float(np.median(divergences)),
        "share_below_half": float((divergences < 0.5).mean()),
    }
    result = {
        "command": f"python tests/bench/pbc_folds.py --folds {options.folds} {' '.join(options.overrides)}".strip(),
        "machine": f"{platform.machine()}, {platform.system()}",
        "versions": {name: version(name) for name in ("jax", "equinox", "diffrax", "optax")},
        "path_kl_nats": kl,
        "training_seconds_per_fold": {name: [round(s, 1) for s in values] for name, values in seconds.items()},
        "tasks": {},
    }
    for task, folds in parts.items():
        pooled = {name: Scores.concatenate([fold[name] for fold in folds]) for name in folds[0]}
        rows = compare(pooled, ENSEMBLE)
        console.print(render(rows, ENSEMBLE, f"{task}: {options.folds} folds"))
        result["tasks"][task] = {
            "patients": int((pooled[ENSEMBLE].count > 0).sum()),
            "values": int(pooled[ENSEMBLE].count.sum()),
            "methods": [
                {**vars(row), "nll_by_fold": [round(fold[row.method].mean("nll"), 4) for fold in folds]} for row in rows
            ],
        }
    console.print(f"path KL per patient: {kl}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    console.print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
