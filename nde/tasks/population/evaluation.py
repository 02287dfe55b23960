"""Score populations on individuals that were held out, and say what they found."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np

from nde.config import PopulationConfig
from nde.fields import named_parameters
from nde.models import Population
from nde.report import (
    AbstractForecast,
    individual_fits,
    individual_forecast,
    IndividualForecast,
    Individuals,
    SampleForecast,
)
from nde.tasks.base import member_key, OpenedRun, RunError
from nde.tasks.dynamics import (
    baseline_means,
    baselines,
    DynamicsProblem,
    Found,
    found_of,
    method_row,
    parameter_notes,
)
from nde.tasks.population.posterior import posterior
from nde.tasks.population.training import individuals, validation_score
from nde.tasks.scores import TableEvaluation


@dataclass(frozen=True)
class PopulationDetails:
    """What the figures need, by what each `[[model]]` is called: its members, its law of all values, what is said of
    its parameters; and of all individuals what was shown to them."""

    models: dict[str, list[Population]]
    laws: dict[str, SampleForecast]
    found: dict[str, Found]
    shown: np.ndarray


def evaluate(run: OpenedRun, problem: DynamicsProblem) -> TableEvaluation:
    """NLL, RMSE and coverage on held-out individuals, given the first of their rows if `[evaluate]` says so, and RMSE
    of individual predictions on those that were fitted; beside two baselines."""
    config: PopulationConfig = run.config
    models = run.models()
    problem, shown = with_given(config, problem)
    data = individuals(config, problem, shown)
    forecasts = {label: forecast_of(config, problem, members, data) for label, members in models.items()}
    laws = {label: each.law for label, each in forecasts.items()}
    every: dict[str, AbstractForecast] = {"mean": baselines(problem)["mean"], **laws}
    means = baseline_means(problem)
    for label, members in models.items():
        fits = np.mean([individual_fits(model, data).individual for model in members], axis=0)
        fitted = fits[:, fits.shape[1] - problem.values.shape[1] :]
        means[label] = np.where(problem.fit, fitted, _mean(laws[label]))
    rows = [method_row(name, law, means[name], problem) for name, law in every.items()]
    found = found_of(config.evaluate, models, lambda model: posterior(config, problem, model))
    effects = [note for label, members in models.items() for note in effect_notes(label, members[0], data, problem)]
    likelihood = [
        f"{label}: log marginal likelihood {-problem.fit.sum() * _fit_score(config, problem, members[0]):.2f} of "
        f"{int(problem.fit.sum())} values"
        for label, members in models.items()
    ]
    return TableEvaluation(
        title=what_is_scored(config),
        caption="per value, own units; lower NLL and RMSE are better; coverage of intervals, ideally 0.5 and 0.9",
        scores=rows,
        notes=[
            *parameter_notes(models),
            *effects,
            *likelihood,
            *(note for label, each in forecasts.items() for note in failed_notes(label, each, problem.panel.ids)),
            *(note for each in found.values() for note in each.notes()),
        ],
        summary={
            "values_scored": int(problem.test.sum()),
            "parameters": {label: each.summary() for label, each in found.items()},
        },
        details=PopulationDetails(models, laws, found, shown),
    )


def what_is_scored(config: PopulationConfig) -> str:
    """Whose values are scored, in words."""
    if config.data.folds == 1:
        return "individuals that were fitted, given all their values"
    given = f", given their first {config.evaluate.given} rows" if config.evaluate.given else ""
    return f"held out: individuals, fold {config.data.fold} of {config.data.folds}{given}"


def with_given(config: PopulationConfig, problem: DynamicsProblem) -> tuple[DynamicsProblem, np.ndarray]:
    """The problem without the rows of held-out individuals that are given, and the mask of all values that are shown.

    **Raises:** `RunError` if no value is left to score.
    """
    seen = problem.test.any(-1)
    first = seen & (np.cumsum(seen, axis=1) <= config.evaluate.given)
    test = problem.test & ~first[..., None]
    if not test.any():
        raise RunError(f"evaluate.given = {config.evaluate.given} leaves no value of a held-out individual to score.")
    given = problem.test & first[..., None]
    return replace(problem, test=test), problem.fit | given


def failed_notes(label: str, found: IndividualForecast, ids: Sequence[object]) -> list[str]:
    """Whose draws could not all be solved: a line, or none."""
    told = [f"{name} {mark}" for name, mark in zip(ids, found.marks(), strict=True) if mark]
    more = f" and {len(told) - NAMED} more" if len(told) > NAMED else ""
    return [f"{label}: {'; '.join(told[:NAMED])}{more}"] if told else []


NAMED = 5


def forecast_of(
    config: PopulationConfig, problem: DynamicsProblem, models: Sequence[Population], data: Individuals
) -> IndividualForecast:
    """The law of all values at the times of the panel, given those that `data` shows."""
    return individual_forecast(
        models, data, problem.panel.times, series=problem.panel.ids, samples=config.evaluate.samples,
        key=member_key(config, 0, "forecasts"),
    )  # fmt: skip


def _mean(law: SampleForecast) -> np.ndarray:
    return np.mean([np.asarray(one.mean(jnp.asarray(at))).mean(0) for one, at in law.members], axis=0)


def _fit_score(config: PopulationConfig, problem: DynamicsProblem, model: Population) -> float:
    return validation_score(config, replace(problem, choose=problem.fit))(model)


def effect_notes(label: str, model: Population, data: Individuals, problem: DynamicsProblem) -> list[str]:
    r"""The standard deviations of the effects, their correlations, and the shrinkage of each.

    It is $1 - \mathrm{sd}(\hat\eta) / \omega$ over the individuals that were fitted; near one their values say little.
    """
    effects = individual_fits(model, jax.tree.map(lambda x: x[problem.series], data)).effects
    covariance = np.asarray(model.covariance)
    spread = np.sqrt(np.diagonal(covariance))
    shrinkage = 1 - effects.std(0, ddof=1) / spread if len(effects) > 1 else np.full(len(spread), np.nan)
    known = named_parameters(model.ode.field)

    def said(i: int, name: str) -> str:
        of_log = name in known and known[name].log
        return f"{name} {spread[i]:.3g}{' of the logarithm' if of_log else ''} (shrinkage {100 * shrinkage[i]:.0f} %)"

    notes = [f"{label}, between individuals: {', '.join(said(i, name) for i, name in enumerate(model.effects))}"]
    if model.raw_correlation is not None:
        pairs = zip(*np.tril_indices(len(spread), -1), strict=True)
        told = [
            f"{model.effects[i]} and {model.effects[j]} {covariance[i, j] / (spread[i] * spread[j]):+.2f}"
            for i, j in pairs
        ]
        notes.append(f"{label}, correlations: {', '.join(told)}")
    return notes
