"""The adjoint of reversible methods: no states are kept, each is found again from the next."""

from collections.abc import Sequence
from typing import Any

import diffrax
import jax
import jax.numpy as jnp

from nde.adjoints.base import AbstractAdjoint, RecordSize
from nde.diffrax_internals import grid_state_at
from nde.loop import (
    add_by_id,
    ClosedFunction,
    Convert,
    Loop,
    LoopInputs,
    LoopOutcome,
    LoopState,
    Problem,
    PullStep,
    ReverseStep,
    ReverseSweep,
    StepCotangents,
)
from nde.solvers import AbstractInverseStep, inverse_step_of, InverseStepResult
from nde.types import Dense, ScalarLike, SolverState, State, Time


class ReversibleAdjoint(AbstractAdjoint):
    r"""The exact gradient of the discrete solve by a reversible method, in memory that no number of steps adds to.

    The backward pass finds $(y_n, z_n)$ from $(y_{n+1}, z_{n+1})$, by the method's own inverse, and pulls the cotangent
    through the evaluations of the field that this takes: each is made once, so that a gradient costs what it does by
    `nde.CheckpointAdjoint` with the same solver. Nothing is kept of a fixed grid (`diffrax.ConstantStepSize`,
    `diffrax.StepTo`), whose times are known, and one time a step of an adaptive one, `max_steps` of them. What is a
    constant and what carries a gradient is as for `nde.CheckpointAdjoint`; so is the sum over a batch.

    **Solvers:** `nde.Reversible` round any explicit method, `diffrax.ReversibleHeun`, and any solver whose
    `nde.solvers.SolverTraits` have an inverse. ODEs, CDEs and SDEs alike: a
    Brownian path is asked again for the same increments.

    **Raises:** `ValueError` for another solver, for an event, for dense output (their results keep what this adjoint
    does not), for `diffrax.ReversibleHeun` with a controller that reports jumps, and, in the gradient of an adaptive
    solve, for `max_steps=None` and for heuristics other than the steps' times, looked at or not (what they measure
    would have to be found again too, at one step more): `nde.CheckpointAdjoint` has all of these.

    **Limits:** reverse mode, once, and forward mode over it (`jax.hessian`). States are found again up to rounding
    errors, which the equation and the method may make grow on the backward pass: with a strongly contracting equation
    over a long time they do so exponentially, and the gradient is wrong without a word; use `nde.CheckpointAdjoint`
    there. See the limits of `nde.Reversible` for how much.

    **Source:** McCallum & Foster, 2024, arXiv 2410.11648, algorithm 1; Kidger, Foster, Li, Lyons, 2021, arXiv
    2105.13493, algorithm 2.
    """

    def prepare(self, problem: Problem, state: LoopState):
        solve = problem.solve
        name = type(solve.solver).__name__
        inverse = inverse_step_of(solve.solver, solve.terms, solve.args)
        if inverse is None:
            raise ValueError(
                f"ReversibleAdjoint needs a reversible solver, but got {name}: wrap it as nde.Reversible({name}()) if "
                "it is an explicit Runge-Kutta method, take diffrax.ReversibleHeun, or use nde.CheckpointAdjoint."
            )
        if solve.event is not None:
            raise ValueError(
                "ReversibleAdjoint can not differentiate a solve with an event: use nde.CheckpointAdjoint."
            )
        if solve.saveat.dense:
            raise ValueError(
                "ReversibleAdjoint can not differentiate dense output, which keeps every step: save at ts or steps, or "
                "use nde.CheckpointAdjoint."
            )
        if inverse.needs_no_jump and state.made_jump is not None:
            raise ValueError(
                f"ReversibleAdjoint can not take {name} back over a jump of the field, of which the step-size "
                "controller may report some: use nde.Reversible(diffrax.Heun()), or nde.CheckpointAdjoint."
            )
        if problem.stepper.heuristic_totals(state.solver_state) is not None:
            return None  # no gradient is to be had, see `run_loop`
        return lambda convert: _InverseFunctions(convert, inverse, problem, state)

    def recorded(self, state: LoopState) -> Any:
        return state.t if state.reached is None else (state.t, state.reached)

    def num_checkpoints(self, size: RecordSize) -> int | None:
        return size.max_steps

    def run_loop(self, loop: Loop, inputs: LoopInputs, perturbed: LoopInputs) -> LoopOutcome:
        if loop.problem.stepper.heuristic_totals(inputs.state.solver_state) is not None:
            raise ValueError(
                "ReversibleAdjoint can not differentiate a solve with heuristics, which are of steps that it does not "
                "take again: use nde.CheckpointAdjoint, with the same solver."
            )
        if loop.problem.adjoint_functions.grid is not None:
            loop = loop.without_checkpoints()
        elif loop.store is None:
            raise ValueError(
                "nde.diffeqsolve with max_steps=None can not be differentiated backward: the record of its times needs "
                "a bound. Give max_steps, however large."
            )
        return loop.with_vjp(inputs, lambda *given: _ReversibleSweep(loop, perturbed, *given).run())


