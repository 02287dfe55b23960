"""What `diffrax.SaveAt` asks for, written: step by step in the adaptive loop, at once on a fixed grid, and at the ends.

How their cotangents come back to the steps is in `nde.loop.save_cotangents`.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp

from nde.loop.batching import FlatBatch
from nde.loop.problem import TracedProblem
from nde.loop.state import LoopInputs, LoopState, SaveBuffer, SaveSpec, StepCounts
from nde.types import Args, Dense, State, Time


class Saving:
    """The saving of an adaptive loop, as it goes.

    Save times inside a step are evaluated a chunk at a time, in a loop of its own: for one trajectory 4 at once, since
    a turn of that loop costs more than what is evaluated in it; for a batch one at a time, since each turn evaluates it
    for every example. Rows of a chunk past those that count are overwritten, or cut off at the end.

    **Arguments:** `problem`; `specs`: what each sub saves; `batch`; `chunk`: how many save times are evaluated at once,
    `None` for the above.
    """

    def __init__(self, problem: TracedProblem, specs: Sequence[SaveSpec], batch: FlatBatch, chunk: int | None = None):
        self.problem, self.specs, self.batch = problem, specs, batch
        self.chunk = chunk or (1 if batch.levels else 4)
        self.inside = [batch.vmapped(self._chunked(save), save.const_ids) for save in problem.saves]
        self.at_end = [batch.vmapped(save, save.const_ids) for save in problem.end_saves]

    def _chunked(self, save):
        """A function that saves at one time, at a chunk of them."""
        if self.chunk == 1:
            return lambda consts, t0, t1, dense, t: jax.tree.map(lambda x: x[None], save(consts, t0, t1, dense, t[0]))
        return jax.vmap(save, (None, None, None, None, 0))

    def begin(self, t: Time) -> list[SaveBuffer]:
        """Nothing saved: rows of infinities, as diffrax leaves them."""
        shape = self.batch.shape
        zero = jnp.zeros(shape, jnp.int32)

        def rows(spec: SaveSpec) -> SaveBuffer:
            # The last chunk may write past the rows that count.
            size = spec.size + self.chunk
            ts = jnp.full((*shape, size), jnp.inf, t.dtype) if spec.every else None
            return SaveBuffer(zero, zero + spec.skip, ts, jax.tree.map(functools.partial(self.empty, size), spec.ys))

        return [rows(spec) for spec in self.specs]

    def empty(self, size: int, x: jax.ShapeDtypeStruct) -> jax.Array:
        """So many rows of values like `x` that hold nothing."""
        return jnp.full((*self.batch.shape, size, *x.shape), empty_value(x), x.dtype)

    def save(
        self,
        buffers: Sequence[SaveBuffer],
        inputs: LoopInputs,
        old: LoopState,
        dense: Dense,
        new: LoopState,
        accepted: jax.Array,
        counts: StepCounts,
    ) -> list[SaveBuffer]:
        """The buffers with what a step from the `old` state to the `new` saves, where it was accepted."""
        saved = []
        for k, buffer in enumerate(buffers):
            if inputs.ts[k] is not None:
                buffer = self._save_inside(k, inputs, buffer, old, dense, new, accepted)
            if self.specs[k].every:
                due = accepted & (counts.accepted % self.specs[k].every == 0)
                consts = self.problem.end_saves[k].consts_of(inputs.consts)
                buffer = self._write(buffer, due, new.t, self.at_end[k](consts, new.t, new.y))
            saved.append(buffer)
        return saved

    def _save_inside(
        self,
        k: int,
        inputs: LoopInputs,
        saved: SaveBuffer,
        old: LoopState,
        dense: Dense,
        new: LoopState,
        accepted: jax.Array,
    ) -> SaveBuffer:
        """Save at all of `ts` that lie in the step just accepted."""
        ts: Any = inputs.ts[k]
        until = old.tnext
        if new.reached is not None:  # the last step may end just before a jump at the end
            until = jnp.where(new.t >= inputs.t1, jnp.maximum(until, inputs.t1), until)
        consts = self.problem.saves[k].consts_of(inputs.consts)
        size, chunk = ts.shape[-1], self.chunk

        def is_due(saved: SaveBuffer):
            t = self.batch.get(ts, jnp.minimum(saved.ts_index, size - 1))
            return accepted & (saved.ts_index < size) & (t <= until)

        def save_chunk(saved: SaveBuffer):
            index = self.batch.following(saved.ts_index, chunk)
            t = self.batch.get(ts, jnp.minimum(index, size - 1))
            due = accepted[..., None] & (index < size) & (t <= until[..., None])
            # A time that is not due is evaluated at the step's end, where the interpolation is sure to be finite: what
            # a select throws away must not be NaN, or its derivative is.
            ys = self.inside[k](consts, old.t, old.tnext, dense, jnp.where(due, t, old.tnext[..., None]))
            rows, times = jax.tree.map(lambda b, x: self.batch.put_block(b, saved.filled, x), saved.ys, ys), saved.ts
            if times is not None:
                times = self.batch.put_block(times, saved.filled, t)
            count = jnp.sum(due, axis=-1, dtype=jnp.int32)
            return SaveBuffer(saved.ts_index + count, saved.filled + count, times, rows)

        return jax.lax.while_loop(lambda s: self.batch.any(is_due(s)), save_chunk, saved)

    def _write(self, saved: SaveBuffer, due: jax.Array, t: Time, y: State) -> SaveBuffer:
        assert saved.ts is not None
        row = jnp.where(due, saved.filled, saved.ts.shape[-1])

        def put(buffer, x: jax.Array):
            return self.batch.put(buffer, row, x, rows_first=False)

        return SaveBuffer(
            saved.ts_index, saved.filled + due.astype(jnp.int32), put(saved.ts, t), jax.tree.map(put, saved.ys, y)
        )

    def finish(self, buffers: Sequence[SaveBuffer]) -> list[SaveBuffer]:
        """Only the rows that count."""
        return [self._cut(*each) for each in zip(self.specs, buffers, strict=True)]

    def _cut(self, spec: SaveSpec, saved: SaveBuffer) -> SaveBuffer:
        real = self.batch.following(jnp.zeros_like(saved.filled), spec.size) < saved.filled[..., None]

        def cut(rows: jax.Array):
            rows = jax.lax.slice_in_dim(rows, 0, spec.size, axis=len(self.batch.shape))
            mask = real.reshape(real.shape + (1,) * (rows.ndim - real.ndim))
            return jnp.where(mask, rows, empty_value(rows))

        return saved._replace(ts=None if saved.ts is None else cut(saved.ts), ys=jax.tree.map(cut, saved.ys))


def save_on_grid(
    solver: diffrax.AbstractSolver,
    sub: diffrax.SubSaveAt,
    spec: SaveSpec,
    grid: jax.Array,
    ys: State,
    infos: Dense | None,
    args: Args,
) -> SaveBuffer:
    """The rows of one sub, of a solve whose steps are all known, in the order of time.

    `grid`: the steps' ends, `(steps + 1,)`; `ys`, `infos`: the state at each step's end and its dense output. Of two
    rows at one time that of `ts` comes first.
    """
    steps = len(grid) - 1
    rows = jax.tree.map(lambda x: jnp.full((spec.size, *x.shape), empty_value(x), x.dtype), spec.ys)
    saved = SaveBuffer(jnp.int32(0), jnp.int32(spec.skip), jnp.full(spec.size, jnp.inf, grid.dtype), rows)
    every = sub.steps
    if sub.ts is not None:
        # All save times at once, since every step's inside is there: no loop within the scan.
        number = jnp.clip(jnp.searchsorted(grid, sub.ts, side="left") - 1, 0, steps - 1)
        reached = sub.ts <= grid[-1]

        def at(t: Time, i: jax.Array):
            info = jax.tree.map(lambda x: x[i], infos)
            return sub.fn(t, solver.interpolation_cls(t0=grid[i], t1=grid[i + 1], **info).evaluate(t), args)

        row = jnp.arange(len(sub.ts), dtype=number.dtype) + spec.skip + (number // every if every else 0)
        row = jnp.where(reached, row, spec.size)
        saved = _scattered(saved, row, sub.ts, jax.vmap(at)(sub.ts, number), jnp.sum(reached, dtype=jnp.int32))
        saved = saved._replace(ts_index=jnp.sum(reached, dtype=jnp.int32))
    if every and steps // every:
        ends = grid[every::every]
        values = jax.vmap(lambda t, y: sub.fn(t, y, args))(ends, jax.tree.map(lambda x: x[every - 1 :: every], ys))
        row = jnp.arange(steps // every, dtype=jnp.int32) + spec.skip
        if sub.ts is not None:
            row = row + jnp.searchsorted(sub.ts, ends, side="right")
        saved = _scattered(saved, row, ends, values, steps // every)
    return saved if every else saved._replace(ts=None)


def _scattered(saved: SaveBuffer, row: jax.Array, ts: jax.Array, values: State, count: jax.Array | int) -> SaveBuffer:
    def put(rows: jax.Array, x: jax.Array):
        return rows.at[row].set(x, mode="drop", unique_indices=True)

    assert saved.ts is not None
    return saved._replace(
        ts=put(saved.ts, ts), ys=jax.tree.map(put, saved.ys, values), filled=saved.filled + jnp.int32(count)
    )


class SolveEnds(NamedTuple):
    """What a solve began and ended with.

    `apart`: whether `t0` and `t1` are known to differ; `located`: whether an event's root finder chose `t`.
    """

    t0: Time
    y0: State
    t1: Time
    t: Time
    y: State
    args: Args
    accepted: jax.Array
    located: bool
    apart: bool


def with_times(saved: SaveBuffer, sub: diffrax.SubSaveAt, empty: jax.Array) -> SaveBuffer:
    """The rows with their times, which follow from how many there are where only `ts` are saved.

    `empty`: the times of no rows.
    """
    if saved.ts is not None:
        return saved
    ts = empty
    if sub.ts is not None:
        ts = jax.lax.dynamic_update_slice_in_dim(empty, sub.ts, int(sub.t0), axis=0)
    return saved._replace(ts=jnp.where(jnp.arange(len(empty), dtype=saved.filled.dtype) < saved.filled, ts, jnp.inf))


def cut_after(saved: SaveBuffer, t: Time) -> SaveBuffer:
    """Without the rows that lie past `t`, where an event ended the solve."""
    assert saved.ts is not None
    past = saved.ts > t
    gone = jnp.sum(past & (saved.ts < jnp.inf), dtype=saved.filled.dtype)
    ys = jax.tree.map(lambda x: jnp.where(past.reshape(past.shape + (1,) * (x.ndim - 1)), empty_value(x), x), saved.ys)
    return SaveBuffer(saved.ts_index - gone, saved.filled - gone, jnp.where(past, jnp.inf, saved.ts), ys)


def save_ends(saved: SaveBuffer, sub: diffrax.SubSaveAt, ends: SolveEnds) -> SaveBuffer:
    """The rows of `t0` and `t1`, and, of a solve over no time at all, of every one of `ts`."""
    if sub.t0:
        saved = _put_row(saved, jnp.asarray(0), ends.t0, sub.fn(ends.t0, ends.y0, ends.args))
    if sub.ts is not None and not ends.apart:
        full = _put_rows(saved, int(sub.t0), len(sub.ts), ends.t0, sub.fn(ends.t0, ends.y, ends.args))
        saved = jax.tree.map(lambda a, b: jnp.where(ends.t0 == ends.t1, a, b), full, saved)
    if sub.steps == 1:
        written = jnp.asarray(True)
    elif sub.steps:
        written = ends.accepted % sub.steps == 0
    else:
        written = jnp.asarray(False)
    # An event moves the end of its last step to where it was located: the row of that end is written here.
    due = (sub.t1 | written) if ends.located else (sub.t1 & ~written)
    if sub.t1 or (ends.located and sub.steps):
        assert saved.ts is not None
        index = jnp.where(due, saved.filled, len(saved.ts))
        saved = _put_row(saved, index, ends.t, sub.fn(ends.t, ends.y, ends.args))
        saved = saved._replace(filled=saved.filled + jnp.asarray(due, saved.filled.dtype))
    return saved


def _put_row(saved: SaveBuffer, index: jax.Array, t: Time, y: State) -> SaveBuffer:
    assert saved.ts is not None
    ys = jax.tree.map(lambda rows, x: rows.at[index].set(x, mode="drop"), saved.ys, y)
    return saved._replace(ts=saved.ts.at[index].set(t, mode="drop"), ys=ys)


def _put_rows(saved: SaveBuffer, start: int, count: int, t: Time, y: State) -> SaveBuffer:
    assert saved.ts is not None
    ys = jax.tree.map(lambda rows, x: rows.at[start : start + count].set(x[None]), saved.ys, y)
    ts = saved.ts.at[start : start + count].set(t)
    return SaveBuffer(saved.ts_index, saved.filled + count, ts, ys)


def empty_value(x: jax.Array | jax.ShapeDtypeStruct) -> jax.Array:
    """What a row holds that was not saved: infinity, or 0 or False where there is none, in the dtype of `x`."""
    return jnp.asarray(jnp.inf if jnp.issubdtype(x.dtype, jnp.inexact) else 0, x.dtype)
