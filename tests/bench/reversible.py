"""Reversible methods and their adjoint: rounding errors of the round trip, memory, and time beside other adjoints.

    python tests/bench/reversible.py [--rounds 7] [--rows round_trip,memory,…] [--out results.json]

Times are medians in ms of gradients in float32, all in one process, alternating, after a warm-up.

round_trip  how far from y0 a solve comes back to, over the size of y0: an oscillator, undamped and with a damping of
            0.2, h = 0.01, 1000 and 10 000 steps, in float32 and float64; and how far the solve itself is off
memory      temporary MiB of a gradient at 256 and at 4096 steps of a fixed grid, ends known and ends traced
sde         dim 4, diagonal noise, two MLPs of width 64, 200 steps, batch 256, reversible Heun: this adjoint over the
            checkpoint adjoint (target 1.15), and diffrax's default with as many checkpoints as fit in our memory
            (the fewest, 2, where none do: target 2 times slower), and with as many as it takes itself
sde-tree    the same on a virtual Brownian tree
sde-heun    the first by Reversible(Heun), without diffrax
even        a network as a field, Reversible(Tsit5), 500 even steps, batch 128: as `sde`, without diffrax
A           the MLP 4-64-64-4 of tests/bench/engine.py, 10 s, 50 save times, batch 128, rtol = atol = 1e-6, adaptive:
            Reversible(Tsit5) by this adjoint over the checkpoint adjoint, over Tsit5 by the checkpoint adjoint, and
            diffrax's Tsit5 as above
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import nde
from nde.solvers import inverse_step_of

TSIT5, HEUN = nde.Reversible(diffrax.Tsit5()), nde.Reversible(diffrax.Heun())


def round_trip(solver: Any, damping: float, steps: int, dtype: Any) -> dict[str, float]:
    """The error of a solve to its end, and that of its way back, both over the size of the start."""
    with jax.enable_x64(dtype == np.float64):
        y0 = jnp.array([1.0, 0.0], dtype)
        matrix = jnp.array([[0.0, 1.0], [-1.0, -2 * damping]], dtype)
        ts = jnp.asarray(np.linspace(0, 0.01 * steps, steps + 1), dtype)
        term = diffrax.ODETerm(lambda t, y, args: matrix @ y)
        inverse_step = inverse_step_of(solver, term, None)
        state = solver.init(term, ts[0], ts[1], y0, None)
        sub_functions = inverse_step.sub_functions(ts[0], ts[1], y0, state)

        def call(name, t0, t1, *arguments):
            return sub_functions[name].function(t0, t1, *arguments), None

        def ahead(place, times):
            y, _, _, state, _ = solver.step(term, *times, place[0], None, place[1], False)
            return (y, state), None

        def back(reverse_state, times):
            step = inverse_step.step_back(call, *times, reverse_state, True)
            return step.reverse_state, step.dense["y0"]

        @jax.jit
        def both():
            times = ts[:-1], ts[1:]
            (y1, state), _ = jax.lax.scan(ahead, (y0, state0), times)
            reverse_state = inverse_step.init_reverse(call, ts[0], ts[1], y1, state)
            return y1, jax.lax.scan(back, reverse_state, times, reverse=True)[1][0]

        state0 = state
        y1, again = (np.asarray(x, np.float64) for x in both())
    values, vectors = np.linalg.eig(np.asarray(matrix, np.float64))
    exact = (vectors @ (np.exp(values * 0.01 * steps) * np.linalg.solve(vectors, np.array([1.0, 0.0])))).real
    return {"solve": float(np.linalg.norm(y1 - exact)), "round_trip": float(np.linalg.norm(again - [1.0, 0.0]))}


def round_trips(rounds: int) -> dict[str, Any]:
    """The table of amplifications."""
    del rounds
    table = {}
    solvers = {"Reversible(Tsit5)": TSIT5, "Reversible(Heun)": HEUN, "ReversibleHeun": diffrax.ReversibleHeun()}
    solvers["Reversible(Tsit5), 0.99"] = nde.Reversible(diffrax.Tsit5(), coupling=0.99)
    print(f"{'':24} {'damping':>8} {'steps':>6} {'dtype':>8} {'solve':>9} {'back':>9} {'over eps':>9}")
    for name, solver in solvers.items():
        for damping in (0.0, 0.2):
            for steps in (1000, 10_000):
                for dtype in (np.float32, np.float64):
                    found = round_trip(solver, damping, steps, dtype)
                    kind, eps = np.dtype(dtype).name, float(np.finfo(dtype).eps)
                    found["over_eps"] = found["round_trip"] / eps
                    table[f"{name}, damping {damping}, {steps} steps, {kind}"] = found
                    line = f"{name:24} {damping:8} {steps:6} {kind:>8} {found['solve']:9.1e} {found['round_trip']:9.1e}"
                    print(f"{line} {found['over_eps']:9.1e}", flush=True)
    return table


def compiled(function: Callable, *arguments: Any) -> Any:
    """A compiled function."""
    return jax.jit(function).lower(*arguments).compile()


def temporary(function: Any) -> float:
    """MiB that a compiled function needs beside its inputs and outputs."""
    return function.memory_analysis().temp_size_in_bytes / 2**20


def memory(rounds: int) -> dict[str, Any]:
    """Temporary memory at 256 and at 4096 steps."""
    del rounds
    weights, rest = eqx.partition(eqx.nn.MLP(4, 4, 32, 1, activation=jnp.tanh, key=jr.key(0)), eqx.is_array)
    y0 = jr.normal(jr.key(1), (16, 4))

    def total(weights, t1, solver, steps):
        term = diffrax.ODETerm(lambda t, y, w: eqx.combine(w, rest)(y))

        def one(y0):
            return nde.diffeqsolve(
                term, solver, 0.0, t1, 1.0 / steps, y0, weights, max_steps=steps, adjoint=nde.ReversibleAdjoint()
            ).ys

        return jnp.sum(jax.vmap(one)(y0) ** 2)

    result = {}
    for name, solver in (("Reversible(Heun)", HEUN), ("ReversibleHeun", diffrax.ReversibleHeun())):
        for ends in ("known", "traced"):
            sizes = []
            for steps in (256, 4096):
                gradient = jax.grad(lambda w, t1, s=solver, n=steps: total(w, t1, s, n))
                if ends == "known":
                    function = compiled(lambda w, g=gradient: g(w, 1.0), weights)
                else:
                    function = compiled(gradient, weights, jnp.float32(1.0))
                sizes.append(temporary(function))
            result[f"{name}, ends {ends}"] = {"MiB": sizes, "ratio": round(sizes[1] / sizes[0], 3)}
    return result


def medians(functions: list[Callable], rounds: int) -> list[float]:
    """Milliseconds of each, taken in turn."""
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(rounds + 1):
        for kept, function in zip(times, functions, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(function())
            kept.append(1e3 * (time.perf_counter() - start))
    return [statistics.median(kept[1:]) for kept in times]


def compare(total: Callable, ways: dict[str, tuple], weights: Any, theirs: tuple | None, rounds: int) -> dict[str, Any]:
    """Gradients of `total(weights, solve, solver, adjoint)` by several ways, the first of them ours.

    `theirs`: a way with as many of its checkpoints as stay within the memory of ours (if any do: else the fewest).
    """
    functions, result = {}, {}
    for name, way in ways.items():
        functions[name] = compiled(jax.grad(lambda w, way=way: total(w, *way)), weights)
    ours = next(iter(ways))
    if theirs is not None:
        solve, solver, adjoint = theirs
        way = (solve, solver, adjoint(None))
        functions["diffrax"] = compiled(jax.grad(lambda w, way=way: total(w, *way)), weights)
        for checkpoints in (2, 4, 8, 16, 32, 64, 128):
            name = f"diffrax, {checkpoints} checkpoints"
            way = (solve, solver, adjoint(checkpoints))
            function = compiled(jax.grad(lambda w, way=way: total(w, *way)), weights)
            if checkpoints > 2 and temporary(function) > temporary(functions[ours]):
                break
            functions = {k: f for k, f in functions.items() if "checkpoints" not in k} | {name: function}
    times = medians([lambda f=f: f(weights) for f in functions.values()], rounds)
    flat = {k: jax.flatten_util.ravel_pytree(f(weights))[0] for k, f in functions.items()}
    for (name, function), ms in zip(functions.items(), times, strict=True):
        apart = float(jnp.max(jnp.abs(flat[name] - flat[ours])) / jnp.max(jnp.abs(flat[ours])))
        result[name] = {
            "gradient_ms": round(ms, 3),
            "ours_over_it": round(times[0] / ms, 3),
            "temporary_MiB": round(temporary(function), 3),
            "apart_from_ours": apart,
        }
    return result


def diffrax_default(checkpoints: int | None) -> diffrax.AbstractAdjoint:
    """diffrax's default adjoint."""
    return diffrax.RecursiveCheckpointAdjoint(checkpoints=checkpoints)


