"""The default adjoint: replay one accepted step at a time, and pull the gradient back through it."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from nde.adjoints.base import AbstractAdjoint
from nde.loop import (
    Checkpoints,
    CheckpointStore,
    Loop,
    LoopInputs,
    LoopOutcome,
    LoopState,
    partition_inexact,
    PullStep,
    ReverseStep,
    ReverseSweep,
    StepCotangents,
    SweepState,
)
from nde.types import Dense, SolverState, State, Time

RECORD_BYTES = 36_000
"""Of one example's record, from which the number of its rows follows where the user gives none."""

BATCH_RECORD_BYTES = 8 * 2**20
"""Of a whole batch's record, likewise. A record is written once whole before the first step, at some 0.3 ms a MiB; a
state of 64 in a batch of 256, 26 steps: with 256 rows, 34 MiB, that was a quarter of the gradient."""


class CheckpointAdjoint(AbstractAdjoint):
    r"""The exact gradient of the discrete solve on the grid that it accepted, in bounded memory.

    The forward loop records accepted states $(t_n, y_n)$; the backward pass replays a step at a time
    (discretise-then-optimise),

    $$\lambda_n = \lambda_{n+1}\,\partial_y \Phi(t_n, t_{n+1}, y_n, \theta), \qquad
    g \mathrel{+}= \lambda_{n+1}\,\partial_\theta \Phi,$$

    with $\Phi$ the step. Rejected steps cost nothing on the backward pass. Over a batch, a parameter that its examples
    share gets one gradient, summed in the loop, and not one an example.

    **Times.** Save times and event times carry gradients. Accepted times are constants, with these exceptions, where
    they are inputs:

    - the first moves with `t0`, and the last with `t1`;
    - a step that ends or begins at one of `step_ts` or `jump_ts` of a `diffrax.ClipStepSizeController`, or at one of
      `ts` of a `diffrax.StepTo`, moves with it, and those that lead to it from the stop before in proportion. So the
      gradient in the time at which a field jumps, say of a dose, is right where the controller is told that time, and
      zero where it is not. Equal times share theirs equally, and one that is `t0` or `t1` too leaves it to these;
    - at constant steps, all times move with the ends, and the first step's end with `dt0`.

    A controller of one's own that stops at given times says so by a method `stop_times(controller_state)`, which
    returns them as its state or its fields hold them; without it they have gradient zero. So have, being what only
    chooses steps, the tolerances of a controller and the first step `dt0` of an adaptive one.

    **Arguments:** `checkpoints`: how many states the record holds; `"all"` for all of `max_steps`; `None` for 256 to
    512, by the size of a state, and for more where the grid is known beforehand and a state is small; for fewer, but
    not than the square root of `max_steps`, where the record of a batch would be larger than 8 MiB. A solve with more
    accepted steps keeps every second, fourth … and recomputes the rest, which costs one forward solve more.

    **Limits:** reverse mode, once, and forward mode over it (`jax.hessian`); `max_steps=None` can not be
    differentiated. Where the grid is known beforehand the solve is a `scan`, for which every transformation of JAX
    works.

    **Source:** Zhuang et al., *Adaptive checkpoint adjoint method for gradient estimation in neural ODE*, 2020,
    algorithms 1 and 2.
    """

    checkpoints: int | Literal["all"] | None = eqx.field(default=None, static=True)
    scans: ClassVar[bool] = True

    def __check_init__(self):
        number = self.checkpoints
        if number is not None and number != "all" and not (isinstance(number, int) and number >= 2):
            raise ValueError(
                f'CheckpointAdjoint: checkpoints must be an integer of at least 2, "all" or None, not {number!r}.'
            )

    def num_checkpoints(
        self, state_bytes: int, max_steps: int | None, default_max: int = 512, batch_size: int | None = None
    ) -> int | None:
        if max_steps is None:
            return None
        rows = max(256, min(default_max, RECORD_BYTES // max(state_bytes, 1)))
        if batch_size is not None:
            # With fewer rows than the square root of the steps the longest segment needs more than they save.
            rows = min(rows, max(BATCH_RECORD_BYTES // max(batch_size * state_bytes, 1), math.isqrt(max_steps) + 2))
        if self.checkpoints == "all":
            rows = max_steps
        elif self.checkpoints is not None:
            rows = self.checkpoints
        rows = max(2, min(rows, max_steps))
        return rows + rows % 2

    def run_loop(self, loop: Loop, inputs: LoopInputs, perturbed: LoopInputs) -> LoopOutcome:
        if loop.store is None:
            raise ValueError(
                "nde.diffeqsolve with max_steps=None can not be differentiated backward: the record of its steps needs "
                "a bound. Give max_steps, however large; memory hardly depends on it."
            )
        return loop.with_vjp(inputs, lambda *given: _CheckpointSweep(loop, perturbed, *given).run())


class _Segment(NamedTuple):
    """Steps whose states stand one after another in some rows.

    `first`: the number of the first step; `longest`: of steps of the example that has most; `steps`: of each example's;
    `begins`: the row of the first state.
    """

    first: jax.Array
    longest: jax.Array
    steps: jax.Array
    begins: jax.Array


class _CheckpointSweep(ReverseSweep):
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
            sweep = self._through(sweep, rows, _Segment(jnp.int32(0), longest, self.steps, jnp.int32(0)))
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
            segment = _Segment(first, jnp.minimum(width, longest - first), steps, begins)
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

    def _through(self, sweep: SweepState, rows: list[jax.Array], segment: "_Segment") -> SweepState:
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

        # Times that are not differentiated are left out of the VJP: XLA does not drop what their cotangents cost.
        if self.times_active:
            (y1, _, dense), pull = jax.vjp(step, values, t0, t1, state.y, floats)
        else:
            (y1, _, dense), pull = jax.vjp(lambda v, y, f: step(v, t0, t1, y, f), values, state.y, floats)

        def pull_step(y_ct: State, solver_state_ct: SolverState, dense_ct: Dense | None):
            consts, *rest = pull((y_ct, solver_state_ct, dense_ct))
            t0_ct, t1_ct = (rest[0], rest[1]) if self.times_active else (None, None)
            return StepCotangents(dict(zip(ids, consts, strict=True)), t0_ct, t1_ct, rest[-2], rest[-1])

        return y1, dense, pull_step
