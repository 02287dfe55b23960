"""The continuous adjoint: its error against tolerance, and its time beside its peers'.

    python tests/bench/continuous.py convergence
    python tests/bench/continuous.py speed [--rounds 3]

`convergence` (double precision): how far the gradient of `nde.ContinuousAdjoint` is from that of the discrete solve
(`nde.CheckpointAdjoint` on the same grid), and how far each is from the gradient at a tolerance of 1e-12: for an ODE, a
CDE along a spline, and, against the number of steps, a Stratonovich SDE with diagonal multiplicative noise (root mean
square over 64 paths, against its closed form). A plot and a table.

`speed` (single precision): the gradient of problem A of `engine.py` (batch 128, 50 save times, rtol = atol = 1e-6), the
peers in turn after a warm-up; medians in ms. torchdiffeq needs the `bench` extra; without it that row is left out.
"""

import argparse
import importlib.util
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import jax.random as jr
import lineax as lx
import matplotlib
import numpy as np
from engine import mlp_row, Row

import nde

RESULTS = Path(__file__).parent / "results"
TOLERANCES = [1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10]
STEPS = [16, 32, 64, 128, 256, 512]
TS = np.linspace(0.0, 3.0, 6)  # not of jax, which would make them single before it is told of doubles


def ode_term(parameters: tuple[jax.Array, jax.Array]) -> diffrax.AbstractTerm:
    """A small network."""
    weights, _ = parameters
    return diffrax.ODETerm(lambda t, y, args: jnp.tanh(weights @ y) - 0.1 * y * jnp.cos(t))


def cde_term(parameters: tuple[jax.Array, jax.Array]) -> diffrax.AbstractTerm:
    """The same along a spline whose values are parameters."""
    weights, values = parameters
    ts = jnp.linspace(0.0, 3.0, len(values))
    path = diffrax.CubicInterpolation(ts, diffrax.backward_hermite_coefficients(ts, values))
    return diffrax.ControlTerm(
        lambda t, y, args: jnp.outer(jnp.tanh(weights @ y), jnp.array([1.0, 0.5])), path
    ).to_ode()


def gradient(make_term: Callable, adjoint: Any, tol: float) -> jax.Array:
    """The gradient in parameters and start, flat."""

    def loss(inputs):
        parameters, y0 = inputs
        ys = nde.diffeqsolve(
            make_term(parameters), diffrax.Tsit5(), 0.0, 3.0, None, y0, saveat=diffrax.SaveAt(ts=jnp.asarray(TS)),
            stepsize_controller=diffrax.PIDController(rtol=tol, atol=tol), adjoint=adjoint, max_steps=20_000,
        ).ys  # fmt: skip
        return jnp.sum(jnp.sin(ys))

    parameters = (jr.normal(jr.key(0), (3, 3)), jnp.cumsum(jr.normal(jr.key(1), (6, 2)), 0))
    found = jax.jit(jax.grad(loss))((parameters, jnp.array([0.5, -1.0, 0.3])))
    return jnp.concatenate([x.reshape(-1) for x in jax.tree.leaves(found)])


def apart(a: jax.Array, b: jax.Array) -> float:
    """The distance of two gradients, in units of the second."""
    return float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b))


def deterministic(make_term: Callable) -> dict[str, list[float]]:
    """Distances over tolerances."""
    exact = gradient(make_term, nde.CheckpointAdjoint(), 1e-12)
    rows: dict[str, list[float]] = {"continuous to discrete": [], "continuous to exact": [], "discrete to exact": []}
    for tol in TOLERANCES:
        mine = gradient(make_term, nde.ContinuousAdjoint(), tol)
        discrete = gradient(make_term, nde.CheckpointAdjoint(), tol)
        for row, (a, b) in zip(rows.values(), [(mine, discrete), (mine, exact), (discrete, exact)], strict=True):
            row.append(apart(a, b))
    return rows


def stochastic() -> dict[str, list[float]]:
    """Distances from the closed form over numbers of steps, for `SPaRK`."""
    a, b, y0 = jnp.array([0.3, -0.2]), jnp.array([0.5, 0.8]), jnp.array([1.0, 0.7])
    rows: dict[str, list[float]] = {"continuous to exact": [], "discrete to exact": []}
    for steps in STEPS:
        for name, adjoint in (("continuous", nde.ContinuousAdjoint()), ("discrete", nde.CheckpointAdjoint())):

            def one(key, adjoint=adjoint, steps=steps):
                path = nde.BrownianGrid(0.0, 1.0, steps, (2,), key, levy_area=diffrax.SpaceTimeLevyArea)

                def solved(inputs):
                    terms = diffrax.MultiTerm(
                        diffrax.ODETerm(lambda t, y, args: args[0] * y),
                        diffrax.ControlTerm(lambda t, y, args: lx.DiagonalLinearOperator(args[1] * y), path),
                    )
                    return nde.diffeqsolve(
                        terms, diffrax.SPaRK(), 0.0, 1.0, 1 / steps, inputs[2], inputs[:2], adjoint=adjoint
                    ).ys[0]

                def exact(inputs):
                    return inputs[2] * jnp.exp(inputs[0] + inputs[1] * path.evaluate(0.0, 1.0))

                both = [jax.grad(lambda x, f=f: jnp.sum(f(x) ** 2))((a, b, y0)) for f in (solved, exact)]
                return [jnp.concatenate(x) for x in both]

            mine, true = jax.jit(jax.vmap(one))(jr.split(jr.key(2), 64))
            rows[f"{name} to exact"].append(apart(mine, true))
    return rows


