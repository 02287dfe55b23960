"""The solves of a row of `peers.py` by each package: forward and gradient, as calls without arguments.

Each package solves in its best form. What it cannot do, or what is not installed, raises `LeftOut` with the reason.
"""

import importlib
import os
import warnings
from collections.abc import Callable
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from engine import loss_of, Row

import nde

TOLERANCE = 1e-6


class LeftOut(Exception):
    """Why a package has no figure in a row."""


class Grid(NamedTuple):
    """Fixed steps from 0 to 1 of a scalar state: `drift(t, y, parameters)`, and a diffusion for an SDE.

    `y0` and `keys` have an axis for the batch, or none.
    """

    drift: Callable
    diffusion: Callable | None
    parameters: jax.Array
    y0: jax.Array
    keys: jax.Array
    steps: int


class Solves(NamedTuple):
    """A package's calls for a row: the loss, and its gradient in the parameters."""

    forward: Callable[[], Any]
    gradient: Callable[[], Any]


def installed(name: str) -> ModuleType:
    """A package of the `bench` extra."""
    os.environ.setdefault("GRADSOLVE_X64", "0")  # else its import turns float64 on for all
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # else torch's threads spin while the next package is timed
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # gradsolve asks for float64 and gets float32
            return importlib.import_module(name)
    except ImportError as error:
        raise LeftOut("not installed") from error


def by_jax(loss: Callable, *arguments: Any) -> Solves:
    """A loss of parameters first, compiled, and its gradient."""
    forward, gradient = jax.jit(loss), jax.jit(jax.grad(loss))
    return Solves(lambda: forward(*arguments), lambda: gradient(*arguments))


def over_batch(one: Callable, row: Grid) -> Solves:
    """The mean square of `one(parameters, y0, key)` at the end."""

    def loss(parameters, y0, keys):
        ends = jax.vmap(one, (None, 0, 0))(parameters, y0, keys) if row.y0.ndim else one(parameters, y0, keys)
        return jnp.mean(ends**2)

    return by_jax(loss, row.parameters, row.y0, row.keys)


def by_diffeqsolve(library: ModuleType, row: Row | Grid) -> Solves:
    """diffrax, and nde."""
    if isinstance(row, Row):
        loss = loss_of(row, library.diffeqsolve)
        return by_jax(lambda parameters: loss(parameters)[0], row.parameters)

    def one(parameters, y0, key):
        terms, solver = diffrax.ODETerm(row.drift), diffrax.Tsit5()
        if row.diffusion is not None:
            noise = diffrax.ControlTerm(row.diffusion, nde.BrownianGrid(0.0, 1.0, row.steps, (), key))
            terms, solver = diffrax.MultiTerm(terms, noise), diffrax.Euler()
        return library.diffeqsolve(
            terms, solver, 0.0, 1.0, 1 / row.steps, y0, parameters, max_steps=row.steps
        ).ys[0]  # fmt: skip

    return over_batch(one, row)


