"""Brownian paths against diffrax's tree, and against one draw before the loop.

    python tests/bench/brownian.py --out tests/bench/results/brownian.json

Single precision, 256 keys under vmap, noise of size 4. The tree: increments over 200 steps in a scan, in order and
shuffled, `tol` half a step. The grid: Euler-Maruyama, 1000 steps, against the same scan over increments that are drawn
from the same keys at once. Medians of rounds that take each variant in turn. About a minute on two idle cores.
"""

import argparse
import json
import os
import platform
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from nde.paths import BrownianGrid, VirtualBrownianTree

BATCH, NOISE, QUERIES, STEPS = 256, 4, 200, 1000
KINDS = (diffrax.BrownianIncrement, diffrax.SpaceTimeLevyArea, diffrax.SpaceTimeTimeLevyArea)


def medians(variants: dict, rounds: int) -> dict[str, float]:
    """Seconds of each compiled function of no arguments, in alternation."""
    times = {name: [] for name in variants}
    for run in variants.values():
        jax.block_until_ready(run())
    for _ in range(rounds):
        for name, run in variants.items():
            started = time.perf_counter()
            jax.block_until_ready(run())
            times[name].append(time.perf_counter() - started)
    return {name: float(np.median(x)) for name, x in times.items()}


def queries(tree, kind, order, keys):
    """The sum of all that the tree gives over the steps, in the given order."""
    ts = jnp.linspace(0.0, 1.0, QUERIES + 1)

    def one(key):
        path = tree(0.0, 1.0, 0.5 / QUERIES, (NOISE,), key, kind)

        def step(total, ends):
            increment = path.evaluate(*ends, use_levy=True)
            parts = [x for name in "WHK" if (x := getattr(increment, name, None)) is not None]
            return total + sum(parts), None

        return lax.scan(step, jnp.zeros(NOISE), (ts[:-1][order], ts[1:][order]))[0]

    return jax.vmap(one)(keys)


def euler(increments, y0, theta, keys):
    """Euler-Maruyama for dy = -theta y dt + 0.5 dW; the mean square at the end."""
    dt = 1.0 / STEPS

    def one(key):
        at, xs = increments(key)

        def step(y, x):
            return y - theta * y * dt + 0.5 * at(x), None

        return lax.scan(step, y0, xs)[0]

    return jnp.mean(jax.vmap(one)(keys) ** 2)


def drawn_before(key):
    """All the increments at once, by JAX's own normals."""
    return lambda x: x, (1.0 / STEPS) ** 0.5 * jax.random.normal(key, (STEPS, NOISE))


def from_grid(key):
    """Each increment from the grid, at the traced times of its step."""
    path = BrownianGrid(0.0, 1.0, STEPS, (NOISE,), key)
    ts = jnp.linspace(0.0, 1.0, STEPS + 1)
    return lambda ends: path.evaluate(*ends), (ts[:-1], ts[1:])


def main() -> None:
    """Measure, print, and write the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "brownian.json")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    keys = jax.random.split(jax.random.key(0), BATCH)
    orders = {"in order": np.arange(QUERIES), "shuffled": np.random.default_rng(0).permutation(QUERIES)}
    results = {}
    for kind in KINDS:
        for name, order in orders.items():
            trees = {"diffrax": diffrax.VirtualBrownianTree, "nde": VirtualBrownianTree}
            runs = {which: partial(jax.jit(partial(queries, tree, kind, order)), keys) for which, tree in trees.items()}
            seconds = medians(runs, options.rounds)
            results[f"tree, {kind.__name__}, {name}"] = seconds | {"speedup": seconds["diffrax"] / seconds["nde"]}
    y0, theta = jnp.ones(NOISE), jnp.asarray(2.0)
    ways = {"drawn before": drawn_before, "nde": from_grid}
    for name, transform in {"forward": lambda f: f, "gradient": lambda f: jax.grad(f, (0, 1))}.items():
        runs = {which: partial(jax.jit(transform(partial(euler, way))), y0, theta, keys) for which, way in ways.items()}
        seconds = medians(runs, options.rounds)
        results[f"grid, Euler-Maruyama, {name}"] = seconds | {"slowdown": seconds["nde"] / seconds["drawn before"]}
    about = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load": load,
        "versions": {name: version(name) for name in ("jax", "jaxlib", "diffrax", "nde")},
    }
    for name, row in results.items():
        print(name, {key: round(value, 4) for key, value in row.items()})
    options.out.write_text(json.dumps(about | {"results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
