"""What the exponential methods have in common."""

from collections.abc import Sequence
from typing import Any

import jax

from nde.solvers.new_variables import NewVariables
from nde.terms import scaled
from nde.types import ScalarLike, State


def weighted(weights: Sequence[Any], values: Sequence[State]) -> State:
    r"""$\sum_j w_j f_j$, in the dtype of the values."""
    total = scaled(weights[0], values[0])
    for weight, value in zip(weights[1:], values[1:], strict=True):
        total = jax.tree.map(lambda x, f: x + f, total, scaled(weight, value))
    return total


def advance(
    new: NewVariables, t0: ScalarLike, t1: ScalarLike, y: State, weights: Sequence[Any], values: Sequence[State]
) -> State:
    r"""$y + \sum_j w_j f_j\;(+\,W_1 - W_0)$, in the dtype of $y$."""
    y = jax.tree.map(lambda y, f: y + f.astype(y.dtype), y, weighted(weights, values))
    noise = new.noise(t0, t1)
    return y if noise is None else jax.tree.map(lambda y, w: y + w.astype(y.dtype), y, noise)
