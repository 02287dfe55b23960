"""Single shooting flattens on oscillating data; multiple shooting and a growing horizon do not.

    python tests/bench/shooting.py --out tests/bench/results/shooting.json

A pendulum of unknown frequency and start is fitted to 160 noisy states over twelve periods, three times from the same
frequency, 40 % too low, with the same number of updates. Each fit is judged as one trajectory from one start: root
mean square error to the true states, and the amplitude of the last period against the true one. A few minutes.
"""

import argparse
import json
import platform
import time
from importlib.metadata import version
from pathlib import Path

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import nde
from nde.objectives import growing_horizon, multiple_shooting, segment_knots, solve_within

SEGMENTS, CONTINUITY, SPAN = 20, 1.0, 80.0


def pendulum(frequency: float) -> nde.KnownField:
    """The states angle and velocity: (v, -frequency² sin(angle))."""

    def rates(t, y, p):
        return jnp.stack([y[1], -(p.frequency**2) * jnp.sin(y[0])])

    return nde.KnownField(rates, {"frequency": nde.Parameter(frequency, lower=0)})


def data(seed: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Times, true states and noisy states of a pendulum that swings to 1.2 radians."""
    ts = jnp.linspace(0.0, SPAN, 160)
    solve = nde.NeuralODE(pendulum(1.0), controller=diffrax.PIDController(rtol=1e-8, atol=1e-8))
    truth = solve(ts, jnp.array([1.2, 0.0]))
    return ts, truth, truth + 0.05 * jax.random.normal(jax.random.key(seed), truth.shape)


def losses(ts: jax.Array, values: jax.Array, steps: int):
    """The three losses of `((model, starts), step)`, and how many starts each has."""
    knots = segment_knots(ts, SEGMENTS)

    def single(fit, step):
        model, starts = fit
        return jnp.mean((model(ts, starts[0]) - values) ** 2)

    def multiple(fit, step):
        model, starts = fit
        shots = multiple_shooting(model, ts, knots, starts)
        weight = CONTINUITY * 100.0 ** (step / steps)
        return jnp.mean((shots.ys - values) ** 2) + weight * shots.penalty() / SEGMENTS

    def growing(fit, step):
        model, starts = fit
        horizon = growing_horizon(ts, step, first=0.05, steps=steps * 2 // 3)
        ys, seen = solve_within(model, ts, starts[0], horizon)
        return jnp.sum(seen[:, None] * (ys - values) ** 2) / jnp.sum(seen)

    first = jnp.searchsorted(ts, knots)
    return {
        "single shooting": (single, values[:1]),
        "multiple shooting": (multiple, values[first]),
        "growing horizon": (growing, values[:1]),
    }


def fit(loss, fitted, steps: int):
    """The model and the starts after so many updates by Adam."""
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(1e-2, steps)))

    @eqx.filter_jit
    def update(fitted, state, step):
        value, gradient = eqx.filter_value_and_grad(loss)(fitted, step)
        changes, state = optimiser.update(gradient, state, eqx.filter(fitted, eqx.is_inexact_array))
        return eqx.apply_updates(fitted, changes), state, value

    state = optimiser.init(eqx.filter(fitted, eqx.is_inexact_array))
    for step in range(steps):
        fitted, state, _ = update(fitted, state, jnp.asarray(step))
    return fitted


def main() -> None:
    """Fit, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "shooting.json")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    rows = []
    for seed in range(options.seeds):
        ts, truth, values = data(seed)
        model = nde.NeuralODE(pendulum(0.6))
        for name, (loss, starts) in losses(ts, values, options.steps).items():
            started = time.perf_counter()
            trained, starts = fit(loss, (model, starts), options.steps)
            ys = trained(ts, starts[0])
            last = ts > SPAN - 7.0
            row = {
                "seed": seed,
                "method": name,
                "frequency": float(trained.field.parameter_values()["frequency"]),
                "rmse": float(jnp.sqrt(jnp.mean((ys - truth) ** 2))),
                "amplitude_last_period": float(jnp.ptp(ys[last, 0]) / jnp.ptp(truth[last, 0])),
                "seconds": round(time.perf_counter() - started, 1),
            }
            print(row, flush=True)
            rows.append(row)
    median = {
        name: {key: float(np.median([r[key] for r in rows if r["method"] == name])) for key in list(rows[0])[2:]}
        for name in dict.fromkeys(row["method"] for row in rows)
    }
    result = {
        "command": f"python tests/bench/shooting.py --steps {options.steps} --seeds {options.seeds}",
        "machine": f"{platform.machine()}, {platform.system()}",
        "versions": {name: version(name) for name in ("jax", "equinox", "diffrax", "optax")},
        "median": median,
        "runs": rows,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(median, indent=1))


if __name__ == "__main__":
    main()
