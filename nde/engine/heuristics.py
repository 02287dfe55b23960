"""What a solver knows of its own steps: estimates of their errors and of stiffness, as outputs of a solve.

They are computed where the step is, and their sums ride in the solver's state: a replayed step gives them again, so
that every adjoint that replays steps differentiates them with no rule of their own.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix
from jaxtyping import Array, Float

from nde.engine.kernel import AbstractKernel, Step
from nde.solvers import AbstractWayBack, BackStep, Call, combine, Piece, Stages, traits_of

QUANTITIES = ("error", "unscaled_error", "stiffness")
STEPS = "steps"


class Quantity(eqx.Module):
    r"""One heuristic $q_j$ over the accepted steps $j$, of length $|h_j|$.

    - `total`: $\sum_j q_j$; `integral`: $\sum_j q_j |h_j|$; `squares`: $\sum_j q_j^2$.
    - `steps`: $q_j$, shape `(max_steps,)`, zero past the last step; `None` unless steps were asked for.
    """

    total: Float[Array, ""]
    integral: Float[Array, ""]
    squares: Float[Array, ""]
    steps: Float[Array, " max_steps"] | None


class Heuristics(eqx.Module):
    r"""A solve's `stats["heuristics"]`: what was asked for by `nde.diffeqsolve(..., heuristics=(...))`, else `None`.

    - `error` ($E$): the step-size controller's norm of the estimate of a step's error over its tolerances; a step is
      accepted at $E \le 1$.
    - `unscaled_error`: the same norm of the estimate itself, in units of the state.
    - `stiffness` ($S$): $\|f(t, y_a) - f(t, y_b)\| / \|y_a - y_b\|$ at the method's last two stages with equal
      abscissa, which tends to the size of the field's dominant eigenvalue where that rules; in 1 / time.
    - `ts`, `lengths`: where each accepted step ends, and $|h_j|$, of shape `(max_steps,)`; past the last step infinity
      and zero. Constants, as all accepted times.

    They are differentiated like the state, with the accepted times held fixed. Where an estimate is exactly zero, so is
    its derivative. With an event the step in which it lies counts whole.

    **Limits:** in single precision at tight tolerances `stiffness` is the ratio of two differences that rounding rules.

    **Source:** Pal, Ma, Shah, Rackauckas, *Opening the blackbox*, ICML 2021, arXiv 2105.03918, section 3; the
    stiffness estimate: Shampine, *Stiffness and nonstiff differential equation solvers II*, 1977; Hairer & Wanner,
    *Solving ordinary differential equations II*, section IV.2.
    """

    error: Quantity | None
    unscaled_error: Quantity | None
    stiffness: Quantity | None
    ts: Float[Array, " max_steps"] | None
    lengths: Float[Array, " max_steps"] | None

    def of(self, name: str) -> Quantity:
        """A quantity by its name."""
        return getattr(self, name)


class Measure(eqx.Module):
    """What `nde.diffeqsolve` is asked for by `heuristics`, where a sequence of names does not say all of it.

    `names`: of heuristics; `controller`: the step-size controller whose tolerances and norm are the measure of errors,
    the solve's own if `None`: so a solve on a fixed grid has errors too; `norm`: that of the unscaled error and of
    stiffness where no controller has one, the root mean square if `None`.
    """

    names: Sequence[str] = eqx.field(static=True)
    controller: diffrax.AbstractStepSizeController | None = None
    norm: Callable[[Any], Any] | None = None


def check_heuristics(asked: Any) -> Measure:
    """What is asked for, each name once.

    **Raises:** `ValueError` for one that is not known.
    """
    asked = asked if isinstance(asked, Measure) else Measure(asked)
    names = (asked.names,) if isinstance(asked.names, str) else tuple(asked.names or ())
    for name in names:
        if name not in (*QUANTITIES, STEPS):
            raise ValueError(
                f"nde.diffeqsolve has no heuristics {name!r}: give some of {', '.join((*QUANTITIES, STEPS))}."
            )
    return Measure(tuple(name for name in (*QUANTITIES, STEPS) if name in names), asked.controller, asked.norm)


class Watched(NamedTuple):
    """The state of a solver whose heuristics are wanted.

    `sums`: of each quantity its total, integral and squares, `(3, quantities)`; `last`: those of the last step, `None`
    unless steps are wanted. It stands last, so that it is the last leaf.
    """

    inner: Any
    sums: jax.Array
    last: jax.Array | None


class WatchedKernel(AbstractKernel):
    """A kernel whose steps leave their heuristics in the solver's state.

    **Arguments:** `kernel`; `measure`: what is wanted; `solver`, `controller`, `is_sde`: of the solve.

    **Raises:** `ValueError` where the solver has no such estimate, or the controller no tolerance.
    """

    def __init__(self, kernel: AbstractKernel, measure: Measure, solver: Any, controller: Any, is_sde: bool):
        self.kernel, names = kernel, measure.names
        self.steps = STEPS in names
        controller = measure.controller or controller
        scale = _tolerances(controller)
        norm = scale.norm if scale is not None else measure.norm or optimistix.rms_norm
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

    def enter(self, t0, t1, y, solver_state, made_jump):
        count = len(self.measures)
        last = jnp.zeros(count, _float_like(t0)) if self.steps else None
        inner = self.kernel.enter(t0, t1, y, solver_state, made_jump)
        return Watched(inner, jnp.zeros((3, count), _float_like(t0)), last)

    def step(self, t0, t1, y, solver_state, made_jump, truth=None):
        step = self.kernel.step(t0, t1, y, solver_state.inner, made_jump, truth)
        values = self._values(step, t0, t1, y)
        state = Watched(
            step.solver_state, solver_state.sums + _summands(values, t0, t1), values if self.steps else None
        )
        return step._replace(solver_state=state)

    def measure(self, t0, t1, y, solver_state) -> jax.Array:
        """The quantities of a step from `y` and the inner kernel's state, `(quantities,)`."""
        return self._values(self.kernel.step(t0, t1, y, solver_state, None), t0, t1, y)

    def _values(self, step: Step, t0, t1, y):
        if self.needs_error and step.error is None:
            raise ValueError(
                f"nde.diffeqsolve with heuristics of the error needs a solver that estimates it, but got {self.name}: "
                "take an embedded method, as nde.Tsit5, or of SDEs diffrax.SPaRK."
            )
        values = [measure(step, y, t1 - t0) for measure in self.measures]
        return jnp.stack([jnp.asarray(v, _float_like(t0)) for v in values])

    def leave(self, solver_state, entered, moved):
        return self.kernel.leave(solver_state.inner, entered, moved)

    def may_fail(self, t0, t1, y, solver_state):
        return self.kernel.may_fail(t0, t1, y, solver_state)

    def count_evaluations(self, steps):
        return self.kernel.count_evaluations(steps)

    def last(self, solver_state):
        return solver_state.last

    def sums(self, solver_state):
        return solver_state.sums

    def watch_back(self, way_back: AbstractWayBack) -> AbstractWayBack:
        return _WatchedWayBack(self, way_back)


