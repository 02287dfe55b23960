"""The adaptive loop: a `while_loop` over a whole batch.

Its carry, and why: the place of each example (time, next time, state, solver's and controller's state); counters; the
rows saved so far; and, if the solve is differentiated, a bounded record of the accepted places, packed, since each
array that is written to costs a loop over the batch. Nothing else: stages and dense output live within a turn, except
for the last step's where an event needs it, and all of them where the user asks for dense output.
"""

import copy
import functools as ft
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nde.engine.collect import Batch, Levels
from nde.engine.packing import Packing
from nde.engine.problem import clip_floor, Place, Problem


class Counts(NamedTuple):
    """Steps tried and accepted, an example."""

    tried: jax.Array
    accepted: jax.Array


class Saved(NamedTuple):
    """Rows saved for one `SubSaveAt`.

    `ts_index`: how many of its `ts` were passed; `filled`: how many rows are written; `ts`: their times, `None` where
    no steps are saved, and these follow from `filled`; `ys`: their values, `(batch, rows, …)`.
    """

    ts_index: jax.Array
    filled: jax.Array
    ts: jax.Array | None
    ys: Any


class SavePlan(NamedTuple):
    """What a `SubSaveAt` saves: every so many steps (0: none), `rows` of `ys` in all, `skip` of them before."""

    every: int
    rows: int
    skip: int
    ys: Any


class Dense(NamedTuple):
    """Every accepted step's end, `(batch, rows + 1)`, and dense output, `(batch, rows, …)`."""

    ts: jax.Array
    infos: Any


class Outcome(NamedTuple):
    """What a march has come to.

    `history`: of every accepted step its end, its length and its heuristics, `(batch, max_steps, …)`, or `None`.
    """

    place: Place
    counts: Counts
    saved: list[Saved]
    dense: Dense | None
    history: jax.Array | None


class Record(NamedTuple):
    """Every `stride`-th accepted place, beginning with the first: packed `rows`, `(rows, batch, width)`."""

    rows: list[jax.Array]
    stride: jax.Array


class Inputs(NamedTuple):
    """What a march begins with: the `shared` inputs of its functions, and, over the flat batch, the rest.

    `ts`: the save times of each sub, or `None`.
    """

    shared: Sequence[jax.Array]
    place: Place
    t1: jax.Array
    ts: list[jax.Array | None]


def _all_of(place: Place) -> Any:
    return place


