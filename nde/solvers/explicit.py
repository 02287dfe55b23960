"""The stages of an explicit Runge–Kutta method, unrolled from its Butcher tableau."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from nde.types import Args, ScalarLike, State


class EulerTableau(NamedTuple):
    """Euler's method by the names of `diffrax.ButcherTableau`, which needs two stages or more."""

    c: np.ndarray = np.zeros(0)
    c1: float = 0.0
    a_lower: tuple[np.ndarray, ...] = ()
    b_sol: np.ndarray = np.ones(1)
    b_error: np.ndarray = np.zeros(1)
    ssal: bool = False
    fsal: bool = False
    num_stages: int = 1


class StageValues(NamedTuple):
    """A step's stages.

    - `ks`: $k_i = f(t_0 + c_i h, y_i)\\,\\Delta x$, a list of trees like the state.
    - `last`: the field's value at the last stage, `None` where only products were evaluated.
    """

    ks: list[Any]
    last: Any


def _evaluate(function: Callable, *operands: Any) -> Any:
    return function(*operands)


def run_stages(
    tableau: Any,
    terms: diffrax.AbstractTerm,
    args: Args,
    t0: ScalarLike,
    t1: ScalarLike,
    y: State,
    dx: State,
    first: PyTree[Any] = None,
    evaluate: Callable[..., Any] = _evaluate,
) -> StageValues:
    r"""All stages $y_i = y_0 + \sum_{j<i} a_{ij} k_j$ of a step with the control $\Delta x$ held over them.

    **Arguments:** `t0`, `t1`: the step's ends, in either order; `dx`: the terms' control over it; `first`: the field's
    value at the first stage where it is known already, and only with it is the `last` one kept; `evaluate`: what
    calls the field in the later stages, `evaluate(function, t, y)`.
    """
    h = t1 - t0
    keeps = first is not None
    c1 = 0.0 if tableau.c1 is None else float(tableau.c1)
    ks = [terms.prod(first, dx) if keeps else terms.vf_prod(stage_time(c1, t0, t1, h), y, args, dx)]
    f = first
    for row, c in zip(tableau.a_lower, tableau.c, strict=True):
        t, yi = stage_time(float(c), t0, t1, h), add(y, combine(row, ks))
        if keeps:
            f = evaluate(lambda t, y: terms.vf(t, y, args), t, yi)
            ks.append(terms.prod(f, dx))
        else:
            ks.append(evaluate(lambda t, y: terms.vf_prod(t, y, args, dx), t, yi))
    return StageValues(ks, f)


def increment(tableau: Any, ks: list[State]) -> State:
    """How far a step goes. Where its end is the last stage's place, it does not depend on that stage's field."""
    return combine(tableau.a_lower[-1], ks[:-1]) if tableau.ssal else combine(tableau.b_sol, ks)


def stage_time(c: float, t0: ScalarLike, t1: ScalarLike, h: ScalarLike) -> Any:
    """The time of a stage, which is the step's end itself where it stands there."""
    if c == 0:
        return t0
    return t1 if c == 1 else t0 + c * h


def combine(weights: Sequence[float] | np.ndarray, ks: Sequence[State]) -> State:
    """Σ w k over trees, without the terms whose weight is zero; zeros if there are none."""
    used = [(float(w), k) for w, k in zip(weights, ks, strict=True) if w != 0]
    if not used:
        return jax.tree.map(jnp.zeros_like, ks[0])
    return jax.tree.map(lambda *parts: sum(w * x for (w, _), x in zip(used, parts, strict=True)), *[k for _, k in used])


def add(y: State, increment: State) -> State:
    """The sum of two trees."""
    return jax.tree.map(jnp.add, y, increment)
