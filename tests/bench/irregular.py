"""Accuracy of classifiers of irregular series as values go missing, and how many of their solves diverge.

    python tests/bench/irregular.py                     # what is not in results/irregular.json yet
    python tests/bench/irregular.py --models GRU-D --sets basic_motions

Three sets of the package aeon, each value removed with probability 0, 0.3, 0.5 or 0.7 (the same ones for all models and
seeds), five seeds of weights and batches. All models have the same number of steps, batch size, learning rate and its
schedule; the step with the best Brier score on a fifth of the training part is kept, and scored on the published test
part. Nothing was tuned on these sets: sizes are the models' defaults, but for a common width. Neural CDEs take one
midpoint step a row, SDEs an Euler step, Log-NCDE a Heun step a window of 5 to 7 rows with log-signatures of depth 2. Of
PickupGestureWiimoteZ each third row is taken, so that 361 become 121.

The twenty trainings of a model on a set (four rates, five seeds) are one `vmap`, so that they are compiled and
dispatched once: scales of time and counts are those of the complete series at every rate. Models are built, trained,
validated and scored by the functions of `nde fit`, but that a solve that fails is no error: its update is not made, and
counted. Those that draw noise are scored by the mean probabilities of 8 draws.

The models that were trained on complete series are scored, too, on test series whose standardised values are scaled and
shifted; a solve diverges if its logits are not finite. Results are stored set by set and model by model.
"""

import argparse
import json
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree
from timing import load, processor

from nde import config as configs
from nde.data import Dataset, DATASETS, index_batches, LabelledPanel, panel_of_arrays
from nde.runs import prepare
from nde.tasks import member_key, new_model, TASKS

OUT = Path(__file__).parent / "results" / "irregular.json"
RATES = (0.0, 0.3, 0.5, 0.7)
SEEDS = 5
SAMPLES = 8
EVERY = 3
"""Of PickupGestureWiimoteZ, each so manieth row is taken."""


@dataclass(frozen=True)
class Study:
    """A set: the time between two of its rows, steps of training, size of a batch, rows of a window of Log-NCDE."""

    interval: float
    steps: int
    batch_size: int
    window: int


SETS = {
    "basic_motions": Study(interval=0.1, steps=200, batch_size=16, window=5),
    "japanese_vowels": Study(interval=6.4, steps=300, batch_size=32, window=7),
    "pickup_gesture_thirds": Study(interval=3.0, steps=200, batch_size=16, window=5),
}
SHIFTS = ((1.0, 0.0), (1.0, 0.5), (1.0, 2.0), (3.0, 0.0), (10.0, 0.0), (100.0, 0.0))
"""Scale and shift of the standardised values of test series."""

SIZES = {"state_size": 16, "width": 32, "depth": 1}
MODELS: dict[str, dict[str, Any]] = {
    "GRU-Δt": {"name": "gru", "hidden_size": 32},
    "GRU-D": {"name": "gru_d", "hidden_size": 32},
    "linear CDE": {"name": "linear_cde"},
    "neural CDE": {"name": "neural_cde", **SIZES, "solver": {"name": "midpoint", "steps_per_row": 1}},
    "Langevin SDE": {"name": "controlled_sde", "kind": "langevin", **SIZES},
    "linear noise SDE": {"name": "controlled_sde", "kind": "linear_noise", **SIZES},
    "geometric SDE": {"name": "controlled_sde", "kind": "geometric", **SIZES},
    "plain neural SDE": {"name": "controlled_sde", "kind": "plain", **SIZES},
    "Log-NCDE": {"name": "log_ncde", **SIZES, "signature_depth": 2},
}


def thirds() -> LabelledPanel:
    """PickupGestureWiimoteZ with each third row of a series."""
    data = DATASETS["pickup_gesture"].load()
    panel, rows = data.panel, [np.arange(0, length, EVERY) for length in data.panel.lengths]
    thinned = panel_of_arrays(
        [panel.times[i, kept] for i, kept in enumerate(rows)],
        [panel.values[i, kept] for i, kept in enumerate(rows)],
        ids=panel.ids,
        channels=panel.channels,
        time_unit=panel.time_unit,
    )
    return replace(data, panel=thinned)


DATASETS["pickup_gesture_thirds"] = Dataset(thirds, "labelled")


