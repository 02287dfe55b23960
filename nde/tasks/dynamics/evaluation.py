"""Score the ODE models of a run side by side, and beside two simple forecasts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, PRNGKeyArray

from nde.config import DynamicsConfig
from nde.fields import parameter_units, parameter_values
from nde.models import ObservedODE, Population
from nde.objectives import AbstractLikelihood
from nde.report import AbstractForecast, coverage, NormalForecast, SampleForecast, score
from nde.tasks.base import member_key, OpenedRun
from nde.tasks.dynamics.closed import asked_closed_forms
from nde.tasks.dynamics.parameters import asked_posteriors, Found
from nde.tasks.dynamics.problem import DynamicsProblem
from nde.tasks.dynamics.training import batched_inputs, first_states, trajectories
from nde.tasks.scores import TableEvaluation
from nde.train import FailedExamples


@dataclass(frozen=True)
class DynamicsDetails:
    """What the figures need: the members of each `[[model]]`, their law of all values, and what is said of its
    parameters, by what it is called."""

    models: dict[str, list[ObservedODE]]
    laws: dict[str, SampleForecast]
    found: dict[str, Found]


def evaluate(run: OpenedRun, problem: DynamicsProblem) -> TableEvaluation:
    """NLL, RMSE and coverage on what was held out, and RMSE on what was fitted, of each method and two baselines."""
    config: DynamicsConfig = run.config
    models = run.models()
    laws = {label: forecast(config, problem, members) for label, members in models.items()}
    scored, left_out = solved_by_all(problem, laws)
    closed = asked_closed_forms(config, scored, models)
    refitted = {label: [each.model] for label, each in closed.items() if each.failure is None}
    laws |= {label: forecast(config, problem, members) for label, members in refitted.items()}
    models = {**models, **refitted}
    every: dict[str, AbstractForecast] = {**baselines(problem), **laws}
    means = {**baseline_means(problem), **{label: _mean(law) for label, law in laws.items()}}
    rows = [method_row(name, law, means[name], scored) for name, law in every.items()]
    found = asked_posteriors(run, scored, models)
    unit = "log scale" if config.observe.log_noise else "own units"
    return TableEvaluation(
        title="held out: " + held_out(config),
        caption=f"per value, {unit}; NLL and RMSE: lower is better; coverage of central intervals, ideally 0.5 and 0.9",
        scores=rows,
        notes=[
            *left_out,
            *parameter_notes(models),
            *(note for each in (*found.values(), *closed.values()) for note in each.notes()),
        ],
        summary={
            "values_scored": int(scored.test.sum()),
            "parameters": {label: each.summary() for label, each in found.items()},
            "closed_forms": {label: each.summary() for label, each in closed.items()},
        },
        details=DynamicsDetails(models, laws, found),
    )


def solved_by_all(problem: DynamicsProblem, laws: dict[str, SampleForecast]) -> tuple[DynamicsProblem, list[str]]:
    """The problem without the series that a method could not solve, and which those are, a line a method.

    **Raises:** `nde.train.FailedExamples` if nothing is left to score.
    """
    notes, solved = [], np.ones(len(problem.panel), bool)
    for label, law in laws.items():
        failed = ~np.isfinite(_mean(law)).all((1, 2))
        solved &= ~failed
        if failed.any():
            named = ", ".join(str(problem.panel.ids[i]) for i in np.flatnonzero(failed))
            notes.append(f"{label}: could not solve {named}; no method is scored on it")
    test, fit = (mask & solved[:, None, None] for mask in (problem.test, problem.fit))
    if not test.any():
        failed = np.flatnonzero(~solved).tolist()
        raise FailedExamples("nothing is left to score", failed, [problem.panel.ids[i] for i in failed])
    series = problem.series[solved[problem.series]]
    return replace(problem, test=test, fit=fit, series=series), notes


def held_out(config: DynamicsConfig) -> str:
    """What is held out, in words."""
    data = config.data
    if data.test_after is None:
        return f"series, fold {data.fold} of {data.folds}"
    return f"times after {data.test_after:g} {data.time_unit}"


def forecast(
    config: DynamicsConfig, problem: DynamicsProblem, models: Sequence[ObservedODE], times: np.ndarray | None = None
) -> SampleForecast:
    """The law of the values at `(series, asked)` times, those of the panel by default: a mixture over the members."""
    dtype = jnp.result_type(float)
    asked = jnp.asarray(problem.panel.times if times is None else times, dtype)
    first = jnp.asarray(first_states(config, problem), dtype)
    inputs = batched_inputs(config, problem)
    out = config.train.failed == "leave_out"
    solved = [trajectories(model, asked, first, problem.panel.ids, inputs, leave_out=out)[1] for model in models]
    laws = [model.likelihood for model in models]
    return mixture(laws, solved, config.evaluate.samples, problem.panel.ids, member_key(config, 0, "forecasts"))


def mixture(
    laws: Sequence[AbstractLikelihood],
    locations: Sequence[ArrayLike],
    samples: int,
    series: Sequence[object],
    key: PRNGKeyArray,
) -> SampleForecast:
    """The law of values of which each member has one location, `(series, rows, channels)`, and its own law around it.

    **Arguments:** `samples`: in all, as many of each member, and more where they do not divide; `series`: the ids.
    """
    members = tuple((law, np.asarray(x)[None]) for law, x in zip(laws, locations, strict=True))
    found = SampleForecast(members, np.zeros((0, *members[0][1].shape[1:])))
    return found.redrawn(-(-samples // len(members)), series=series, key=key)


def baselines(problem: DynamicsProblem) -> dict[str, AbstractForecast]:
    """The mean of what was fitted, and the last value given, with the spread of a random walk."""
    means = baseline_means(problem)
    seen, values, times = problem.fit, problem.values, problem.panel.times
    spread = np.array([values[..., c][seen[..., c]].std() for c in range(values.shape[-1])])
    given = np.where(_given(problem), times[..., None], times[:, :1, None]).max(1, keepdims=True)
    ahead = np.maximum(times[..., None] - given, 0.0)
    # A walk that was never seen to move, or whose first step is asked for, still has a spread.
    walked = np.maximum(np.sqrt(_walk_rate(times, values, seen) * ahead), SMALLEST_SPREAD * spread)
    walked = np.where(_given(problem).any(1, keepdims=True), walked, spread)
    return {
        "mean": NormalForecast(means["mean"], np.broadcast_to(spread, values.shape)),
        "last value": NormalForecast(means["last value"], walked),
    }


SMALLEST_SPREAD = 1e-3


def _walk_rate(times: np.ndarray, values: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Squares of the steps between successive values of a channel over their waits, each summed: `(channels,)`.

    Zero for a channel of which no series has two values.
    """
    rows = np.arange(seen.shape[1])[None, :, None]
    latest = np.maximum.accumulate(np.where(seen, rows, -1), axis=1)
    before = np.concatenate([np.full_like(latest[:, :1], -1), latest[:, :-1]], axis=1)
    pairs, place = seen & (before >= 0), np.maximum(before, 0)
    wait = times[..., None] - np.take_along_axis(times[..., None], place, axis=1)
    moved = values - np.take_along_axis(values, place, axis=1)
    total = np.where(pairs, wait, 0.0).sum((0, 1))
    return np.where(pairs, moved**2, 0.0).sum((0, 1)) / np.where(total > 0, total, 1.0)


