"""A linear CDE by scan against the solve of the same equation: time, memory, and distance, forward and gradient.

    python tests/bench/linear_cde.py [--rounds 5] [--out tests/bench/results/linear_cde.json]

A state of 32 and a path of 13 channels, straight between knots, like the path of a series of six channels. The solve
takes one step a knot, by nde's engine and by diffrax, with Tsit5, which is as exact as single precision there; beside
them Heun, the cheapest step that is not Euler's. Gradients are with respect to the field's parameters. All from the
same parameters, in one process, taken in turn.
"""

import argparse
import json
from pathlib import Path

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from timing import load, medians_in_turn, processor

import nde
from nde.models import LinearCDE

STATE, PATH = 32, 13
STRUCTURES = {
    "diagonal": {"block_size": 1},
    "block-diagonal, 4": {"block_size": 4},
    "diagonal plus rank 1": {"block_size": 1, "rank": 1},
    "dense": {},
}
CASES = [(512, 1), (1024, 1), (4096, 1), (4096, 8)]


def solve(field, increments, start, solver, engine):
    """The state at the end, one step a knot."""
    rows = increments.shape[0]
    ts = np.arange(rows + 1, dtype=np.float32)
    points = jnp.concatenate([jnp.zeros_like(increments[:1]), jnp.cumsum(increments, axis=0)])
    term = diffrax.ControlTerm(field, diffrax.LinearInterpolation(ts, points))
    solution = engine.diffeqsolve(
        term, solver, ts[0], ts[-1], None, start, stepsize_controller=diffrax.StepTo(ts=ts), max_steps=rows,
        saveat=diffrax.SaveAt(t1=True),
    )  # fmt: skip
    return solution.ys[0]


def contenders(field):
    """Each a function from field, increments and start to the state at the end."""

    def scan(how, discretisation="exact"):
        def run(field, increments, start):
            model = LinearCDE(None, field, None, scan=how, discretisation=discretisation)
            return model.along(increments, start)[-1]

        return run

    def solved(solver, engine):
        return lambda field, increments, start: solve(field, increments, start, solver, engine)

    return {
        "sequential scan": scan("sequential"),
        "associative scan": scan("associative"),
        "sequential scan, euler": scan("sequential", "euler"),
        "nde, Tsit5": solved(diffrax.Tsit5(), nde),
        "nde, Heun": solved(diffrax.Heun(), nde),
        "diffrax, Tsit5": solved(diffrax.Tsit5(), diffrax),
    }


def measure(structure, rows, batch, rounds):
    """One row of the table."""
    key = jax.random.key(0)
    field = nde.LinearCDEField(STATE, PATH, scale=0.3, bias_scale=0.3, key=key, **STRUCTURES[structure])
    increments = jax.random.normal(key, (batch, rows, PATH)) / np.sqrt(rows)
    start = jax.random.normal(key, (batch, STATE))
    weights, rest = eqx.partition(field, eqx.is_inexact_array)
    calls, memory, ends = {"forward": {}, "gradient": {}}, {"forward": {}, "gradient": {}}, {}
    for name, run in contenders(field).items():

        def forward(weights, increments, start, run=run):
            return jax.vmap(run, (None, 0, 0))(eqx.combine(weights, rest), increments, start)

        def gradient(weights, increments, start, forward=forward):
            return jax.grad(lambda w: jnp.mean(forward(w, increments, start) ** 2))(weights)

        for kind, function in (("forward", forward), ("gradient", gradient)):
            compiled = jax.jit(function).lower(weights, increments, start).compile()
            memory[kind][name] = round(compiled.memory_analysis().temp_size_in_bytes / 2**20, 2)
            calls[kind][name] = lambda compiled=compiled: compiled(weights, increments, start)
        ends[name] = np.asarray(calls["forward"][name]())
    exact = ends["nde, Tsit5"]
    return {
        "structure": structure,
        "rows": rows,
        "batch": batch,
        "ms": {kind: medians_in_turn(each, rounds=rounds, budget_s=8.0) for kind, each in calls.items()},
        "temporary_MiB": memory,
        "largest_state": float(np.abs(exact).max()),
        "distance": {name: float(np.abs(end - exact).max() / np.abs(exact).max()) for name, end in ends.items()},
    }


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "linear_cde.json")
    options = parser.parse_args()
    result = {"load": load(), "processor": processor(), "rows": []}
    for structure in STRUCTURES:
        for rows, batch in CASES:
            row = measure(structure, rows, batch, options.rounds)
            result["rows"].append(row)
            print(json.dumps(row), flush=True)
            options.out.write_text(json.dumps(result, indent=1) + "\n")
    result["load_at_end"] = load()
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
