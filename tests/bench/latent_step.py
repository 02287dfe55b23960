"""A training step of the latent SDE on the PBC data, on diffrax and on the engine, in one process.

    python tests/bench/latent_step.py [--rounds 7] [--out tests/bench/results/latent_step.json]

Batch 32, 8 paths a patient, 71 steps of 0.2 years, all from the same model: by diffrax's loop on its own tree, by its
loop on nde's grid, every step stored in both, and by the engine on the grid.
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any
from unittest import mock

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

import nde
from nde.data import load_pbc, Normaliser, PBC_LOG


def diffrax_tree(t0: float, t1: float, num_steps: int, shape: Any, key: Any) -> Any:
    """The path that diffrax's users would take where the model takes a grid."""
    return diffrax.VirtualBrownianTree(t0, t1, 0.5 * (t1 - t0) / num_steps, shape, key)


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "latent_step.json")
    options = parser.parse_args()
    panel = load_pbc()
    values = Normaliser.fit(panel, PBC_LOG).apply(panel)
    batch = [jnp.asarray(x[:32]) for x in (panel.times, values, panel.mask)]
    elbo, keys = nde.ELBO(samples=8), jr.split(jr.key(1), 32)
    model = nde.LatentSDE(channels=7, state_size=10, horizon=14.2, dt0=0.2, key=jr.key(0))

    def loss(model):
        def one(times, values, mask, key):
            return elbo(model, times, values, mask, mask, key=key).loss()

        return jnp.mean(jax.vmap(one)(*batch, keys))

    result, steps, gradients = {"load": round(os.getloadavg()[0], 1)}, {}, []
    stored = diffrax.RecursiveCheckpointAdjoint(model.num_steps)
    variants = {
        "diffrax, its tree": (stored, diffrax_tree),
        "diffrax": (stored, nde.BrownianGrid),
        "nde": (nde.CheckpointAdjoint(), nde.BrownianGrid),
    }
    for name, (adjoint, path) in variants.items():
        own = eqx.tree_at(lambda m: m.adjoint, model, adjoint)
        weights, rest = eqx.partition(own, eqx.is_inexact_array)
        start = time.perf_counter()
        with mock.patch("nde.models.latent_sde.BrownianGrid", path):
            step = jax.jit(jax.grad(lambda w, rest=rest: loss(eqx.combine(w, rest)))).lower(weights).compile()
        first, memory = time.perf_counter() - start, step.memory_analysis().temp_size_in_bytes / 2**20
        result[name] = {"first_call_s": round(first, 2), "temporary_MiB": round(memory, 1)}
        steps[name] = lambda step=step, weights=weights: jax.block_until_ready(step(weights))
        gradients.append(steps[name]())
    times = {name: [] for name in steps}
    for _ in range(options.rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            times[name].append(1e3 * (time.perf_counter() - start))
    for name, each in times.items():
        result[name]["gradient_ms"] = round(statistics.median(each), 1)
    for name in ("diffrax, its tree", "diffrax"):
        result[name]["over_nde"] = round(result[name]["gradient_ms"] / result["nde"]["gradient_ms"], 2)
    pairs = zip(*map(jax.tree.leaves, gradients[1:]), strict=True)
    result["gradients_differ"] = max(float(jnp.abs(a - b).max() / (jnp.abs(a).max() + 1e-6)) for a, b in pairs)
    print(json.dumps(result, indent=1))
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
