"""A solve as functions of one example, with everything that they read drawn out as inputs."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from diffrax import is_okay, RESULTS

from nde.engine.apart import hide, is_cheap
from nde.engine.hoist import Hoisted, Hoister
from nde.engine.kernel import AbstractKernel, ExplicitKernel, SolverKernel
from nde.engine.srk import StochasticKernel
from nde.engine.stops import knot_times, sorted_stops, stop_times


class Place(NamedTuple):
    """Where a solve stands between two steps, of one example or of a flat batch.

    - `t`, `tnext`: the time reached, and that at which the step to try next ends.
    - `y`, `solver_state`, `controller_state`: at `t`; the solver's state in its kernel's form.
    - `made_jump`: whether the field jumps at `t`, `None` where the controller never says so; `reached`: then, where the
      last accepted step ended, a little before `t` if there was a jump between.
    - `result`: a `diffrax.RESULTS`, `None` where nothing can fail or end but by its time.
    - `meter`: the progress meter's state.
    - `event`: `None`, or the `nde.engine.problem.EventPlace`.
    """

    t: jax.Array
    tnext: jax.Array
    y: Any
    solver_state: Any
    controller_state: Any
    made_jump: jax.Array | None
    reached: jax.Array | None
    result: RESULTS | None
    meter: Any
    event: "EventPlace | None"


class EventPlace(NamedTuple):
    """What an event looks back on: the last step tried, its ends and dense output, and each condition then.

    `values` and `mask` have the structure of `event.cond_fn`: the conditions' values, and which of them ended it all.
    """

    tprev: jax.Array
    tnext: jax.Array
    dense: Any
    values: Any
    mask: Any


class Advance(NamedTuple):
    """One turn of the loop: the `place` after it, the `dense` output of the step, and whether it was `accepted`."""

    place: Place
    dense: Any
    accepted: jax.Array


class Problem:
    """The functions of one example that a loop is made of. Those of the adaptive loop are traced, once, by `trace`.

    - `step(t0, t1, y, solver_state, made_jump) -> (y1, solver_state, dense)`.
    - `advance(t1, clip_floor, place) -> Advance`: a step, the controller's word on it, and what follows.
    - `saves`: a function for each `SubSaveAt`, `(t0, t1, dense, t) -> saved values` inside a step.
    - `end_saves`: the same at a step's end, `(t, y) -> saved values`.
    - `stops`: `controller_state -> times` at which its controller makes steps end or begin, in order; `None` without.
    - `knots`: the numbers of those inputs that are the times of an interpolated path's own values.
    - `inputs`: all arrays that they read; `place`: the shapes of a place.
    - `way_back`: what an adjoint wants to be traced beside them, if anything: its `trace` is called with `hoist`.
    - `controls_error`: whether steps are chosen by their error; `grid_moves`: whether all times move with the ends.
    """

    def __init__(self, kernel: AbstractKernel, options: dict[str, Any], subs: Sequence[diffrax.SubSaveAt]):
        self.kernel, self.options, self.subs = kernel, options, subs
        controller = options["stepsize_controller"]
        self.controls_error = isinstance(controller, diffrax.AbstractAdaptiveStepSizeController)
        self.grid_moves = isinstance(controller, diffrax.ConstantStepSize)
        self.way_back: Any = None

    def trace(self, place: Place) -> "Problem":
        """Trace the functions, on places like this one."""
        t1, args = self.options["t1"], self.options["args"]
        hoister = Hoister()
        self._truth = jnp.ones(1, bool)  # an array, not a number, or it would be no input
        start = (place.t, place.tnext, place.y, place.solver_state, place.made_jump)
        self.step: Hoisted = hoister.hoist(self._step, *start)
        self._shared = self.step.pick(hoister.inputs)
        self.dense = jax.eval_shape(lambda: self.step(self._shared, *start))[2]
        self.advance: Hoisted = hoister.hoist(self._advance, t1, t1, place)
        self.saves = [self._hoist_save(hoister, sub, place) for sub in self.subs]
        self.end_saves = [hoister.hoist(lambda t, y, fn=sub.fn: fn(t, y, args), place.t, place.y) for sub in self.subs]
        self.stops = self._hoist_stops(hoister, place)
        if self.way_back is not None:
            self.way_back.trace(hoister.hoist)
        self.inputs, self.place = hoister.inputs, jax.eval_shape(lambda: place)
        self._truth_number = hoister.number(self._truth)
        self.knots = [n for n in map(hoister.number, knot_times((self.options["terms"], args))) if n is not None]
        return self

    def with_truth(self, inputs: Sequence[jax.Array], truth: jax.Array) -> list[jax.Array]:
        """The inputs, with a truth that the compiler does not know, where a step's stages shall be kept apart by it."""
        inputs = list(inputs)
        if self._truth_number is not None:
            inputs[self._truth_number] = hide(truth)[None]
        return inputs

    def _hoist_save(self, hoister: Hoister, sub, place: Place) -> Hoisted:
        def save(t0, t1, dense, t):
            return sub.fn(t, self.interpolate(t0, t1, dense, t), self.options["args"])

        dense = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), self.dense)
        return hoister.hoist(save, place.t, place.tnext, dense, place.t)

    def _hoist_stops(self, hoister: Hoister, place: Place) -> Hoisted | None:
        controller, dtype = self.options["stepsize_controller"], place.t.dtype
        shapes = jax.eval_shape(lambda state: stop_times(controller, state), place.controller_state)
        if not any(x.size for x in shapes):
            return None
        return hoister.hoist(lambda state: sorted_stops(controller, state, dtype), place.controller_state)

    def make_kernel(self, solver, terms, args, t0, t1, y0) -> AbstractKernel:
        """A kernel of another solver, over other terms."""
        return make_kernel(solver, terms, args, t0, t1, y0)

    def interpolate(self, t0, t1, dense, t) -> Any:
        """The state inside a step."""
        return self.options["solver"].interpolation_cls(t0=t0, t1=t1, **dense).evaluate(t)

    def _step(self, t0, t1, y, solver_state, made_jump):
        step = self.kernel.step(t0, t1, y, solver_state, made_jump, self._truth[0])
        result = step.result if step.result.is_traced() else None
        return step.y, step.solver_state, step.dense, step.error, result

    def _advance(self, t1, clip_floor, place: Place) -> Advance:
        options = self.options
        controller = options["stepsize_controller"]
        y1, solver_state, dense, error, solver_result = self.step(
            self._shared, place.t, place.tnext, place.y, place.solver_state, place.made_jump
        )
        error = jax.tree.map(lambda x: jnp.where(jnp.isnan(x), jnp.inf, x), error)
        keep, t, tnext, made_jump, controller_state, result = controller.adapt_step_size(
            place.t,
            place.tnext,
            place.y,
            y1,
            options["args"],
            error,
            options["solver"].error_order(options["terms"]),
            place.controller_state,
        )
        t = jnp.minimum(t, t1)
        is_stop = self._is_stop(tnext, controller_state) if place.made_jump is not None else None
        tnext = clip_to_end(t, tnext, t1, clip_floor, keep, place.tnext, is_stop)

        def kept(new, old):
            return jax.tree.map(lambda a, b: jnp.where(keep, a, b), new, old)

        new = Place(
            t=t,
            tnext=tnext,
            y=kept(y1, place.y),
            solver_state=kept(solver_state, place.solver_state),
            controller_state=controller_state,
            made_jump=None if place.made_jump is None else jnp.where(keep, made_jump, place.made_jump),
            reached=None if place.reached is None else jnp.where(keep, place.tnext, place.reached),
            result=_next_result(place.result, keep, solver_result, result),
            meter=options["progress_meter"].step(place.meter, _share(options["t0"], t, t1)),
            event=None,
        )
        if place.event is not None:
            new = self._look_for_events(place, new, dense)
        active = self.running(place, t1)
        new = jax.tree.map(lambda a, b: jnp.where(active, a, b), _like(new, place), place)
        return Advance(new, dense, active & keep)

    def _is_stop(self, tnext, controller_state) -> jax.Array:
        """Whether the controller was told to stop at a time, say just before the field jumps."""
        stops = stop_times(self.options["stepsize_controller"], controller_state)
        return jnp.any(jnp.stack([jnp.any(x == tnext) for x in stops] or [jnp.asarray(False)]))

    def running(self, place: Place, t1) -> jax.Array:
        """Whether the solve goes on, steps permitting."""
        before = place.t < t1
        return before if place.result is None else before & (place.result == RESULTS.successful)

    def _look_for_events(self, old: Place, new: Place, dense) -> Place:
        assert old.event is not None and new.result is not None
        event = self.options["event"]
        pairs = jax.tree.map(
            lambda condition, before, direction: _crossed(self.condition(condition, new.t, new.y), before, direction),
            event.cond_fn,
            old.event.values,
            event.direction,
            is_leaf=callable,
        )
        structure = jax.tree.structure(event.cond_fn, is_leaf=callable)
        values, mask = jax.tree.transpose(structure, jax.tree.structure((0, 0)), pairs)
        first, any_yet = [], jnp.asarray(False)
        for hit in jax.tree.leaves(mask):
            first.append(hit & ~any_yet)
            any_yet = hit | any_yet
        result = RESULTS.where(any_yet, RESULTS.event_occurred, new.result)
        place = EventPlace(old.t, old.tnext, dense, values, structure.unflatten(first))
        return new._replace(event=place, result=result)

    def condition(self, condition: Callable, t, y) -> jax.Array:
        """The value of an event's condition."""
        names = ("terms", "solver", "t0", "t1", "dt0", "saveat", "stepsize_controller", "max_steps")
        return condition(t, y, self.options["args"], **{name: self.options[name] for name in names})


