"""Stochastic equations with what is known of their solutions, and how far a solver is from it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import jax.random as jr
import lineax as lx
import numpy as np

import nde

FINER = 64
AREAS = {
    diffrax.AbstractSpaceTimeTimeLevyArea: diffrax.SpaceTimeTimeLevyArea,
    diffrax.AbstractSpaceTimeLevyArea: diffrax.SpaceTimeLevyArea,
}


class SDE(NamedTuple):
    """An equation over one unit of time.

    - `terms`: from a path.
    - `y0`: the start; `noise`: the path's shape.
    - `exact`: the solution at the end from a path, or `None`: then a solve with 2⁶ times as many steps stands for it.
    - `reference`: the solver of that one, if not the same.
    """

    terms: Callable[[Any], Any]
    y0: Any
    noise: tuple[int, ...] = ()
    exact: Callable[[Any], Any] | None = None
    reference: Any = None


def _sde(drift: Callable, diffusion: Callable) -> Callable[[Any], Any]:
    return lambda path: diffrax.MultiTerm(
        diffrax.ODETerm(lambda t, y, args: drift(t, y)), diffrax.ControlTerm(lambda t, y, args: diffusion(t, y), path)
    )


def _langevin(path: Any) -> Any:
    def slope(x, args):
        return x + jnp.sin(x)

    return diffrax.MultiTerm(
        diffrax.UnderdampedLangevinDriftTerm(1.0, 1.0, slope), diffrax.UnderdampedLangevinDiffusionTerm(1.0, 1.0, path)
    )


A, B = jnp.array([[0.0, 1.0], [0.2, 0.3]]), jnp.array([[0.4, 0.0], [1.0, -0.2]])
SPARK = diffrax.SPaRK()
PROBLEMS = {
    "geometric, Itô": SDE(
        _sde(lambda t, y: 0.3 * y, lambda t, y: 0.8 * y),
        jnp.array(1.0),
        exact=lambda path: jnp.exp(0.3 - 0.32 + 0.8 * path.evaluate(0.0, 1.0)),
    ),
    "geometric": SDE(
        _sde(lambda t, y: 0.3 * y, lambda t, y: 0.8 * y),
        jnp.array(1.0),
        exact=lambda path: jnp.exp(0.3 + 0.8 * path.evaluate(0.0, 1.0)),
    ),
    # y = tan(W + arctan y0) would leave the line; this one stays: y = sinh(t + W).
    "hyperbolic": SDE(
        _sde(lambda t, y: jnp.sqrt(1 + y**2), lambda t, y: jnp.sqrt(1 + y**2)),
        jnp.array(0.0),
        exact=lambda path: jnp.sinh(1.0 + path.evaluate(0.0, 1.0)),
    ),
    "Ornstein-Uhlenbeck, time-dependent": SDE(
        _sde(lambda t, y: jnp.sin(3 * t) - 2 * y, lambda t, y: 1.0 + 0.5 * jnp.cos(2 * t)), jnp.array(1.0)
    ),
    # Curved and noisy enough that the term of order 3/2, which has the drift's second derivative in it, is what counts.
    "additive": SDE(
        _sde(lambda t, y: jnp.sin(2 * y) - y[::-1], lambda t, y: jnp.array([[2.0, 0.4], [0.6, 1.2]])), jnp.ones(2), (2,)
    ),
    "diagonal": SDE(
        _sde(lambda t, y: jnp.cos(y[::-1]), lambda t, y: lx.DiagonalLinearOperator(0.3 + 0.5 * jnp.sin(y))),
        jnp.ones(2), (2,),
    ),
    "not commutative": SDE(
        _sde(lambda t, y: -y, lambda t, y: jnp.stack([A @ y, B @ y], -1)), jnp.array([1.0, 0.5]), (2,)
    ),
    "Langevin": SDE(_langevin, (jnp.ones(2), jnp.zeros(2)), (2,)),
}  # fmt: skip


def area_of(solver: Any) -> Any:
    """The kind of increment that a solver asks for."""
    return AREAS.get(getattr(solver, "minimal_levy_area", None), diffrax.BrownianIncrement)


def strong_errors(problem: SDE, solver: Any, steps: list[int], paths: int, seed: int = 0) -> list[float]:
    """The root mean square error at the end, over paths that are the same for every number of steps."""
    finest = max(steps) * (1 if problem.exact is not None else FINER)

    def end(path, number, solver):
        found = nde.diffeqsolve(problem.terms(path), solver, 0.0, 1.0, 1 / number, problem.y0, max_steps=number + 1)
        return jax.tree.map(lambda x: x[0], found.ys)

    def one(key):
        path = nde.BrownianGrid(0.0, 1.0, finest, problem.noise, key, levy_area=area_of(solver))
        exact = problem.exact(path) if problem.exact else end(path, finest, problem.reference or solver)
        return [
            jnp.concatenate([jnp.ravel(a - b) for a, b in zip(*map(jax.tree.leaves, (y, exact)), strict=True)])
            for y in [end(path, number, solver) for number in steps]
        ]

    found = jax.jit(jax.vmap(one))(jr.split(jr.key(seed), paths))
    return [float(jnp.sqrt(jnp.mean(jnp.sum(x**2, -1)))) for x in found]


def slope(xs: Any, errors: Any) -> float:
    """The order of convergence: minus the slope of the logarithms, by least squares."""
    return float(-np.polyfit(np.log2(np.asarray(xs, float)), np.log2(np.asarray(errors, float)), 1)[0])