class _InverseFunctions:
    """A method's inverse step, traced together with the problem.

    - `method`: the `nde.solvers.AbstractInverseStep`; `sub_functions`: the functions that it evaluates, by name.
    - `grid`: `(number, start) -> t`, the time of a state on a grid that the controller knows, else `None`.
    """

    def __init__(self, convert: Convert, method: AbstractInverseStep, problem: Problem, state: LoopState):
        self.method = method
        self._controller, self._grid_moves = problem.solve.stepsize_controller, problem.grid_moves
        parts = method.sub_functions(state.t, state.tnext, state.y, state.solver_state)
        self.sub_functions = {name: convert(part.function, *part.examples) for name, part in parts.items()}
        self.grid: ClosedFunction | None = None
        if self._grid_moves or isinstance(self._controller, diffrax.StepTo):
            self.grid = convert(self._time, jnp.int32(0), state)

    def _time(self, number: jax.Array, start: LoopState) -> Time:
        """The time of the state with a number: by the controller's own word on the step before, as in the loop."""
        state = grid_state_at(self._controller, start.controller_state, number)
        order: Any = None  # which no controller of a known grid asks for
        _, _, t, *_ = self._controller.adapt_step_size(start.t, start.t, start.y, start.y, None, None, order, state)
        if self._grid_moves:
            t = jnp.where(number == 1, start.tnext, t)
        return jnp.where(number == 0, start.t, t)


class _ReversibleSweep(ReverseSweep):
    """A backward pass whose steps begin where the method's inverse says."""

    def __init__(self, loop: Loop, *given: Any):
        super().__init__(loop, *given)
        self.functions: _InverseFunctions = loop.problem.adjoint_functions

    def run(self):
        sweep, last, start = self.begin(), self.outcome.state, self.safe_start
        method, evaluate = self.functions.method, _Evaluations(self)
        end = method.init_reverse(evaluate, start.t, start.tnext, last.y, last.solver_state)
        safe = method.init_reverse(evaluate, start.t, start.tnext, start.y, start.solver_state)

        def back(carry: Any):
            i, sweep, reverse_state = carry
            i = i - 1
            active = (i < self.steps) & self.has_cotangent
            begin, before = self._times(i)
            t0, t1 = self.batch.where(active, (begin, sweep.end), (start.t, start.tnext))
            evaluate = _Evaluations(self)
            # Examples that are done, or that nobody asks for, take a short step from the start: see
            # `ReverseSweep.safe_start`.
            at_end = self.batch.where(active, reverse_state, safe)
            found = method.step_back(evaluate, t0, t1, at_end, self.needs_dense)
            step = ReverseStep(i, active, t0, t1, found.y1, found.dense, before)
            sweep = self.pull(sweep, step, _pull_of(found, evaluate))
            return i, sweep, self.batch.where(active, found.reverse_state, reverse_state)

        longest = self.batch.max(self.steps)
        return self.finish(jax.lax.while_loop(lambda c: c[0] > 0, back, (longest, sweep, end))[1])

    def _times(self, number: jax.Array) -> tuple[Time, Time]:
        """The times of the states with a number, and where the steps to them ended."""
        grid = self.functions.grid
        if grid is None:
            assert self.checkpoints is not None and self.loop.store is not None
            recorded = self.loop.store.get(self.checkpoints.rows, number)
            return recorded if isinstance(recorded, tuple) else (recorded, recorded)
        numbers = jnp.broadcast_to(number, self.batch.shape)
        time = self.loop.vmapped(grid)(grid.consts_of(self.inputs.consts), numbers, self.inputs.state)
        return time, time


def _pull_of(found: InverseStepResult, evaluations: "_Evaluations") -> PullStep:
    """A step's pull in the form of a sweep."""

    def pull_step(y_ct: State, solver_state_ct: SolverState, dense_ct: Dense | None):
        t0, t1, y, solver_state = found.pull(y_ct, solver_state_ct, dense_ct)
        return StepCotangents(evaluations.consts, t0, t1, y, solver_state)

    return pull_step


class _Evaluations:
    """Evaluates the functions of a reversible method over the batch; see `nde.solvers.EvaluateWithVJP`.

    `consts`: the cotangents, by id, of what they close over, as far as they were pulled.
    """

    def __init__(self, sweep: _ReversibleSweep):
        self.sweep = sweep
        self.consts: dict[int, jax.Array] = {}

    def __call__(self, name: str, t0: ScalarLike, t1: ScalarLike, *arguments: Any):
        sweep = self.sweep
        closed = sweep.functions.sub_functions[name]
        vmapped, (ids, values) = sweep.loop.vmapped(closed), sweep.consts.active_in(closed)

        def evaluate(values: Sequence[jax.Array], times, arguments):
            return vmapped(sweep.consts.replaced(closed, ids, values), *times, *arguments)

        times = (t0, t1)
        if sweep.times_active:
            value, back = jax.vjp(evaluate, values, times, arguments)
        else:
            value, back = jax.vjp(lambda values, arguments: evaluate(values, times, arguments), values, arguments)

        def pull(cotangent: Any):
            consts, *times_ct, arguments_ct = back(cotangent)
            self.consts = add_by_id(self.consts, ids, consts)
            return (*(times_ct[0] if times_ct else (0.0, 0.0)), *arguments_ct)

        return value, pull
