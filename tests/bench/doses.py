"""What doses cost a solve: a batch of series, each with doses of its own, beside the same solve without.

    taskset -c 0 python tests/bench/doses.py

A two-compartment model with a learned elimination (an MLP), 64 series, 12 rows over 24 hours, five doses each at random
times, two of them infusions; gradient in all parameters of the sum of squares, float32, Tsit5 at 1e-4. In one process,
by turns, medians.
"""

import json
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from timing import medians_in_turn

import nde
from nde.paths import Doses, Inputs

STORED = Path(__file__).parent / "results" / "doses.json"
SERIES, ROWS, DOSES = 64, 12, 5


def exchange(t, y, p):
    gut, central, far = y
    back = p.between * far - p.between * central
    return jnp.stack([-p.absorption * gut, p.absorption * gut + back - p.elimination * central, -back])


def model(**numerics):
    starts = {"absorption": 1.2, "between": 0.4, "elimination": 0.2}
    known = nde.KnownField(exchange, {name: nde.Parameter(x, lower=0.0) for name, x in starts.items()})
    network = nde.MLPField(3, 32, 1, out_size=1, key=jax.random.key(0))
    return nde.NeuralODE(nde.Hybrid(known, network, states=[1]), **numerics)


def batch():
    generator = np.random.default_rng(0)
    ts = np.sort(generator.uniform(0.5, 24.0, (SERIES, ROWS)), 1)
    ts[:, 0] = 0.0
    times = np.sort(generator.uniform(0.0, 20.0, (SERIES, DOSES)), 1)
    amounts = np.zeros((SERIES, DOSES, 3))
    amounts[..., 0] = generator.uniform(1.0, 3.0, (SERIES, DOSES))
    durations = np.tile([0.0, 2.0, 0.0, 1.0, 0.0], (SERIES, 1))
    doses = jax.vmap(lambda t, a, d: Doses(t, a, durations=d))(*map(jnp.asarray, (times, amounts, durations)))
    return jnp.asarray(ts, jnp.float32), jnp.tile(jnp.array([2.0, 1.0, 0.5]), (SERIES, 1)), Inputs(doses=doses)


def gradient(model, ts, starts, inputs):
    @eqx.filter_jit
    @eqx.filter_value_and_grad
    def loss(model, ts, starts, inputs):
        return jnp.mean(jax.vmap(lambda t, y, x: model(t, y, x))(ts, starts, inputs) ** 2)

    def steps():
        solved = jax.vmap(lambda t, y, x: model.solve(t, y, x).stats["num_steps"])(ts, starts, inputs)
        return int(jnp.max(solved))

    return (lambda: jax.block_until_ready(loss(model, ts, starts, inputs))), steps()


def main() -> None:
    ts, starts, inputs = batch()
    adaptive = model(controller=nde.PIDController(rtol=1e-4, atol=1e-6))
    pieces = model(steps_per_row=2, solver=nde.Midpoint())
    rows = jax.vmap(lambda t: Inputs(constants={"weight": t[0]}))(ts)
    cases = {
        "adaptive, doses": gradient(adaptive, ts, starts, inputs),
        "adaptive, none": gradient(adaptive, ts, starts, rows),
        "pieces, doses": gradient(pieces, ts, starts, inputs),
        "pieces, none": gradient(pieces, ts, starts, rows),
    }
    found = medians_in_turn({name: run for name, (run, _) in cases.items()})
    for name, (_, steps) in cases.items():
        print(f"{name}: {found[name]:.2f} ms, {steps} steps, {1e3 * found[name] / steps:.1f} us a step")
    for way in ("adaptive", "pieces"):
        print(f"{way}: {found[f'{way}, doses'] / found[f'{way}, none']:.2f} times the solve without")
    steps = {name: steps for name, (_, steps) in cases.items()}
    STORED.write_text(json.dumps({"milliseconds": found, "steps": steps}, indent=1) + "\n")


if __name__ == "__main__":
    main()
