"""Five folds of the PBC forecast: every forecaster beside the latent SDE and the baselines.

    python tests/bench/forecasters.py                       # what is not in results/forecasters.json yet
    python tests/bench/forecasters.py --models "latent ODE" "CDE to SDE" --folds 0 1

Each patient is scored once, by models that were trained on the other folds: one member of each, on the settings of
configs/latent_sde_pbc.toml, which were chosen for the latent SDE; nothing was tuned for the others. The step with the
best validation score is kept, and training ends after four validations without a better one. Two tasks: the second
half of each series, and years 2 to 5 from what was known at year 2. Scores are per value, in units of the training
fold's standardised channels; differences are paired, their standard errors over patients.

Training is timed as a whole, validations included, by the clock and by the processors' time, and a step by the median
in the run's own log. With JAX_COMPILATION_CACHE_DIR set, compilation is in the first fold's time alone; the report has
medians over the folds. Results are stored fold by fold and model by model, the patients' scores with them, and LS4's
when there is one. About half an hour of processor time.
"""

import argparse
import json
import os
import platform
import tempfile
import time
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from nde import runs
from nde.config import load_config, MODELS
from nde.report import compare, render, sample_forecast, score, Scores
from nde.tasks import member_key
from nde.tasks.forecast import build_cut
from nde.tasks.forecast.stack import fit_baselines

CONFIG = Path(__file__).parents[2] / "configs" / "latent_sde_pbc.toml"
OUT = Path(__file__).parent / "results" / "forecasters.json"
TASKS = {"second half": "second_half", "landmark, years 2 to 5": "landmark"}
FOLDS = 5
REFERENCE = "latent SDE"


def causal(encoder: str, decoder: str) -> dict[str, Any]:
    """The keys of an encoder-decoder."""
    return {"name": "encoder_decoder", "encoder": encoder, "decoder": decoder}


FORECASTERS: dict[str, dict[str, Any]] = {
    "latent SDE": {"name": "latent_sde"},
    "latent ODE": {"name": "latent_ode"},
    "ODE-RNN to SDE": causal("ode_rnn", "sde"),
    "GRU-Δt to SDE": causal("gru", "sde"),
    "CDE to SDE": causal("cde", "sde"),
    "latent SDE without noise": {"name": "latent_sde", "diffusion_scale": 0.0},
    "latent SDE by SDE Matching": {"name": "latent_sde", "posterior": "marginals"},
    "ODE-RNN to ODE": causal("ode_rnn", "ode"),
    "GRU-Δt to ODE": causal("gru", "ode"),
    "CDE to ODE": causal("cde", "ode"),
    "LS4": {"name": "ls4"},
}
"""The keys of each `[[model]]`; one whose name is not in `MODELS` is passed over."""

BASELINES = "baselines"


def settings(model: dict[str, Any], fold: int) -> dict[str, Any]:
    """The config of one fold and model."""
    tree = tomllib.loads(CONFIG.read_text())
    tree["data"]["fold"] = fold
    tree["model"] = [model]
    tree["train"]["members"] = 1
    tree["evaluate"]["stack"] = False
    if model.get("posterior") == "marginals":
        tree["objective"]["name"] = "sde_matching"
    return tree


def trained(name: str, fold: int, folder: Path, console: Console) -> tuple[runs.Run, dict[str, Any]]:
    """A run of one model and fold, and how long its training took."""
    run = runs.Run.create(folder, *runs.prepare(load_config(settings(FORECASTERS[name], fold))))
    clock, processor = time.perf_counter(), time.process_time()
    if not runs.train(run, console):
        raise SystemExit("stopped by a signal.")
    spent = time.perf_counter() - clock, time.process_time() - processor
    log = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    log = [row for row in log if "loss" in row]
    steps, seconds = (np.array([row[key] for row in log]) for key in ("step", "seconds"))
    return run, {
        "seconds": round(spent[0], 1),
        "processor_seconds": round(spent[1], 1),
        "steps": int(steps[-1]) + 1,
        "step_ms": round(1e3 * float(np.median(np.diff(seconds) / np.diff(steps))), 1),
        "load": round(os.getloadavg()[0], 1),
    }