def clip_to_end(t, tnext, t1, clip_floor, keep, tried, is_stop=None):
    """The next step's end, not past `t1`: a step that would stop within some 100 ulp of it goes to it.

    Not so a step that is itself that short, and leaves another of its kind: near the resolution of the times the steps
    that the error asks for would all be made one that it forbids. After a rejection the step is shorter than the one
    that was `tried`, whatever the rounding of times makes of it: else the same one would be tried again, for ever.
    `is_stop`: whether it must not be gone past, if the controller has any such: the field may jump at `t1` itself.
    """
    near = (tnext > clip_floor) & (t1 - t <= 1.5 * (tnext - t))
    near = near if is_stop is None else near & ~is_stop
    after = jnp.nextafter(jax.lax.stop_gradient(t), jnp.asarray(jnp.inf, t.dtype))  # which has no derivative in JAX
    half = jnp.maximum(jnp.minimum(tnext, t + 0.5 * (tried - t)), after)
    retried = jnp.where((tnext > clip_floor) | (tnext >= tried), half, tnext)
    return jnp.where(keep, jnp.where(near, t1, tnext), retried)


def clip_floor(t1: jax.Array) -> jax.Array:
    """`t1` less 100 units in its last place."""
    return t1 - 100 * jnp.finfo(t1.dtype).epsneg * jnp.abs(t1)