def settings(name: str, model: str, removed: float, seeds: int) -> configs.RunConfig:
    """The config of one rate, as `nde fit` would be given it."""
    study, panel, section = SETS[name], DATASETS[name].load().panel, dict(MODELS[model])
    if section["name"] == "controlled_sde":
        section["solver"] = {"dt0": study.interval}
    if section["name"] == "log_ncde":
        section["window"] = study.window
    return configs.load_config(
        {
            "task": "classify",
            "data": {
                "dataset": name,
                "removed": removed,
                "horizon": float(panel.times.max()),
                "observations": float(panel.mask.sum(1).mean()),
            },
            "model": [section],
            "train": {
                "steps": study.steps,
                "batch_size": study.batch_size,
                "learning_rate": 5e-3,
                "warmup": 20,
                "members": seeds,
                "validate_every": study.steps // 5,
            },
            "evaluate": {"samples": SAMPLES},
        }
    )


def stacked(trees: list[PyTree]) -> PyTree:
    """Trees of one structure as one, with an axis in front of each array."""
    return jax.tree.map(lambda *xs: jnp.stack(xs) if eqx.is_array(xs[0]) else xs[0], *trees)


def unstacked(tree: PyTree, *index: int) -> PyTree:
    """One of the trees that were stacked."""
    return jax.tree.map(lambda x: x[index] if eqx.is_array(x) else x, tree)


def forgiving(model: PyTree) -> PyTree:
    """The model whose failed solves are not finite, in place of an error."""
    if not hasattr(model, "numerics"):
        return model
    return eqx.tree_at(lambda m: m.numerics, model, replace(model.numerics, throw=False))


def _on_device(x: np.ndarray) -> jax.Array:
    return jnp.asarray(x, {"f": jnp.result_type(float), "i": jnp.result_type(int)}.get(x.dtype.kind, x.dtype))


@dataclass
class Trained:
    """The models of one model on one set, by rate and seed, and what training them took."""

    runs: list[tuple[Any, Any]]
    models: list[list[PyTree]]
    best_steps: np.ndarray
    refused: np.ndarray
    compile_s: float
    step_ms: float
    train_s: float


def train(name: str, model: str, rates: tuple[float, ...] = RATES, seeds: int = SEEDS) -> Trained:
    """Train all rates and seeds of a model on a set together."""
    started = time.perf_counter()
    runs = [prepare(settings(name, model, rate, seeds)) for rate in rates]
    config = runs[0][0]
    task, members = TASKS[config.task], config.members()
    update = configs.build_update(config.train, task.loss(config, runs[0][1]))
    fresh = [update.init(forgiving(new_model(config, member, task.facts(config)))) for member in members]
    state = stacked([stacked(fresh)] * len(rates))
    data = stacked(
        [jax.tree.map(_on_device, task.examples(each, problem, members[0]).arrays) for each, problem in runs]
    )
    count = len(jax.tree.leaves(data)[0][0])
    size = min(config.train.batch_size, count)
    batches = [index_batches(count, size, config.train.steps, seed=config.seed + m.index) for m in members]
    keys = jnp.stack([member_key(config, m.index, "training") for m in members])
    arrays = eqx.if_array(0)
    step = eqx.filter_jit(
        eqx.filter_vmap(
            eqx.filter_vmap(update.compiled, in_axes=(arrays, None, 0, 0)), in_axes=(arrays, arrays, None, None)
        )
    )
    validate = [task.validation(each, problem) for each, problem in runs]
    best = [[(np.inf, 0, None)] * seeds for _ in rates]
    refused, times = np.zeros((len(rates), seeds), int), []
    compile_s = 0.0
    for number in range(config.train.steps):
        begun = time.perf_counter()
        indices = jnp.asarray(np.stack([each[number] for each in batches]))
        state, report = step(state, data, indices, keys)
        refused += ~np.asarray(report.is_finite)
        times.append(time.perf_counter() - begun)
        compile_s = compile_s or times[0]
        if (number + 1) % config.train.validate_every == 0:
            for r, s in np.ndindex(len(rates), seeds):
                now = unstacked(state.evaluated_model, r, s)
                score = float(validate[r](now))
                if score < best[r][s][0]:
                    best[r][s] = (score, number + 1, now)
    return Trained(
        runs=runs,
        models=[[one[2] for one in row] for row in best],
        best_steps=np.array([[one[1] for one in row] for row in best]),
        refused=refused,
        compile_s=compile_s,
        step_ms=1e3 * float(np.median(times[1:])),
        train_s=time.perf_counter() - started,
    )


