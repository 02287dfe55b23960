"""The engine inside of diffrax's entry: it takes the place of an adjoint, where diffrax asks for a loop.

diffrax's `diffeqsolve` checks and prepares a solve, calls `adjoint.loop`, and makes a `Solution` of the state that
comes back. So every check, default and output of it is kept, and what a version of it adds is there at once. The price
is here: diffrax's state is read at the start (`_begin`), and filled at the end (`_finish`), by `nde.diffrax_internals`.
"""

from collections.abc import Callable
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
from diffrax import is_okay, RESULTS
from jaxtyping import PyTree

from nde.adjoints import AbstractAdjoint, RecordSize
from nde.diffrax_internals import ConstantState, EntryState, replace_state, save_states, SavedRows
from nde.engine.batched_loop import run_batched
from nde.engine.fixed import whole_steps
from nde.engine.unchecked_times import UncheckedTimes
from nde.loop import (
    Convert,
    count_bytes,
    cut_after,
    EventState,
    GridOptions,
    is_inexact,
    locate_event,
    LoopInputs,
    LoopOptions,
    LoopOutcome,
    LoopState,
    NONFINITE,
    Problem,
    save_ends,
    SaveBuffer,
    SaveSpec,
    scan_grid,
    Solve,
    SolveEnds,
    TracedProblem,
    with_times,
)
from nde.steppers import (
    AbstractStepper,
    any_nonfinite,
    HeuristicSpec,
    InstrumentedStepper,
    make_heuristics,
    make_stepper,
    STEPS,
)
from nde.terms import brownian_terms, is_sub
from nde.types import SolverState, Time