def sde(rounds: int, tree: bool = False, solver: Any = None, beside_diffrax: bool = True) -> dict[str, Any]:
    """A neural SDE on a fixed grid."""
    keys = jr.split(jr.key(0), 4)
    nets = [eqx.nn.MLP(4, 4, 64, 2, activation=jnp.tanh, final_activation=jnp.tanh, key=k) for k in keys[:2]]
    weights, rest = eqx.partition(nets, eqx.is_array)
    y0, seeds = jr.normal(keys[2], (256, 4)), jr.split(keys[3], 256)
    solver = solver or diffrax.ReversibleHeun()

    def noise(t, y, w):
        return jnp.diag(0.3 * eqx.combine(w, rest)[1](y))

    def total(weights, solve, solver, adjoint):
        def one(y0, key):
            if solve is diffrax.diffeqsolve:
                path = diffrax.VirtualBrownianTree(0.0, 1.0, 0.0025, (4,), key)
            elif tree:
                path = nde.VirtualBrownianTree(0.0, 1.0, 0.0025, (4,), key)
            else:
                path = nde.BrownianGrid(0.0, 1.0, 200, (4,), key)
            drift = diffrax.ODETerm(lambda t, y, w: eqx.combine(w, rest)[0](y))
            terms = diffrax.MultiTerm(drift, diffrax.ControlTerm(noise, path))
            return solve(terms, solver, 0.0, 1.0, 0.005, y0, weights, adjoint=adjoint, max_steps=200).ys

        return jnp.mean(jax.vmap(one)(y0, seeds) ** 2)

    ways = {
        "reversible": (nde.diffeqsolve, solver, nde.ReversibleAdjoint()),
        "checkpoint": (nde.diffeqsolve, solver, nde.CheckpointAdjoint()),
    }
    theirs = (diffrax.diffeqsolve, solver, diffrax_default) if beside_diffrax else None
    return compare(total, ways, weights, theirs, rounds)