class _WatchedWayBack(AbstractWayBack):
    """A reversible method's way back with its heuristics, which cost one step more, taken ahead from what was found."""

    def __init__(self, kernel: WatchedKernel, inner: AbstractWayBack):
        self.kernel, self.inner = kernel, inner
        self.needs_no_jump = inner.needs_no_jump

    def pieces(self, t0, t1, y, solver_state):
        state = solver_state.inner
        return {
            **self.inner.pieces(t0, t1, y, state),
            "measure": Piece(self.kernel.measure, (t0, t1, y, state)),
            "summands": Piece(lambda t0, t1, values: _summands(values, t0, t1), (t0, t1, solver_state.sums[0])),
        }

    def end(self, call: Call, t0, t1, y, solver_state):
        return self.inner.end(call, t0, t1, y, solver_state.inner)

    def back(self, call: Call, t0, t1, tail, inside: bool) -> BackStep:
        step = self.inner.back(call, t0, t1, tail, inside)
        y0, state0 = step.start
        values, pull_values = call("measure", t0, t1, y0, state0)
        _, pull_sums = call("summands", t0, t1, values)

        def pull(y1_ct, state_ct, dense_ct):
            inner_ct, sums_ct, last_ct = state_ct
            t0_ct, t1_ct, y0_ct, state0_ct = step.pull(y1_ct, inner_ct, dense_ct)
            t0_sum, t1_sum, values_ct = pull_sums(sums_ct)
            values_ct = values_ct if last_ct is None else values_ct + last_ct
            t0_more, t1_more, y0_more, state0_more = pull_values(values_ct)
            y0_ct, state0_ct = jax.tree.map(jnp.add, (y0_ct, state0_ct), (y0_more, state0_more))
            rest = None if last_ct is None else jnp.zeros_like(last_ct)
            state = Watched(state0_ct, sums_ct, rest)
            return t0_ct + t0_sum + t0_more, t1_ct + t1_sum + t1_more, y0_ct, state

        return step._replace(pull=pull)


def make_heuristics(names: Sequence[str], sums: Any, history: Any) -> Heuristics:
    """What the user sees of the sums and of the rows `(time, length, *quantities)` of a solve."""
    wanted = [name for name in QUANTITIES if name in names]
    found: dict[str, Any] = dict.fromkeys((*QUANTITIES, "ts", "lengths"))
    for k, name in enumerate(wanted):
        total, integral, squares = sums[:, k]
        found[name] = Quantity(total, integral, squares, None if history is None else history[:, 2 + k])
    if history is not None:
        found |= {"ts": history[:, 0], "lengths": history[:, 1]}
    return Heuristics(**found)


def _float_like(t: Any) -> Any:
    """The dtype of a time; of an integer, as a grid of the user's may be, that of a number."""
    dtype = jnp.asarray(t).dtype
    return dtype if jnp.issubdtype(dtype, jnp.floating) else jnp.result_type(float)


def safe_norm(norm: Callable, tree: Any) -> jax.Array:
    """A norm, zero with a derivative of zero where the tree is exactly zero."""
    nothing = jnp.all(jnp.stack([jnp.all(x == 0) for x in jax.tree.leaves(tree)] or [jnp.asarray(True)]))
    value = norm(jax.tree.map(lambda x: jnp.where(nothing, jnp.ones_like(x), x), tree))
    return jnp.where(nothing, jnp.zeros_like(value), value)


def _summands(values, t0, t1):
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


def _stiffness(norm: Callable, rows: tuple[int, int, np.ndarray], stages: Any, h) -> jax.Array:
    i, j, weights = rows
    ks = [jax.tree.map(lambda x, n=n: x[n], stages) for n in range(len(weights))]
    moved = combine(weights, ks)
    change = jax.tree.map(jnp.subtract, ks[j], ks[i])  # of the field, times h
    change, moved = safe_norm(norm, change), safe_norm(norm, moved)
    with jax.numpy_dtype_promotion("standard"):  # times may have another dtype than the state
        far = moved * jnp.abs(h)
        return jnp.where(far == 0, 0, change / jnp.where(far == 0, 1, far))