class EngineLoop(diffrax.AbstractAdjoint):
    """The engine as what diffrax takes for an adjoint.

    `adjoint`: nde's own; `apart`: whether `t0` and `t1` are known to differ; `steps`: how many steps there are, where
    that is known; `times`: those to take instead of the ones that hang on a check, if any; `spec`: the heuristics
    wanted.
    """

    adjoint: AbstractAdjoint
    apart: bool
    steps: int | None
    times: UncheckedTimes | None
    spec: HeuristicSpec

    def loop(self, *, init_state, throw, passed_solver_state, passed_controller_state, **options):
        """The final state and the statistics of a solve."""
        start, solve = init_state, Solve(**options)
        if self.times is not None:
            solve = self.times.restore(solve)
            start = self.times.restart(start, solve, passed_solver_state, passed_controller_state)
        # A state passed in has its own count.
        if not passed_controller_state:
            start = _count_in_state(solve, start)
        stepper = self._stepper(solve, start)
        state, solver_state = _begin(stepper, start, solve)
        problem = Problem(stepper, solve, jax.tree.leaves(solve.saveat.subs, is_leaf=is_sub))
        specs = [_save_spec(*each) for each in zip(problem.subs, save_states(start), strict=True)]
        scans = self._scans(state) and not passed_controller_state
        if not (throw or scans or problem.controls_error) and state.result is None:
            # So that the loop looks for a failure, whose NaN would be in the gradient of a loss that masks it.
            state = state._replace(result=_strong_dtypes(start.result))
        trace = self.adjoint.prepare(problem, state)
        if scans:
            outcome = self._scan(problem, state, specs, guard=not throw)
        else:
            outcome = _marked(problem, self._run(problem, state, specs, trace))
        return self._finish(problem, outcome, start, solver_state, throw)

    def _stepper(self, solve: Solve, start: EntryState) -> AbstractStepper:
        t0, t1 = _step_of(start)
        stepper = make_stepper(solve.solver, solve.terms, solve.args, t0, t1, start.y)
        if not set(self.spec.names) - {STEPS}:
            return stepper
        is_sde = bool(brownian_terms(solve.terms))
        return InstrumentedStepper(stepper, self.spec, solve.solver, solve.stepsize_controller, is_sde)

    def _scans(self, state: LoopState) -> bool:
        """Whether the solve is a plain `scan`: its steps are known, nothing but they can end it, and nobody watches."""
        plain = state.result is None and state.made_jump is None and state.meter is None
        return self.steps is not None and plain and self.adjoint.scans

    def _scan(self, problem: Problem, state: LoopState, specs: list[SaveSpec], guard: bool) -> LoopOutcome:
        assert self.steps is not None
        each = count_bytes((state.y, state.solver_state))
        size = RecordSize(each, problem.solve.max_steps, self.steps, known_grid=True)
        checkpoints = self.adjoint.num_checkpoints(size)
        options = GridOptions(self.steps, specs, checkpoints, guard, STEPS in self.spec.names)
        return scan_grid(problem.stepper, state, problem.solve, problem.subs, options)

    def _run(
        self, problem: Problem, state: LoopState, specs: list[SaveSpec], trace: Callable[[Convert], Any] | None
    ) -> LoopOutcome:
        solve = problem.solve
        traced = TracedProblem(problem, state, trace)
        options = LoopOptions(solve.max_steps, specs, solve.saveat.dense, STEPS in self.spec.names)
        inputs = LoopInputs(traced.consts, state, solve.t1, [sub.ts for sub in problem.subs])
        return run_batched(traced, self.adjoint, options, inputs)

    def _finish(
        self, problem: Problem, outcome: LoopOutcome, start: EntryState, solver_state: SolverState, throw: bool
    ):
        """The final state, in the form of `start`, and the statistics.

        What happens here happens once a solve, on one example, in plain JAX: its derivatives are JAX's own.
        """
        state, counts = outcome.state, outcome.counts
        saved, result = self._with_ends(problem, outcome, start)
        # Failures of the whole solve, which no step sees.
        result = _final_result(problem, state, result)
        log = outcome.step_log
        if throw:
            state, saved, log = _raise_in_gradient(result, state, saved, log)
        rows = [_saved_rows(*each) for each in zip(save_states(start), saved, strict=True)]
        fields: dict[str, Any] = {
            "y": state.y,
            "tprev": state.t,
            "tnext": state.tnext,
            "made_jump": start.made_jump if state.made_jump is None else state.made_jump,
            "solver_state": problem.stepper.final_state(state.solver_state, solver_state, counts.accepted > 0),
            "controller_state": state.controller_state,
            "progress_meter_state": state.meter,
            "result": result,
            "num_steps": counts.tried.astype(int),
            "num_accepted_steps": counts.accepted.astype(int),
            "num_rejected_steps": (counts.tried - counts.accepted).astype(int),
            "event_mask": None if state.event is None else state.event.mask,
        }
        if outcome.dense is not None:
            dense = outcome.dense
            fields |= {"dense_ts": dense.ts, "dense_infos": dense.infos, "dense_save_index": counts.accepted}
        stats: dict[str, Any] = {"num_field_evaluations": problem.stepper.count_evaluations(counts.tried.astype(int))}
        if self.spec.names:
            totals = problem.stepper.heuristic_totals(state.solver_state)
            stats["heuristics"] = make_heuristics(self.spec.names, totals, log)
        return replace_state(start, rows, **fields), stats

    def _with_ends(self, problem: Problem, outcome: LoopOutcome, start: EntryState) -> tuple[list[SaveBuffer], RESULTS]:
        """What is saved, its ends and the end that an event may have made among it; and the solve's result so far."""
        solve, state = problem.solve, outcome.state
        t, y, result = state.t, state.y, RESULTS.successful if state.result is None else state.result
        empty = [x.ts for x in save_states(start)]
        saved = [with_times(*each) for each in zip(outcome.saved, problem.subs, empty, strict=True)]
        located = solve.event is not None and solve.event.root_finder is not None
        if located:
            assert solve.event is not None
            t, y, result = locate_event(solve.event, solve, problem.interpolate, outcome, result)
            saved = [cut_after(rows, t) for rows in saved]
        ends = SolveEnds(solve.t0, start.y, solve.t1, t, y, solve.args, outcome.counts.accepted, located, self.apart)
        return [save_ends(rows, sub, ends) for rows, sub in zip(saved, problem.subs, strict=True)], result


def _marked(problem: Problem, outcome: LoopOutcome) -> LoopOutcome:
    """The outcome with NaN for a state that the solve did not get to."""
    state = outcome.state
    if not problem.stops_where_nonfinite(state):
        return outcome
    good = state.result != NONFINITE
    y = jax.tree.map(lambda x: jnp.where(good, x, jnp.nan) if is_inexact(x) else x, state.y)
    return outcome._replace(state=state._replace(y=y))


def _begin(stepper: AbstractStepper, start: EntryState, solve: Solve) -> tuple[LoopState, SolverState]:
    """The state at which the loop starts, and the solver's own state there; `start`: that of diffrax's loop."""
    solver_state = _strong_dtypes(start.solver_state)
    jumps, fails = _may_jump_or_fail(stepper, start, solve)
    jump = jnp.asarray(start.made_jump) if jumps else None
    event = None
    if solve.event is not None:
        found = (start.event_tprev, start.event_tnext, start.event_dense_info, start.event_values, start.event_mask)
        event = EventState(*_strong_dtypes(found))
    state = LoopState(
        t=_strong_dtypes(start.tprev),
        tnext=_strong_dtypes(start.tnext),
        y=_strong_dtypes(start.y),
        solver_state=_strong_dtypes(stepper.init_state(*_step_of(start), start.y, solver_state, jump)),
        controller_state=_strong_dtypes(start.controller_state),
        made_jump=jump,
        reached=None if jump is None else _strong_dtypes(start.tprev),
        result=_strong_dtypes(start.result) if fails or event is not None else None,
        meter=_strong_dtypes(start.progress_meter_state),
        event=event,
    )
    return state, solver_state


