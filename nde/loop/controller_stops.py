"""The times at which a step-size controller is told to stop, as far as a solve's gradient needs them.

An accepted step ends where the controller says, and that is a constant of the gradient, unless the controller was told
the time: then it is an input, and the step's end moves with it.
"""

from typing import Any

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from nde.diffrax_internals import clip_states, clip_times


def stop_times(controller: Any, state: PyTree[Any]) -> list[jax.Array]:
    """All times, in arrays of one axis, to which a controller makes its steps end or begin exactly.

    - `diffrax.StepTo`: its `ts`.
    - `diffrax.ClipStepSizeController`, however deep it lies in others: `step_ts`, and of `jump_ts` the number just
      before and the one just after, between which no step goes.
    - A controller of one's own may have a method `stop_times(controller_state)` that gives them.
    """
    if hasattr(controller, "stop_times"):
        return [jnp.ravel(x) for x in jax.tree.leaves(controller.stop_times(state))]
    if isinstance(controller, diffrax.StepTo):
        return [controller.ts]
    times = []
    for clip in clip_states(state):
        step_ts, jump_ts = clip_times(clip)
        if step_ts is not None:
            times.append(step_ts)
        if jump_ts is not None:
            times.extend([_beside(jump_ts, -jnp.inf), jump_ts, _beside(jump_ts, jnp.inf)])
        times.extend(stop_times(getattr(controller, "controller", None), clip.inner_state))
    return times


def sorted_stops(controller: Any, state: PyTree[Any], dtype: jnp.dtype) -> jax.Array:
    """`stop_times` in one array, in order; what one of several equal times gets, all share."""
    ts = jnp.sort(jnp.concatenate([x.astype(dtype) for x in stop_times(controller, state)]))
    first = jnp.searchsorted(ts, ts)
    count = jnp.zeros_like(ts).at[first].add(1)
    mean = jnp.zeros_like(ts).at[first].add(ts)[first] / count[first]
    return _moving_with(ts, mean)


def knot_times(tree: PyTree[Any]) -> list[jax.Array]:
    """The times of the values that the interpolated paths in a tree go through."""

    def is_path(x: jax.Array):
        return isinstance(x, diffrax.AbstractGlobalInterpolation)

    return [x.ts for x in jax.tree.leaves(tree, is_leaf=is_path) if is_path(x)]


def _beside(t: jax.Array, towards: float) -> jax.Array:
    """The number next to `t`, as diffrax's controller takes it: next to zero the smallest that is not denormal."""
    still, end = jax.lax.stop_gradient(t), jnp.asarray(towards, t.dtype)
    tiny = jnp.sign(end) * jnp.finfo(t.dtype).tiny
    return _moving_with(jnp.where(still == 0, tiny, jnp.nextafter(still, end)), t)


@jax.custom_jvp
def _moving_with(value: jax.Array, t: jax.Array) -> jax.Array:
    """A value whose derivative is that of `t`."""
    del t
    return value


@_moving_with.defjvp
def _moving_with_jvp(primals, tangents):
    return primals[0], tangents[1]