@dataclass(frozen=True)
class Opened:
    """What a task evaluates: the run of one rate."""

    config: Any
    found: dict[str, list[PyTree]]
    folder: Path = Path()

    def models(self, *, until: float = 0.0) -> dict[str, list[PyTree]]:
        """The trained models by their label."""
        return self.found

    def validation_scores(self) -> dict[str, float]:
        """None are asked for."""
        return {}


def cells(name: str, model: str, trained: Trained) -> Iterator[dict[str, Any]]:
    """Accuracy and NLL of each rate and seed on the test part."""
    for rate, (config, problem), models, steps, refused in zip(
        RATES, trained.runs, trained.models, trained.best_steps, trained.refused, strict=True
    ):
        label = config.members()[0].label
        details = TASKS[config.task].evaluate(Opened(config, {label: models}), problem).details
        for seed, logits in enumerate(details.logits[label]):
            right = logits.argmax(-1) == details.labels
            scaled = logits - logits.max(-1, keepdims=True)
            log_p = scaled - np.log(np.exp(scaled).sum(-1, keepdims=True))
            yield {
                "set": name,
                "model": model,
                "removed": rate,
                "seed": seed,
                "accuracy": round(float(right.mean()), 4),
                "nll": round(-float(np.take_along_axis(log_p, details.labels[:, None], -1).mean()), 4),
                "best_step": int(steps[seed]),
                "steps_not_made": int(refused[seed]),
            }


@eqx.filter_jit
def _probabilities(model: PyTree, times: jax.Array, values: jax.Array, mask: jax.Array) -> jax.Array:
    """Probabilities of the classes, by draws and series; not a number of a solve that diverged."""

    def draw(key: jax.Array) -> jax.Array:
        keys = jax.random.split(key, len(times))
        logits = jax.vmap(lambda *x, key: model(*x, key=key))(times, values, mask, key=keys)
        finite = jnp.all(jnp.isfinite(logits), axis=-1, keepdims=True)
        return jnp.where(finite, jax.nn.softmax(logits), jnp.nan)

    return jax.lax.map(draw, jax.random.split(jax.random.key(0), SAMPLES))


def shifted(name: str, model: str, trained: Trained) -> Iterator[dict[str, Any]]:
    """The models of complete series on scaled and shifted values: accuracy of each seed, and how many diverged."""
    problem = trained.runs[0][1]
    times, values, mask, labels = (_on_device(x) for x in problem.arrays(problem.split.test))
    for scale, shift in SHIFTS:
        found = [_probabilities(each, times, scale * values + shift, mask) for each in trained.models[0]]
        right = [np.mean(np.argmax(np.nan_to_num(np.mean(p, 0)), -1) == labels) for p in found]
        yield {
            "set": name,
            "model": model,
            "scale": scale,
            "shift": shift,
            "accuracy": [round(float(x), 4) for x in right],
            "diverged": [round(float(np.isnan(p).any(-1).mean()), 5) for p in found],
        }


def stored(path: Path) -> dict[str, Any]:
    """What is there already."""
    empty = {"cells": [], "jobs": [], "shift": []}
    return json.loads(path.read_text()) if path.exists() else empty


def store(path: Path, found: dict[str, Any]) -> None:
    """Write everything anew, by way of another file: a stop in between loses nothing."""
    found["machine"] = processor() | {"python": platform.python_version()}
    found["versions"] = {name: version(name) for name in ("jax", "equinox", "diffrax", "optax", "aeon")}
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    beside.rename(path)


def main() -> None:
    """Do what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    options = parser.parse_args()
    for model in options.models:
        for name in options.sets:
            found = stored(options.out)
            if any((job["set"], job["model"]) == (name, model) for job in found["jobs"]):
                continue
            trained = train(name, model)
            rows, moved = list(cells(name, model, trained)), list(shifted(name, model, trained))
            job = {
                "set": name,
                "model": model,
                "compile_s": round(trained.compile_s, 1),
                "step_ms": round(trained.step_ms, 1),
                "train_s": round(trained.train_s, 1),
                "load": load(),
            }
            found = stored(options.out)
            found["cells"] += rows
            found["shift"] += moved
            found["jobs"].append(job)
            store(options.out, found)
            means = [np.mean([row["accuracy"] for row in rows if row["removed"] == rate]) for rate in RATES]
            print(name, model, [f"{mean:.3f}" for mean in means], job, flush=True)
            print("  shifted", [(row["scale"], row["shift"], np.mean(row["accuracy"]).round(3)) for row in moved])


if __name__ == "__main__":
    main()
