"""The backward pass over recorded states: each step is replayed from where it began, and pulled back."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nde.loop import (
    Checkpoints,
    CheckpointStore,
    Loop,
    LoopState,
    partition_inexact,
    PullStep,
    ReverseStep,
    ReverseSweep,
    StepCotangents,
    SweepState,
)
from nde.types import Dense, SolverState, State, Time


class Segment(NamedTuple):
    """Steps whose states stand one after another in some rows.

    `first`: the number of the first step; `longest`: of steps of the example that has most; `steps`: of each example's;
    `begins`: the row of the first state.
    """

    first: jax.Array
    longest: jax.Array
    steps: jax.Array
    begins: jax.Array


class CheckpointSweep(ReverseSweep):
    """A backward pass whose steps are replayed from the recorded states."""

    store: CheckpointStore
    checkpoints: Checkpoints

    def __init__(self, loop: Loop, *given: Any):
        super().__init__(loop, *given)
        assert loop.store is not None
        self.store = loop.store

    def run(self):
        sweep, longest, rows = self.begin(), self.batch.max(self.steps), self.checkpoints.rows
        # Where the record holds every step there is nothing to replay: without that loop there is less to compile.
        if self.store.segment:
            sweep = self._in_segments(sweep, rows, longest)
        else:
            sweep = self._through(sweep, rows, Segment(jnp.int32(0), longest, self.steps, jnp.int32(0)))
        return self.finish(sweep)

    def _in_segments(self, sweep: SweepState, rows: list[jax.Array], longest: jax.Array) -> SweepState:
        """Back through the whole record at once, or, where its stride is above 1, from checkpoint to checkpoint."""
        stride, whole = self.checkpoints.stride, self.checkpoints.stride == 1
        width = jnp.where(whole, self.store.num_rows, stride)
        begins = jnp.where(whole, 0, self.store.num_rows)

        def segment(carry: Any):
            number, rows, sweep = carry
            number = number - 1
            first = number * width
            steps = jnp.clip(self.steps - first, 0, width)
            rows, replayed = self._replay_segment(rows, number, jnp.where(whole, 0, steps))
            steps = jnp.where(whole, steps, replayed)
            segment = Segment(first, jnp.minimum(width, longest - first), steps, begins)
            return number, rows, self._through(sweep, rows, segment)

        return jax.lax.while_loop(lambda c: c[0] > 0, segment, (-(-longest // width), rows, sweep))[2]

    def _replay_segment(
        self, rows: list[jax.Array], number: jax.Array, steps: jax.Array
    ) -> tuple[list[jax.Array], jax.Array]:
        """Fill the segment with the states of `steps` accepted steps from a checkpoint on; say how many there are."""
        rows = self.store.copy_to_segment(rows, number)
        # Read from the copy: had the row itself readers after that write, XLA would copy the whole record for them.
        state: LoopState = self.store.get(rows, jnp.int32(self.store.num_rows))

        def going(carry: Any):
            _, state, have = carry
            return (have < steps) & self.loop.running(self.inputs, state)

        def turn(carry: Any):
            rows, state, have = carry
            new = self.loop.advance(self.inputs, state)
            go = going(carry)
            accepted = new.accepted & go
            state = self.batch.where(go, new.state, state)
            rows = self.store.put(rows, self.store.num_rows + have, state, accepted)
            return rows, state, have + accepted.astype(jnp.int32)

        start = (rows, state, jnp.minimum(steps, 1))
        rows, _, have = jax.lax.while_loop(lambda c: self.batch.any(going(c)), turn, start)
        return rows, have

    def _through(self, sweep: SweepState, rows: list[jax.Array], segment: Segment) -> SweepState:
        """Back through the steps of a segment."""

        def back(carry: Any):
            i, sweep = carry
            i = i - 1
            active = (i < segment.steps) & self.has_cotangent
            state = self.batch.where(active, self.store.get(rows, segment.begins + i), self.safe_start)
            return i, self._step(sweep, state, segment.first + i, active)

        return jax.lax.while_loop(lambda c: c[0] > 0, back, (segment.longest, sweep))[1]

    def _step(self, sweep: SweepState, state: LoopState, number: jax.Array, active: jax.Array) -> SweepState:
        """Back through a step, from a `state` to the sweep's end, for the active examples."""
        t1 = jnp.where(active, sweep.end, state.tnext)
        y1, dense, pull_step = self._replay_step(state, t1, active)
        before = state.t if state.reached is None else state.reached
        return self.pull(sweep, ReverseStep(number, active, state.t, t1, y1, dense, before), pull_step)

    def _replay_step(self, state: LoopState, t1: Time, active: jax.Array) -> tuple[Any, Any, PullStep]:
        """The step from a state: the state at its end, its dense output, and how to pull cotangents through it."""
        floats, combine = partition_inexact(state.solver_state)
        closed, t0 = self.problem.step, state.t
        ids, values = self.consts.active_in(closed)
        # A truth that hangs on the loop's own values, for XLA moves what does not out of the loop, and folds it.
        opaque = self.problem.with_opaque_true(self.consts, self.batch.any(active))

        def step(values: Sequence[jax.Array], t0: Time, t1: Time, y: State, floats: State):
            consts = opaque.replaced(closed, ids, values)
            out = self.loop.step(consts, t0, t1, y, combine(floats), state.made_jump)
            return out[0], partition_inexact(out[1])[0], out[2] if self.needs_dense else None

        # Times that are not differentiated are left out of the VJP: less to trace and to compile.
        if self.times_active:
            (y1, _, dense), pull = jax.vjp(step, values, t0, t1, state.y, floats)
        else:
            (y1, _, dense), pull = jax.vjp(lambda v, y, f: step(v, t0, t1, y, f), values, state.y, floats)

        def pull_step(y_ct: State, solver_state_ct: SolverState, dense_ct: Dense | None):
            consts, *rest = pull((y_ct, solver_state_ct, dense_ct))
            t0_ct, t1_ct = (rest[0], rest[1]) if self.times_active else (None, None)
            return StepCotangents(dict(zip(ids, consts, strict=True)), t0_ct, t1_ct, rest[-2], rest[-1])

        return y1, dense, pull_step
