"""`diffeqsolve`: the one function through which every model of nde is solved."""

from collections.abc import Sequence
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import ArrayLike, PyTree

from nde.adjoints import AbstractAdjoint, CheckpointAdjoint, has_moving_stops
from nde.engine.check import check_sde, Times
from nde.engine.collect import Batch, collect, Levels
from nde.engine.finish import finish, is_save_state
from nde.engine.fixed import count_in_state, count_steps, scan_grid
from nde.engine.given import Given, save_times
from nde.engine.heuristics import check_heuristics, Measure, STEPS, WatchedKernel
from nde.engine.kernel import AbstractKernel
from nde.engine.march import Inputs, March, Outcome, SavePlan
from nde.engine.problem import EventPlace, make_kernel, Place, Problem
from nde.terms import brownian_terms, is_sub


def diffeqsolve(
    terms: PyTree[diffrax.AbstractTerm],
    solver: diffrax.AbstractSolver,
    t0: Any,
    t1: Any,
    dt0: Any,
    y0: PyTree[ArrayLike],
    args: PyTree[Any] = None,
    *,
    adjoint: diffrax.AbstractAdjoint = CheckpointAdjoint(),  # noqa: B008  (immutable)
    heuristics: str | Sequence[str] | Measure = (),
    **options: Any,
) -> diffrax.Solution:
    r"""Solve $dy = f(t, y)\,dx(t)$ from `t0` to `t1`: `diffrax.diffeqsolve` 0.7.2, with a loop and a gradient of ours.

    A user of diffrax changes one import. Terms, solvers, step-size controllers, `SaveAt`, `Event`, progress meters,
    result codes and the solution are diffrax's own, and its entry checks and prepares every solve. Explicit Runge-Kutta
    methods are unrolled; a grid that is known beforehand (`StepTo`, or constant steps between ends that are numbers and
    not traced) is a `scan`, for which every transformation of JAX works; every other solve is a loop over the whole
    batch, differentiated by its adjoint.

    ```python
    >>> import jax.numpy as jnp, nde
    >>> controller = nde.PIDController(rtol=1e-6, atol=1e-6)
    >>> term, options = nde.ODETerm(lambda t, y, args: -y), {"stepsize_controller": controller}
    >>> solution = nde.diffeqsolve(term, nde.Tsit5(), 0.0, 1.0, None, jnp.ones(1), **options)
    >>> [round(float(y), 4) for y in solution.ys[-1]]
    [0.3679]

    ```

    **Arguments:** `terms`, `solver`, `t0`, `t1`, `dt0`, `y0`, `args` and the keywords of `diffrax.diffeqsolve`:
    `saveat`, `stepsize_controller`, `event`, `max_steps`, `throw`, `progress_meter`, `solver_state`,
    `controller_state`, `made_jump`. `adjoint`: one of `nde.adjoints`; one of diffrax's own hands the call to
    diffrax. `heuristics`: which of the solver's own estimates to return, of `"error"`, `"unscaled_error"` and
    `"stiffness"`; with `"steps"` each step's, too, and its time and length, in arrays of `max_steps`; or a
    `nde.Measure`.

    **Returns:** a `diffrax.Solution`. Its `stats` hold, of each example, `num_steps`, `num_accepted_steps`,
    `num_rejected_steps` and `num_field_evaluations`, which is `None` where the method does not fix their number;
    of an SDE these are the drift's. With `heuristics` they hold `heuristics`, a `nde.Heuristics`.

    **Raises:** what diffrax raises. For an SDE, `ValueError` too where solver, path, diffusion and times do not fit one
    another, as `nde.engine.check.check_sde` says: diffrax gives a Milstein method any noise, and a solver of
    additive noise a diffusion that depends on the state. `ValueError` for heuristics that the solver or the controller
    can not give; and for a gradient in the times `ts` of an interpolated path, in the terms or `args`, under error
    control, unless they are told to the controller as its `jump_ts` or `step_ts`, for the path bends there.

    With `throw=True` a failed solve is an error, and so is its gradient, under `jit` too. With `throw=False` the
    failure is in `result`, and an example whose outputs the loss masks adds nothing to the gradient, NaN or not. Nor
    has such a solve a host callback, so that it can be exported and lowered for any platform: wrong times are a
    `ValueError` where they are known when the solve is traced (numbers, and arrays made outside of `jit`), and are not
    looked for where they are not, but for NaN. What paths check is their own: `diffrax.VirtualBrownianTree` does so in
    every step, by a callback.

    **Differs from diffrax** on purpose: a NaN or infinity in the last state of a solve without error control is the
    failure `RESULTS.nonfinite`, which diffrax reports as a success; a gradient in a time (`t0`, `t1`, `step_ts` or
    `jump_ts` of a `diffrax.ClipStepSizeController`) holds the other accepted times fixed, where diffrax holds the step
    sizes (both tend to the same as the tolerance falls; see `nde.CheckpointAdjoint` for which times move with
    what); where time is not at issue the two gradients agree to rounding. A jump at `t1` itself is met just before it,
    where diffrax may step past it. `controller_state` has no gradient: it
    is zero, as in diffrax.

    **Times.** The number of constant steps between two numbers is a whole one within rounding: 0.1 goes ten times into
    1. NaN in `t0`, `t1`, `dt0` or save times is a `ValueError` where it is known, else the failure
    `RESULTS.nonfinite`, and save times from it on are not met. Which times have a gradient, those of jumps and of
    `StepTo` among them, says `nde.CheckpointAdjoint`. A jump is stepped over from one neighbour of its time to the
    other, as in diffrax: what the field does in between, two units in the last place, is lost at each. In float32
    that is $10^{-7}$ of the time: three jumps near t = 2020 cost an error of 4e-4, near 100 000 one of 0.02. Start the
    clock near zero, or use float64.

    **Second derivatives.** Where steps are chosen by their error, take forward over reverse mode: `jax.hessian`, or
    `jax.jvp` of `jax.grad`. Reverse mode twice is a `ValueError`, and forward mode alone a `TypeError`: these have
    `diffrax.DirectAdjoint()`, forward mode also `diffrax.ForwardMode()`. On a grid that is known beforehand, with
    `nde.CheckpointAdjoint`, every transformation works.

    **Limits:** see the adjoint's; the sum over a batch is one gradient only where `vmap` stands inside `grad`.

    **Source:** Kidger, *On Neural Differential Equations*, 2021 (diffrax); for the gradient see
    `nde.adjoints.CheckpointAdjoint`.
    """
    times = check_call(terms, solver, t0, t1, dt0, y0, args, options)
    controller, saveat = times.controller, options.get("saveat")
    measure = check_heuristics(heuristics)
    names = measure.names
    if names and not isinstance(adjoint, AbstractAdjoint):
        raise ValueError(
            f"nde.diffeqsolve has heuristics by its own adjoints alone, but got {type(adjoint).__name__}: take "
            "nde.CheckpointAdjoint."
        )
    if STEPS in names and options.get("max_steps", 4096) is None:
        raise ValueError("nde.diffeqsolve with heuristics='steps' needs a bound of their number: give max_steps.")
    if isinstance(adjoint, AbstractAdjoint):
        given = None
        if not options.get("throw", True):
            grid = controller.ts if isinstance(controller, diffrax.StepTo) else None
            given = Given(t0, t1, dt0, save_times(saveat), grid)
            given.check(times.dtype)
        adjoint = _Engine(adjoint, _are_apart(t0, t1), times.steps, given, measure)
    solution = diffrax.diffeqsolve(terms, solver, t0, t1, dt0, y0, args, adjoint=adjoint, **options)
    return _turned(solution) if STEPS in names else solution