def laws_of(run: runs.Run, given: tuple[np.ndarray, ...], name: str) -> dict[str, Any]:
    """The predictive laws of a run's one model, or of the baselines, by their names."""
    if name == BASELINES:
        return dict(fit_baselines(run.problem, run.problem.split.fold).forecasts(*given))
    (models,) = run.models().values()
    key, ids = member_key(run.config, 0, "forecasts"), run.problem.ids(run.problem.split.test)
    return {name: sample_forecast(models, *given, series=ids, samples=run.config.evaluate.samples, key=key).law}


def scored(run: runs.Run, name: str) -> Iterator[tuple[str, str, Scores]]:
    """Task, method and scores of a run on its test series."""
    problem = run.problem
    times, values, mask = problem.arrays(problem.split.test)
    for task, cut_by in TASKS.items():
        evaluate = run.config.evaluate.model_copy(update={"cut": cut_by})
        cut = build_cut(evaluate, problem.panel.time_scale).cut(times, mask)
        for method, law in laws_of(run, (times, values, cut.context, times), name).items():
            yield task, method, score(law, values, cut.targets)


def read(path: Path) -> dict[str, Any]:
    """What is stored already."""
    if path.is_file():
        return json.loads(path.read_text())
    return {"command": "python tests/bench/forecasters.py", "scores": {}, "training": {}, "summary": {}}


def add(path: Path, fold: int, found: list[tuple[str, str, Scores]], training: dict[str, dict[str, Any]]) -> None:
    """Store the scores of one fold's methods, and the summary of all."""
    stored = read(path)
    for task, method, one in found:
        folds = stored["scores"].setdefault(task, {}).setdefault(method, {})
        columns = ((one.nll, 4), (one.crps, 4), (one.count, 0))
        folds[str(fold)] = [[round(float(x), digits) for x in column] for column, digits in columns]
    for method, one in training.items():
        stored["training"].setdefault(method, {})[str(fold)] = one
    stored["machine"] = f"{platform.machine()}, {platform.system()}, {os.cpu_count()} cores"
    stored["versions"] = {name: version(name) for name in ("jax", "equinox", "diffrax", "optax")}
    stored["summary"] = {task: summary(stored["scores"][task]) for task in stored["scores"]}
    part = path.with_suffix(".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    part.write_text(json.dumps(stored, ensure_ascii=False, separators=(",", ":")).replace('],"', '],\n"') + "\n")
    part.replace(path)


def rows_of(scores: dict[str, Any]) -> list[Any]:
    """The table of one task: the methods that have the folds that the reference has."""
    pooled = {}
    for method, folds in scores.items():
        if sorted(folds) == sorted(scores.get(REFERENCE, {})):
            parts = [Scores(*(np.array(column) for column in folds[fold])) for fold in sorted(folds)]
            pooled[method] = Scores.concatenate(parts)
    return compare(pooled, REFERENCE) if pooled else []


def summary(scores: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of the table, rounded."""
    rounded = (vars(row) for row in rows_of(scores))
    return [{key: round(x, 5) if isinstance(x, float) else x for key, x in row.items()} for row in rounded]


def main() -> None:
    """Train and score what is missing, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--models", nargs="*", default=[*FORECASTERS, BASELINES])
    parser.add_argument("--folds", nargs="*", type=int, default=range(FOLDS))
    options = parser.parse_args()
    console = Console(width=120)
    names = [name for name in options.models if name == BASELINES or FORECASTERS[name]["name"] in MODELS]
    for fold, name in ((fold, name) for fold in options.folds for name in names):
        known = read(options.out)["scores"].get("second half", {}).get("last value" if name == BASELINES else name, {})
        if str(fold) in known:
            continue
        with tempfile.TemporaryDirectory() as work:
            folder, training = Path(work), {}
            if name == BASELINES:
                run = runs.Run.create(folder, *runs.prepare(load_config(settings(FORECASTERS[REFERENCE], fold))))
            else:
                run, training[name] = trained(name, fold, folder, console)
            add(options.out, fold, list(scored(run, name)), training)
        console.print(f"{name}, fold {fold}: {training.get(name, '')}")
        jax.clear_caches()  # fifty trainings in one process otherwise run out of the memory that compiled code may take
    for task, scores in read(options.out)["scores"].items():
        console.print(render(rows_of(scores), REFERENCE, task))


if __name__ == "__main__":
    main()
