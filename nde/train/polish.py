"""L-BFGS after another optimiser: the last digits of a fit of all its data."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree

SEARCH_STEPS = 20


class ThenLBFGSState(NamedTuple):
    """The moves so far, and the state of each of the two optimisers."""

    moves: Int[Array, ""]
    first: PyTree
    second: PyTree


def then_lbfgs(
    first: optax.GradientTransformation, *, after: int, memory: int = 20
) -> optax.GradientTransformationExtraArgs:
    r"""`first` for the first moves, then L-BFGS with a line search that meets the strong Wolfe conditions.

    Adam comes near a minimum from far away and then goes round it; a quasi-Newton method, from near, goes in. Its steps
    are made for a loss that is a function of the parameters alone: each batch must be all the data, and the loss must
    not draw.

    **Arguments:** `first`: any optax transformation; `after`: how many moves it makes; `memory`: how many steps L-BFGS
    remembers.

    **Returns:** an optax transformation for `nde.train.gradient_update`. It resumes from a checkpoint like any other,
    for all that it remembers is in its state. A move by L-BFGS costs one gradient and mostly one or two more, at most
    20, for its line search.

    **Raises:** `ValueError` if `after` is negative or nothing is remembered.

    **Source:** Nocedal & Wright, *Numerical Optimization*, 2006, algorithms 7.4 and 7.5, and 3.5 and 3.6 for the line
    search; as in optax.
    """
    if after < 0 or memory < 1:
        raise ValueError(f"then_lbfgs needs after >= 0 and memory >= 1, but got {after} and {memory}.")
    search = optax.scale_by_zoom_linesearch(max_linesearch_steps=SEARCH_STEPS, initial_guess_strategy="one")
    second = optax.lbfgs(memory_size=memory, linesearch=search)
    begin = optax.with_extra_args_support(first)

    def init(params: PyTree) -> ThenLBFGSState:
        return ThenLBFGSState(jnp.zeros((), jnp.int32), begin.init(params), second.init(params))

    def update(updates: PyTree, state: Any, params: Any = None, **extra: Any):
        def by_first(states):
            changes, new = begin.update(updates, states[0], params, **extra)
            return _like(changes, params), (_like(new, states[0]), states[1])

        def by_second(states):
            changes, new = second.update(updates, states[1], params, **extra)
            return _like(changes, params), (states[0], _like(new, states[1]))

        changes, (one, two) = jax.lax.cond(state.moves < after, by_first, by_second, (state.first, state.second))
        return changes, ThenLBFGSState(state.moves + 1, one, two)

    return optax.GradientTransformationExtraArgs(init, update)


def _like(tree: PyTree, like: PyTree) -> PyTree:
    """The tree in the dtypes of another: the branches of a condition must return the same."""
    return jax.tree.map(lambda x, y: jnp.asarray(x, jnp.asarray(y).dtype), tree, like)
