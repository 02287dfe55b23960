"""Reflow: transport cost, straightness and one-step error of a flow trained on its own pairs, once and twice.

    taskset -c 1 python tests/bench/reflow.py [--steps 4000] [--seeds 3]

From a normal law to eight Gaussians, and from these to two moons. A velocity of four layers of 64 (SELU) is trained on
independent pairs; another one, from the same weights and by as many steps, on the pairs of its ODE, and a third one on
the pairs of the second. All are measured from the same fresh source points, those of training being others: the ends of
the ODE at a tolerance of 1e-4, and of one Euler step.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flow_matching import BATCH, Network
from timing import load, processor

import nde
from nde.data import sample_density
from nde.models import reflow_pairs, straightness
from nde.objectives import Matching
from nde.report import transport_distance
from nde.train import batch_loss, gradient_update

PAIRS, MEASURED, SCORED = 256 * 64, 2000, 1000
STORED = Path(__file__).parent / "results" / "reflow.json"
STAGES = ("independent pairs", "reflow", "reflow twice")

Law = Callable[[int, int], np.ndarray]


def density(name: str) -> Law:
    return lambda count, seed: sample_density(name, count, seed=seed)


def normal(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 2))


PROBLEMS: dict[str, tuple[Law, Law]] = {
    "normal to eight Gaussians": (normal, density("eight_gaussians")),
    "eight Gaussians to two moons": (density("eight_gaussians"), density("two_moons")),
}


def trained(x0: jax.Array, x1: jax.Array, steps: int, seed: int) -> nde.InterpolantModel:
    """A flow along straight lines between pairs."""
    mlp = eqx.nn.MLP(3, 2, 64, 3, activation=jax.nn.selu, key=jax.random.key(seed))
    model = nde.InterpolantModel(Network(mlp), 2, normal=False)
    update = gradient_update(batch_loss(Matching()), optax.adam(optax.cosine_decay_schedule(2e-3, steps)))
    state, key, generator = update.init(model), jax.random.key(seed + 1000), np.random.default_rng(seed)
    for _ in range(steps):
        state, _ = update.compiled(state, (x1, x0), generator.integers(PAIRS, size=BATCH), key)
    return state.model


def measured(model: nde.InterpolantModel, x0: jax.Array, target: Law) -> dict[str, float]:
    """What is asked to fall, and how good the samples are."""
    _, ends = reflow_pairs(model, x0)
    one = x0 + jax.vmap(lambda x: model.velocity(0.0, x, None))(x0)
    found = {
        "cost": float(jnp.mean(jnp.sum((ends - x0) ** 2, axis=1))),
        "straightness": float(straightness(model, x0)),
        "one_step_error": float(jnp.sqrt(jnp.mean(jnp.sum((one - ends) ** 2, axis=1)))),
    }
    for name, samples in (("ode", ends), ("one_step", one)):
        distance = transport_distance(samples[:SCORED], target(SCORED, 99), sampler=target, repeats=4)
        found |= {f"W2_{name}": distance.value, "W2_floor": distance.floor}
    return found


def run(source: Law, target: Law, steps: int, seed: int) -> list[dict[str, float]]:
    """A row for each stage."""
    x0, x1 = (jnp.asarray(law(PAIRS, 10 * seed + i), jnp.float32) for i, law in enumerate((source, target)))
    fresh, rows = jnp.asarray(source(MEASURED, 10 * seed + 7), jnp.float32), []
    for stage in STAGES:
        start = time.perf_counter()
        model = trained(x0, x1, steps, seed)
        rows.append(measured(model, fresh, target) | {"seconds": time.perf_counter() - start})
        print(f"seed {seed}, {stage}: " + ", ".join(f"{k} {v:.4g}" for k, v in rows[-1].items()), flush=True)
        if stage != STAGES[-1]:
            x0, x1 = reflow_pairs(model, x0)
    return rows


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    found: dict[str, Any] = {}
    for name, laws in PROBLEMS.items():
        print(name, flush=True)
        found[name] = [run(*laws, given.steps, seed) for seed in range(given.seeds)]
    if given.steps == parser.get_default("steps") and given.seeds == parser.get_default("seeds"):
        machine = processor() | {"jax": jax.__version__, "diffrax": diffrax.__version__, "load": load()}
        stored = {"steps": given.steps, "stages": STAGES, "rows": found, "machine": machine}
        STORED.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
