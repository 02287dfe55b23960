"""The bounded record of accepted states that a backward pass replays steps from."""

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
    whole solve. That happens outside the loop of steps, which so never copies the rows. Behind the rows of the record
    there are `segment` more, into which a backward pass replays the steps from one checkpoint to the next where the
    stride is above one: in the same arrays, since a copy of their own cost as much memory again. `segment` is the
    largest stride, 0 where the rows hold every step that `max_steps` allows.

    **Arguments:** `batch`; `recorded`: what of a `LoopState` is kept; `example`: a state of one example, or its shapes;
    `num_rows`: an even number; `max_steps`.
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
            # A power of two, as strides are, and the largest of them: the record is thinned once more where an example
            # has as many steps as its rows and stride allow.
            self.segment = 2 ** (max_steps // num_rows).bit_length()

    def begin(self, start: LoopState) -> Checkpoints:
        """A record that holds the start."""
        packed = self._packing.pack(self._recorded(start))
        size = self.num_rows + self.segment
        return Checkpoints([jnp.broadcast_to(x, (size, *x.shape)) for x in packed], jnp.int32(1))

    def has_room(self, checkpoints: Checkpoints, counts: StepCounts) -> jax.Array:
        """Whether every example's next accepted state has a row."""
        return ~self.batch.any(counts.accepted + 1 >= self.num_rows * checkpoints.stride)

    def record(
        self, checkpoints: Checkpoints, state: LoopState, accepted: jax.Array, counts: StepCounts
    ) -> Checkpoints:
        """The record with an accepted state, where it is one of every `stride`."""
        due = accepted & (counts.accepted % checkpoints.stride == 0)
        index = counts.accepted // checkpoints.stride
        return checkpoints._replace(rows=self.put(checkpoints.rows, index, state, due))

    def double_stride(self, checkpoints: Checkpoints) -> Checkpoints:
        """The record without every second row."""

        def move(i: jax.Array, rows: list[jax.Array]):
            put, get = jax.lax.dynamic_update_index_in_dim, jax.lax.dynamic_index_in_dim
            return [put(x, get(x, 2 * i, keepdims=False), i, 0) for x in rows]  # one by one, in place

        return Checkpoints(jax.lax.fori_loop(1, self.num_rows // 2, move, checkpoints.rows), checkpoints.stride * 2)

    def put(self, rows: list[jax.Array], index: jax.Array, state: LoopState, where: jax.Array) -> list[jax.Array]:
        """Write one state an example into rows, for those for which `where` is true."""
        packed = self._packing.pack(self._recorded(state))
        # An index past the end writes nothing: no select between two records.
        index = jnp.where(where, index, self.num_rows + self.segment)
        return [self.batch.put(b, index, x, rows_first=True) for b, x in zip(rows, packed, strict=True)]

    def get(self, rows: list[jax.Array], index: jax.Array) -> Any:
        """What was recorded in a row, the same one for all examples."""
        return self._packing.unpack([jax.lax.dynamic_index_in_dim(x, index, keepdims=False) for x in rows])

    def get_many(self, rows: list[jax.Array], first: jax.Array, count: int) -> Any:
        """What was recorded in `count` rows from `first` on; past the last row anything."""

        def cut(x: jax.Array):
            part = jax.lax.dynamic_slice_in_dim(x, first, count)
            missing = first - jnp.minimum(first, len(x) - count)  # a slice that would go past the end begins earlier
            return jnp.roll(part, -missing, axis=0) if count > self.segment > 0 else part

        return self._packing.unpack([cut(x) for x in rows])

    def copy_to_segment(self, rows: list[jax.Array], index: jax.Array) -> list[jax.Array]:
        """The rows, with one of the record copied to the first of the segment."""
        put, get = jax.lax.dynamic_update_index_in_dim, jax.lax.dynamic_index_in_dim
        return [put(x, get(x, index, keepdims=False), self.num_rows, 0) for x in rows]
