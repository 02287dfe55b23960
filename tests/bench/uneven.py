"""A batch of very different numbers of steps: Van der Pol oscillators, stiffness 1 to 100, in one loop and in buckets.

    python tests/bench/uneven.py [--rounds 5] [--out tests/bench/results/uneven.json]

Gradients of the mean square of 50 saved values, Tsit5, rtol = atol = 1e-6, 20 s, batch 1024 in random order, float32.
`vmap`: one batch; `buckets`: `nde.map_in_buckets` with 8 of them, by the step counts of the solve before; `by hand`:
the batch sorted beforehand and solved as 8 calls, added up: the same work without any of the sorting.
"""

import argparse
import json
from pathlib import Path

import diffrax
import jax
import jax.numpy as jnp
import jax.random as jr
from engine import machine, medians

import nde

BATCH, BUCKETS, END = 1024, 8, 20.0


def field(t, y, mu):
    """Van der Pol's oscillator."""
    return jnp.stack([y[1], mu * (1 - y[0] ** 2) * y[1] - y[0]])


def solve(scale, mu, y0):
    """One oscillator; `scale` is the shared parameter."""
    return nde.diffeqsolve(
        diffrax.ODETerm(field), diffrax.Tsit5(), 0.0, END, 0.01, y0, scale * mu,
        saveat=diffrax.SaveAt(ts=jnp.linspace(0.0, END, 50)), max_steps=16384,
        stepsize_controller=diffrax.PIDController(rtol=1e-6, atol=1e-6),
    )  # fmt: skip


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "uneven.json")
    options = parser.parse_args()

    mu = jr.permutation(jr.key(0), jnp.linspace(1.0, 100.0, BATCH))
    y0 = jnp.array([2.0, 0.0]) + 0.1 * jr.normal(jr.key(1), (BATCH, 2))
    scale = jnp.asarray(1.0)

    def loss(scale, mu, y0):
        return jnp.sum(jax.vmap(lambda m, y: solve(scale, m, y).ys)(mu, y0) ** 2)

    def loss_in_buckets(scale, mu, y0, cost):
        return jnp.sum(nde.map_in_buckets(lambda m, y: solve(scale, m, y).ys, cost, mu, y0, buckets=BUCKETS) ** 2)

    plain, bucketed = jax.jit(jax.grad(loss)), jax.jit(jax.grad(loss_in_buckets))
    cost = jax.jit(jax.vmap(lambda m, y: solve(scale, m, y).stats["num_steps"]))(mu, y0)
    order = jnp.argsort(cost).reshape(BUCKETS, -1)
    cut = [(mu[i], y0[i]) for i in order]
    functions = {
        "vmap": lambda: plain(scale, mu, y0),
        "buckets": lambda: bucketed(scale, mu, y0, cost),
        "by hand": lambda: sum(plain(scale, *each) for each in cut),
    }
    values = {name: float(function()) for name, function in functions.items()}
    times = dict(zip(functions, medians(list(functions.values()), options.rounds), strict=True))
    result = {
        "steps_min_mean_max": [int(cost.min()), float(cost.mean()), int(cost.max())],
        "ms": {name: round(x, 1) for name, x in times.items()},
        "vmap_over_buckets": round(times["vmap"] / times["buckets"], 2),
        "buckets_over_by_hand": round(times["buckets"] / times["by hand"], 2),
        "gradients": values,
        "machine": machine(),
    }
    print(json.dumps(result))
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
