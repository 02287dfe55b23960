"""The fixed grid: a `scan`, where the number of steps is known when the solve is traced.

Its carry is the state and the solver's state, and nothing else; its body is checkpointed, so that the way back keeps
one state a step and replays the stages. There is no rule of differentiation of ours in it: every transformation of JAX
works, and works again on its result.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from nde.engine.apart import hide
from nde.engine.hoist import Hoister
from nde.engine.kernel import AbstractKernel, any_nonfinite
from nde.engine.march import Counts, Dense, nothing, Outcome, Saved, SavePlan
from nde.engine.problem import Place
from nde.paths import NOISE
from nde.terms import is_sub


def count_steps(controller, t0: Any, t1: Any, dt0: Any, time_dtype: Any) -> int | None:
    """How many steps a solve takes, where that is known before it is traced; else `None`.

    It is for `diffrax.StepTo`, and for `diffrax.ConstantStepSize` between ends that are numbers: see
    `nde.engine.fixed.whole_steps`.
    """
    if isinstance(controller, diffrax.StepTo):
        return len(controller.ts) - 1
    if not isinstance(controller, diffrax.ConstantStepSize):
        return None
    if dt0 is None or any(isinstance(x, Tracer) or jnp.ndim(x) for x in (t0, t1, dt0)):
        return None
    start, end, step = (float(np.asarray(x, time_dtype)) for x in (t0, t1, dt0))
    if not np.isfinite(end - start) or start == end or step == 0 or not np.isfinite(step):
        return None
    return int(whole_steps(np, start, end, abs(step), float(jnp.finfo(time_dtype).eps)))


def whole_steps(xp: Any, t0: Any, t1: Any, step: Any, eps: float) -> Any:
    """How many steps of at most a given length lead from a time to another; `xp` is NumPy or `jax.numpy`.

    A number within the rounding of the times (`eps`: of their dtype) of a whole one is that one: 60 steps of 0.01 lead
    from 10 to 10.6 in single precision, where the ratio, 60.00004, would make 61.
    """
    ratio = abs(t1 - t0) / step
    nearest = xp.round(ratio)
    rounding = eps * ((abs(t0) + abs(t1)) / step + 2 * ratio)
    return xp.maximum(xp.where(ratio - nearest <= rounding, nearest, xp.ceil(ratio)), 1)


def count_in_state(controller: Any, state: Any, dt0: Any) -> Any:
    """The state in which `diffrax.ConstantStepSize` begins, its steps counted by `nde.engine.fixed.whole_steps`.

    So a solve whose ends are traced takes the steps that it takes where they are numbers.
    """
    if not isinstance(controller, diffrax.ConstantStepSize):
        return state
    done, steps, t0, t1 = (jnp.asarray(x) for x in state.controller_state)
    counted = whole_steps(jnp, t0, t1, dt0, float(jnp.finfo(t0.dtype).eps))
    counted = jnp.where(steps > 0, counted.astype(steps.dtype), steps)  # none are counted to an infinite end
    return dataclasses.replace(state, controller_state=(done, counted, t0, t1))


def scan_grid(
    kernel: AbstractKernel,
    place: Place,
    options: dict[str, Any],
    steps: int,
    plans: Sequence[SavePlan],
    rows: int | None,
    guard: bool,
    history: bool,
) -> Outcome:
    """Take `steps` steps, as far as `max_steps` allows.

    `rows`: how many states the way back may keep; with more steps it keeps those between stretches of steps, and walks
    each stretch again. `guard`: whether a solve that fails shall leave no NaN in the gradient of a loss that masks it.
    Then its steps are counted in a walk of their own first, and those that fail are replaced by the first one.
    `history`: whether every step's times and heuristics are kept.
    """
    limit = options["max_steps"]
    taken = steps if limit is None else min(steps, limit)
    grid = _grid(place, options, steps)[: taken + 1]
    saveat = options["saveat"]
    subs = jax.tree.leaves(saveat.subs, is_leaf=is_sub)
    inside = saveat.dense or any(sub.ts is not None for sub in subs)
    along = inside or any(sub.steps for sub in subs)

    names = set()

    def body(carry, xs):
        number, ends = xs
        step = kernel.step(ends[0], ends[1], carry[0], carry[1], None, hide(number >= 0))
        names.update(step.dense)
        dense = {k: v for k, v in step.dense.items() if k not in ("y0", "y1")} if inside else None
        out = (step.y, dense) if along else None
        return (step.y, step.solver_state), (out, kernel.last(step.solver_state) if history else None)

    start, ends = (place.y, place.solver_state), (grid[:-1], grid[1:])
    turn, xs, good = body, (jnp.arange(taken), ends), None
    if guard:
        good = _good(kernel, start, ends)
        turn, xs = _guarded(body, start, ends, good), (good, *xs)
    carry, out = _scan(turn, start, xs, rows)
    (ys, dense), lasts = out[0] or (None, None), out[1]
    counts = Counts(jnp.int32(taken), jnp.int32(taken))
    y, state = carry
    if good is not None:
        y = jax.tree.map(lambda x: jnp.where(good[-1], x, jnp.nan), y)
    last = place._replace(t=grid[-1], tnext=grid[-1], y=y, solver_state=state)
    if saveat.controller_state:
        last = last._replace(controller_state=_controller_state(place, options, grid))
    infos = _with_ends(place, ys, dense, names) if inside else None
    saved = [
        _save(options["solver"], sub, plan, grid, ys, infos, options["args"])
        for sub, plan in zip(subs, plans, strict=True)
    ]
    dense = _pad(grid, infos, max(limit or 0, taken)) if saveat.dense else None
    kept = None
    if history:
        kept = jax.lax.stop_gradient(jnp.stack([grid[1:], jnp.diff(grid)], axis=-1))
        kept = kept if lasts is None else jnp.concatenate([kept, lasts], axis=-1)
        rest = jnp.zeros((max(limit or 0, taken) - taken, kept.shape[-1]), kept.dtype).at[:, 0].set(jnp.inf)
        kept = jnp.concatenate([kept, rest])
    return Outcome(last, counts, saved, dense, kept)


def _grid(place: Place, options: dict[str, Any], steps: int) -> jax.Array:
    """All times, as the controller makes them one by one."""
    controller, t1 = options["stepsize_controller"], options["t1"]
    if isinstance(controller, diffrax.StepTo):
        # The same time; but diffrax's check that the grid meets both ends hangs on it, and must not be dropped.
        ts = controller.ts if _is_inexact(controller.ts) else controller.ts.astype(place.tnext.dtype)
        return ts.at[1].set(place.tnext.astype(ts.dtype))
    # Divided here, for XLA multiplies by the reciprocal of a number that it knows: another rounding than the loop's.
    share = jnp.asarray(np.arange(steps + 1) / steps, t1.dtype)
    return (place.t + (t1 - place.t) * share).at[1].set(place.tnext).at[steps].set(t1)


def _scan(body, carry, ends, rows: int | None):
    """A scan with its body checkpointed but for its noise, in stretches where there are more steps than `rows`."""
    steps = len(jax.tree.leaves(ends)[0])
    body = jax.checkpoint(body, prevent_cse=False, policy=jax.checkpoint_policies.save_only_these_names(NOISE))
    if rows is None or steps <= rows:
        return jax.lax.scan(body, carry, ends)
    width = math.isqrt(steps)
    stretches = -(-steps // width)
    missing = stretches * width - steps

    def padded(x):
        return jnp.concatenate([x, jnp.broadcast_to(x[-1], (missing,))]).reshape(stretches, width)

    more = jax.tree.map(padded, ends)
    counts = jnp.arange(stretches * width).reshape(stretches, width) < steps

    def masked(carry, xs):
        real, ends = xs
        new, out = body(carry, ends)
        return jax.tree.map(lambda a, b: jnp.where(real, a, b), new, carry), out

    def stretch(carry, xs):
        return jax.lax.scan(masked, carry, xs)

    carry, out = jax.lax.scan(jax.checkpoint(stretch, prevent_cse=False), carry, (counts, more))
    return carry, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:steps], out)


def _good(kernel, start, ends) -> jax.Array:
    """Whether the state is finite at each step's end, and was before."""
    still = jax.lax.stop_gradient
    hoister = Hoister()
    step = hoister.hoist(lambda *given: kernel.step(*given, None)[:2], ends[0][0], ends[1][0], *start)
    shared = still(hoister.inputs)

    def look(carry, ends):
        state, good = carry
        state = step(shared, *ends, *state)
        good = good & ~any_nonfinite(state[0])
        return (state, good), good

    return jax.lax.scan(look, (still(start), ~any_nonfinite(start[0])), still(ends))[1]