def plot(found: dict[str, dict[str, list[float]]], path: Path) -> None:
    """Three panels, logarithmic."""
    matplotlib.use("Agg")
    from matplotlib import pyplot  # after the backend is chosen

    figure, axes = pyplot.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    for axis, (name, rows) in zip(axes, found.items(), strict=True):
        xs = STEPS if name == "SDE" else TOLERANCES
        for label, values in rows.items():
            axis.loglog(xs, values, marker="o", markersize=3, label=label)
        axis.set(title=name, xlabel="steps" if name == "SDE" else "rtol = atol", ylabel="relative distance")
        if name == "SDE":
            axis.set_xticks(STEPS, [str(n) for n in STEPS], minor=False)
            axis.set_xticks([], minor=True)
        axis.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def convergence() -> dict[str, Any]:
    """The table, with the plot beside it."""
    jax.config.update("jax_enable_x64", True)
    found = {"ODE": deterministic(ode_term), "CDE": deterministic(cde_term), "SDE": stochastic()}
    plot(found, RESULTS / "continuous.png")
    return {"tolerances": TOLERANCES, "steps": STEPS, **found}


def jax_gradient(row: Row, diffeqsolve: Callable, adjoint: Any) -> Callable:
    """The gradient of problem A in jax."""
    controller = diffrax.PIDController(rtol=1e-6, atol=1e-6)

    def one(parameters, y0):
        ys = diffeqsolve(
            diffrax.ODETerm(row.field), diffrax.Tsit5(), 0.0, row.end, 0.01, y0, parameters,
            saveat=diffrax.SaveAt(ts=row.ts), stepsize_controller=controller, adjoint=adjoint,
        ).ys  # fmt: skip
        return jnp.mean(ys**2)

    compiled = jax.jit(jax.grad(lambda p: jnp.mean(jax.vmap(one, (None, 0))(p, row.y0))))
    return lambda: jax.block_until_ready(compiled(row.parameters))


def torch_gradient(row: Row) -> Callable:
    """The gradient of problem A by torchdiffeq's `odeint_adjoint`, with dopri5, the whole batch one state."""
    import torch  # of the `bench` extra
    from torchdiffeq import odeint_adjoint  # of the `bench` extra

    leaves = [torch.tensor(np.asarray(x)) for x in jax.tree.leaves(row.parameters)]
    parameters = [torch.nn.Parameter(x) for x in leaves]
    turn = torch.tensor(3.0 * np.kron(np.eye(2), [[0.0, 1.0], [-1.0, 0.0]]), dtype=torch.float32)
    y0, ts = torch.tensor(np.asarray(row.y0)), torch.tensor(np.asarray(row.ts))

    class Field(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.parameters_ = torch.nn.ParameterList(parameters)

        def forward(self, t, y):
            x = 3.0 * y
            for i in range(0, len(self.parameters_), 2):
                x = x @ self.parameters_[i].T + self.parameters_[i + 1]
                x = torch.relu(x) if i + 2 < len(self.parameters_) else x
            return 4.0 * x + y @ turn.T

    field = Field()

    def run():
        loss = (odeint_adjoint(field, y0, ts, rtol=1e-6, atol=1e-6, method="dopri5") ** 2).mean()
        return torch.autograd.grad(loss, list(field.parameters()))

    return run


def speed(rounds: int) -> dict[str, Any]:
    """Medians in ms, and what each gradient is apart from the discrete one."""
    row = mlp_row(64, 10.0, 128)
    runs = {
        "nde.CheckpointAdjoint": jax_gradient(row, nde.diffeqsolve, nde.CheckpointAdjoint()),
        "nde.ContinuousAdjoint": jax_gradient(row, nde.diffeqsolve, nde.ContinuousAdjoint()),
        "diffrax.BacksolveAdjoint": jax_gradient(row, diffrax.diffeqsolve, diffrax.BacksolveAdjoint()),
    }
    if importlib.util.find_spec("torchdiffeq"):
        runs["torchdiffeq.odeint_adjoint"] = torch_gradient(row)
    times: dict[str, list[float]] = {name: [] for name in runs}
    found = {}
    for number in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            found[name] = jnp.concatenate([jnp.asarray(np.asarray(x)).reshape(-1) for x in jax.tree.leaves(run())])
            if number:
                times[name].append(1e3 * (time.perf_counter() - start))
            print(name, round(time.perf_counter() - start, 3), flush=True)
    exact = found["nde.CheckpointAdjoint"]
    rows = {
        name: {"gradient_ms": round(statistics.median(kept), 1), "apart_from_discrete": apart(found[name], exact)}
        for name, kept in times.items()
    }
    mine = rows["nde.ContinuousAdjoint"]["gradient_ms"]
    return {name: {**row, "over_ours": round(row["gradient_ms"] / mine, 2)} for name, row in rows.items()}


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["convergence", "speed"])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    path = RESULTS / "continuous.json"
    stored = json.loads(path.read_text()) if path.exists() else {}
    stored["machine"] = {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "jax": jax.__version__,
        "diffrax": diffrax.__version__,
        "load": round(os.getloadavg()[0], 1),
    }
    stored[options.what] = convergence() if options.what == "convergence" else speed(options.rounds)
    print(json.dumps(stored[options.what], indent=1))
    path.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
