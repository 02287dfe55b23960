"""How an ODE model is trained and validated."""

from collections.abc import Callable, Sequence
from typing import Protocol

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from nde.config import build_loss, DynamicsConfig, Member, ObserveConfig
from nde.engine import diffeqsolve
from nde.models import ObservedODE, rates_with_inputs
from nde.paths import Inputs
from nde.tasks.base import Examples, member_key
from nde.tasks.dynamics.problem import DynamicsProblem, knots, solved_values
from nde.train import blame, LossFunction, surviving


def examples(config: DynamicsConfig, problem: DynamicsProblem, member: Member) -> Examples:
    """Times up to the end of what is fitted, values, weights, series number, first rows and knots, a row a series.

    With inputs, these too; and a row without values at the time at which the clock of the series starts.
    """
    weights = problem.fit.astype(float)
    if config.objective.bootstrap:
        key = member_key(config, member.seed, "data")
        weights = weights * np.asarray(jax.random.exponential(key, weights.shape[:2]))[..., None]
    return fitted(config, problem, weights)


def fitted(config: DynamicsConfig, problem: DynamicsProblem, weights: np.ndarray) -> Examples:
    """The examples with given weights of the values, `(series, rows, channels)`."""
    inputs = batched_inputs(config, problem)
    more = () if inputs is None else (jax.tree.map(np.asarray, inputs),)
    times = np.minimum(problem.panel.times, np.where(problem.fit.any(-1), problem.panel.times, 0).max(1)[:, None])
    arrays = (
        times if inputs is None else np.insert(times, 0, problem.clock, axis=1),
        problem.values if inputs is None else np.insert(problem.values, 0, 0.0, axis=1),
        weights if inputs is None else np.insert(weights, 0, 0.0, axis=1),
        np.arange(len(problem.panel)),
        first_states(config, problem),
        knots(config, problem),
        *more,
    )
    chosen = jax.tree.map(lambda x: x[problem.series], arrays)
    return Examples(chosen, [problem.panel.ids[i] for i in problem.series])


class Observing(Protocol):
    """A config, or whatever else keeps the `[observe]` of a run."""

    @property
    def observe(self) -> ObserveConfig:
        """The section, resolved."""
        ...


def first_states(config: Observing, problem: DynamicsProblem) -> np.ndarray:
    """The state that each series starts from if it is known or in its first row, standardised, `(series, state)`;
    zeros if learned."""
    observe = config.observe
    states = observe.states or ()
    if observe.start == "learned":
        return np.zeros((len(problem.panel), len(states)))
    if observe.start == "known":
        known = np.array([(observe.known_start or {})[state] for state in states])
        known = np.log(known) if observe.positive else known
        standard = (known - np.array(observe.location)) / np.array(observe.scale)
        return np.tile(standard, (len(problem.panel), 1))
    assert isinstance(observe.observed, dict)  # `resolve` refuses a first row of which a function is observed
    channels = list(observe.observed.values())
    first = solved_values(problem, observe)[:, 0][:, [channels.index(state) for state in states]]
    return (first - np.array(observe.location)) / np.array(observe.scale)


def batched_inputs(config: Observing, problem: DynamicsProblem) -> Inputs | None:
    """What is given to all series, doses in the coordinates that are solved, with a leading axis of series."""
    observe = config.observe
    if problem.inputs is None:
        return None
    return problem.inputs.batched(np.array(observe.location), np.array(observe.scale))


def training_loss(config: DynamicsConfig, problem: DynamicsProblem) -> LossFunction:
    """The negative log likelihood of a batch per value, with the penalties of `[objective]` and `[regularise]`.

    The prior of the parameters counts as a whole once over all the values that are fitted.
    """
    values = int(problem.fit[problem.series].sum())
    return build_loss(config.regularise, config.train, config.objective.build(config.train.steps, values))