def check_call(
    terms: Any, solver: Any, t0: Any, t1: Any, dt0: Any, y0: Any, args: Any, options: dict[str, Any]
) -> Times:
    """What nde checks of a call of `diffeqsolve` beside diffrax's own entry, and what is known of its times."""
    controller = options.get("stepsize_controller", diffrax.ConstantStepSize())
    _refuse_nan(t0=t0, t1=t1, dt0=dt0)
    for ts in save_times(options.get("saveat")):
        _refuse_nan(ts=ts)
    dtype = _time_dtype([t0, t1, *jax.tree.leaves(dt0), *save_times(options.get("saveat"))])
    times = Times(t0, t1, dt0, controller, count_steps(controller, t0, t1, dt0, dtype), dtype)
    check_sde(terms, solver, times, y0, args)
    return times


def _refuse_nan(**times: Any) -> None:
    """Refuse times that hold NaN, as far as they are known: no comparison with such a one is true."""
    for name, x in times.items():
        if x is not None and not isinstance(x, Tracer) and np.any(np.asarray(x) != np.asarray(x)):
            raise ValueError(f"nde.diffeqsolve needs times that are numbers, but {name} holds NaN.")


def _turned(solution: diffrax.Solution) -> diffrax.Solution:
    """The solution with the times of its steps as the user counts them."""
    sign = jnp.where(solution.t0 <= solution.t1, 1, -1)

    def turn(ts):
        return jnp.where(jnp.isinf(ts), ts, ts * sign)

    return eqx.tree_at(lambda s: s.stats["heuristics"].ts, solution, replace_fn=turn)