def _guarded(body, start, ends, good):
    """The body with the steps from the first that gives no finite state on replaced by one that does.

    A select outside such a step would not do: zero times the infinite derivative inside is NaN.
    """
    still = jax.lax.stop_gradient
    safe = jax.tree.map(lambda x: jnp.where(good[0] | (not _is_inexact(x)), x, jnp.zeros_like(x)), still(start))
    first = still((ends[0][0], ends[1][0]))

    def guarded(carry, xs):
        good, number, ends = xs
        state, ends = jax.tree.map(lambda a, b: jnp.where(good, a, b), (carry, ends), (safe, first))
        new, out = body(state, (number, ends))
        new = jax.tree.map(lambda a, b: jnp.where(good, a, b), new, carry)
        return new, jax.tree.map(lambda x: jnp.where(good, x, jnp.nan) if _is_inexact(x) else x, out)

    return guarded


def _with_ends(place: Place, ys, dense, names):
    """The dense output of all steps; the ends' states, if it has them, stand only once in the scan's output."""
    before = jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest[:-1]]), place.y, ys)
    return {name: x for name, x in {"y0": before, "y1": ys, **dense}.items() if name in names}


def _save(solver, sub, plan: SavePlan, grid, ys, infos, args) -> Saved:
    """The rows of one sub, in the order of time: of two at one time, that of `ts` comes first."""
    steps = len(grid) - 1
    rows = jax.tree.map(lambda x: jnp.full((plan.rows, *x.shape), nothing(x), x.dtype), plan.ys)
    times = jnp.full(plan.rows, jnp.inf, grid.dtype)
    index, ts_index = jnp.int32(plan.skip), jnp.int32(0)
    every = sub.steps
    saved_steps = steps // every if every else 0
    if sub.ts is not None:
        number = jnp.clip(jnp.searchsorted(grid, sub.ts, side="left") - 1, 0, steps - 1)
        reached = sub.ts <= grid[-1]
        ts_index = jnp.sum(reached, dtype=jnp.int32)

        def at(t, i):
            info = jax.tree.map(lambda x: x[i], infos)
            return sub.fn(t, solver.interpolation_cls(t0=grid[i], t1=grid[i + 1], **info).evaluate(t), args)

        values = jax.vmap(at)(sub.ts, number)
        place = jnp.arange(len(sub.ts), dtype=number.dtype) + plan.skip + (number // every if every else 0)
        place = jnp.where(reached, place, plan.rows)
        rows = jax.tree.map(lambda r, v: r.at[place].set(v, mode="drop", unique_indices=True), rows, values)
        times = times.at[place].set(sub.ts, mode="drop", unique_indices=True)
        index = index + ts_index
    if saved_steps:
        ends = grid[every::every]
        values = jax.vmap(lambda t, y: sub.fn(t, y, args))(ends, jax.tree.map(lambda x: x[every - 1 :: every], ys))
        place = jnp.arange(saved_steps, dtype=jnp.int32) + plan.skip
        if sub.ts is not None:
            place = place + jnp.searchsorted(sub.ts, ends, side="right")
        rows = jax.tree.map(lambda r, v: r.at[place].set(v, mode="drop", unique_indices=True), rows, values)
        times = times.at[place].set(ends, mode="drop", unique_indices=True)
        index = index + saved_steps
    return Saved(ts_index, index, times if every else None, rows)


def _is_inexact(x) -> bool:
    return jnp.issubdtype(x.dtype, jnp.inexact)


def _pad(grid, infos, size: int) -> Dense:
    """Dense output in the size that diffrax gives it."""

    def padded(x, size):
        rest = jnp.full((size - len(x), *x.shape[1:]), nothing(x), x.dtype)
        return jnp.concatenate([x, rest])

    return Dense(padded(grid, size + 1), jax.tree.map(lambda x: padded(x, size), infos))


def _controller_state(place: Place, options: dict[str, Any], grid: jax.Array) -> Any:
    """What the controller's state is after all steps."""
    controller = options["stepsize_controller"]

    def turn(state, ends):
        *_, state, result = controller.adapt_step_size(*ends, place.y, place.y, None, None, None, state)
        del result
        return state, None

    return jax.lax.scan(turn, place.controller_state, (grid[:-1], grid[1:]))[0]
