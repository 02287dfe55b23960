"""How the cotangents of saved rows come back to the step in which each was saved: the reverse of `nde.loop.saving`.

Steps are met from the last to the first, and rows in the same order, so that two counters a sub say which row is next.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nde.loop.accepted_times import TimeCotangents
from nde.loop.batching import FlatBatch
from nde.loop.closure_convert import add_by_id, ClosedFunction, Consts
from nde.loop.pytrees import partition_inexact
from nde.loop.saving import Saving
from nde.loop.state import LoopInputs, SaveBuffer
from nde.types import Dense, State, Time


class SaveCursor(NamedTuple):
    """Rows of a sub that are still to be met, from the last on: of its `ts`, and in all."""

    ts_index: jax.Array
    filled: jax.Array


class ReverseStep(NamedTuple):
    """A step of the forward solve, met again on the backward pass.

    - `number`: of the step, from 0 on; `active`: which examples have it.
    - `t0`, `t1`, `y1`, `dense`: its ends, the state at its end, and its dense output (`None` if nobody needs it).
    - `before`: where the step before it ended: at `t0`, or on the other side of a jump there.
    """

    number: jax.Array
    active: jax.Array
    t0: Time
    t1: Time
    y1: State
    dense: Dense | None
    before: Time


class OutputCotangents(NamedTuple):
    """Cotangents of what a step gave: its end `y`, its `dense` output, its ends `t0` and `t1`; and the sums that saved
    rows add to on the way, of consts and of times; and the rows still to be met.
    """

    y: State
    dense: Dense | None
    t0: Time
    t1: Time
    consts: dict[int, jax.Array]
    times: TimeCotangents | None
    cursors: list[SaveCursor]


class SaveCotangents:
    """Adds the cotangents of saved rows to those of the steps.

    **Arguments:** `saving`: of the loop; `inputs`: of the loop; `cotangents`: of what each sub saved; `consts`: which
    of them are differentiated; `times_active`: whether times are.
    """

    def __init__(
        self,
        saving: Saving,
        inputs: LoopInputs,
        cotangents: Sequence[SaveBuffer],
        consts: Consts,
        times_active: bool,
    ):
        self.saving, self.batch, self.inputs = saving, saving.batch, inputs
        self.ct, self.consts, self.times_active = cotangents, consts, times_active

    def add(self, step: ReverseStep, outputs: OutputCotangents) -> OutputCotangents:
        """Add those of what was saved in and at the end of a step."""
        for k, spec in enumerate(self.saving.specs):
            if spec.every:
                outputs = self._add_at_end(k, step, outputs)
            if self.inputs.ts[k] is not None:
                outputs = self._add_inside(k, step, outputs)
        return outputs

    def _add_at_end(self, k: int, step: ReverseStep, outputs: OutputCotangents) -> OutputCotangents:
        due = step.active & ((step.number + 1) % self.saving.specs[k].every == 0)
        cursor = outputs.cursors[k]
        row = jnp.maximum(cursor.filled - due.astype(jnp.int32), 0)
        # The loop's buffers are read back to front: the cursor counts the rows that are still to be met.
        y_ct = self._row(partition_inexact(self.ct[k].ys)[0], row, due)
        closed = self.saving.problem.end_saves[k]
        ids, values = self.consts.active_in(closed)

        def save(values: Sequence[jax.Array], t: Time, y: State):
            return partition_inexact(self.saving.at_end[k](self.consts.replaced(closed, ids, values), t, y))[0]

        _, pull = jax.vjp(save, values, step.t1, step.y1)
        consts, t_ct, more = pull(y_ct)
        t_ct = t_ct + self._row(self.ct[k].ts, row, due)
        cursor = cursor._replace(filled=jnp.where(due, row, cursor.filled))
        return outputs._replace(
            y=jax.tree.map(jnp.add, outputs.y, more),
            t1=outputs.t1 + t_ct,
            consts=add_by_id(outputs.consts, ids, consts),
            cursors=_set(outputs.cursors, k, cursor),
        )

    def _add_inside(self, k: int, step: ReverseStep, outputs: OutputCotangents) -> OutputCotangents:
        def add_chunk(outputs):
            return self._add_chunk(k, step, outputs)

        # As in the forward loop: in a batch a step has few save times or none, and which is not known when it is
        # traced.
        def any_due(outputs):
            return self.batch.any(self._chunk(k, step, outputs.cursors[k])[2])

        return jax.lax.while_loop(any_due, add_chunk, outputs)

    def _chunk(self, k: int, step: ReverseStep, cursor: SaveCursor):
        """The last save times still to be met, a chunk of them: their numbers, times, which lie in this step, rows."""
        chunk = self.saving.chunk
        index = self.batch.following(cursor.ts_index - chunk, chunk)
        t = self.batch.get(self._ts(k), jnp.maximum(index, 0))
        due = step.active[..., None] & (index >= 0) & ((t > step.before[..., None]) | (step.number == 0))
        return index, t, due, self.batch.following(cursor.filled - chunk, chunk)

    def _add_chunk(self, k: int, step: ReverseStep, outputs: OutputCotangents) -> OutputCotangents:
        cursor = outputs.cursors[k]
        index, t, due, rows = self._chunk(k, step, cursor)
        count = jnp.sum(due, axis=-1, dtype=jnp.int32)
        cursors = _set(outputs.cursors, k, SaveCursor(cursor.ts_index - count, cursor.filled - count))
        y_ct = self._rows(partition_inexact(self.ct[k].ys)[0], rows, due)
        # Evaluated at the step's end where none is due, and its cotangent is zero there.
        t = jnp.where(due, t, step.t1[..., None])
        closed: ClosedFunction = self.saving.problem.saves[k]
        ids, values = self.consts.active_in(closed)

        def save(values: Sequence[jax.Array], t0: Time, t1: Time, dense: Dense, t: Time):
            saved = self.saving.inside[k](self.consts.replaced(closed, ids, values), t0, t1, dense, t)
            return partition_inexact(saved)[0]

        if not self.times_active:
            # Without times among the inputs the interpolation is linear in `dense`: a smaller VJP to trace and compile.
            _, pull = jax.vjp(lambda v, d: save(v, step.t0, step.t1, d, t), values, step.dense)
            consts, dense = pull(y_ct)
            return outputs._replace(
                dense=jax.tree.map(jnp.add, outputs.dense, dense),
                consts=add_by_id(outputs.consts, ids, consts),
                cursors=cursors,
            )
        _, pull = jax.vjp(save, values, step.t0, step.t1, step.dense, t)
        consts, t0_ct, t1_ct, dense, t_ct = pull(y_ct)
        t1_ct, t_ct = t1_ct + jnp.sum(jnp.where(due, 0, t_ct), -1), jnp.where(due, t_ct, 0)
        if self.ct[k].ts is not None:
            t_ct = t_ct + self._rows(self.ct[k].ts, rows, due)
        assert outputs.times is not None
        ts = list(outputs.times.ts)
        sums: Any = ts[k]
        ts[k] = self.batch.add(sums, jnp.maximum(index, 0), t_ct)
        return OutputCotangents(
            y=outputs.y,
            dense=jax.tree.map(jnp.add, outputs.dense, dense),
            t0=outputs.t0 + t0_ct,
            t1=outputs.t1 + t1_ct,
            consts=add_by_id(outputs.consts, ids, consts),
            times=outputs.times._replace(ts=ts),
            cursors=cursors,
        )

    def _ts(self, k: int) -> jax.Array:
        ts = self.inputs.ts[k]
        assert ts is not None
        return ts

    def _rows(self, cotangents: Any, rows: jax.Array, due: jax.Array) -> Any:
        """Some rows an example of saved cotangents, zero where they are not due."""

        def pick(x: jax.Array):
            picked = self.batch.get(x, jnp.clip(rows, 0, x.shape[len(self.batch.shape)] - 1))
            return jnp.where(due.reshape(due.shape + (1,) * (picked.ndim - due.ndim)), picked, 0)

        return jax.tree.map(pick, cotangents)

    def _row(self, cotangents: Any, row: jax.Array, due: jax.Array) -> Any:
        """One row an example of saved cotangents, zero where it is not due."""
        picked = jax.tree.map(
            lambda x: self.batch.get(x, jnp.minimum(row, x.shape[len(self.batch.shape)] - 1)), cotangents
        )
        return masked(self.batch, due, picked)


def masked(batch: FlatBatch, active: jax.Array, tree: Any) -> Any:
    """A tree with zeros for the examples that are not active."""
    return batch.where(active, tree, jax.tree.map(jnp.zeros_like, tree))


def _set(cursors: Sequence[SaveCursor], k: int, cursor: SaveCursor) -> list[SaveCursor]:
    return [cursor if j == k else old for j, old in enumerate(cursors)]
