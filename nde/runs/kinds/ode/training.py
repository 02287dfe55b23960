"""How an ODE model is trained and validated."""

from collections.abc import Callable, Sequence

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nde.config import build_regulariser, build_share, ODEConfig
from nde.engine import diffeqsolve
from nde.models import ObservedODE
from nde.objectives import growing_horizon, multiple_shooting, solve_within
from nde.runs.interface import Examples, member_key
from nde.runs.kinds.ode.problem import knots, ODEProblem, solved_values
from nde.runs.kinds.penalty import with_penalty
from nde.train import BatchLoss, blame, LossFunction


def examples(config: ODEConfig, problem: ODEProblem, member: int) -> Examples:
    """Series number, times up to the end of what is fitted, values, weights, knots and first rows, a row a series."""
    weights = problem.fit.astype(float)
    if config.fit.bootstrap:
        key = member_key(config, member % config.train.members, "data")
        weights = weights * np.asarray(jax.random.exponential(key, weights.shape[:2]))[..., None]
    arrays = (
        np.arange(len(problem.panel)),
        np.minimum(problem.panel.times, np.where(problem.fit.any(-1), problem.panel.times, 0).max(1)[:, None]),
        problem.values,
        weights,
        knots(config, problem),
        first_states(config, problem),
    )
    chosen = jax.tree.map(lambda x: x[problem.series], arrays)
    return Examples(chosen, [problem.panel.ids[i] for i in problem.series])


def first_states(config: ODEConfig, problem: ODEProblem) -> np.ndarray:
    """The state that each series' first row observes, standardised, `(series, state)`; zeros if learned."""
    states = config.model.states or ()
    if config.model.start == "learned":
        return np.zeros((len(problem.panel), len(states)))
    channels = list((config.model.observed or {}).values())
    first = solved_values(problem, config.model)[:, 0][:, [channels.index(state) for state in states]]
    return (first - np.array(config.model.location)) / np.array(config.model.scale)


def batch_loss(config: ODEConfig) -> LossFunction:
    """The negative log likelihood of a batch per value, with the penalties of `[fit]`."""
    fit = config.fit
    grow_steps = max(1, round(fit.grow * config.train.steps))
    regulariser, share = build_regulariser(config.regularise), build_share(config.regularise, config.train)

    def penalty_weight(step: Array) -> Array:
        share = step / max(config.train.steps - 1, 1)
        return fit.continuity * (fit.continuity_end / fit.continuity) ** share

    def loss(model: ObservedODE, batch, step: Array, key: Array) -> BatchLoss:
        def series(key, number, times, values, weights, knots, first):
            starts = first[None] if model.starts is None else model.starts[number]
            gap = penalty = jnp.zeros((), times.dtype)
            if regulariser is not None:  # of single shooting
                ys, penalty = model.ode.penalised(regulariser, times, starts[0], key=key)
            elif fit.shooting == "multiple":
                shots = multiple_shooting(model.ode, times, knots, starts)
                ys, gap = shots.ys, jnp.sum(shots.gaps**2)
            else:
                horizon = times[-1]
                if fit.shooting == "growing":
                    horizon = growing_horizon(times, step, first=fit.first, steps=grow_steps)
                ys, seen = solve_within(model.ode, times, starts[0], horizon)
                weights = weights * seen[:, None]
            density = model.likelihood.log_prob(values, model.locations(ys))
            missing = jnp.where(weights > 0, weights * density, 0.0)
            return -jnp.sum(missing), jnp.sum(weights), gap, residual_size(model, times, ys), penalty

        keys = jax.random.split(key, len(batch[0]))
        nll, count, gap, residual, penalty = jax.vmap(series)(keys, *batch)
        total = jnp.sum(count)
        parts = {"nll": jnp.sum(nll) / total}
        extra = fit.residual_weight * jnp.mean(residual)
        if fit.shooting == "multiple":
            parts["gaps"] = jnp.mean(gap)
            extra = extra + penalty_weight(step) * jnp.sum(gap) / total
        result = BatchLoss(parts["nll"] + extra, parts, nll)
        return result if regulariser is None else with_penalty(result, penalty, share(step))

    return loss


def residual_size(model: ObservedODE, times: Array, ys: Array) -> Float[Array, ""]:
    """Mean square of what a hybrid's network adds along a standardised solution; 0 without one."""
    correction = getattr(model.ode.field, "correction", None)
    if correction is None:
        return jnp.zeros((), times.dtype)
    return jnp.mean(jax.vmap(correction)(times, ys) ** 2)


def trajectories(
    model: ObservedODE, times: Array, first: Array, names: Sequence[str] | None = None
) -> tuple[Array, Array]:
    """Standardised states `(series, rows, state)` and locations of the values, one trajectory a series.

    **Raises:** `nde.train.FailedExamples`, by the series' `names` where they are given, if a solve fails.
    """
    starts = first if model.starts is None else model.starts[:, 0]
    every = np.arange(len(times))
    names = [str(i) for i in every] if names is None else names
    return blame(lambda rows: _solve_series(model, times[rows], starts[rows]), every, names)


@eqx.filter_jit
def _solve_series(model: ObservedODE, times: Array, starts: Array) -> tuple[Array, Array]:
    ys = jax.vmap(model.ode)(times, starts)
    return ys, model.locations(ys)


def failure_time(model: ObservedODE, number, times, values, weights, knots, first) -> float | None:
    """How far the solution of a training example gets, of its first segment that fails; `None` if none does."""
    del values, weights
    starts = first[None] if model.starts is None else model.starts[number]
    ends = [*knots[1:], times.max()]
    dtype, ode = jnp.result_type(float), model.ode
    for start, *ends_of in zip(starts, knots, ends, strict=False):
        t0, t1 = (jnp.asarray(t, dtype) for t in ends_of)
        solution = diffeqsolve(
            diffrax.ODETerm(ode.field), ode.solver, t0, t1, ode.dt0, start, None,
            stepsize_controller=ode.controller, max_steps=ode.max_steps, saveat=diffrax.SaveAt(steps=True), throw=False,
        )  # fmt: skip
        if solution.result != diffrax.RESULTS.successful:
            reached = np.asarray(solution.ts)
            return float(reached[np.isfinite(reached)].max(initial=float(t0)))
    return None


def validation_score(config: ODEConfig, problem: ODEProblem) -> Callable[[ObservedODE], float]:
    """The negative log likelihood per value of what chooses the model, each series as one trajectory."""
    rows = problem.choose.any((0, 2))
    last = np.flatnonzero(rows)[-1] + 1
    mask = problem.choose[:, :last]
    latest = np.where(mask.any(-1), problem.panel.times[:, :last], 0).max(1)
    times = jnp.asarray(np.minimum(problem.panel.times[:, :last], latest[:, None]), jnp.result_type(float))
    values = jnp.asarray(problem.values[:, :last], jnp.result_type(float))
    first = jnp.asarray(first_states(config, problem), jnp.result_type(float))

    def score(model: ObservedODE) -> float:
        locations = trajectories(model, times, first, problem.panel.ids)[1]
        density = model.likelihood.log_prob(values, locations)
        return float(-np.asarray(density)[mask].mean())

    return score