def even(rounds: int) -> dict[str, Any]:
    """A network as a field, even steps."""
    weights, rest = eqx.partition(eqx.nn.MLP(4, 4, 64, 2, activation=jnp.tanh, key=jr.key(0)), eqx.is_array)
    y0 = jr.normal(jr.key(1), (128, 4))

    def total(weights, solve, solver, adjoint):
        term = diffrax.ODETerm(lambda t, y, w: eqx.combine(w, rest)(y))

        def one(y0):
            return solve(term, solver, 0.0, 5.0, 0.01, y0, weights, adjoint=adjoint, max_steps=500).ys

        return jnp.mean(jax.vmap(one)(y0) ** 2)

    ways = {
        "reversible": (nde.diffeqsolve, TSIT5, nde.ReversibleAdjoint()),
        "checkpoint": (nde.diffeqsolve, TSIT5, nde.CheckpointAdjoint()),
    }
    return compare(total, ways, weights, None, rounds)


def adaptive(rounds: int) -> dict[str, Any]:
    """Problem A, to a tolerance."""
    weights, rest = eqx.partition(eqx.nn.MLP(4, 4, 64, 2, key=jr.key(0)), eqx.is_array)
    turn = 3.0 * jnp.asarray(np.kron(np.eye(2), [[0.0, 1.0], [-1.0, 0.0]]), jnp.float32)
    y0, ts = jr.normal(jr.key(1), (128, 4)), jnp.linspace(0.0, 10.0, 50)
    controller = diffrax.PIDController(rtol=1e-6, atol=1e-6)

    def run(weights, solve, solver, adjoint):
        term = diffrax.ODETerm(lambda t, y, w: 4.0 * eqx.combine(w, rest)(3.0 * y) + turn @ y)
        return jax.vmap(
            lambda y0: solve(
                term, solver, 0.0, 10.0, 0.01, y0, weights, saveat=diffrax.SaveAt(ts=ts), adjoint=adjoint,
                stepsize_controller=controller,
            )
        )(y0)  # fmt: skip

    ways = {
        "reversible": (nde.diffeqsolve, TSIT5, nde.ReversibleAdjoint()),
        "checkpoint": (nde.diffeqsolve, TSIT5, nde.CheckpointAdjoint()),
        "Tsit5, checkpoint": (nde.diffeqsolve, diffrax.Tsit5(), nde.CheckpointAdjoint()),
    }
    theirs = (diffrax.diffeqsolve, diffrax.Tsit5(), diffrax_default)
    result = compare(lambda *given: jnp.mean(run(*given).ys ** 2), ways, weights, theirs, rounds)
    for name in ("reversible", "Tsit5, checkpoint"):
        solution = jax.jit(lambda w, way=ways[name]: run(w, *way))(weights)
        for what in ("num_accepted_steps", "num_steps", "num_field_evaluations"):
            result[name][what] = float(jnp.mean(solution.stats[what]))
    return result


ROWS = {
    "round_trip": round_trips,
    "memory": memory,
    "sde": sde,
    "sde-tree": lambda rounds: sde(rounds, tree=True),
    "sde-heun": lambda rounds: sde(rounds, solver=HEUN, beside_diffrax=False),
    "even": even,
    "A": adaptive,
}


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "reversible.json")
    options = parser.parse_args()
    stored = json.loads(options.out.read_text()) if options.out.exists() else {"rows": {}}
    stored["machine"] = {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "jax": jax.__version__,
        "diffrax": diffrax.__version__,
        "equinox": eqx.__version__,
        "device": jax.devices()[0].device_kind,
    }
    for name in options.rows.split(","):
        result = ROWS[name](options.rounds)
        stored["rows"][name] = {"rounds": options.rounds, "load": round(os.getloadavg()[0], 1), **result}
        print(name, flush=True) if name == "round_trip" else print(name, json.dumps(result, indent=1), flush=True)
        options.out.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