def _are_apart(t0: Any, t1: Any) -> bool:
    """Whether two times are known to differ."""
    return not isinstance(t0, Tracer) and not isinstance(t1, Tracer) and bool(np.asarray(t0) != np.asarray(t1))


def _time_dtype(times: Sequence[Any]) -> Any:
    """The dtype in which diffrax's entry will hold all times."""
    with jax.numpy_dtype_promotion("standard"):
        dtype = jnp.result_type(*times)
    return dtype if jnp.issubdtype(dtype, jnp.floating) else jnp.result_type(float)


class _Engine(diffrax.AbstractAdjoint):
    """The engine, in the place where diffrax asks for a loop: its own entry has checked and prepared everything.

    `apart`: whether `t0` and `t1` are known to differ; `steps`: how many steps there are, where that is known; `given`:
    the times to take instead of those that hang on a check, if any; `measure`: the heuristics wanted.
    """

    adjoint: AbstractAdjoint
    apart: bool
    steps: int | None
    given: Given | None
    measure: Measure

    def loop(self, *, init_state, throw, passed_solver_state, passed_controller_state, **options):
        """The final state and the statistics of a solve."""
        state, max_steps = init_state, options["max_steps"]
        if self.given is not None:
            options = self.given.restore(options)
            state = self.given.start(state, options, passed_solver_state, passed_controller_state)
        if not passed_controller_state:
            state = count_in_state(options["stepsize_controller"], state, options["dt0"])
        kernel = make_kernel(options["solver"], options["terms"], options["args"], state.tprev, state.tnext, state.y)
        names, controller = self.measure.names, options["stepsize_controller"]
        if set(names) - {STEPS}:
            is_sde = bool(brownian_terms(options["terms"]))
            kernel = WatchedKernel(kernel, self.measure, options["solver"], controller, is_sde)
        place, entered = _begin(kernel, state, options)
        subs = jax.tree.leaves(options["saveat"].subs, is_leaf=is_sub)
        plans = [
            _plan(*each) for each in zip(subs, jax.tree.leaves(state.save_state, is_leaf=is_save_state), strict=True)
        ]
        problem = Problem(kernel, options, subs)
        self.adjoint.prepare(problem, place)
        history = STEPS in names
        plain = place.result is None and place.made_jump is None and place.meter is None and not passed_controller_state
        if self.steps is not None and plain and self.adjoint.scans:
            rows = self.adjoint.rows(_bytes((place.y, place.solver_state)), max_steps, most=self.steps)
            outcome = scan_grid(kernel, place, options, self.steps, plans, rows, guard=not throw, history=history)
        else:
            rows = self.adjoint.rows(_bytes(place), max_steps)
            wanted = {"dense": options["saveat"].dense, "history": history}
            core = _Core(problem.trace(place), self.adjoint, plans, max_steps, wanted, rows)
            outcome = core(Inputs(problem.inputs, place, options["t1"], [sub.ts for sub in subs]))
        return finish(outcome, problem, state, entered, options, apart=self.apart, throw=throw, heuristics=names)


