"""The engine beside diffrax: time, first call and temporary memory of gradient and forward solve, in one process.

    python tests/bench/engine.py [--rounds 7] [--rows A,A1,…] [--out tests/bench/results/engine.json]

Both solvers run at their defaults (`max_steps=4096`, each its own adjoint), alternating, after a warm-up; times are
medians in ms, and ratios are theirs over ours. All in float32. `floor_ms` is our forward solve and a replay of its
accepted steps by hand (`floors.py`), `over_floor` our gradient over it.

A         MLP 4-64-64-4 (relu) and a rotation, Tsit5, rtol = atol = 1e-6, 10 s, 50 save times, batch 128: some 420
          accepted and 740 tried steps an example; A1 is one trajectory of it, A64k has max_steps=65536
A256      the same with width 256 and 2 s; A256-1024 with batch 1024
LV        Lotka-Volterra, 20 s, 100 save times, one trajectory; LV1000 a batch of 1000
few       a smooth field, 7 accepted steps, 50 save times, batch 128; few1 one trajectory
smooth    a field without rejections, batch 128
wide      a linear field on a state of 64, batch 256
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from floors import replay_of
from timing import load, medians_in_turn, processor

import nde


class Row(NamedTuple):
    """A problem: `field(t, y, parameters)`, its parameters, starts `([batch,] size)`, and save times to the end."""

    field: Callable
    parameters: Any
    y0: jax.Array
    ts: jax.Array
    end: float
    max_steps: int = 4096


def mlp_row(width: int, end: float, batch: int | None, max_steps: int = 4096) -> Row:
    """Problem A, in its sizes."""
    weights, rest = eqx.partition(eqx.nn.MLP(4, 4, width, 2, key=jr.key(0)), eqx.is_array)
    turn = 3.0 * jnp.asarray(np.kron(np.eye(2), [[0.0, 1.0], [-1.0, 0.0]]), jnp.float32)
    y0 = jr.normal(jr.key(1), (batch or 1, 4))

    def field(t, y, weights):
        return 4.0 * eqx.combine(weights, rest)(3.0 * y) + turn @ y

    return Row(field, weights, y0 if batch else y0[0], jnp.linspace(0.0, end, 50), end, max_steps)


def lotka_volterra_row(batch: int | None) -> Row:
    """Prey and predators."""

    def field(t, y, p):
        return jnp.stack([p[0] * y[0] - p[1] * y[0] * y[1], p[2] * y[0] * y[1] - p[3] * y[1]])

    y0 = jnp.array([1.0, 1.0]) * (1 + 0.5 * jr.uniform(jr.key(0), (batch or 1, 2)))
    return Row(field, jnp.array([1.5, 1.0, 1.0, 3.0]), y0 if batch else y0[0], jnp.linspace(0.0, 20.0, 100), 20.0)


def smooth_row(batch: int | None, end: float) -> Row:
    """A network with tanh, and little to do."""
    weights, rest = eqx.partition(eqx.nn.MLP(4, 4, 64, 2, activation=jnp.tanh, key=jr.key(0)), eqx.is_array)
    y0 = jr.normal(jr.key(1), (batch or 1, 4))

    def field(t, y, weights):
        return eqx.combine(weights, rest)(y)

    return Row(field, weights, y0 if batch else y0[0], jnp.linspace(0.0, end, 50), end)


def wide_row() -> Row:
    """A state of 64."""
    matrix = jr.normal(jr.key(0), (64, 64)) / 8
    return Row(
        lambda t, y, m: jnp.tanh(m @ y), matrix, jr.normal(jr.key(1), (256, 64)), jnp.linspace(0.0, 10.0, 50), 10.0
    )


ROWS = {
    "A": lambda: mlp_row(64, 10.0, 128),
    "A1": lambda: mlp_row(64, 10.0, None),
    "A64k": lambda: mlp_row(64, 10.0, 128, 65536),
    "A256": lambda: mlp_row(256, 2.0, 128),
    "A256-1024": lambda: mlp_row(256, 2.0, 1024),
    "LV": lambda: lotka_volterra_row(None),
    "LV1000": lambda: lotka_volterra_row(1000),
    "few": lambda: smooth_row(128, 4.0),
    "few1": lambda: smooth_row(None, 4.0),
    "smooth": lambda: smooth_row(128, 40.0),
    "wide": wide_row,
}


def loss_of(row: Row, diffeqsolve: Callable) -> Callable:
    """The mean square of what is saved, of one trajectory or a batch."""
    controller = diffrax.PIDController(rtol=1e-6, atol=1e-6)

    def one(parameters, y0):
        solution = diffeqsolve(
            diffrax.ODETerm(row.field), diffrax.Tsit5(), 0.0, row.end, 0.01, y0, parameters,
            saveat=diffrax.SaveAt(ts=row.ts), stepsize_controller=controller, max_steps=row.max_steps,
        )  # fmt: skip
        return jnp.mean(solution.ys**2), solution.stats

    if row.y0.ndim == 1:
        return lambda parameters: one(parameters, row.y0)

    def batch(parameters):
        losses, stats = jax.vmap(one, (None, 0))(parameters, row.y0)
        return jnp.mean(losses), stats

    return batch


def compiled(function: Callable, *arguments: Any) -> tuple[Any, float]:
    """A compiled function, and how long tracing and compiling took."""
    start = time.perf_counter()
    out = jax.jit(function).lower(*arguments).compile()
    return out, time.perf_counter() - start


def medians(functions: list[Callable], rounds: int, budget_s: float = 30.0) -> list[float]:
    """Milliseconds of each, taken in turn; no more than three rounds where these have taken `budget_s`."""
    times: list[list[float]] = [[] for _ in functions]
    end = time.perf_counter() + budget_s
    for done in range(rounds + 1):
        if done >= 3 and time.perf_counter() > end:
            break
        for kept, function in zip(times, functions, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(function())
            kept.append(1e3 * (time.perf_counter() - start))
    return [statistics.median(kept[1:]) for kept in times]


def over_floor(row: Row, gradient: Callable, forward: Callable, rounds: int) -> dict[str, float]:
    """Our gradient over the forward solve and a replay by hand, which are timed in turn with it."""
    times = medians_in_turn({"gradient": gradient, "forward": forward, "replay": replay_of(row)}, rounds, 8.0)
    floor = times["forward"] + times["replay"]
    return {"floor_ms": round(floor, 3), "over_floor": round(times["gradient"] / floor, 2)}


def measure(name: str, rounds: int) -> dict[str, Any]:
    """One row of the table."""
    row = ROWS[name]()
    result: dict[str, Any] = {}
    runs: dict[str, list[Callable]] = {"gradient": [], "forward": []}
    gradients = []
    for solver, diffeqsolve in (("diffrax", diffrax.diffeqsolve), ("nde", nde.diffeqsolve)):
        loss = loss_of(row, diffeqsolve)
        gradient, first_call = compiled(jax.grad(lambda p, loss=loss: loss(p)[0]), row.parameters)
        forward, _ = compiled(lambda p, loss=loss: loss(p)[0], row.parameters)
        runs["gradient"].append(lambda f=gradient: f(row.parameters))
        runs["forward"].append(lambda f=forward: f(row.parameters))
        gradients.append(gradient(row.parameters))
        memory = gradient.memory_analysis().temp_size_in_bytes / 2**20
        result[solver] = {"first_call_s": round(first_call, 2), "temporary_MiB": round(memory, 3)}
        if solver == "nde":
            text = gradient.as_text()
            result["loops"] = sum(" while(" in line for line in text.splitlines())
            result["loops_in_one_kernel"] = text.count('xla_cpu_small_call="true"')  # by XLA's rule for a CPU
            _, stats = jax.jit(loss)(row.parameters)
            result["steps"] = {
                k: float(np.mean(stats[f"num_{k}"])) for k in ("accepted_steps", "steps", "field_evaluations")
            }
    for what, functions in runs.items():
        theirs, mine = medians(functions, rounds)
        result["diffrax"][f"{what}_ms"], result["nde"][f"{what}_ms"] = round(theirs, 3), round(mine, 3)
        result[f"{what}_ratio"] = round(theirs / mine, 2)
    result |= over_floor(row, runs["gradient"][1], runs["forward"][1], rounds)
    result["gradient_over_forward"] = round(result["nde"]["gradient_ms"] / result["nde"]["forward_ms"], 2)
    result["first_call_ratio"] = round(result["nde"]["first_call_s"] / result["diffrax"]["first_call_s"], 2)
    result["memory_ratio"] = round(result["nde"]["temporary_MiB"] / result["diffrax"]["temporary_MiB"], 2)
    apart = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max() / jnp.abs(a).max()), *gradients)
    result["gradients_differ"] = max(jax.tree.leaves(apart))
    return result


def machine() -> dict[str, Any]:
    """What it was measured on."""
    return processor() | {
        "jax": jax.__version__,
        "diffrax": diffrax.__version__,
        "equinox": eqx.__version__,
    }


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "engine.json")
    options = parser.parse_args()
    stored = json.loads(options.out.read_text()) if options.out.exists() else {"rows": {}}
    stored["machine"] = machine()
    for name in options.rows.split(","):
        result = measure(name, options.rounds) | {"load": load()}
        stored["rows"][name] = result
        print(name, json.dumps(result), flush=True)
        options.out.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