class March:
    """The loop of one problem over some levels of `vmap`.

    **Arguments:** `problem`; `levels`; `max_steps`: or `None`; `plans`: what each sub saves; `dense`: whether every
    step's inside is kept; `history`: whether its times and heuristics are; `rows`: how many places a record keeps, and
    `recorded`: what of a place. The record is thinned to every second, fourth … place when it is full, outside the loop
    of steps, so that these never copy it. The way back goes through it in windows of `spare` rows, 0 where it can hold
    every place.
    """

    def __init__(
        self,
        problem: Problem,
        levels: Levels,
        max_steps: int | None,
        plans: Sequence[SavePlan],
        *,
        dense: bool = False,
        history: bool = False,
        rows: int | None = None,
        recorded: Callable[[Place], Any] = _all_of,
    ):
        self.problem, self.max_steps, self.plans, self.dense = problem, max_steps, plans, dense
        self.history = history
        self.every = [plan.every for plan in plans]
        self.batch = Batch(levels)
        self.rows: Any = rows
        self.spare = 0
        if rows is not None and max_steps is not None and max_steps > rows:
            self.spare = max(64, 2 ** math.ceil(math.log2(max_steps / rows)))
            self.rows = max(1, rows // self.spare) * self.spare
        self.recorded = recorded
        self.packing = Packing(recorded(problem.place))
        self.step = self.lift(problem.step)
        # How many of `ts` are saved at once: a turn of that loop costs one example more than what is evaluated in it,
        # and a batch less. The rows past those that count are overwritten, or cut off.
        self.few = 1 if levels else 4
        self.saves = [self.batch.lift(self._few(save), save.numbers) for save in problem.saves]
        self.end_saves = [self.lift(save) for save in problem.end_saves]
        self._advance = self.lift(problem.advance)

    def _few(self, save):
        """A function that saves at one time as one of a few."""
        if self.few == 1:
            return lambda shared, t0, t1, dense, t: jax.tree.map(lambda x: x[None], save(shared, t0, t1, dense, t[0]))
        return jax.vmap(save, (None, None, None, None, 0))

    def lift(self, function):
        """A traced function of one example as one of the flat batch."""
        return self.batch.lift(function, function.numbers)

    def without_record(self) -> "March":
        """The same march, which keeps no places."""
        bare = copy.copy(self)
        bare.rows, bare.spare = None, 0
        return bare

    def advance(self, inputs: Inputs, place: Place):
        """A turn of the loop for every example that still runs."""
        shared = self.problem.advance.pick(inputs.shared)
        return self._advance(shared, inputs.t1, clip_floor(inputs.t1), place)

    def run(self, inputs: Inputs) -> tuple[Outcome, Record | None]:
        """March from the start to the end, keeping a record where `rows` says so."""
        start = inputs.place
        carry = (jnp.zeros((), jnp.int32), self._begin(start), self._new_record(start))

        def goes_on(carry):
            tries, outcome, _ = carry
            going = self.batch.any(self.problem.running(outcome.place, inputs.t1))
            return going if self.max_steps is None else going & (tries < self.max_steps)

        def has_room(carry):
            _, outcome, record = carry
            return ~self.batch.any(outcome.counts.accepted + 1 >= self.rows * record.stride)

        def turn(carry):
            return self._turn(inputs, *carry)

        def fill(carry):
            tries, outcome, record = jax.lax.while_loop(lambda c: goes_on(c) & has_room(c), turn, carry)
            full = goes_on((tries, outcome, record)) & ~has_room((tries, outcome, record))
            return tries, outcome, jax.lax.cond(full, self._thinned, lambda r: r, record)

        _, outcome, record = jax.lax.while_loop(goes_on, fill if self.spare else turn, carry)
        saved = [self._cut(*each) for each in zip(self.plans, outcome.saved, strict=True)]
        return outcome._replace(saved=saved), record

    def _cut(self, plan: SavePlan, saved: Saved) -> Saved:
        """Only the rows that count."""
        real = self.batch.following(jnp.zeros_like(saved.filled), plan.rows) < saved.filled[..., None]

        def cut(rows):
            rows = jax.lax.slice_in_dim(rows, 0, plan.rows, axis=len(self.batch.shape))
            mask = real.reshape(real.shape + (1,) * (rows.ndim - real.ndim))
            return jnp.where(mask, rows, nothing(rows))

        return saved._replace(ts=None if saved.ts is None else cut(saved.ts), ys=jax.tree.map(cut, saved.ys))

    def _turn(self, inputs: Inputs, tries, outcome: Outcome, record: Record | None):
        old = outcome.place
        active = self.problem.running(old, inputs.t1)
        place, dense, accepted = self.advance(inputs, old)
        tried, done = (x.astype(jnp.int32) for x in (active, accepted))
        counts = Counts(outcome.counts.tried + tried, outcome.counts.accepted + done)
        saved = [
            self._save(k, inputs, rows, old, dense, place, accepted, counts) for k, rows in enumerate(outcome.saved)
        ]
        kept = outcome.dense
        if kept is not None:
            kept = self._keep_dense(kept, place, dense, accepted, counts)
        history = outcome.history
        if history is not None:
            row = jnp.where(accepted, counts.accepted - 1, history.shape[-2])
            step = history_row(self.problem.kernel, place.t, old.tnext - old.t, place.solver_state)
            history = self.batch.put(history, row, step, rows_first=False)
        if record is not None:
            record = self._keep_place(record, place, accepted, counts)
        return tries + 1, Outcome(place, counts, saved, kept, history), record

    def _begin(self, place: Place) -> Outcome:
        """No step done, nothing saved: rows of infinities, as diffrax leaves them."""
        shape, dtype = self.batch.shape, place.t.dtype
        zero = jnp.zeros(shape, jnp.int32)

        def empty(rows, x):
            return jnp.full((*shape, rows, *x.shape), nothing(x), x.dtype)

        def rows(plan: SavePlan):
            size = plan.rows + self.few
            ts = jnp.full((*shape, size), jnp.inf, dtype) if plan.every else None
            return Saved(zero, zero + plan.skip, ts, jax.tree.map(ft.partial(empty, size), plan.ys))

        saved = [rows(plan) for plan in self.plans]
        dense = None
        if self.dense:
            assert self.max_steps is not None
            ts = jnp.full((*shape, self.max_steps + 1), jnp.inf, dtype)
            infos = jax.tree.map(ft.partial(empty, self.max_steps), self.problem.dense)
            dense = Dense(ts.at[..., 0].set(place.t), infos)
        history = None
        if self.history:
            assert self.max_steps is not None
            row = history_row(self.problem.kernel, jnp.full_like(place.t, jnp.inf), place.t * 0, place.solver_state)
            row = row.at[..., 1:].set(0)
            history = jnp.broadcast_to(row[..., None, :], (*shape, self.max_steps, row.shape[-1]))
        return Outcome(place, Counts(zero, zero), saved, dense, history)

    def _new_record(self, start: Place) -> Record | None:
        if self.rows is None:
            return None
        rows = [jnp.broadcast_to(x, (self.rows, *x.shape)) for x in self.packing.pack(self.recorded(start))]
        return Record(rows, jnp.int32(1))

    def _keep_place(self, record: Record, place: Place, accepted, counts: Counts) -> Record:
        due = accepted & (counts.accepted % record.stride == 0)
        index = jnp.where(due, counts.accepted // record.stride, self.rows)
        return record._replace(rows=self.put_rows(record.rows, index, place))

    def put_rows(self, rows: list[jax.Array], index, place: Place) -> list[jax.Array]:
        """Write one place an example into a record's rows; an index past the end writes nothing."""
        packed = self.packing.pack(self.recorded(place))
        return [self.batch.put(b, index, x, rows_first=True) for b, x in zip(rows, packed, strict=True)]

    def _thinned(self, record: Record) -> Record:
        def move(i, rows):
            put, get = jax.lax.dynamic_update_index_in_dim, jax.lax.dynamic_index_in_dim
            return [put(x, get(x, 2 * i, keepdims=False), i, 0) for x in rows]  # one by one, in place

        return Record(jax.lax.fori_loop(1, self.rows // 2, move, record.rows), record.stride * 2)

    def _keep_dense(self, dense: Dense, place: Place, info, accepted, counts: Counts) -> Dense:
        row = jnp.where(accepted, counts.accepted, dense.ts.shape[-1])
        ts = self.batch.put(dense.ts, row, place.t, rows_first=False)
        infos = jax.tree.map(lambda b, x: self.batch.put(b, row - 1, x, rows_first=False), dense.infos, info)
        return Dense(ts, infos)

    def _save(self, k: int, inputs: Inputs, saved: Saved, old: Place, dense, place: Place, accepted, counts: Counts):
        if inputs.ts[k] is not None:
            saved = self._save_inside(k, inputs, saved, old, dense, place, accepted)
        if self.every[k]:
            due = accepted & (counts.accepted % self.every[k] == 0)
            shared = self.problem.end_saves[k].pick(inputs.shared)
            saved = self._write(saved, due, place.t, self.end_saves[k](shared, place.t, place.y))
        return saved

    def _save_inside(self, k: int, inputs: Inputs, saved: Saved, old: Place, dense, place: Place, accepted) -> Saved:
        """Save at all of `ts` that lie in the step just accepted."""
        ts: Any = inputs.ts[k]
        until = old.tnext
        if place.reached is not None:  # the last step may end just before a jump at the end
            until = jnp.where(place.t >= inputs.t1, jnp.maximum(until, inputs.t1), until)
        shared = self.problem.saves[k].pick(inputs.shared)
        size, few = ts.shape[-1], self.few

        def is_due(saved: Saved):
            t = self.batch.get(ts, jnp.minimum(saved.ts_index, size - 1))
            return accepted & (saved.ts_index < size) & (t <= until)

        def save_few(saved: Saved):
            index = self.batch.following(saved.ts_index, few)
            t = self.batch.get(ts, jnp.minimum(index, size - 1))
            due = accepted[..., None] & (index < size) & (t <= until[..., None])
            ys = self.saves[k](shared, old.t, old.tnext, dense, jnp.where(due, t, old.tnext[..., None]))
            rows, times = jax.tree.map(lambda b, x: self.batch.put_block(b, saved.filled, x), saved.ys, ys), saved.ts
            if times is not None:
                times = self.batch.put_block(times, saved.filled, t)
            count = jnp.sum(due, axis=-1, dtype=jnp.int32)
            return Saved(saved.ts_index + count, saved.filled + count, times, rows)

        return jax.lax.while_loop(lambda s: self.batch.any(is_due(s)), save_few, saved)

    def _write(self, saved: Saved, due, t, y) -> Saved:
        assert saved.ts is not None
        row = jnp.where(due, saved.filled, saved.ts.shape[-1])

        def put(buffer, x):
            return self.batch.put(buffer, row, x, rows_first=False)

        return Saved(
            saved.ts_index, saved.filled + due.astype(jnp.int32), put(saved.ts, t), jax.tree.map(put, saved.ys, y)
        )


def history_row(kernel: Any, t: jax.Array, length: jax.Array, solver_state: Any) -> jax.Array:
    """A step's end and length, constants, and its heuristics, `(…, 2 + quantities)`."""
    times = jax.lax.stop_gradient(jnp.stack([t, length], axis=-1))
    last = kernel.last(solver_state)
    return times if last is None else jnp.concatenate([times, last], axis=-1)


def nothing(x: Any) -> jax.Array:
    """What a row has that was not saved: infinity, or 0 or False where there is none, in the dtype of `x`."""
    return jnp.asarray(jnp.inf if jnp.issubdtype(x.dtype, jnp.inexact) else 0, x.dtype)