def by_tinydiffeq(row: Row | Grid, unroll: int = 1) -> Solves:
    """tinydiffeq; adaptive with as many slots for steps as the row needs, fixed steps from ends known to Python."""
    tiny = installed("tinydiffeq")
    if unroll > 1 and (isinstance(row, Row) or row.diffusion is None):
        raise LeftOut("unrolled steps of Tsit5 compile for a minute, and are slower; adaptive ones cannot be unrolled")
    if isinstance(row, Grid):

        def one(parameters, y0, key):
            drift = lambda x, t, args, p: row.drift(t, x, p)  # noqa: E731
            if row.diffusion is None:
                more = {"dt_0": 1 / row.steps, "max_steps": row.steps}
                return tiny.solve_ode(
                    drift, tiny.Tsit5(), 0.0, 1.0, y0, p=parameters, has_aux=False, unroll=unroll, **more
                ).xs  # fmt: skip
            diffusion = lambda x, t, args, p: row.diffusion(t, x, p)  # noqa: E731
            return tiny.solve_sde(
                drift, diffusion, tiny.EulerMaruyama(), 0.0, 1.0, y0, key=key, n_steps=row.steps, p=parameters,
                has_aux=False, unroll=unroll,
            ).xs  # fmt: skip

        return over_batch(one, row)

    def solve(parameters, y0, **more):
        return tiny.solve_ode(
            lambda x, t, args, p: row.field(t, x, p), tiny.Tsit5(), 0.0, row.end, y0, p=parameters, dt_0=0.01,
            save_at=tiny.SaveAt(ts=row.ts), controller=tiny.PIController(rtol=TOLERANCE, atol=TOLERANCE),
            has_aux=False, **more,
        )  # fmt: skip

    y0 = jnp.atleast_2d(row.y0)
    tried = jax.jit(jax.vmap(lambda y: solve(row.parameters, y, adaptive_loop="forward").num_steps))(y0)
    slots = 16 * -(-int(tried.max()) // 16)  # its loop runs in pieces of sixteen

    def loss(parameters):
        one = lambda y: solve(parameters, y, max_steps=slots).xs  # noqa: E731
        return jnp.mean((jax.vmap(one)(row.y0) if row.y0.ndim == 2 else one(row.y0)) ** 2)

    return by_jax(loss, row.parameters)


def by_gradsolve(row: Row | Grid, record: bool = True) -> Solves:
    """gradsolve; adaptive steps are recorded on the device and replayed, or the replay alone."""
    installed("gradsolve")
    if isinstance(row, Grid):
        if row.diffusion is not None:
            raise LeftOut("no SDEs")
        if not record:
            raise LeftOut("nothing to record")
        fixed = importlib.import_module("gradsolve.solvers.fixed_step_tsit5")
        y0 = jnp.atleast_1d(row.y0)[:, None]

        def fixed_loss(parameters):
            problem = SimpleNamespace(t0=0.0, t1=1.0, f_jax=lambda t, y, p: row.drift(t, y, parameters))
            return jnp.mean(fixed.solve_jax(problem, y0, jnp.zeros_like(y0), n_steps=row.steps) ** 2)

        return by_jax(fixed_loss, row.parameters)
    replay = importlib.import_module("gradsolve.warp.warp_replay").replay_solve_saveat_jax
    recorder = importlib.import_module("gradsolve.solvers.tsit5_replay").record_tsit5_jax
    y0 = np.atleast_2d(np.asarray(row.y0))
    none = np.zeros((len(y0), 1), np.float32)  # its parameters, one row a trajectory: the field closes over ours
    field = lambda t, y, p: row.field(t, y, row.parameters)  # noqa: E731

    def steps():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as above
            return recorder(field, y0, none, 0.0, row.end, rtol=TOLERANCE, atol=TOLERANCE, dt0=0.01, recorder="jax")[1]

    def loss(parameters, lengths):
        problem = SimpleNamespace(t0=0.0, f_jax=lambda t, y, p: row.field(t, y, parameters))
        return jnp.mean(replay(problem, jnp.asarray(y0), none, lengths, row.ts)[1] ** 2)

    forward, gradient = jax.jit(loss), jax.jit(jax.grad(loss))
    known = jnp.asarray(steps(), jnp.float32)
    lengths = (lambda: jnp.asarray(steps(), jnp.float32)) if record else (lambda: known)
    return Solves(lambda: forward(row.parameters, lengths()), lambda: gradient(row.parameters, lengths()))


def by_torchdiffeq(row: Row | Grid, field: Callable | None = None) -> Solves:
    """torchdiffeq's `odeint` with dopri5: one step size for the whole batch, and autograd through the solver."""
    torch, torchdiffeq = installed("torch"), installed("torchdiffeq")
    if isinstance(row, Grid):
        raise LeftOut("no SDEs" if row.diffusion is not None else "no Tsit5, and no fixed steps of its fifth order")
    torch.set_num_threads(1 if row.y0.ndim == 1 else os.cpu_count() or 1)
    leaves = jax.tree.leaves(row.parameters)
    weights = [torch.tensor(np.asarray(x), requires_grad=True) for x in leaves]
    y0, ts = torch.tensor(np.asarray(row.y0)), torch.tensor(np.asarray(row.ts))
    rate = partial(field, torch, weights)
    first = row.field(0.0, jnp.atleast_2d(row.y0)[0], row.parameters)
    if not np.allclose(first, rate(torch.atleast_2d(y0)[:1])[0].detach().numpy(), atol=1e-4):
        raise ValueError("the fields differ")

    def loss():
        return torch.mean(torchdiffeq.odeint(lambda t, y: rate(y), y0, ts, rtol=TOLERANCE, atol=TOLERANCE) ** 2)

    def forward():
        with torch.no_grad():
            return loss().item()

    def gradient():
        parts = torch.autograd.grad(loss(), weights)
        return jax.tree.unflatten(jax.tree.structure(row.parameters), [x.numpy() for x in parts])

    return Solves(forward, gradient)


def network_in_torch(torch: ModuleType, weights: list, y: Any) -> Any:
    """The field of `engine.mlp_row`."""
    turn = 3.0 * torch.tensor(np.kron(np.eye(2), [[0.0, -1.0], [1.0, 0.0]]), dtype=torch.float32)
    x = 3.0 * y
    for weight, bias in zip(weights[:-2:2], weights[1:-2:2], strict=True):
        x = torch.relu(x @ weight.T + bias)
    return 4.0 * (x @ weights[-2].T + weights[-1]) + y @ turn


def predators_in_torch(torch: ModuleType, weights: list, y: Any) -> Any:
    """The field of `engine.lotka_volterra_row`."""
    (p,), (prey, predators) = weights, (y[..., 0], y[..., 1])
    return torch.stack(
        [p[0] * prey - p[1] * prey * predators, p[2] * prey * predators - p[3] * predators], dim=-1
    )  # fmt: skip


def wide_in_torch(torch: ModuleType, weights: list, y: Any) -> Any:
    """The field of `engine.wide_row`."""
    return torch.tanh(y @ weights[0].T)


def grid_row(noise: bool, batch: int | None) -> Grid:
    """A logistic growth in 64 steps of Tsit5, with noise in 128 of Euler-Maruyama."""
    size = () if batch is None else (batch,)
    return Grid(
        drift=lambda t, y, p: p[0] * y * (1.0 - y / p[1]),
        diffusion=(lambda t, y, p: p[2] * y) if noise else None,
        parameters=jnp.array([1.5, 2.0, 0.3]),
        y0=0.5 + 0.1 * jr.uniform(jr.key(0), size),
        keys=jr.split(jr.key(1), size),
        steps=128 if noise else 64,
    )
