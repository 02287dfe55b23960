"""A stepper that measures its own steps: estimates of their error and of stiffness.

They are computed where the step is, and their sums ride in the stepper's state: a replayed step gives them again, so
that every adjoint that replays steps differentiates them with no rule of its own.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optimistix

from nde.solvers import combine, Stages, traits_of
from nde.steppers.base import AbstractStepper, Step
from nde.steppers.heuristics import HeuristicSpec, QUANTITIES, STEPS
from nde.types import SolverState, State, Time


class InstrumentedState(NamedTuple):
    """The state of a stepper whose heuristics are wanted.

    `inner`: that of the stepper without them; `totals`: of each quantity its total, integral and squares, `(3,
    quantities)`; `last`: those of the last step, `(quantities,)`, `None` unless the steps are wanted.
    """

    inner: SolverState
    totals: jax.Array | None
    last: jax.Array | None


class InstrumentedStepper(AbstractStepper):
    """A stepper whose steps leave their heuristics in its state.

    **Arguments:** `stepper`; `spec`: what is wanted; `solver`, `controller`, `is_sde`: of the solve.

    **Raises:** `ValueError` where the solver has no such estimate, or the controller no tolerance.
    """

    def __init__(self, stepper: AbstractStepper, spec: HeuristicSpec, solver: Any, controller: Any, is_sde: bool):
        self.stepper, names = stepper, spec.names
        self.steps = STEPS in names
        controller = spec.controller or controller
        scale = _tolerances(controller)
        norm = scale.norm if scale is not None else spec.norm or optimistix.rms_norm
        measures: dict[str, Callable] = {"unscaled_error": lambda step, y, h: safe_norm(norm, step.error)}
        if scale is not None:
            measures["error"] = lambda step, y, h: safe_norm(norm, _over(scale, y, step.y, step.error))
        elif "error" in names:
            raise ValueError(
                f"nde.diffeqsolve with heuristics='error' needs a step-size controller with tolerances, but got "
                f"{type(controller).__name__}: take nde.PIDController, or ask for 'unscaled_error'."
            )
        if "stiffness" in names:
            rows, of_dense = _stiff_rows(solver, is_sde)
            measures["stiffness"] = lambda step, y, h: _stiffness(norm, rows, of_dense(step.dense), h)
        self.measures = [measures[name] for name in QUANTITIES if name in names]
        self.needs_error = any("error" in name for name in names)
        self.name = type(solver).__name__

    def init_state(self, t0: Time, t1: Time, y: State, solver_state: SolverState, made_jump: jax.Array | None):
        count = len(self.measures)
        last = jnp.zeros(count, _float_like(t0)) if self.steps else None
        inner = self.stepper.init_state(t0, t1, y, solver_state, made_jump)
        return InstrumentedState(inner, jnp.zeros((3, count), _float_like(t0)), last)

    def step(
        self,
        t0: Time,
        t1: Time,
        y: State,
        solver_state: SolverState,
        made_jump: jax.Array | None,
        opaque_true: jax.Array | None = None,
    ):
        # The sums ride in the state, so that a replay of the step is a replay of its heuristics.
        step = self.stepper.step(t0, t1, y, solver_state.inner, made_jump, opaque_true)
        values = self._values(step, t0, t1, y)
        state = InstrumentedState(
            step.solver_state, solver_state.totals + _contributions(values, t0, t1), values if self.steps else None
        )
        return step._replace(solver_state=state)

    def _values(self, step: Step, t0: Time, t1: Time, y: State):
        if self.needs_error and step.error is None:
            raise ValueError(
                f"nde.diffeqsolve with heuristics of the error needs a solver that estimates it, but got {self.name}: "
                "take an embedded method, as nde.Tsit5, or of SDEs diffrax.SPaRK."
            )
        values = [measure(step, y, t1 - t0) for measure in self.measures]
        return jnp.stack([jnp.asarray(v, _float_like(t0)) for v in values])

    @property
    def is_fusible(self) -> bool:
        return self.stepper.is_fusible

    def recomputed_state(self, t: Time, y: State, solver_state: SolverState) -> Any:
        return InstrumentedState(self.stepper.recomputed_state(t, y, solver_state.inner), None, None)

    def final_state(self, solver_state: SolverState, initial_solver_state: SolverState, moved: jax.Array):
        return self.stepper.final_state(solver_state.inner, initial_solver_state, moved)

    def can_fail(self, t0: Time, t1: Time, y: State, solver_state: SolverState):
        return self.stepper.can_fail(t0, t1, y, solver_state)

    def count_evaluations(self, steps: jax.Array):
        return self.stepper.count_evaluations(steps)

    def heuristic_totals(self, solver_state: SolverState):
        return solver_state.totals

    def last_heuristics(self, solver_state: SolverState):
        return solver_state.last

    def add_to_last_heuristics(self, cotangent: Any, more):
        return cotangent._replace(last=cotangent.last + more)


def _float_like(t: Any) -> Any:
    """The dtype of a time; of an integer, as a grid of the user's may be, that of a number."""
    dtype = jnp.asarray(t).dtype
    return dtype if jnp.issubdtype(dtype, jnp.floating) else jnp.result_type(float)