class _Core:
    """A march with its adjoint, over flat lists of arrays: what `nde.engine.collect.collect` runs."""

    def __init__(self, problem: Problem, adjoint: AbstractAdjoint, plans, max_steps, wanted, rows):
        self.problem, self.adjoint = problem, adjoint
        self.plans, self.max_steps, self.wanted, self.rows = plans, max_steps, wanted, rows

    def __call__(self, inputs: Inputs) -> Outcome:
        flat, self.structure = jax.tree.flatten(inputs)
        out = collect(self, flat)
        return jax.tree.unflatten(self.result, out)

    def _march(self, levels: Levels, rows: int | None) -> March:
        recorded = self.adjoint.recorded
        return March(self.problem, levels, self.max_steps, self.plans, **self.wanted, rows=rows, recorded=recorded)

    def run(self, levels: Levels, inputs: Sequence[jax.Array]) -> list[jax.Array]:
        march = self._march(levels, None)
        return self._flat(march.batch, march.run(self._spread(march.batch, inputs))[0])

    def run_differentiable(
        self, levels: Levels, inputs: Sequence[jax.Array], perturbed: tuple[int, ...]
    ) -> list[jax.Array]:
        march = self._march(levels, self.rows)
        wanted = self.structure.unflatten([i in perturbed for i in range(len(inputs))])
        _refuse_moving_knots(self.problem, wanted)
        return self._flat(march.batch, self.adjoint.march(march, self._spread(march.batch, inputs), wanted))

    def _spread(self, batch: Batch, inputs: Sequence[jax.Array]) -> Inputs:
        shared = len(self.problem.inputs)
        rest = [batch.spread(i, x) for i, x in enumerate(inputs) if i >= shared]
        return self.structure.unflatten([*inputs[:shared], *rest])

    def _flat(self, batch: Batch, outcome: Outcome) -> list[jax.Array]:
        flat, self.result = jax.tree.flatten(outcome)
        return [batch.unflatten(x) for x in flat]


def _refuse_moving_knots(problem: Problem, perturbed: Inputs) -> None:
    """Refuse a gradient in the times of a path's own values, where steps chosen by their error go across them.

    The path bends there, and a step across a bend has little error, but hardly the right derivative by its time.
    """
    moving = any(perturbed.shared[i] for i in problem.knots)
    if moving and problem.controls_error and not has_moving_stops(problem, perturbed):
        raise ValueError(
            "nde.diffeqsolve has no gradient in the times ts of an interpolated path unless its steps end there: take "
            "diffrax.ClipStepSizeController(…, jump_ts=ts), or hold ts constant (jax.lax.stop_gradient)."
        )


def _bytes(tree: Any) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _begin(kernel: AbstractKernel, state: Any, options: dict[str, Any]) -> tuple[Place, Any]:
    """The place at which a solve starts, and the solver's own state there."""
    solver_state = _strong(state.solver_state)
    jumps, fails = _may_jump_or_fail(kernel, state, options)
    jump = jnp.asarray(state.made_jump) if jumps else None
    event = None
    if options["event"] is not None:
        event = EventPlace(
            _strong(state.event_tprev),
            _strong(state.event_tnext),
            _strong(state.event_dense_info),
            _strong(state.event_values),
            _strong(state.event_mask),
        )
    place = Place(
        t=_strong(state.tprev),
        tnext=_strong(state.tnext),
        y=_strong(state.y),
        solver_state=_strong(kernel.enter(state.tprev, state.tnext, state.y, solver_state, jump)),
        controller_state=_strong(state.controller_state),
        made_jump=jump,
        reached=None if jump is None else _strong(state.tprev),
        result=_strong(state.result) if fails or event is not None else None,
        meter=_strong(state.progress_meter_state),
        event=event,
    )
    return place, solver_state


def _may_jump_or_fail(kernel: AbstractKernel, state: Any, options: dict[str, Any]) -> tuple[bool, bool]:
    """Whether the controller may report a jump, and whether a step or the controller may report a failure."""
    controller, solver = options["stepsize_controller"], options["solver"]
    seen = []

    def probe(t, tnext, y, controller_state):
        order = solver.error_order(options["terms"])
        *_, jump, _, result = controller.adapt_step_size(t, tnext, y, y, options["args"], y, order, controller_state)
        seen.append((not isinstance(jump, bool), result.is_traced()))

    jax.eval_shape(probe, state.tprev, state.tnext, state.y, _strong(state.controller_state))
    jumps, fails = seen[0]
    jumps = jumps or not isinstance(state.made_jump, bool)
    return jumps, fails or kernel.may_fail(state.tprev, state.tnext, state.y, state.solver_state)


def _strong(tree: Any) -> Any:
    """A tree of arrays of fixed dtype, as a loop carries them."""
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.asarray(x).dtype), tree)


def _plan(sub: diffrax.SubSaveAt, rows: Any) -> SavePlan:
    ys = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), rows.ys)
    return SavePlan(sub.steps, len(rows.ts), int(sub.t0), ys)
