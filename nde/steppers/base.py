"""One step of a solver, in the form that the loops want it."""

import abc
from typing import NamedTuple

import diffrax
import jax
import jax.numpy as jnp
from diffrax import RESULTS
from jaxtyping import PyTree

from nde.solvers import traits_of
from nde.types import Args, Dense, SolverState, State, Terms, Time


class Step(NamedTuple):
    """What a step gives.

    - `y`: the state at the step's end.
    - `solver_state`: the stepper's own.
    - `error`: the embedded estimate of the step's error, shaped like `y`, or `None`.
    - `dense`: what `solver.interpolation_cls` takes beside the step's ends.
    - `result`: a `diffrax.RESULTS`.
    """

    y: State
    solver_state: SolverState
    error: State | None
    dense: Dense
    result: RESULTS


class AbstractStepper(abc.ABC):
    """A solver, its terms and `args`, as steps from a time to a time. It acts on one example."""

    @abc.abstractmethod
    def init_state(
        self, t0: Time, t1: Time, y: State, solver_state: SolverState, made_jump: jax.Array | None
    ) -> SolverState:
        """The stepper's state at the start, from the solver's own."""

    @abc.abstractmethod
    def step(
        self,
        t0: Time,
        t1: Time,
        y: State,
        solver_state: SolverState,
        made_jump: jax.Array | None,
        opaque_true: jax.Array | None = None,
    ) -> Step:
        """One step.

        `made_jump`: `None`, or whether the field has jumped since the last one; `opaque_true`: `None`, or what keeps
        the stages from being fused, see `nde.steppers.fusion_barrier`.
        """

    @abc.abstractmethod
    def final_state(
        self, solver_state: SolverState, initial_solver_state: SolverState, moved: jax.Array
    ) -> SolverState:
        """The solver's own state at the end.

        `initial_solver_state`: what that was at the start; `moved`: whether a step was accepted.
        """

    @abc.abstractmethod
    def can_fail(self, t0: Time, t1: Time, y: State, solver_state: SolverState) -> bool:
        """Whether a step's result may be other than a success."""

    @property
    def is_fusible(self) -> bool:
        """Whether the field is known to have only such operations as XLA fuses: no matrix products, no loops."""
        return False

    def recomputed_state(self, t: Time, y: State, solver_state: SolverState) -> SolverState:
        """The stepper's state at the start of a step, as far as time and state alone determine it; else `None`, leaf by
        leaf.
        """
        del t, y
        return jax.tree.map(lambda _: None, solver_state)

    def count_evaluations(self, steps: jax.Array) -> jax.Array | None:
        """Evaluations of the field (of an SDE, the drift) in so many steps; `None` where the method does not fix it."""
        del steps

    # What only a stepper that measures heuristics has: see `nde.steppers.instrumented`.

    def heuristic_totals(self, solver_state: SolverState) -> jax.Array | None:
        """The sums of the heuristics over the steps so far, `None` where none are measured."""
        del solver_state

    def last_heuristics(self, solver_state: SolverState) -> jax.Array | None:
        """The heuristics of the last step, of one example or a batch; `None` where none are kept."""
        del solver_state

    def add_to_last_heuristics(self, cotangent: SolverState, more: jax.Array) -> SolverState:
        """The cotangent of a stepper's state, with more of the heuristics of its last step."""
        del more
        return cotangent


class SolverStepper(AbstractStepper):
    """Any solver by its own `step`."""

    def __init__(self, solver: diffrax.AbstractSolver, terms: Terms, args: Args):
        self.solver, self.terms, self.args = solver, terms, args

    def init_state(self, t0: Time, t1: Time, y: State, solver_state: SolverState, made_jump: jax.Array | None):
        del t0, t1, y, made_jump
        return solver_state

    def step(
        self,
        t0: Time,
        t1: Time,
        y: State,
        solver_state: SolverState,
        made_jump: jax.Array | None,
        opaque_true: jax.Array | None = None,
    ):
        del opaque_true
        jump = False if made_jump is None else made_jump
        y1, error, dense, state, result = self.solver.step(self.terms, t0, t1, y, self.args, solver_state, jump)
        return Step(y1, state, error, dense, result)

    def final_state(self, solver_state: SolverState, initial_solver_state: SolverState, moved: jax.Array):
        del initial_solver_state, moved
        return solver_state

    def can_fail(self, t0: Time, t1: Time, y: State, solver_state: SolverState):
        traced = []

        def probe():
            traced.append(self.step(t0, t1, y, solver_state, None).result.is_traced())

        jax.eval_shape(probe)
        return traced[0]

    def count_evaluations(self, steps: jax.Array):
        known = traits_of(self.solver)
        return None if known.evaluations is None else steps * known.evaluations + known.first_evaluations


def any_nonfinite(tree: PyTree[jax.Array]) -> jax.Array:
    """Whether a tree holds an infinity or a NaN."""
    return jnp.any(jnp.stack([jnp.any(~jnp.isfinite(x)) for x in jax.tree.leaves(tree)] or [jnp.asarray(False)]))
