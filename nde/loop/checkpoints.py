"""The bounded record of accepted states that a backward pass replays steps from."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from nde.loop.batching import FlatBatch
from nde.loop.packing import Packing
from nde.loop.state import Checkpoints, LoopState, StepCounts


class CheckpointStore:
    """Writes and reads `Checkpoints`: a fixed number of rows, whatever the number of steps.

    When all rows are full, every second one is dropped and the stride doubles, so that the record always spans the
    whole solve. That happens outside the loop of steps, which so never copies the rows. A backward pass goes through
    the record in *segments* of `segment` rows, each copied to a few rows of its own: those that were recorded, or,
    where the stride is above one, those replayed from one checkpoint to the next. `segment` is 0 where the rows hold
    every step that `max_steps` allows.

    **Arguments:** `batch`; `recorded`: what of a `LoopState` is kept; `example`: a state of one example, or its shapes;
    `num_rows`: at least two; `max_steps`.
    """

    def __init__(
        self,
        batch: FlatBatch,
        recorded: Callable[[LoopState], Any],
        example: LoopState,
        num_rows: int,
        max_steps: int | None,
    ):
        self.batch, self._recorded = batch, recorded
        # Packed: each array that a loop writes to costs a loop over the batch in every turn.
        self._packing = Packing(recorded(example))
        self.num_rows, self.segment = num_rows, 0
        if max_steps is not None and max_steps > num_rows:
            # A power of two, as strides are, so that a segment starts at a row of the record whatever the stride. At
            # least 64, for each starts two loops.
            self.segment = max(64, 2 ** math.ceil(math.log2(max_steps / num_rows)))
            self.num_rows = max(1, num_rows // self.segment) * self.segment

    def begin(self, start: LoopState) -> Checkpoints:
        """A record that holds the start."""
        packed = self._packing.pack(self._recorded(start))
        return Checkpoints([jnp.broadcast_to(x, (self.num_rows, *x.shape)) for x in packed], jnp.int32(1))

    def has_room(self, checkpoints: Checkpoints, counts: StepCounts) -> jax.Array:
        """Whether every example's next accepted state has a row."""
        return ~self.batch.any(counts.accepted + 1 >= self.num_rows * checkpoints.stride)

    def record(
        self, checkpoints: Checkpoints, state: LoopState, accepted: jax.Array, counts: StepCounts
    ) -> Checkpoints:
        """The record with an accepted state, where it is one of every `stride`."""
        due = accepted & (counts.accepted % checkpoints.stride == 0)
        # An index past the end writes nothing: cheaper than a select between two records.
        index = jnp.where(due, counts.accepted // checkpoints.stride, self.num_rows)
        return checkpoints._replace(rows=self.put(checkpoints.rows, index, state))

    def double_stride(self, checkpoints: Checkpoints) -> Checkpoints:
        """The record without every second row."""

        def move(i: jax.Array, rows: list[jax.Array]):
            put, get = jax.lax.dynamic_update_index_in_dim, jax.lax.dynamic_index_in_dim
            return [put(x, get(x, 2 * i, keepdims=False), i, 0) for x in rows]  # one by one, in place

        return Checkpoints(jax.lax.fori_loop(1, self.num_rows // 2, move, checkpoints.rows), checkpoints.stride * 2)

    def put(self, rows: list[jax.Array], index: jax.Array, state: LoopState) -> list[jax.Array]:
        """Write one state an example into rows; an index past the end writes nothing."""
        packed = self._packing.pack(self._recorded(state))
        return [self.batch.put(b, index, x, rows_first=True) for b, x in zip(rows, packed, strict=True)]

    def get(self, rows: list[jax.Array], index: jax.Array) -> Any:
        """What was recorded in a row, the same one for all examples."""
        return self._packing.unpack([jax.lax.dynamic_index_in_dim(x, index, keepdims=False) for x in rows])

    def segment_from(self, checkpoints: Checkpoints, first: jax.Array) -> list[jax.Array]:
        """Rows of the record from `first` on: where these are too few, the last ones, but `first` first."""

        # A copy, so that the replay writes into a few rows of its own and never into the record, which XLA would copy.
        def cut(rows: jax.Array):
            part = jax.lax.dynamic_slice_in_dim(rows, first, min(self.segment, len(rows)))
            return part.at[0].set(jax.lax.dynamic_index_in_dim(rows, first, keepdims=False))

        return [cut(rows) for rows in checkpoints.rows]
