"""A solve as functions of one example, with everything that they close over made explicit inputs."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import optimistix
from diffrax import is_okay, RESULTS
from jaxtyping import PyTree

from nde.loop.closure_convert import ClosedFunction, ClosureConverter, Consts
from nde.loop.controller_stops import knot_times, sorted_stops, stop_times
from nde.loop.events import look_for_events
from nde.loop.state import LoopState, StepOutcome
from nde.steppers import AbstractStepper, any_nonfinite, opaque
from nde.types import Args, Dense, SolverState, State, Terms, Time

NONFINITE = RESULTS.promote(optimistix.RESULTS.nonfinite)
"""The result of a solve whose state or times are no numbers."""

Convert = Callable[..., ClosedFunction]
"""`closure_convert(function, *examples)`: traces a function and makes inputs of what it closes over."""


class Solve(NamedTuple):
    """What is solved: the arguments of `nde.diffeqsolve`, checked and prepared, in the direction in which time runs."""

    terms: Terms
    solver: diffrax.AbstractSolver
    t0: Time
    t1: Time
    dt0: Time | None
    args: Args
    saveat: diffrax.SaveAt
    stepsize_controller: diffrax.AbstractStepSizeController
    event: diffrax.Event | None
    max_steps: int | None
    progress_meter: diffrax.AbstractProgressMeter


class Problem:
    """A solve and the stepper that takes its steps.

    - `subs`: each of its `diffrax.SubSaveAt`.
    - `controls_error`: whether steps are chosen by their error.
    - `grid_moves`: whether all times move with the ends, as those of constant steps do.
    """

    def __init__(self, stepper: AbstractStepper, solve: Solve, subs: Sequence[diffrax.SubSaveAt]):
        self.stepper, self.solve, self.subs = stepper, solve, subs
        self.controls_error = isinstance(solve.stepsize_controller, diffrax.AbstractAdaptiveStepSizeController)
        self.grid_moves = isinstance(solve.stepsize_controller, diffrax.ConstantStepSize)

    def interpolate(self, t0: Time, t1: Time, dense: Dense, t: Time) -> State:
        """The state at a time inside a step."""
        return self.solve.solver.interpolation_cls(t0=t0, t1=t1, **dense).evaluate(t)

    def stops_where_nonfinite(self, state: LoopState) -> bool:
        """Whether a step to what is no number ends the solve: without error control, where a failure is looked for."""
        return state.result is not None and not self.controls_error

    def running(self, state: LoopState, t1: Time) -> jax.Array:
        """Whether the solve goes on, steps permitting."""
        before = state.t < t1
        return before if state.result is None else before & (state.result == RESULTS.successful)


class TracedProblem:
    """The functions of one example that the adaptive loop is made of, each traced once.

    Every one of them is a `ClosedFunction`, called with its part of `consts`, all arrays that they close over.

    - `step(t0, t1, y, solver_state, made_jump) -> (y1, solver_state, dense, error, result)`.
    - `advance(t1, clip_floor, state) -> StepOutcome`: a step, the controller's word on it, and what follows.
    - `saves`: a function for each `SubSaveAt`, `(t0, t1, dense, t) -> saved values` at a time inside a step.
    - `end_saves`: the same at a step's end, `(t, y) -> saved values`.
    - `stops`: `controller_state -> times` at which its controller makes steps end or begin, in order; `None` without.
    - `knot_ids`: the ids of those consts that are the times of an interpolated path's own values.
    - `state`, `dense`: the shapes of a `LoopState` and of a step's dense output.
    - `adjoint_functions`: what the adjoint wants traced beside them: what its `trace`, called with `closure_convert`,
      returns.
    """

    def __init__(self, problem: Problem, state: LoopState, trace: Callable[[Convert], Any] | None):
        self.problem, self.stepper, self.solve = problem, problem.stepper, problem.solve
        converter = ClosureConverter()
        convert, args = converter.closure_convert, self.solve.args
        # What a fusion barrier branches on, see `nde.steppers.fusion_barrier`.
        self._opaque_true = jnp.ones(1, bool)  # an array, not a number, or it would be no input
        start = (state.t, state.tnext, state.y, state.solver_state, state.made_jump)
        self.step = convert(self._step, *start)
        # `advance` calls the traced step, so that the field is traced once for both.
        self._step_consts = self.step.consts_of(converter.consts)
        self.dense: Dense = jax.eval_shape(lambda: self.step(self._step_consts, *start))[2]
        self.advance = convert(self._advance, self.solve.t1, self.solve.t1, state)
        self.saves = [self._convert_save(convert, sub, state) for sub in problem.subs]
        self.end_saves = [convert(lambda t, y, fn=sub.fn: fn(t, y, args), state.t, state.y) for sub in problem.subs]
        self.stops = self._convert_stops(convert, state)
        self.adjoint_functions: Any = None if trace is None else trace(convert)
        self.consts, self.state = converter.consts, jax.eval_shape(lambda: state)
        self._opaque_true_id = converter.id_of(self._opaque_true)
        knots = knot_times((self.solve.terms, args))
        self.knot_ids = [found for found in map(converter.id_of, knots) if found is not None]

    def with_opaque_true(self, consts: Consts, true: jax.Array) -> Consts:
        """The consts, with a truth that the compiler does not know where a fusion barrier stands between stages."""
        if self._opaque_true_id is None:
            return consts
        return consts.with_value(self._opaque_true_id, opaque(true)[None])

    def _convert_save(self, convert: Convert, sub: diffrax.SubSaveAt, state: LoopState) -> ClosedFunction:
        def save(t0: Time, t1: Time, dense: Dense, t: Time):
            return sub.fn(t, self.problem.interpolate(t0, t1, dense, t), self.solve.args)

        dense = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), self.dense)
        return convert(save, state.t, state.tnext, dense, state.t)

    def _convert_stops(self, convert: Convert, state: LoopState) -> ClosedFunction | None:
        controller, dtype = self.solve.stepsize_controller, state.t.dtype
        shapes = jax.eval_shape(lambda state: stop_times(controller, state), state.controller_state)
        if not any(x.size for x in shapes):
            return None
        return convert(lambda state: sorted_stops(controller, state, dtype), state.controller_state)

    def _step(self, t0: Time, t1: Time, y: State, solver_state: SolverState, made_jump: jax.Array | None):
        step = self.stepper.step(t0, t1, y, solver_state, made_jump, self._opaque_true[0])
        result = step.result if step.result.is_traced() else None
        return step.y, step.solver_state, step.dense, step.error, result

    def _advance(self, t1: Time, clip_floor: Time, state: LoopState) -> StepOutcome:
        solve = self.solve
        y1, solver_state, dense, error, solver_result = self.step(
            self._step_consts, state.t, state.tnext, state.y, state.solver_state, state.made_jump
        )
        # diffrax's controllers reject an infinite error; a NaN compares as nothing, and would be accepted.
        error = jax.tree.map(lambda x: jnp.where(jnp.isnan(x), jnp.inf, x), error)
        order: Any = solve.solver.error_order(solve.terms)
        adapt: Any = solve.stepsize_controller.adapt_step_size
        keep, t, tnext, made_jump, controller_state, result = adapt(
            state.t, state.tnext, state.y, y1, solve.args, error, order, state.controller_state
        )
        if self.problem.stops_where_nonfinite(state):
            # What no rejection catches. The step is none of the record: so the backward pass meets no infinity.
            bad = any_nonfinite(y1)
            keep, t = keep & ~bad, jnp.where(bad, state.t, t)
            result = RESULTS.where(bad, NONFINITE, result)
        t = jnp.minimum(t, t1)
        is_stop = self._is_stop(tnext, controller_state) if state.made_jump is not None else None
        tnext = clip_to_end(t, tnext, t1, clip_floor, keep, state.tnext, is_stop)

        def kept(new: PyTree[jax.Array], old: PyTree[jax.Array]) -> PyTree[jax.Array]:
            return jax.tree.map(lambda a, b: jnp.where(keep, a, b), new, old)

        new = LoopState(
            t=t,
            tnext=tnext,
            y=kept(y1, state.y),
            solver_state=kept(solver_state, state.solver_state),
            controller_state=controller_state,
            made_jump=None if state.made_jump is None else jnp.where(keep, made_jump, state.made_jump),
            reached=None if state.reached is None else jnp.where(keep, state.tnext, state.reached),
            result=_next_result(state.result, keep, solver_result, result),
            meter=solve.progress_meter.step(state.meter, _progress(solve.t0, t, t1)),
            event=None,
        )
        if state.event is not None:
            assert solve.event is not None
            new = look_for_events(solve.event, solve, state, new, dense)
        active = self.problem.running(state, t1)
        # Selected here, for one example, and so by one fused kernel with the rest of `advance`.
        new = jax.tree.map(lambda a, b: jnp.where(active, a, b), _cast_like(new, state), state)
        return StepOutcome(new, dense, active & keep)

    def _is_stop(self, tnext: Time, controller_state: PyTree[jax.Array]) -> jax.Array:
        """Whether the controller was told to stop at a time, say just before the field jumps."""
        stops = stop_times(self.solve.stepsize_controller, controller_state)
        return jnp.any(jnp.stack([jnp.any(x == tnext) for x in stops] or [jnp.asarray(False)]))


def clip_to_end(
    t: Time, tnext: Time, t1: Time, clip_floor: Time, keep: jax.Array, tried: Time, is_stop: jax.Array | None = None
) -> Time:
    """The next step's end, not past `t1`: a step that would stop within some 100 ulp of it goes to it.

    Not so a step that is itself that short, and leaves another of its kind: near the resolution of the times the steps
    that the error asks for would all be made one that it forbids. After a rejected step the next is shorter than the
    one that was `tried`, whatever the rounding of times makes of it: else the same one would be tried again, for ever.
    `is_stop`: whether it must not be gone past, if the controller has any such: the field may jump at `t1` itself.
    """
    near = (tnext > clip_floor) & (t1 - t <= 1.5 * (tnext - t))
    near = near if is_stop is None else near & ~is_stop
    after = jnp.nextafter(jax.lax.stop_gradient(t), jnp.asarray(jnp.inf, t.dtype))  # which has no derivative in JAX
    half = jnp.maximum(jnp.minimum(tnext, t + 0.5 * (tried - t)), after)
    retried = jnp.where((tnext > clip_floor) | (tnext >= tried), half, tnext)
    return jnp.where(keep, jnp.where(near, t1, tnext), retried)


def clip_floor(t1: Time) -> Time:
    """`t1` less 100 units in its last place."""
    return t1 - 100 * jnp.finfo(t1.dtype).epsneg * jnp.abs(t1)


def _next_result(
    old: RESULTS | None, keep: jax.Array, solver_result: RESULTS | None, controller_result: RESULTS
) -> RESULTS | None:
    """The first failure met, if any; `None` where there can be none."""
    if old is None:
        return None
    result = old
    if solver_result is not None:
        solver_result = RESULTS.where(keep, solver_result, RESULTS.successful)
        result = RESULTS.where(is_okay(result), solver_result, result)
    return RESULTS.where(is_okay(result), controller_result, result)


def _progress(t0: Time, t: Time, t1: Time) -> jax.Array:
    """How much of the way from `t0` to `t1` is done."""
    progress = jnp.where(t1 == t0, 0, t - t0) / jnp.where(t1 == t0, 1, t1 - t0)
    # A meter's own state begins as a number, and is in the default float whatever the times are.
    return progress.astype(jnp.result_type(float))


def _cast_like(new: LoopState, old: LoopState) -> LoopState:
    """`new` with the dtypes of `old`, so that a loop may carry it."""
    return jax.tree.map(lambda a, b: jnp.asarray(a, b.dtype), new, old)