def trajectories(
    model: ObservedODE,
    times: Array,
    first: Array,
    names: Sequence[str] | None = None,
    inputs: Inputs | None = None,
    *,
    leave_out: bool = False,
) -> tuple[Array, Array]:
    """Standardised states `(series, rows, state)` and locations of the values, one trajectory a series.

    It starts at the first of a series' times; with `inputs`, of all series, at time zero. With `leave_out` both are NaN
    of a series whose solve fails, unless all do.

    **Raises:** `nde.train.FailedExamples`, by the series' `names` where they are given, if a solve fails.
    """
    starts = first if model.starts is None else model.starts[:, 0]
    every = np.arange(len(times))
    names = [str(i) for i in every] if names is None else names

    def solve(rows: np.ndarray) -> tuple[Array, Array]:
        given = jax.tree.map(lambda x: x[rows], inputs)
        return _solve_series(model, times[rows], starts[rows], given)

    if not leave_out:
        return blame(solve, every, names)
    solved, failed = surviving(solve, every, names)
    if not failed:
        return solved
    return jax.tree.map(lambda x: x.at[np.array(failed)].set(jnp.nan), solved)


def solve_series(model: ObservedODE, times: Array, starts: Array, inputs: Inputs | None) -> tuple[Array, Array]:
    """What `trajectories` gives, within compiled code: `starts` are `(series, state)`."""
    if inputs is None:
        ys = jax.vmap(model.ode)(times, starts)
        return ys, model.locations(ys, times)
    from_zero = jnp.concatenate([jnp.zeros_like(times[:, :1]), times], axis=1)
    ys = jax.vmap(model.ode)(from_zero, starts, inputs)[:, 1:]
    return ys, jax.vmap(model.locations)(ys, times, inputs)


_solve_series = eqx.filter_jit(solve_series)


def failure_time(model: ObservedODE, times, values, weights, number, first, knots, inputs=None) -> float | None:
    """How far the solution of a training example gets, of its first segment that fails; `None` if none does."""
    del values, weights
    starts = first[None] if model.starts is None else model.starts[number]
    ends = [*knots[1:], times.max()]
    dtype, ode = jnp.result_type(float), model.ode
    rates = ode.field if inputs is None else rates_with_inputs(ode.field)
    for start, *ends_of in zip(starts, knots, ends, strict=False):
        t0, t1 = (jnp.asarray(t, dtype) for t in ends_of)
        solution = diffeqsolve(
            diffrax.ODETerm(rates), ode.solver, t0, t1, ode.dt0, start, inputs,
            stepsize_controller=ode.controller, max_steps=ode.max_steps, saveat=diffrax.SaveAt(steps=True), throw=False,
        )  # fmt: skip
        if solution.result != diffrax.RESULTS.successful:
            reached = np.asarray(solution.ts)
            return float(reached[np.isfinite(reached)].max(initial=float(t0)))
    return None


def validation_score(config: DynamicsConfig, problem: DynamicsProblem) -> Callable[[ObservedODE], float]:
    """The negative log likelihood per value of what chooses the model, each series as one trajectory.

    A series that is left out since its solve fails counts as if it had been told by the normal law of all that is
    fitted, so that no model is chosen for the series that it can not solve.
    """
    leave_out = config.train.failed == "leave_out"
    rows = problem.choose.any((0, 2))
    last = np.flatnonzero(rows)[-1] + 1
    mask = problem.choose[:, :last]
    latest = np.where(mask.any(-1), problem.panel.times[:, :last], 0).max(1)
    times = jnp.asarray(np.minimum(problem.panel.times[:, :last], latest[:, None]), jnp.result_type(float))
    values = jnp.asarray(problem.values[:, :last], jnp.result_type(float))
    first = jnp.asarray(first_states(config, problem), jnp.result_type(float))
    inputs = batched_inputs(config, problem)
    seen = np.where(problem.fit, problem.values, np.nan)
    mean, spread = np.nanmean(seen, (0, 1)), np.maximum(np.nanstd(seen, (0, 1)), np.finfo(np.float32).tiny)
    plain = -0.5 * ((np.asarray(values) - mean) / spread) ** 2 - np.log(spread * np.sqrt(2 * np.pi))

    def score(model: ObservedODE) -> float:
        locations = trajectories(model, times, first, problem.panel.ids, inputs, leave_out=leave_out)[1]
        density = np.asarray(model.likelihood.log_prob(values, locations))
        if leave_out:
            density = np.where(np.isfinite(np.asarray(locations)).all((1, 2), keepdims=True), density, plain)
        return float(-density[mask].mean())

    return score
