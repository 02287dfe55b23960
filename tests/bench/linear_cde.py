"""A linear CDE by scan against the solve of the same equation: time, memory, and distance, forward and gradient.

    python tests/bench/linear_cde.py [--rounds 5] [--only STRUCTURE …] [--out tests/bench/results/linear_cde.json]

A state of 32 and a path of 13 channels, straight between knots, like the path of a series of six channels. The solve
takes one step a knot by nde's engine with Tsit5, which is as exact as single precision there. Gradients are with
respect to the field's parameters. All from the same parameters, in one process, taken in turn.

A state space of 4 channels with 8 complex modes each, its input held from row to row, stands beside them: by
convolution, by scan, and by the solve of its 64 real states, one step of Tsit5 a row.
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
from nde.models import LinearCDE, StateSpace

STATE, PATH = 32, 13
STRUCTURES = {
    "diagonal": {"block_size": 1},
    "block-diagonal, 4": {"block_size": 4},
    "diagonal plus rank 1": {"block_size": 1, "rank": 1},
    "dense": {},
}
CASES = [(4096, 1)]


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

    def scan(how):
        def run(field, increments, start):
            model = LinearCDE(None, field, None, scan=how)
            return model.along(increments, start)[-1]

        return run

    def solved(solver, engine):
        return lambda field, increments, start: solve(field, increments, start, solver, engine)

    return {
        "sequential scan": scan("sequential"),
        "associative scan": scan("associative"),
        "nde, Tsit5": solved(diffrax.Tsit5(), nde),
    }


def measure(structure, rows, batch, rounds):
    """One row of the table."""
    key = jax.random.key(0)
    field = nde.LinearCDEField(STATE, PATH, scale=0.3, bias_scale=0.3, key=key, **STRUCTURES[structure])
    increments = jax.random.normal(key, (batch, rows, PATH)) / np.sqrt(rows)
    start = jax.random.normal(key, (batch, STATE))
    weights, rest = eqx.partition(field, eqx.is_inexact_array)
    forwards = {
        name: lambda weights, data, run=run: jax.vmap(run, (None, 0, 0))(eqx.combine(weights, rest), *data)
        for name, run in contenders(field).items()
    }
    return {"structure": structure, "rows": rows, "batch": batch} | compared(
        forwards, weights, (increments, start), rounds
    )


def compared(forwards, weights, data, rounds):
    """Times, memory and distances of functions of weights and data; the one by Tsit5 counts as exact."""
    calls, memory, ends = {"forward": {}, "gradient": {}}, {"forward": {}, "gradient": {}}, {}
    for name, forward in forwards.items():

        def gradient(weights, data, forward=forward):
            return jax.grad(lambda w: jnp.mean(forward(w, data) ** 2))(weights)

        for kind, function in (("forward", forward), ("gradient", gradient)):
            compiled = jax.jit(function).lower(weights, data).compile()
            memory[kind][name] = round(compiled.memory_analysis().temp_size_in_bytes / 2**20, 2)
            calls[kind][name] = lambda compiled=compiled: compiled(weights, data)
        ends[name] = np.asarray(calls["forward"][name]())
    exact = ends["nde, Tsit5"]
    return {
        "ms": {kind: medians_in_turn(each, rounds=rounds, budget_s=5.0) for kind, each in calls.items()},
        "temporary_MiB": memory,
        "largest_state": float(np.abs(exact).max()),
        "distance": {name: float(np.abs(end - exact).max() / np.abs(exact).max()) for name, end in ends.items()},
    }


def state_space(rows, rounds):
    """One row of the table: a state space under held inputs."""
    key = jax.random.key(0)
    space = StateSpace(4, 8, shortest=100.0, longest=1000.0, key=key)
    inputs = jax.random.normal(key, (rows, 4))
    weights, rest = eqx.partition(space, eqx.is_inexact_array)

    def scan(how):
        return lambda weights, inputs: eqx.combine(weights, rest)(inputs, jnp.ones(rows), how)[0]

    def convolution(weights, inputs):
        return eqx.combine(weights, rest).convolve(inputs, jnp.ones(()))

    def solved(weights, inputs):
        space = eqx.combine(weights, rest)
        rates, speed = space.rates, jnp.exp(-space.log_time_scale)
        input_columns = jnp.einsum("hk,h->hk", jnp.eye(4), speed)[:, None].repeat(8, 1)
        input_columns = jnp.stack([input_columns, jnp.zeros_like(input_columns)], 2).reshape(64, 4)

        def field(t, x, args):  # the columns: of time, and of the integral of each input
            pair = x.reshape(4, 8, 2)
            change = rates * (pair[..., 0] + 1j * pair[..., 1])
            return jnp.concatenate([jnp.stack([change.real, change.imag], -1).reshape(64, 1), input_columns], 1)

        ts = np.arange(rows + 1, dtype=np.float32)
        points = jnp.concatenate([jnp.asarray(ts)[1:, None], jnp.cumsum(inputs, 0)], 1)
        path = diffrax.LinearInterpolation(ts, jnp.concatenate([jnp.zeros((1, 5)), points]))
        states = nde.diffeqsolve(
            diffrax.ControlTerm(field, path), diffrax.Tsit5(), ts[0], ts[-1], None, jnp.zeros(64), max_steps=rows,
            stepsize_controller=diffrax.StepTo(ts=ts), saveat=diffrax.SaveAt(ts=ts[1:]),
        ).ys.reshape(rows, 4, 8, 2)  # fmt: skip
        return space.read(states[..., 0] + 1j * states[..., 1], inputs)

    forwards = {
        "convolution": convolution,
        "sequential scan": scan("sequential"),
        "associative scan": scan("associative"),
        "nde, Tsit5": solved,
    }
    return {"structure": "state space", "rows": rows, "batch": 1} | compared(forwards, weights, inputs, rounds)


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=[], help="structures to be measured again")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "linear_cde.json")
    options = parser.parse_args()
    result = {"load": load(), "processor": processor(), "rows": []}
    jobs = [("state space", lambda: state_space(4096, options.rounds))]
    jobs += [
        (structure, lambda structure=structure, case=case: measure(structure, *case, options.rounds))
        for case in CASES
        for structure in STRUCTURES
    ]
    if options.only:  # and keep what is stored of the others
        kept = json.loads(options.out.read_text())["rows"]
        result["rows"] = [row for row in kept if row["structure"] not in options.only]
        jobs = [(structure, job) for structure, job in jobs if structure in options.only]
    for _, job in jobs:
        row = job() | {"load": load()}
        result["rows"].append(row)
        print(json.dumps(row), flush=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    result["load_at_end"] = load()
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
