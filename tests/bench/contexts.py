"""Flows of many environments: Lotka–Volterra and a glycolytic oscillator, in-domain and adapted to unseen environments.

    taskset -c 0 python tests/bench/contexts.py [--systems lotka_volterra,glycolysis] [--seeds 1] [--ways "no pool"]

The set-up of Nzoyem et al. 2024 (arXiv 2405.02154), after Kirchmeyer et al. 2022: nine environments that differ in two
unseen parameters, each with a few trajectories of 20 rows without noise from the same random starts; scored by the mean
square on 32 fresh starts in each. Then four other environments, one trajectory each, by the context alone, scored on 32
fresh starts. Of each way of training: no pool, a pool of one with an expansion of order 1 and 2, each by Adam on
windows of two rows and then by Gauss-Newton on these windows; Adam alone, 16 times as many steps; and one model for all
environments, with contexts held at zero. Seconds are those of the processor, on one core, compilation among them.
Single precision; the data by Dopri8 at 1e-9, in double.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from timing import load, processor

import nde
from nde.models import adapt
from nde.objectives import ContextFit, row_windows
from nde.train import batch_loss, gauss_newton_update, gradient_update

RESULTS = Path(__file__).parent / "results" / "contexts.json"


class System(NamedTuple):
    """A family: its field by the two parameters, the environments, the starts, times and trajectories."""

    field: Any
    seen: list[tuple[float, float]]
    unseen: list[tuple[float, float]]
    low: np.ndarray
    high: np.ndarray
    ts: np.ndarray
    trajectories: int
    substeps: int
    newton: int
    ways: tuple[str, ...]


def predators(beta: float, delta: float) -> Any:
    """Prey and predators."""
    return nde.fields.lotka_volterra(0.5, beta, delta, 0.5)


def glycolysis(k1: float, ki: float) -> Any:
    """Yeast glycolysis."""
    return nde.fields.glycolysis(k1=k1, ki=ki)


def grid(a: tuple[float, ...], b: tuple[float, ...]) -> list[tuple[float, float]]:
    return [(x, y) for x in a for y in b]


OSCILLATOR = (
    glycolysis, grid((100.0, 90.0, 80.0), (1.0, 0.75, 0.5)), grid((85.0, 95.0), (0.625, 0.875)),
    np.array([0.15, 0.19, 0.04, 0.10, 0.08, 0.14, 0.05]), np.array([1.60, 2.16, 0.20, 0.35, 0.30, 2.67, 0.10]),
    np.arange(20) * 0.05,
)  # fmt: skip
SYSTEMS = {
    "lotka_volterra": System(
        predators, grid((0.5, 0.75, 1.0), (0.5, 0.75, 1.0)), grid((0.625, 1.125), (0.625, 1.125)),
        np.array([1.0, 1.0]), np.array([3.0, 3.0]), np.arange(20) * 0.5, 4, 2, 20,
        ("no pool", "pool of 1, order 1", "pool of 1, order 2", "Adam alone", "one model for all"),
    ),
    "glycolysis": System(*OSCILLATOR, 32, 4, 20, ("no pool",)),
    "glycolysis of four": System(*OSCILLATOR, 4, 4, 20, ("no pool", "Adam alone", "one model for all")),
}  # fmt: skip


def trajectories(system: System, environments: Any, count: int, seed: int) -> np.ndarray:
    """`(environments, count, rows, states)`, from the same starts in each environment."""
    starts = np.random.default_rng(seed).uniform(system.low, system.high, (count, len(system.low)))
    fine = {"solver": nde.Dopri8(), "controller": nde.PIDController(rtol=1e-9, atol=1e-10)}
    with jax.enable_x64(True):
        solve = eqx.filter_jit(lambda model: jax.vmap(lambda y: model(jnp.asarray(system.ts), y))(jnp.asarray(starts)))
        return np.stack([np.asarray(solve(nde.NeuralODE(system.field(*p), **fine))) for p in environments])


WAYS: dict[str, dict[str, Any]] = {
    "no pool": {"pool": 0},
    "pool of 1, order 1": {"pool": 1, "order": 1},
    "pool of 1, order 2": {"pool": 1, "order": 2},
    "Adam alone": {"pool": 0, "adam": 8000, "newton": 0},
    "one model for all": {"pool": 0, "context_size": 0},
}
"""By the arguments of `train`."""


def train(
    system: System,
    data: np.ndarray,
    seed: int,
    *,
    pool: int,
    order: int = 1,
    adam: int = 500,
    newton: int,
    context_size: int = 4,
    width: int = 32,
) -> Any:
    """A model trained on windows of two rows."""
    environments, count, rows, size = data.shape
    low, high = data.min((0, 1, 2)), data.max((0, 1, 2))
    rate = np.diff(data, axis=2).std((0, 1, 2)) / (system.ts[1] - system.ts[0])
    keys = jax.random.split(jax.random.key(seed))
    field = nde.fields.ContextField(size, max(context_size, 1), width, key=keys[0])
    standard = nde.StandardField(
        field, location=((low + high) / 2).tolist(), scale=((high - low) / 4).tolist(), rate=rate.tolist()
    )
    step = float(system.ts[1] - system.ts[0]) / system.substeps
    model = nde.ContextFlow(
        standard,
        0.1 * bool(context_size) * jax.random.normal(keys[1], (environments, max(context_size, 1))),
        order=order, solver=nde.Tsit5(), controller=nde.ConstantStepSize(), dt0=step,
        max_steps=system.substeps * rows + 2, throw=False,
    )  # fmt: skip
    times = np.broadcast_to(system.ts, (environments * count, rows))
    series = data.reshape(environments * count, rows, size)
    arrays = row_windows(times, series, 2, np.repeat(np.arange(environments), count))
    # The field does not see the time: each window begins at zero, so that all of them take the same steps.
    windows = (jnp.asarray(arrays[0] - arrays[0][:, :1], jnp.float32), jnp.asarray(arrays[1], jnp.float32), arrays[2])
    every, fit, key = np.arange(len(arrays[0])), ContextFit(pool=pool), jax.random.key(seed)
    parts = (lambda m: (m.ode, m.contexts)) if context_size else (lambda m: m.ode)
    schedule = optax.cosine_decay_schedule(5e-3, adam, 0.02)
    updates = [
        (gradient_update(batch_loss(fit), optax.adam(schedule), parameters=parts), adam),
        (gauss_newton_update(fit.residuals, parameters=parts), newton),
    ]
    for update, steps in updates:
        state = update.init(model)
        for _ in range(steps):
            state, _ = update.compiled(state, windows, every, key)
        model = state.model
    return model


@eqx.filter_jit
def error(model: Any, ts: Any, data: Any) -> Any:
    """The mean square in each environment, of whole trajectories from their first rows."""
    solve = jax.vmap(jax.vmap(lambda y, e: model(ts, y[0], e), (0, None)))
    return jnp.mean((solve(data, jnp.arange(len(data))) - data) ** 2, (1, 2, 3))


def adapted(model: Any, given: Any, ts: Any) -> tuple[Any, float]:
    """A context for each unseen environment, and the seconds of one."""
    start = time.process_time()
    contexts = [adapt(model, ts, each)[0].contexts for each in given]
    seconds = (time.process_time() - start) / len(given)
    return eqx.tree_at(lambda m: m.contexts, model, jnp.concatenate(contexts)), seconds


def measure(system: System, seeds: int, ways: Any) -> dict[str, Any]:
    """Some ways, each with some seeds of weights."""
    ts = jnp.asarray(system.ts, jnp.float32)
    data = trajectories(system, system.seen, system.trajectories, 0)
    tested = jnp.asarray(trajectories(system, system.seen, 32, 1), jnp.float32)
    given = jnp.asarray(trajectories(system, system.unseen, 1, 2), jnp.float32)
    judged = jnp.asarray(trajectories(system, system.unseen, 32, 3), jnp.float32)
    found: dict[str, Any] = {}
    for name, way in ((name, WAYS[name]) for name in ways):
        for seed in range(seeds):
            start = time.process_time()
            model = train(system, data, seed, **({"newton": system.newton} | way))
            seconds = time.process_time() - start
            own = error(model, ts, tested)
            row = {"seconds": seconds, "in_domain": float(own.mean()), "worst": float(own.max())}
            if way.get("context_size") != 0:
                model, row["adapt_seconds"] = adapted(model, given, ts)
                other = error(model, ts, judged)
                row |= {"adapted": float(other.mean()), "adapted_worst": float(other.max())}
            found.setdefault(name, []).append(row)
            print(name, row, flush=True)
    return {
        "trajectories": system.trajectories,
        "newton": system.newton,
        "variance": float(tested.var((0, 1, 2)).mean()),
        "load": load(),
        "ways": found,
    }


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", default=",".join(SYSTEMS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--ways")
    options = parser.parse_args()
    for name in options.systems.split(","):
        ways = options.ways.split("; ") if options.ways else SYSTEMS[name].ways
        found = measure(SYSTEMS[name], options.seeds, ways)
        stored = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}  # others may have run meanwhile
        before = stored.get(name, {}).get("ways", {}) | found["ways"]
        found["ways"] = {way: before[way] for way in WAYS if way in before}
        stored |= {"machine": processor(), name: found}
        RESULTS.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