def safe_norm(norm: Callable, tree: Any) -> jax.Array:
    """A norm, zero with a derivative of zero where the tree is exactly zero."""
    nothing = jnp.all(jnp.stack([jnp.all(x == 0) for x in jax.tree.leaves(tree)] or [jnp.asarray(True)]))
    value = norm(jax.tree.map(lambda x: jnp.where(nothing, jnp.ones_like(x), x), tree))
    return jnp.where(nothing, jnp.zeros_like(value), value)


def _contributions(values, t0: Time, t1: Time):
    """What a step adds to the sums."""
    return jnp.stack([values, values * jnp.abs(t1 - t0)[..., None], values**2], axis=-2)


def _tolerances(controller: Any) -> Any:
    """The controller, of those that wrap one another, that has tolerances; or `None`."""
    while not hasattr(controller, "rtol") and hasattr(controller, "controller"):
        controller = controller.controller
    return controller if all(hasattr(controller, x) for x in ("rtol", "atol", "norm")) else None


def _over(scale: Any, y0: Any, y1: Any, error: Any) -> Any:
    """An error over its tolerances, entry by entry, as the controller has it."""

    def over(y0, y1, error):
        return error / (scale.atol + scale.rtol * jnp.maximum(jnp.abs(y0), jnp.abs(y1)))

    with jax.numpy_dtype_promotion("standard"):
        return jax.tree.map(over, y0, y1, error)


def _stiff_rows(solver: Any, is_sde: bool) -> tuple[tuple[int, int, np.ndarray], Callable]:
    """The last two stages of a method with equal abscissa and by which of the stages' values they differ; and what
    takes the stages from a step's dense output.
    """
    stages = traits_of(solver).stages
    found = None if is_sde or stages is None else _equal_abscissas(stages)
    if stages is None or found is None:
        why = "SDEs have none" if is_sde else f"{type(solver).__name__} has none"
        raise ValueError(
            "nde.diffeqsolve with heuristics='stiffness' needs an explicit Runge-Kutta method for ODEs that has two "
            f"stages with equal abscissa, but {why}: take nde.Tsit5, nde.Dopri5 or nde.Dopri8."
        )
    return found, stages.of_dense


def _equal_abscissas(found: Stages) -> tuple[int, int, np.ndarray] | None:
    """The last two stages of a tableau with equal abscissa that are not the same, and their rows' difference."""
    tableau, stages = found.tableau, found.tableau.num_stages
    times = [0.0 if tableau.c1 is None else float(tableau.c1), *map(float, tableau.c)]
    rows = np.zeros((stages, stages))
    for i, row in enumerate(tableau.a_lower):
        rows[i + 1, : len(row)] = row
    pairs = [(j, i) for j in range(stages) for i in range(j) if times[i] == times[j] and any(rows[i] != rows[j])]
    if not pairs:
        return None
    j, i = max(pairs)
    return i, j, rows[j] - rows[i]


def _stiffness(norm: Callable, rows: tuple[int, int, np.ndarray], stages: Any, h: Time) -> jax.Array:
    i, j, weights = rows
    ks = [jax.tree.map(lambda x, n=n: x[n], stages) for n in range(len(weights))]
    moved = combine(weights, ks)
    change = jax.tree.map(jnp.subtract, ks[j], ks[i])  # of the field, times h
    change, moved = safe_norm(norm, change), safe_norm(norm, moved)
    with jax.numpy_dtype_promotion("standard"):  # times may have another dtype than the state
        far = moved * jnp.abs(h)
        return jnp.where(far == 0, 0, change / jnp.where(far == 0, 1, far))
