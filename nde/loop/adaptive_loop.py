"""The adaptive loop: a `while_loop` over a whole batch.

Its carry, and why: the state of each example (time, next time, state, solver's and controller's state); counters; the
rows saved so far; and, if the solve is differentiated, a bounded record of the accepted states, packed, since each
array that is written to costs a loop over the batch. Nothing else: stages and dense output live within a turn, except
for the last step's where an event needs it, and all of them where the user asks for dense output.
"""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nde.loop.batching import FlatBatch, VmapLevels
from nde.loop.checkpoints import CheckpointStore
from nde.loop.closure_convert import ClosedFunction
from nde.loop.interface import Backward
from nde.loop.problem import clip_floor, TracedProblem
from nde.loop.saving import Saving
from nde.loop.state import (
    Checkpoints,
    DenseOutput,
    LoopInputs,
    LoopOutcome,
    LoopState,
    SaveSpec,
    StepCounts,
    StepLog,
    StepOutcome,
)
from nde.types import Dense


class LoopOptions(NamedTuple):
    """What a loop shall do: at most `max_steps` tries, `None` for no bound; `save_specs`: what each sub saves; `dense`:
    whether every step's dense output is kept; `step_log`: whether its times and heuristics are.
    """

    max_steps: int | None
    save_specs: list[SaveSpec]
    dense: bool = False
    step_log: bool = False


