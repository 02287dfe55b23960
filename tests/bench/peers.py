"""nde beside diffrax, gradsolve, tinydiffeq and torchdiffeq: gradient and forward solve in one process, in turn.

    pip install '.[bench]' && python tests/bench/peers.py [--rounds 15] [--budget 10] [--rows LV,…] [--out …]

Float32; times are medians in ms after warm-up, ratios theirs over ours. Adaptive: Tsit5 at rtol = atol = 1e-6, the mean
square of the saved values, each package at its own step control, so at somewhat different steps.

LV, LV1000        Lotka-Volterra, 20 s, 100 save times: one trajectory, a batch of 1000
MLP, MLP128       MLP 4-64-64-4 (relu) and a rotation, 2 s, 50 save times: one trajectory, a batch of 128; at the kinks
                  rounding decides what is rejected, so steps and gradients differ between any two packages
wide              tanh of a linear map on a state of 64, 10 s, 50 save times, batch 256

Fixed steps of a scalar state, the square of the end, logistic growth:

Tsit5, Tsit5-256  64 steps: one trajectory, a batch of 256
EM, EM-256        with noise, 128 steps of Euler-Maruyama, nde and diffrax on the same `nde.BrownianGrid`

Beside these rows stands the floor: a scan over the same steps by hand, differentiated by JAX, the inside of each step
recomputed, or stored. gradsolve records the accepted steps and differentiates their replay; where the steps are known
the replay alone counts. Its recorder has the weights compiled in, which flatters it, and works in float32 here.
tinydiffeq has a slot for each step that it tries, and draws its own noise; unrolled, eight steps an iteration.
torchdiffeq controls a batch by one step size (dopri5).
"""

import argparse
import importlib.metadata
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import diffrax
import jax
import numpy as np
from engine import lotka_volterra_row, mlp_row, wide_row
from floors import grid_floors
from peers_solves import (
    by_diffeqsolve,
    by_gradsolve,
    by_tinydiffeq,
    by_torchdiffeq,
    Grid,
    grid_row,
    LeftOut,
    network_in_torch,
    predators_in_torch,
    wide_in_torch,
)
from timing import load, medians_in_turn, processor

import nde

ROWS = {
    "LV": (lambda: lotka_volterra_row(None), predators_in_torch),
    "LV1000": (lambda: lotka_volterra_row(1000), predators_in_torch),
    "MLP": (lambda: mlp_row(64, 2.0, None), network_in_torch),
    "MLP128": (lambda: mlp_row(64, 2.0, 128), network_in_torch),
    "wide": (wide_row, wide_in_torch),
    "Tsit5": (lambda: grid_row(False, None), None),
    "Tsit5-256": (lambda: grid_row(False, 256), None),
    "EM": (lambda: grid_row(True, None), None),
    "EM-256": (lambda: grid_row(True, 256), None),
}

VERSIONS = ("jax", "diffrax", "equinox", "gradsolve", "tinydiffeq", "torch", "torchdiffeq")


def packages(in_torch: Callable | None) -> dict[str, Callable]:
    """How each solves a row."""
    return {
        "nde": partial(by_diffeqsolve, nde),
        "diffrax": partial(by_diffeqsolve, diffrax),
        "gradsolve": by_gradsolve,
        "gradsolve, replay alone": partial(by_gradsolve, record=False),
        "tinydiffeq": by_tinydiffeq,
        "tinydiffeq, unrolled": partial(by_tinydiffeq, unroll=8),
        "torchdiffeq": partial(by_torchdiffeq, field=in_torch),
    }


def distance(gradient: Any, ours: Any) -> float:
    """The largest difference of two gradients, over the largest entry of its leaf."""
    apart = jax.tree.map(lambda a, b: float(np.abs(np.asarray(a) - b).max() / np.abs(b).max()), gradient, ours)
    return float(f"{max(jax.tree.leaves(apart)):.1e}")


def measure(name: str, rounds: int, budget_s: float) -> dict[str, Any]:
    """One row of the table."""
    make, in_torch = ROWS[name]
    row = make()
    found: dict[str, Any] = {}
    forward: dict[str, Callable] = {}
    gradient: dict[str, Callable] = {}
    ours = None
    for package, solves_of in packages(in_torch).items():
        start = time.perf_counter()
        try:
            solves = solves_of(row)
            value = jax.block_until_ready(solves.gradient())
        except LeftOut as reason:
            found[package] = {"left_out": str(reason)}
            continue
        ours = value if ours is None else ours
        found[package] = {"first_call_s": round(time.perf_counter() - start, 2)}
        own_noise = isinstance(row, Grid) and row.diffusion is not None and package.startswith("tinydiffeq")
        found[package]["gradients_differ"] = None if own_noise else distance(value, ours)
        forward[package], gradient[package] = solves
    floors = grid_floors(row) if isinstance(row, Grid) else {}
    times = medians_in_turn(gradient | {f"floor, {k}": v for k, v in floors.items()}, rounds, budget_s)
    for what, medians in (("gradient", times), ("forward", medians_in_turn(forward, rounds, budget_s))):
        for package in forward:
            found[package][f"{what}_ms"] = float(f"{medians[package]:.4g}")
            found[package][f"{what}_ratio"] = float(f"{medians[package] / medians['nde']:.3g}")
    for way in floors:
        floor = times[f"floor, {way}"]
        found[f"floor, {way}"] = {
            "gradient_ms": float(f"{floor:.4g}"),
            "gradient_ratio": float(f"{floor / times['nde']:.3g}"),
        }
    return found


def version(package: str) -> str | None:
    """The installed version, if any."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--budget", type=float, default=10.0, help="seconds for the gradients of a row, and the solves")
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "peers.json")
    options = parser.parse_args()
    stored = json.loads(options.out.read_text()) if options.out.exists() else {"rows": {}}
    stored |= {"machine": processor(), "versions": {name: version(name) for name in VERSIONS}}
    for name in options.rows.split(","):
        before = load()
        stored["rows"][name] = measure(name, options.rounds, options.budget) | {"load": [before, load()]}
        print(name, json.dumps(stored["rows"][name]), flush=True)
        options.out.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
