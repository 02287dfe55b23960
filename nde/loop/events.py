"""Events: looked for after every step of the loop, and found inside the last step when it has ended.

Their cotangents need no rule: where an event ended a solve, its last step's dense output and ends are outputs of the
loop (`LoopState.event`), and the time inside is found, and differentiated, outside of it.
"""

from collections.abc import Callable
from typing import Any, Protocol

import diffrax
import jax
import jax.numpy as jnp
import optimistix
from diffrax import RESULTS

from nde.loop.state import EventState, LoopOutcome, LoopState
from nde.types import Dense, State, Time

_HANDED = ("terms", "solver", "t0", "t1", "dt0", "saveat", "stepsize_controller", "max_steps")
"""What diffrax hands to a condition by keyword, beside `t`, `y` and `args`."""


class Interpolate(Protocol):
    """The state at a time inside a step."""

    def __call__(self, t0: Time, t1: Time, dense: Dense, t: Time) -> State: ...


def condition_value(condition: Callable[..., Any], solve: Any, t: Time, y: State) -> jax.Array:
    """The value of an event's condition in a `nde.loop.problem.Solve`."""
    return jnp.asarray(condition(t, y, solve.args, **{name: getattr(solve, name) for name in _HANDED}))


def look_for_events(event: diffrax.Event, solve: Any, old: LoopState, new: LoopState, dense: Dense) -> LoopState:
    """The state after a step, with what the event's conditions say of it: the first that fires ends the solve."""
    assert old.event is not None and new.result is not None
    pairs = jax.tree.map(
        lambda condition, before, direction: _crossed(
            condition_value(condition, solve, new.t, new.y), before, direction
        ),
        event.cond_fn,
        old.event.values,
        event.direction,
        is_leaf=callable,
    )
    structure = jax.tree.structure(event.cond_fn, is_leaf=callable)
    values, mask = jax.tree.transpose(structure, jax.tree.structure((0, 0)), pairs)
    first, any_yet = [], jnp.asarray(False)
    for hit in jax.tree.leaves(mask):
        first.append(hit & ~any_yet)
        any_yet = hit | any_yet
    result = RESULTS.where(any_yet, RESULTS.event_occurred, new.result)
    state = EventState(old.t, old.tnext, dense, values, structure.unflatten(first))
    return new._replace(event=state, result=result)


def _crossed(new: jax.Array, old: jax.Array, direction: bool | None) -> tuple[jax.Array, jax.Array]:
    """A condition's new value, and whether it fired: true, or of another sign than before (in its direction)."""
    if jnp.issubdtype(new.dtype, jnp.bool_):
        return new, new
    if direction is None:
        return new, jnp.sign(old) != jnp.sign(new)
    up, down = (jnp.sign(old) <= 0) & (jnp.sign(new) > 0), (jnp.sign(old) > 0) & (jnp.sign(new) <= 0)
    return new, up if direction else down


def locate_event(
    event: diffrax.Event, solve: Any, interpolate: Interpolate, outcome: LoopOutcome, result: RESULTS
) -> tuple[Time, State, RESULTS]:
    """The time of an event inside the last step, by its root finder, the state there, and the solve's result.

    The root is differentiated by the implicit function theorem, in optimistix.
    """
    state, found = outcome.state, outcome.state.event
    assert found is not None
    happened = jnp.any(jnp.stack(jax.tree.leaves(found.mask)))

    def residual(t: Time, _: Any):
        """One zero an event: of the condition that fired; else of the way to the step's end, or nothing."""
        y, left = interpolate(found.tprev, found.tnext, found.dense, t), found.tnext - t

        def one(hit, condition):
            value = condition_value(condition, solve, t, y)
            value = left if jnp.issubdtype(value.dtype, jnp.bool_) else value.astype(left.dtype)
            return jnp.where(happened, jnp.where(hit, value, 0), left)

        return jax.tree.map(one, found.mask, event.cond_fn)

    ends = {"lower": found.tprev, "upper": found.tnext}
    assert event.root_finder is not None
    root = optimistix.root_find(residual, event.root_finder, found.tnext, options=ends, throw=False)
    moved = happened & (outcome.counts.tried > 0)
    inside = interpolate(found.tprev, found.tnext, found.dense, root.value)
    y = jax.tree.map(lambda a, b: jnp.where(moved, a, b), inside, state.y)
    failed = happened & (root.result != optimistix.RESULTS.successful)
    result = RESULTS.where(failed, RESULTS.promote(root.result), result)
    return jnp.where(happened, root.value, state.t), y, result
