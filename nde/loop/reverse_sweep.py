"""The reverse sweep: step by step from the last accepted one, cotangents of what was saved in it, the step's VJP, and a
sum over parameters.
"""

import abc
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from nde.loop.accepted_times import AcceptedTimes, TimeCotangents
from nde.loop.closure_convert import add_by_id, Consts
from nde.loop.interface import Loop
from nde.loop.pytrees import is_inexact, partition_inexact
from nde.loop.save_cotangents import masked, OutputCotangents, ReverseStep, SaveCotangents, SaveCursor
from nde.loop.state import Checkpoints, LoopInputs, LoopOutcome, LoopState
from nde.types import Dense, SolverState, State, Time


class StepCotangents(NamedTuple):
    """Cotangents of what a step begins with; `consts`: by id; `t0`, `t1`: `None` if times are not differentiated."""

    consts: dict[int, jax.Array]
    t0: Time | None
    t1: Time | None
    y: State
    solver_state: SolverState


PullStep = Callable[[State, SolverState, Dense | None], StepCotangents]
"""From the cotangents of a step's end, of the solver's state there and of its dense output to those of its start."""


class SweepState(NamedTuple):
    """What a reverse sweep carries.

    - `y`, `solver_state`: their cotangents at the end of the step to come.
    - `consts`, `times`: sums of cotangents, by id; `times` is `None` where they are not differentiated.
    - `end`: the end of the step to come; `cursors`: rows still to be met, for each sub.
    """

    y: State
    solver_state: SolverState
    consts: dict[int, jax.Array]
    times: TimeCotangents | None
    end: Time
    cursors: list[SaveCursor]


