"""From the outcome of a march to the final state that diffrax's entry makes a `Solution` of."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix
from diffrax import is_okay, RESULTS

from nde.engine.heuristics import make_heuristics
from nde.engine.kernel import any_nonfinite
from nde.engine.march import nothing, Outcome, Saved
from nde.engine.problem import EventPlace, Problem


def finish(
    outcome: Outcome,
    problem: Problem,
    start: Any,
    entered: Any,
    options: dict[str, Any],
    *,
    apart: bool,
    throw: bool,
    heuristics: Sequence[str],
) -> tuple[Any, dict]:
    """The final state, in the form of `start`, and the statistics.

    What happens here happens once a solve, on one example, in plain JAX: its derivatives are JAX's own.
    """
    place, counts = outcome.place, outcome.counts
    event, t1 = options["event"], options["t1"]
    t, y, result = place.t, place.y, RESULTS.successful if place.result is None else place.result
    before = jax.tree.leaves(start.save_state, is_leaf=is_save_state)
    saved = [_with_times(*each) for each in zip(outcome.saved, problem.subs, [x.ts for x in before], strict=True)]
    located = event is not None and event.root_finder is not None
    if located:
        t, y, result = _locate(problem, outcome, result)
        saved = [_cut(rows, t) for rows in saved]
    ends = _Ends(options["t0"], start.y, t1, t, y, options["args"], counts.accepted, located, apart)
    saved = [_save_ends(rows, sub, ends) for rows, sub in zip(saved, problem.subs, strict=True)]
    going = problem.running(place, t1)
    result = RESULTS.where(going, RESULTS.max_steps_reached, result)
    if not problem.controls_error:
        result = RESULTS.where(
            (result == RESULTS.successful) & any_nonfinite(y), RESULTS.promote(optimistix.RESULTS.nonfinite), result
        )
    result = RESULTS.where(_any_nan_time(options, problem.subs), RESULTS.promote(optimistix.RESULTS.nonfinite), result)
    history = outcome.history
    if throw:
        place, saved, history = _guarded(result, place, saved, history)
    structure = jax.tree.structure(start.save_state, is_leaf=is_save_state)
    save_states = [
        dataclasses.replace(
            old,
            saveat_ts_index=rows.ts_index,
            ts=_with_infinities_of(old.ts, rows.ts),
            ys=rows.ys,
            save_index=rows.filled,
        )
        for old, rows in zip(before, saved, strict=True)
    ]
    state = dataclasses.replace(
        start,
        y=place.y,
        tprev=place.t,
        tnext=place.tnext,
        made_jump=start.made_jump if place.made_jump is None else place.made_jump,
        solver_state=problem.kernel.leave(place.solver_state, entered, counts.accepted > 0),
        controller_state=place.controller_state,
        progress_meter_state=place.meter,
        result=result,
        num_steps=counts.tried.astype(int),
        num_accepted_steps=counts.accepted.astype(int),
        num_rejected_steps=(counts.tried - counts.accepted).astype(int),
        save_state=structure.unflatten(save_states),
        event_mask=None if place.event is None else place.event.mask,
    )
    if outcome.dense is not None:
        state = dataclasses.replace(
            state, dense_ts=outcome.dense.ts, dense_infos=outcome.dense.infos, dense_save_index=counts.accepted
        )
    stats = {"num_field_evaluations": problem.kernel.count_evaluations(counts.tried.astype(int))}
    if heuristics:
        stats["heuristics"] = make_heuristics(heuristics, problem.kernel.sums(place.solver_state), history)
    return state, stats


def _any_nan_time(options: dict[str, Any], subs: Sequence[diffrax.SubSaveAt]) -> jax.Array:
    """Whether a time of the solve is NaN: no comparison with it is true, so that the loop would end without a word."""
    controller = options["stepsize_controller"]
    grid = controller.ts if isinstance(controller, diffrax.StepTo) else None
    times = [options["t0"], options["t1"], options["dt0"], grid, *(sub.ts for sub in subs)]
    return jnp.any(jnp.stack([jnp.any(jnp.isnan(x)) for x in times if x is not None]))


def _guarded(result: Any, *trees: Any) -> Any:
    """The same values; to pull a gradient back through them is an error where the solve failed.

    The error that diffrax's entry raises hangs on the values, and a gradient may not need these: under `jit` the check
    would be dropped with them, and a wrong gradient come back.
    """
    inexact, other = eqx.partition(trees, lambda x: jnp.issubdtype(x.dtype, jnp.inexact))

    @jax.custom_jvp
    def guarded(inexact, result):
        del result
        return inexact

    @guarded.defjvp
    def _guarded_jvp(primals, tangents):
        inexact, result = primals
        one = result.error_if(jnp.ones(()), ~is_okay(result))
        return inexact, jax.tree.map(lambda t: t * one.astype(t.dtype), tangents[0])

    return eqx.combine(guarded(inexact, result), other)


def _with_infinities_of(empty: Any, ts: Any) -> jax.Array:
    """Times whose rows that hold nothing have diffrax's own infinity: its sign turns with the direction of time."""
    return jnp.where(jnp.isinf(ts), empty, ts)