def _next_result(old, keep, solver_result, controller_result):
    """The first failure met, if any; `None` where there can be none."""
    if old is None:
        return None
    result = old
    if solver_result is not None:
        solver_result = RESULTS.where(keep, solver_result, RESULTS.successful)
        result = RESULTS.where(is_okay(result), solver_result, result)
    return RESULTS.where(is_okay(result), controller_result, result)


def _crossed(new, old, direction):
    """An event condition's new value, and whether it fired: true, or of another sign than before (in its direction)."""
    new = jnp.asarray(new)
    if jnp.issubdtype(new.dtype, jnp.bool_):
        return new, new
    if direction is None:
        return new, jnp.sign(old) != jnp.sign(new)
    up, down = (jnp.sign(old) <= 0) & (jnp.sign(new) > 0), (jnp.sign(old) > 0) & (jnp.sign(new) <= 0)
    return new, up if direction else down


def _share(t0, t, t1):
    """How much of the way from `t0` to `t1` is done."""
    return jnp.where(t1 == t0, 0, t - t0) / jnp.where(t1 == t0, 1, t1 - t0)


def _like(new, old):
    """`new` with the dtypes of `old`, so that a loop may carry it."""
    return jax.tree.map(lambda a, b: jnp.asarray(a, b.dtype), new, old)


def make_kernel(solver, terms, args, t0, t1, y0) -> AbstractKernel:
    """The kernel of a solver: unrolled where it is an explicit Runge–Kutta method, stochastic or not."""
    if isinstance(solver, diffrax.AbstractWrappedSolver):  # which passes for an instance of what it wraps
        return SolverKernel(solver, terms, args)
    if isinstance(solver, diffrax.AbstractERK) and isinstance(terms, diffrax.AbstractTerm):
        tableau: Any = solver.tableau
        fsal = tableau.fsal and not terms.is_vf_expensive(t0, t1, y0, args)
        cheap = is_cheap(lambda t, y: eqx.filter(terms.vf(t, y, args), eqx.is_array), t0, y0)  # it may be an operator
        return ExplicitKernel(tableau, terms, args, fsal, cheap)
    if isinstance(solver, diffrax.AbstractSRK):
        return StochasticKernel(solver, terms, args)
    return SolverKernel(solver, terms, args)