class ReverseSweep(abc.ABC):
    """One backward pass: a state is begun, each step pulls it through, from the last to the first, and it is finished.

    A kind of sweep knows where a step began and how to pull cotangents through it. This class knows the rest: what was
    saved in and at the end of a step, which times move, which examples of a batch are still under way.

    **Arguments:** `loop`; `perturbed`: in the structure of the inputs, whether each is differentiated; and those of a
    `nde.loop.interface.Backward`.

    `has_cotangent`: which examples have any cotangent; `safe_start`: a step that all can take without harm.
    """

    def __init__(
        self,
        loop: Loop,
        perturbed: LoopInputs,
        inputs: LoopInputs,
        outcome: LoopOutcome,
        checkpoints: Checkpoints | None,
        cotangents: LoopOutcome,
    ):
        self.loop, self.batch, self.problem = loop, loop.batch, loop.problem
        self.inputs, self.outcome, self.checkpoints, self.ct = inputs, outcome, checkpoints, cotangents
        self.consts = Consts(inputs.consts, [bool(p) for p in perturbed.consts])
        self.accepted_times = AcceptedTimes(loop, self.consts, perturbed, inputs, outcome)
        self.times_active = self.accepted_times.active
        self.save_cotangents = SaveCotangents(loop.saving, inputs, cotangents.saved, self.consts, self.times_active)
        self.steps = outcome.counts.accepted
        self.has_cotangent = self._has_cotangent()
        self.safe_start = self._safe_start()

    @abc.abstractmethod
    def run(self) -> LoopInputs:
        """The cotangents of the inputs."""

    def _has_cotangent(self) -> jax.Array:
        """Which examples have any cotangent. The others, say a failed solve that the loss masks, add nothing."""
        axes = len(self.batch.shape)
        found = jnp.zeros(self.batch.shape, bool)
        for x in jax.tree.leaves(self.ct):
            if is_inexact(x):
                found = found | jnp.any(x != 0, axis=tuple(range(axes, x.ndim)))
        return found

    def _safe_start(self) -> LoopState:
        """A step that can be taken without harm, for the examples that have none to replay."""
        state = self.inputs.state

        def finite(x: jax.Array):
            return jnp.where(jnp.isfinite(x), x, 0) if is_inexact(x) else x

        # Examples that are not active are stepped too, since a batch steps as one: from here, where nothing is
        # infinite, so that zero cotangents times finite derivatives are zero.
        y, solver_state = jax.tree.map(finite, (state.y, state.solver_state))
        # The first step that was tried may have been far too long: a hundredth of it hardly moves.
        short = state.t + 0.01 * (state.tnext - state.t)
        tnext = jnp.where(short > state.t, short, state.t + 1)
        return state._replace(y=y, solver_state=solver_state, tnext=tnext)

    def begin(self) -> SweepState:
        """The state of the sweep behind the last step: the cotangents of the loop's last state."""
        ct, state = self.ct.state, self.outcome.state
        times = self.accepted_times.begin()
        if times is not None:
            times = self.accepted_times.add(times, self.steps, state.t, ct.t)
            if self.ct.dense is not None:
                times = times._replace(t0=times.t0 + self.ct.dense.ts[..., 0])
        like, _ = partition_inexact(state.solver_state)
        solver_state, _ = partition_inexact(ct.solver_state)
        return SweepState(
            y=ct.y,
            solver_state=jax.tree.map(lambda c, x: c.astype(x.dtype), solver_state, like),
            consts=self.consts.zeros(),
            times=times,
            end=state.t if state.reached is None else state.reached,
            cursors=[SaveCursor(saved.ts_index, saved.filled) for saved in self.outcome.saved],
        )

    def pull(self, sweep: SweepState, step: ReverseStep, pull_step: PullStep) -> SweepState:
        """Back through a step: cotangents of what was saved in and at the end of it, and then its VJP."""
        active, zero = step.active, jnp.zeros_like(step.t0)
        # An event's state is that of the last step: its cotangents join there.
        is_last = active & (step.number + 1 == self.steps)
        solver_state = self._with_step_log(masked(self.batch, active, sweep.solver_state), step)
        dense = self._dense_cotangent(step, is_last)
        outputs = OutputCotangents(
            masked(self.batch, active, sweep.y), dense, zero, zero, sweep.consts, sweep.times, sweep.cursors
        )
        outputs = self.save_cotangents.add(step, outputs)
        # Saved rows first: they add to the cotangents of the step's end and inside, which its VJP then pulls through.
        found = pull_step(outputs.y, solver_state, outputs.dense)
        times = outputs.times
        if times is not None:
            assert found.t0 is not None and found.t1 is not None
            times = self._add_times(times, step, found.t0 + outputs.t0, found.t1 + outputs.t1, is_last)
        return SweepState(
            y=self.batch.where(active, found.y, sweep.y),
            solver_state=self.batch.where(active, found.solver_state, sweep.solver_state),
            consts=add_by_id(outputs.consts, list(found.consts), list(found.consts.values())),
            times=times,
            # The next step back ends where this one's predecessor ended, not where this one begins: they differ at a
            # jump.
            end=jnp.where(active, step.before, sweep.end),
            cursors=outputs.cursors,
        )

    @property
    def needs_dense(self) -> bool:
        """Whether any output depends on a step's inside."""
        inside = any(ts is not None for ts in self.inputs.ts)
        return inside or self.outcome.dense is not None or self.outcome.state.event is not None

    def _at(self, number: jax.Array, tree: PyTree[jax.Array]) -> PyTree[jax.Array]:
        """The entries of a step, the same number for all examples, in buffers over steps."""
        axis = len(self.batch.shape)
        return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, number, axis, keepdims=False), tree)

    def _with_step_log(self, cotangent: SolverState, step: ReverseStep) -> SolverState:
        """The cotangent of the solver's state, with that of the step's own heuristics, if they are logged."""
        log = self.ct.step_log
        if log is None or log.quantities is None:
            return cotangent
        more = masked(self.batch, step.active, self._at(step.number, log.quantities))
        return self.problem.stepper.add_to_last_heuristics(cotangent, more)

    def _dense_cotangent(self, step: ReverseStep, is_last: jax.Array) -> Dense | None:
        """The cotangent of the step's dense output, as far as it was an output itself."""
        if step.dense is None:
            return None
        total = jax.tree.map(jnp.zeros_like, step.dense)
        event, kept = self.ct.state.event, self.ct.dense
        if event is not None:
            total = jax.tree.map(jnp.add, total, masked(self.batch, is_last, event.dense))
        if kept is not None:
            row = self._at(step.number, kept.infos)
            total = jax.tree.map(jnp.add, total, masked(self.batch, step.active, row))
        return total

    def _add_times(
        self, times: TimeCotangents, step: ReverseStep, t0_ct: Time, t1_ct: Time, is_last: jax.Array
    ) -> TimeCotangents:
        """Let the cotangents of a step's ends fall to what moves them."""
        event = self.ct.state.event
        if event is not None:
            t0_ct = t0_ct + jnp.where(is_last, event.tprev, 0)
            t1_ct = t1_ct + jnp.where(is_last, event.tnext, 0)
        if self.ct.dense is not None:
            t1_ct = t1_ct + self._at(step.number + 1, self.ct.dense.ts)
        t0_ct, t1_ct = jnp.where(step.active, t0_ct, 0), jnp.where(step.active, t1_ct, 0)
        number = jnp.broadcast_to(step.number, step.active.shape)
        times = self.accepted_times.add(times, number, step.t0, t0_ct)
        return self.accepted_times.add(times, number + 1, step.t1, t1_ct)

    def finish(self, sweep: SweepState) -> LoopInputs:
        """The cotangents of the inputs; `None` where there is none."""
        nothing: Any = jax.tree.map(lambda _: None, self.inputs)
        state = nothing.state._replace(
            y=masked(self.batch, self.has_cotangent, sweep.y), solver_state=sweep.solver_state
        )
        cotangents = nothing._replace(consts=self.consts.cotangents(sweep.consts), state=state)
        return self.accepted_times.finish(sweep.times, cotangents)