def is_save_state(x: Any) -> bool:
    """Whether it is diffrax's record of one sub's rows."""
    return hasattr(x, "saveat_ts_index")


def _with_times(saved: Saved, sub: diffrax.SubSaveAt, empty: jax.Array) -> Saved:
    """The rows with their times, which follow from how many there are where only `ts` are saved."""
    if saved.ts is not None:
        return saved
    ts = empty
    if sub.ts is not None:
        ts = jax.lax.dynamic_update_slice_in_dim(empty, sub.ts, int(sub.t0), axis=0)
    return saved._replace(ts=jnp.where(jnp.arange(len(empty), dtype=saved.filled.dtype) < saved.filled, ts, jnp.inf))


def _locate(problem: Problem, outcome: Outcome, result: Any) -> tuple[jax.Array, Any, Any]:
    """The time of an event inside the last step, by its root finder, and the state there.

    The root is differentiated by the implicit function theorem, in optimistix.
    """
    place = outcome.place
    found: EventPlace = place.event  # pyright: ignore
    event = problem.options["event"]
    happened = jnp.any(jnp.stack(jax.tree.leaves(found.mask)))

    def residual(t, _):
        """One zero an event: of the condition that fired; else of the way to the step's end, or nothing."""
        y, left = problem.interpolate(found.tprev, found.tnext, found.dense, t), found.tnext - t

        def one(hit, condition):
            value = jnp.asarray(problem.condition(condition, t, y))
            value = left if jnp.issubdtype(value.dtype, jnp.bool_) else value.astype(left.dtype)
            return jnp.where(happened, jnp.where(hit, value, 0), left)

        return jax.tree.map(one, found.mask, event.cond_fn)

    ends = {"lower": found.tprev, "upper": found.tnext}
    root = optimistix.root_find(residual, event.root_finder, found.tnext, options=ends, throw=False)
    moved = happened & (outcome.counts.tried > 0)
    inside = problem.interpolate(found.tprev, found.tnext, found.dense, root.value)
    y = jax.tree.map(lambda a, b: jnp.where(moved, a, b), inside, place.y)
    failed = happened & (root.result != optimistix.RESULTS.successful)
    result = RESULTS.where(failed, RESULTS.promote(root.result), result)
    return jnp.where(happened, root.value, place.t), y, result


def _cut(saved: Any, t: jax.Array) -> Saved:
    """Without the rows that lie past `t`."""
    past = saved.ts > t
    gone = jnp.sum(past & (saved.ts < jnp.inf), dtype=saved.filled.dtype)
    ys = jax.tree.map(lambda x: jnp.where(past.reshape(past.shape + (1,) * (x.ndim - 1)), nothing(x), x), saved.ys)
    return Saved(saved.ts_index - gone, saved.filled - gone, jnp.where(past, jnp.inf, saved.ts), ys)


def _save_ends(saved: Any, sub: diffrax.SubSaveAt, ends: "_Ends") -> Saved:
    """The rows of `t0` and `t1`, and, of a solve over no time at all, of every one of `ts`."""
    if sub.t0:
        saved = _write(saved, jnp.asarray(0), ends.t0, sub.fn(ends.t0, ends.y0, ends.args))
    if sub.ts is not None and not ends.apart:
        full = _write_many(saved, int(sub.t0), len(sub.ts), ends.t0, sub.fn(ends.t0, ends.y, ends.args))
        saved = jax.tree.map(lambda a, b: jnp.where(ends.t0 == ends.t1, a, b), full, saved)
    if sub.steps == 1:
        written = jnp.asarray(True)
    elif sub.steps:
        written = ends.accepted % sub.steps == 0
    else:
        written = jnp.asarray(False)
    due = (sub.t1 | written) if ends.located else (sub.t1 & ~written)
    if sub.t1 or (ends.located and sub.steps):
        index = jnp.where(due, saved.filled, len(saved.ts))
        saved = _write(saved, index, ends.t, sub.fn(ends.t, ends.y, ends.args))
        saved = saved._replace(filled=saved.filled + jnp.asarray(due, saved.filled.dtype))
    return saved


class _Ends(NamedTuple):
    """What a solve began and ended with.

    `apart`: whether `t0` and `t1` are known to differ; `located`: whether an event's root finder chose `t`.
    """

    t0: jax.Array
    y0: Any
    t1: jax.Array
    t: jax.Array
    y: Any
    args: Any
    accepted: jax.Array
    located: bool
    apart: bool


def _write(saved: Any, index: jax.Array, t: jax.Array, y: Any) -> Saved:
    ys = jax.tree.map(lambda rows, x: rows.at[index].set(x, mode="drop"), saved.ys, y)
    return saved._replace(ts=saved.ts.at[index].set(t, mode="drop"), ys=ys)


def _write_many(saved: Any, start: int, count: int, t: jax.Array, y: Any) -> Saved:
    ys = jax.tree.map(lambda rows, x: rows.at[start : start + count].set(x[None]), saved.ys, y)
    ts = saved.ts.at[start : start + count].set(t)
    return Saved(saved.ts_index, saved.filled + count, ts, ys)