def baseline_means(problem: DynamicsProblem) -> dict[str, np.ndarray]:
    """The means of the baselines, `(series, rows, channels)`."""
    values, given = problem.values, _given(problem)
    mean = np.array([values[..., c][problem.fit[..., c]].mean() for c in range(values.shape[-1])])
    rows = np.arange(values.shape[1])[None, :, None]
    last = np.where(given, rows, 0).max(1, keepdims=True)
    # Of a series that starts from what is known before its first row nothing is given.
    latest = np.where(given.any(1, keepdims=True), np.take_along_axis(values, last, axis=1), mean)
    return {
        "mean": np.broadcast_to(mean, values.shape),
        "last value": np.broadcast_to(latest, values.shape),
    }


def _given(problem: DynamicsProblem) -> np.ndarray:
    """What a forecast of a test series may know: what was fitted and chosen by, of whole series their first row."""
    known = problem.fit | problem.choose
    first = problem.panel.mask & ~problem.test & (np.arange(problem.values.shape[1]) == 0)[None, :, None]
    return np.where(
        (problem.test & ~known).any((1, 2), keepdims=True) & ~known.any((1, 2), keepdims=True), first, known
    )


def _mean(law: SampleForecast) -> np.ndarray:
    return np.mean([locations[0] for _, locations in law.members], axis=0)


def method_row(name: str, law: AbstractForecast, mean: np.ndarray, problem: DynamicsProblem) -> dict[str, str | float]:
    """The scores of one method on what was held out: its law of all values, and their mean."""
    inside = coverage(law, problem.values, problem.test, (0.5, 0.9))
    counts = problem.test.sum((0, 1))
    pooled = np.nansum(inside * counts, axis=1) / counts.sum()
    error = (problem.values - mean) ** 2
    return {
        "method": name,
        "NLL": score(law, problem.values, problem.test).mean("nll"),
        "RMSE": float(np.sqrt(error[problem.test].mean())),
        "in 50 %": float(pooled[0]),
        "in 90 %": float(pooled[1]),
        "RMSE, fitted": float(np.sqrt(error[problem.fit].mean())),
    }


def parameter_notes(models: Mapping[str, Sequence[ObservedODE | Population]]) -> list[str]:
    """The parameters of each known system: their mean over the members, and what lies between them.

    Between 20 members or more that is 90 % of them, from the quantile of 5 % to that of 95 %, which with
    `objective.bootstrap` are intervals by the ensemble; between fewer their range.
    """
    notes = []
    for method, members in models.items():
        found = [parameter_values(model.ode.field) for model in members]
        units = {name: f" {unit}" for name, unit in parameter_units(members[0].ode.field).items() if unit != "1"}
        ranges = [
            f"{name} {_spread_of([float(values[name]) for values in found])}{units.get(name, '')}" for name in found[0]
        ]
        what = f", 90 % of {len(members)} members" if len(members) >= ENOUGH_FOR_QUANTILES else ""
        if ranges:
            notes.append(f"{method}{what}: {', '.join(ranges)}")
    return notes


ENOUGH_FOR_QUANTILES = 20


def _spread_of(values: Sequence[float]) -> str:
    """The mean, and the range, or the quantiles of 5 and 95 %, where there is more than one to have one."""
    mean = f"{np.mean(values):.4g}"
    share = (0.05, 0.95) if len(values) >= ENOUGH_FOR_QUANTILES else (0.0, 1.0)
    low, high = np.quantile(values, share)
    return mean if len(values) == 1 else f"{mean} ({low:.4g} to {high:.4g})"
