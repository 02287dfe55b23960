"""A block of steps, linearised side by side, and the recursion that is left: see `nde.adjoints.time_parallel`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from nde.loop import ClosedFunction, Convert, Loop, LoopState, partition_inexact, Problem

FEW_PARAMETERS = 32
"""Up to so many numbers in the parameters, their part of each step's Jacobian is kept too: then nothing is pulled back
twice."""

SMALL_STATE = 4
"""Up to so many numbers that a step carries, the costates are found in a logarithmic number of turns, which cost
`SMALL_STATE` times the products, but hardly anything at this size; and the pass is worth it."""


class Restart(NamedTuple):
    """What of the stepper's state a step can begin without.

    `function`: `(t, y, solver_state)` to these leaves of the state, `None` where there are none; `which`: a prefix of
    the state that is true for them.
    """

    function: ClosedFunction | None
    which: PyTree[bool]


def trace_restart(problem: Problem, state: LoopState) -> Callable[[Convert], Restart]:
    """What traces the `Restart` of a problem, from states like this one."""

    def trace(convert: Convert) -> Restart:
        again, start = problem.stepper.recomputed_state, (state.t, state.y, state.solver_state)
        found = jax.eval_shape(again, *start)
        which = jax.tree.map(lambda x: x is not None, found, is_leaf=lambda x: x is None)
        return Restart(convert(again, *start) if any(jax.tree.leaves(which)) else None, which)

    return trace


class Linear(NamedTuple):
    """A block's steps, linearised.

    `z`: where they begin; `outputs`: `(z1, given1, dense)` at their ends; `pull`: from cotangents of these to those of
    `(values, times, z, given)`; `ids`: of the values; `few`: whether each step has values of its own.
    """

    z: jax.Array
    outputs: tuple[jax.Array, Any, Any]
    pull: Callable[..., Any]
    ids: list[int]
    few: bool


def carried_shapes(loop: Loop) -> PyTree[jax.ShapeDtypeStruct]:
    """The state, and what of the solver's is carried beside it."""
    state = loop.problem.state
    floats, _ = partition_inexact(state.solver_state)
    return state.y, eqx.partition(floats, loop.problem.adjoint_functions.which)[1]


def are_few(values: list[jax.Array], dtype: Any, times: tuple[Any, ...]) -> bool:
    """Whether the parameters are so few that each step may have a Jacobian in them."""
    return sum(x.size for x in values) <= FEW_PARAMETERS and all(x.dtype == dtype for x in [*values, *times])


def pull_rows(linear: Linear, others: Any) -> Any:
    """The VJP of each entry of `z1` at the steps' ends, and, in the last row, of the `others`' cotangents."""
    z = linear.z
    size = z.shape[-1]
    unit = jnp.eye(size + 1, size, dtype=z.dtype).reshape(size + 1, *(1,) * (z.ndim - 1), size)

    def stacked(x):
        return jnp.concatenate([jnp.zeros((size, *x.shape), x.dtype), x[None]])

    def pull(z_ct, others):
        pulled = linear.pull((z_ct, *others))
        return pulled if linear.few else (None, None, pulled[2], None)

    return jax.vmap(pull)(jnp.broadcast_to(unit, (size + 1, *z.shape)), jax.tree.map(stacked, others))


def contract(rows: Any, costates: jax.Array) -> Any:
    """The pulled `rows`, weighed by the costates, and the last of them by one: parameters summed over the steps."""
    weights = jnp.concatenate([jnp.moveaxis(costates, -1, 0), jnp.ones((1, *costates.shape[:-1]), costates.dtype)])

    def weighed(x, axes):
        return jnp.sum(x * weights.reshape(weights.shape + (1,) * (x.ndim - weights.ndim)), axes)

    values, times, _, given = rows
    return [weighed(x, (0, 1)) for x in values], *jax.tree.map(lambda x: weighed(x, 0), (times, None, given))


def costates(last: jax.Array, jacobians: jax.Array, b: jax.Array, c: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The costate at the block's start, and those at its steps' ends with `c` added, from the `last` end's."""
    return (_scan_levels if last.shape[-1] <= SMALL_STATE else _scan)(last, jacobians, b, c)


def _scan(last: jax.Array, jacobians: jax.Array, b: jax.Array, c: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A product a step."""

    def back(costate, step):
        jacobian, b, c = step
        costate = costate + c
        return jnp.sum(jacobian * costate[..., None], axis=-2) + b, costate

    return jax.lax.scan(back, last, (jacobians, b, c), reverse=True)


def _scan_levels(last: jax.Array, jacobians: jax.Array, b: jax.Array, c: jax.Array) -> tuple[jax.Array, jax.Array]:
    """As many turns as the number of steps has doublings, each of which joins all pairs of stretches.

    **Source:** Kogge & Stone, *A parallel algorithm for the efficient solution of a general class of recurrence
    equations*, 1973.
    """
    count, size = jacobians.shape[0], jacobians.shape[-1]
    b = b + jnp.sum(jacobians * c[..., None], axis=-2)
    maps = jnp.concatenate([jacobians, b[..., None, :]], axis=-2)  # (costate, 1) times it
    number = jnp.arange(count, dtype=jnp.int32).reshape(count, *(1,) * (maps.ndim - 1))

    def join(carry):
        width, maps = carry
        late, early = jnp.roll(maps, -width, axis=0), maps
        joined = jnp.sum(late[..., :, :, None] * early[..., None, :size, :], axis=-2)
        joined = joined.at[..., size, :].add(early[..., size, :])
        return 2 * width, jnp.where(number + width < count, joined, maps)

    _, maps = jax.lax.while_loop(lambda carry: carry[0] < count, join, (jnp.int32(1), maps))
    starts = jnp.sum(maps[..., :size, :] * last[None, ..., :, None], axis=-2) + maps[..., size, :]
    return starts[0], jnp.concatenate([starts[1:], last[None]]) + c