class AdaptiveLoop:
    """The loop of one problem over some levels of `vmap`.

    **Arguments:** `problem`; `levels`; `options`; `num_checkpoints`: how many states its record keeps, `None` for no
    record; `recorded`: what of each.
    """

    def __init__(
        self,
        problem: TracedProblem,
        levels: VmapLevels,
        options: LoopOptions,
        num_checkpoints: int | None = None,
        recorded: Callable[[LoopState], Any] = lambda state: state,
    ):
        self.problem, self.options = problem, options
        self.batch = FlatBatch(levels)
        self.saving = Saving(problem, options.save_specs, self.batch)
        self._step = self.vmapped(problem.step)
        self._advance = self.vmapped(problem.advance)
        self.store: CheckpointStore | None = None
        if num_checkpoints is not None:
            self.store = CheckpointStore(self.batch, recorded, problem.state, num_checkpoints, options.max_steps)

    def vmapped(self, function: ClosedFunction) -> Callable[..., Any]:
        """A traced function of one example as one of the flat batch."""
        return self.batch.vmapped(function, function.const_ids)

    def without_checkpoints(self) -> "AdaptiveLoop":
        """The same loop, which records no states."""
        bare = copy.copy(self)
        bare.store = None
        return bare

    def step(self, *arguments: Any) -> Any:
        """A step of every example, `problem.step` over the batch."""
        return self._step(*arguments)

    def advance(self, inputs: LoopInputs, state: LoopState) -> StepOutcome:
        """A turn of the loop for every example that still runs."""
        consts = self.problem.advance.consts_of(inputs.consts)
        return self._advance(consts, inputs.t1, clip_floor(inputs.t1), state)

    def running(self, inputs: LoopInputs, state: LoopState) -> jax.Array:
        """Which examples go on, steps permitting."""
        return self.problem.problem.running(state, inputs.t1)

    def with_vjp(self, inputs: LoopInputs, backward: Backward) -> LoopOutcome:
        """The outcome of the loop, whose backward pass is the one given."""

        @jax.custom_vjp
        def run(inputs: LoopInputs):
            return self.run(inputs)[0]

        def run_forward(inputs: LoopInputs):
            outcome, checkpoints = self.run(inputs)
            return outcome, (inputs, outcome, checkpoints)

        def run_backward(residual: Any, cotangents: LoopOutcome):
            inputs, outcome, checkpoints = residual
            return (backward(inputs, outcome, checkpoints, cotangents),)

        run.defvjp(run_forward, run_backward)
        return run(inputs)

    def run(self, inputs: LoopInputs) -> tuple[LoopOutcome, Checkpoints | None]:
        """From the start to the end; with a record of the accepted states, if it keeps one."""
        start, max_steps, store = inputs.state, self.options.max_steps, self.store
        checkpoints = None if store is None else store.begin(start)
        carry: Any = (jnp.zeros((), jnp.int32), self._begin(start), checkpoints)

        # One trip count for the whole batch, and a body without a select: `FlatBatch.any` reduces over every `vmap`,
        # those outside of the primitive too, so that the predicate stays a scalar and the loop a loop.
        def goes_on(carry: Any):
            tries, outcome, _ = carry
            running = self.batch.any(self.running(inputs, outcome.state))
            return running if max_steps is None else running & (tries < max_steps)

        def turn(carry: Any):
            tries, outcome, checkpoints = carry
            return self._turn(inputs, tries, outcome, checkpoints)

        if store is None or not store.segment:
            _, outcome, checkpoints = jax.lax.while_loop(goes_on, turn, carry)
        else:
            _, outcome, checkpoints = self._fill_and_thin(store, goes_on, turn, carry)
        return outcome._replace(saved=self.saving.finish(outcome.saved)), checkpoints

    def _fill_and_thin(
        self, store: CheckpointStore, goes_on: Callable[[Any], jax.Array], turn: Callable[[Any], Any], carry: Any
    ) -> Any:
        """The loop, left whenever its record is full to double the stride: a copy of the rows in each turn would cost
        more than the turn."""

        def has_room(carry: Any):
            _, outcome, checkpoints = carry
            return store.has_room(checkpoints, outcome.counts)

        def fill(carry: Any):
            tries, outcome, checkpoints = jax.lax.while_loop(lambda c: goes_on(c) & has_room(c), turn, carry)
            carry = (tries, outcome, checkpoints)
            full = goes_on(carry) & ~has_room(carry)
            return tries, outcome, jax.lax.cond(full, store.double_stride, lambda x: x, checkpoints)

        return jax.lax.while_loop(goes_on, fill, carry)

    def _turn(self, inputs: LoopInputs, tries: jax.Array, outcome: LoopOutcome, checkpoints: Checkpoints | None):
        old = outcome.state
        # Examples that have ended are carried along unchanged: `advance` selects their old state, leaf by leaf.
        active = self.running(inputs, old)
        state, dense, accepted = self.advance(inputs, old)
        tried, done = (x.astype(jnp.int32) for x in (active, accepted))
        counts = StepCounts(outcome.counts.tried + tried, outcome.counts.accepted + done)
        saved = self.saving.save(outcome.saved, inputs, old, dense, state, accepted, counts)
        kept, log = outcome.dense, outcome.step_log
        if kept is not None:
            kept = self._keep_dense(kept, state, dense, accepted, counts)
        if log is not None:
            row = jnp.where(accepted, counts.accepted - 1, log.ts.shape[-1])
            last = self.problem.stepper.last_heuristics(state.solver_state)
            still = jax.lax.stop_gradient
            # Accepted times are constants of the gradient; only the heuristics are differentiated.
            step = StepLog(still(state.t), still(old.tnext - old.t), last)
            log = jax.tree.map(lambda rows, x: self.batch.put(rows, row, x, rows_first=False), log, step)
        if checkpoints is not None:
            assert self.store is not None
            checkpoints = self.store.record(checkpoints, state, accepted, counts)
        return tries + 1, LoopOutcome(state, counts, saved, kept, log), checkpoints

    def _begin(self, state: LoopState) -> LoopOutcome:
        """No step done, nothing saved: rows of infinities, as diffrax leaves them."""
        shape, size = self.batch.shape, self.options.max_steps
        zero = jnp.zeros(shape, jnp.int32)
        dense = log = None
        if self.options.dense:
            # diffrax's own dense output has `max_steps` rows; nothing else here has a buffer of that size.
            assert size is not None
            ts = jnp.full((*shape, size + 1), jnp.inf, state.t.dtype)
            infos = jax.tree.map(lambda x: self.saving.empty(size, x), self.problem.dense)
            dense = DenseOutput(ts.at[..., 0].set(state.t), infos)
        if self.options.step_log:
            assert size is not None
            log = empty_log(size, state.t, self.problem.stepper.last_heuristics(state.solver_state))
        return LoopOutcome(state, StepCounts(zero, zero), self.saving.begin(state.t), dense, log)

    def _keep_dense(
        self, dense: DenseOutput, state: LoopState, info: Dense, accepted: jax.Array, counts: StepCounts
    ) -> DenseOutput:
        row = jnp.where(accepted, counts.accepted, dense.ts.shape[-1])
        ts = self.batch.put(dense.ts, row, state.t, rows_first=False)
        infos = jax.tree.map(lambda b, x: self.batch.put(b, row - 1, x, rows_first=False), dense.infos, info)
        return DenseOutput(ts, infos)


def empty_log(size: int, t: jax.Array, quantities: jax.Array | None) -> StepLog:
    """A log of so many steps that holds none: infinite times, zeros. `t`, `quantities`: like those of one step."""
    ts = jnp.full((*t.shape, size), jnp.inf, t.dtype)
    if quantities is not None:
        quantities = jnp.zeros((*t.shape, size, quantities.shape[-1]), quantities.dtype)
    return StepLog(ts, jnp.zeros_like(ts), quantities)
