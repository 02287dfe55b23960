"""TO-FLOW: a continuous normalising flow with a learned end of time beside one with a fixed end.

    taskset -c 1 python tests/bench/to_flow.py [--steps 400] [--seeds 3]

The same field, weights and batches of two densities in the plane. Training solves to a tolerance of 1e-4 by Tsit5, so
that what is cheaper to solve is cheaper to train; the variants take their steps of training in turn, in one process.
Log-likelihoods are of held-out points at 1e-6, evaluations those of a log-density at the training's tolerance.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from timing import load, processor

import nde
from nde.data import sample_density
from nde.fields import ConcatSquashField
from nde.models import at_tolerance, position_norm
from nde.objectives import density_loss
from nde.regularise import EndTime, LearnedEndTime, Together
from nde.train import batch_loss, gradient_update

STORED = Path(__file__).parent / "results" / "to_flow.json"
DENSITIES = ("two_moons", "eight_gaussians")
VARIANTS = {"fixed end": None, "weight 0.01": 0.01, "weight 0.1": 0.1}
"""The weight of the end of time in the loss; `None` for a fixed end."""
POINTS, HELD_OUT, BATCH, WIDTH, TOLERANCE = 10_000, 4000, 128, 32, 1e-4


class Training:
    """A flow on its way."""

    def __init__(self, weight: float | None, seed: int, steps: int):
        field = ConcatSquashField(2, WIDTH, 2, activation=jnp.tanh, key=jax.random.key(seed))
        control = diffrax.PIDController(rtol=TOLERANCE, atol=TOLERANCE, norm=position_norm)
        flow = nde.ContinuousNormalizingFlow(field if weight is None else LearnedEndTime(field), 2, controller=control)
        regulariser = None if weight is None else Together([EndTime()], [weight])

        def loss(model, x, *, step, key):
            return density_loss(model, x, step=step, key=key, regulariser=regulariser)

        self.update = gradient_update(batch_loss(loss), optax.adam(optax.cosine_decay_schedule(1e-2, steps)))
        self.state, self.key, self.seconds = self.update.init(flow), jax.random.key(seed + 1), 0.0

    def step(self, points: jax.Array, rows: np.ndarray) -> None:
        start = time.process_time()
        self.state, report = self.update.compiled(self.state, (points,), rows, self.key)
        jax.block_until_ready(report.batch.loss)
        self.seconds += time.process_time() - start


@eqx.filter_jit
def log_probs(model: Any, points: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Log-densities, and evaluations of the field for each."""

    def one(x):
        solved = model.solve(x)
        return solved.ys, 6 * solved.stats["num_steps"] + 1

    return jax.vmap(one)(points)


def run(density: str, seed: int, steps: int) -> dict[str, dict[str, float]]:
    """A row for each variant."""
    points = jnp.asarray(sample_density(density, POINTS, seed=seed), jnp.float32)
    held_out = jnp.asarray(sample_density(density, HELD_OUT, seed=seed + 100), jnp.float32)
    trainings = {name: Training(weight, seed, steps) for name, weight in VARIANTS.items()}
    generator = np.random.default_rng(seed)
    first = generator.integers(POINTS, size=BATCH)
    for each in trainings.values():  # compiled before the clock starts; the state is thrown away
        each.update.compiled(each.state, (points,), first, each.key)
    for _ in range(steps):
        rows = generator.integers(POINTS, size=BATCH)
        for each in trainings.values():
            each.step(points, rows)
    found = {}
    for name, each in trainings.items():
        model = each.state.model
        fine, _ = log_probs(at_tolerance(model, 1e-6), held_out)
        _, evaluations = log_probs(model, held_out)
        found[name] = {
            "log_likelihood": float(fine.mean()),
            "evaluations": float(evaluations.mean()),
            "seconds": each.seconds,
            "end": 1.0 if VARIANTS[name] is None else float(model.field.span),
        }
        print(
            f"{density}, seed {seed}, {name}: " + ", ".join(f"{k} {v:.4g}" for k, v in found[name].items()), flush=True
        )
    return found


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    found = {name: [run(name, seed, given.steps) for seed in range(given.seeds)] for name in DENSITIES}
    if given.steps == parser.get_default("steps") and given.seeds == parser.get_default("seeds"):
        machine = processor() | {"jax": jax.__version__, "diffrax": diffrax.__version__, "load": load()}
        stored = {"steps": given.steps, "tolerance": TOLERANCE, "rows": found, "machine": machine}
        STORED.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
