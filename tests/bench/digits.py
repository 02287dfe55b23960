"""Digits of 8 x 8 pixels by flow matching: bits per dimension exact and estimated, and what a regulariser gains.

    taskset -c 0 nice -n 10 python tests/bench/digits.py [--steps 500] [--tuning 40]

The network of configs/digits.toml, a mixer given the class, trained without a solve. Then

- bits per dimension of held-out digits, the trace of the divergence exact, and Hutchinson's estimate of it by 1 to 16
  probes: the spread of a digit's estimate over draws of the probes, and the error of the mean over the digits;
- the same model trained on for some steps with and without the kinetic energy of its solutions as a penalty (Finlay et
  al. 2020), the solve of which is 4 midpoint steps from a digit to noise: evaluations of an adaptive solve, and W2 of
  the samples from held-out digits, at tolerances from 0.3 to 0.03.

Single precision.
"""

import argparse
import dataclasses
import functools
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
from nde.data.datasets.digits import load_digits
from nde.models.numerics import at_tolerance
from nde.objectives import LogitNormalTimes, Matching
from nde.report import bits_per_dimension, transport_distance
from nde.train import adam_with_warmup, batch_loss, gradient_update, with_ema

RESULTS = Path(__file__).parent / "results" / "digits.json"
TRAINED, SCORED, SAMPLES, DRAWS = 1297, 16, 150, 4
TOLERANCES = (0.3, 0.1, 3e-2)
WEIGHTS = (0.0, 0.01)


def train(model: Any, data: Any, steps: int, optimiser: Any, batch: int, weight: float | None = None) -> Any:
    """The averaged model after so many steps of matching, with a kinetic penalty where a weight is given."""
    objective: Any = Matching(LogitNormalTimes(), drop=0.1)
    share = 0.0 if weight is None else weight
    if weight is not None:
        objective = functools.partial(objective, regulariser=nde.regularise.KineticEnergy())
    update = with_ema(gradient_update(batch_loss(objective, share=lambda step: share), optimiser), 0.999)
    state, random, key = update.init(model), np.random.default_rng(0), jax.random.key(1)
    for step in range(steps):
        rows = random.integers(TRAINED, size=batch)
        state, report = update.compiled(state, data, rows, key)
        if step % 100 == 99:
            print(step + 1, float(report.batch.loss), flush=True)
    print(f"loss {float(report.batch.loss):.4f}", {k: float(v) for k, v in report.batch.parts.items()}, flush=True)
    return state.evaluated_model


def likelihood(
    model: Any, points: Any, labels: Any, cell: float, counts: tuple[int, ...] = (1, 4, 16), exactly: bool = False
) -> dict[str, Any]:
    """Bits per dimension of held-out digits, by probes and exact if asked."""
    size, sharp = points.shape[1], at_tolerance(model, 1e-3)

    @eqx.filter_jit
    def scores(model, key):
        keys = jax.random.split(key, len(points))
        return jax.vmap(lambda x, label, key: model.log_prob(x, label, key=key))(points, labels, keys)

    exact = (
        bits_per_dimension(scores(sharp, jax.random.key(0)), size, cell) if exactly else np.full(len(points), np.nan)
    )
    rows = []
    for probes in counts:
        estimated = nde.InterpolantModel(sharp.velocity, size, probes=probes, numerics=sharp.numerics)
        draws = np.stack(
            [bits_per_dimension(scores(estimated, jax.random.key(i)), size, cell) for i in range(1, 1 + DRAWS)]
        )
        row = {
            "probes": probes,
            "mean": float(draws.mean()),
            "sd_of_a_digit": float(np.sqrt(draws.var(0, ddof=1).mean())),
            "sd_of_the_mean": float(draws.mean(1).std(ddof=1)),
            "bias": float((draws - exact).mean()),
        }
        rows.append(row)
        print(row, flush=True)
    return {"exact": float(exact.mean()), "standard_error": float(exact.std(ddof=1) / len(exact) ** 0.5), "rows": rows}


def sampled(model: Any, labels: Any, held_out: Any) -> list[dict[str, float]]:
    """Evaluations and distance by tolerance: the same noise and classes for each."""
    keys, labels = jax.random.split(jax.random.key(5), SAMPLES), labels[:SAMPLES]
    rows = []
    for tolerance in TOLERANCES:
        rough = at_tolerance(model, tolerance)
        solved = eqx.filter_jit(eqx.filter_vmap(lambda key, label, m=rough: m.draw(label, key=key)))(keys, labels)
        distance = transport_distance(np.asarray(solved.ys), held_out)
        rows.append(
            {
                "tolerance": tolerance,
                "evaluations": 6.0 * float(solved.stats["num_steps"].mean()) + 1,
                "W2": distance.value,
                "W2_sd": distance.value_sd,
                "floor": distance.floor,
                "floor_sd": distance.floor_sd,
            }
        )
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Train, score, train on, store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--tuning", type=int, default=40)
    options = parser.parse_args()
    made = load_digits()
    points, labels = jnp.asarray(made.points, jnp.float32), jnp.asarray(made.labels)
    data = (points[:TRAINED], None, labels[:TRAINED])
    field = nde.fields.MixerField((8, 8), 64, 4, patch=2, classes=10, key=jax.random.key(0))
    model = nde.InterpolantModel(field, 64, controller=diffrax.PIDController(rtol=1e-3, atol=1e-3))
    start = time.process_time()
    model = train(model, data, options.steps, adam_with_warmup(learning_rate=2e-3, steps=options.steps, warmup=100), 64)
    stored: dict[str, Any] = {
        "machine": processor(),
        "load": load(),
        "steps": options.steps,
        "scored": SCORED,
        "draws": DRAWS,
    }
    stored["train_seconds"] = time.process_time() - start
    tested = slice(TRAINED + 200, None)
    stored["likelihood"] = likelihood(model, points[tested][:SCORED], labels[tested][:SCORED], made.cell, exactly=True)
    stored["tuning"] = {"steps": options.tuning, "rows": {}}
    fixed = dataclasses.replace(
        model.numerics, solver=diffrax.Midpoint(), controller=diffrax.ConstantStepSize(), dt0=0.25, max_steps=6
    )
    for weight in WEIGHTS:
        start = time.process_time()
        # without a penalty there is no solve: what the others are compared with is as many steps of the same data
        tuned = train(
            eqx.tree_at(lambda m: m.numerics, model, fixed), data, options.tuning, optax.adam(3e-4), 16,
            weight or None,
        )  # fmt: skip
        seconds = time.process_time() - start
        rows = sampled(tuned, labels[tested], np.asarray(points[tested]))
        score = likelihood(tuned, points[tested][:SCORED], labels[tested][:SCORED], made.cell, (4,))
        stored["tuning"]["rows"][str(weight)] = {"seconds": seconds, "bits": score["rows"][0]["mean"], "rows": rows}
        print(weight, seconds, flush=True)
        RESULTS.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