def _step_of(start: EntryState) -> tuple[Time, Time]:
    """The ends of the first step."""
    return jnp.asarray(start.tprev), jnp.asarray(start.tnext)


def _may_jump_or_fail(stepper: AbstractStepper, start: EntryState, solve: Solve) -> tuple[bool, bool]:
    """Whether the controller may report a jump, and whether a step or the controller may report a failure."""
    controller, seen = solve.stepsize_controller, []

    def probe(t, tnext, y, controller_state):
        order: Any = solve.solver.error_order(solve.terms)
        *_, jump, _, result = controller.adapt_step_size(t, tnext, y, y, solve.args, y, order, controller_state)
        seen.append((not isinstance(jump, bool), result.is_traced()))

    jax.eval_shape(probe, start.tprev, start.tnext, start.y, _strong_dtypes(start.controller_state))
    jumps, fails = seen[0]
    jumps = jumps or not isinstance(start.made_jump, bool)
    return jumps, fails or stepper.can_fail(*_step_of(start), start.y, start.solver_state)


def _count_in_state(solve: Solve, start: EntryState) -> EntryState:
    """The state in which `diffrax.ConstantStepSize` begins, its steps counted by `nde.engine.fixed.whole_steps`.

    So a solve whose ends are traced takes the steps that it takes where they are numbers.
    """
    if not isinstance(solve.stepsize_controller, diffrax.ConstantStepSize):
        return start
    constant = ConstantState(*(jnp.asarray(x) for x in start.controller_state))
    counted = whole_steps(jnp, constant.t0, constant.t1, solve.dt0, float(jnp.finfo(constant.t0.dtype).eps))
    # None are counted to an infinite end.
    counted = jnp.where(constant.steps > 0, counted.astype(constant.steps.dtype), constant.steps)
    return replace_state(start, controller_state=tuple(constant._replace(steps=counted)))


def _strong_dtypes(tree: PyTree[Any]) -> PyTree[jax.Array]:
    """A tree of arrays of fixed dtype, as a loop carries them: a weak type would change within it."""
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.asarray(x).dtype), tree)


def _save_spec(sub: diffrax.SubSaveAt, rows: Any) -> SaveSpec:
    ys = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), rows.ys)
    return SaveSpec(sub.steps, len(rows.ts), int(sub.t0), ys)


def _saved_rows(old: Any, new: SaveBuffer) -> SavedRows:
    """The rows of a sub for diffrax. Those that hold nothing have its own infinity as their time, whose sign turns."""
    assert new.ts is not None
    return SavedRows(new.ts_index, jnp.where(jnp.isinf(new.ts), old.ts, new.ts), new.ys, new.filled)


def _final_result(problem: Problem, state: LoopState, result: RESULTS) -> RESULTS:
    """The solve's result, failures of the whole among it: too many steps, a last state or a time that is no number."""
    solve = problem.solve
    result = RESULTS.where(problem.running(state, solve.t1), RESULTS.max_steps_reached, result)
    if not problem.controls_error:
        result = RESULTS.where((result == RESULTS.successful) & any_nonfinite(state.y), NONFINITE, result)
    return RESULTS.where(_any_nan_time(problem), NONFINITE, result)


def _any_nan_time(problem: Problem) -> jax.Array:
    """Whether a time of the solve is NaN: no comparison with it is true, so that the loop would end without a word."""
    solve, controller = problem.solve, problem.solve.stepsize_controller
    grid = controller.ts if isinstance(controller, diffrax.StepTo) else None
    times = [solve.t0, solve.t1, solve.dt0, grid, *(sub.ts for sub in problem.subs)]
    return jnp.any(jnp.stack([jnp.any(jnp.isnan(x)) for x in times if x is not None]))


def _raise_in_gradient(result: RESULTS, *trees: Any) -> Any:
    """The same values; to pull a gradient back through them is an error where the solve failed.

    The error that diffrax's entry raises hangs on the values, and a gradient may not need these: under `jit` the check
    would be dropped with them, and a wrong gradient come back.
    """
    leaves, structure = jax.tree.flatten(trees)
    inexact = [is_inexact(x) for x in leaves]

    @jax.custom_jvp
    def guarded(values, result):
        del result
        return values

    @guarded.defjvp
    def _guarded_jvp(primals, tangents):
        values, result = primals
        one = result.error_if(jnp.ones(()), ~is_okay(result))
        return values, jax.tree.map(lambda t: t * one.astype(t.dtype), tangents[0])

    values = iter(guarded([x for x, yes in zip(leaves, inexact, strict=True) if yes], result))
    return structure.unflatten([next(values) if yes else x for x, yes in zip(leaves, inexact, strict=True)])
