"""The pool of a run's models and the baselines: learned once after training, kept in the folder, used for forecasts."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nde.config import ForecastConfig
from nde.report import (
    AbstractForecast,
    Baseline,
    baseline_forecast,
    baseline_from_plain,
    baseline_to_plain,
    BASELINES,
    counted,
    NormalForecast,
    pool_weights,
    PooledForecast,
    sample_forecast,
)
from nde.tasks.base import member_key, OpenedRun, predicting, RunError, Seeded
from nde.tasks.forecast.problem import build_cut, Problem, sample_series
from nde.train import in_one_piece

FILE = "stack.json"

POOLED = ("last value", "mixed model", "mixed model + OU")
"""The baselines that a pool may hold. `population` knows nothing of the series that it forecasts: it is a mark to be
passed, and each series that the prior of the weights grants it would be lost."""

MOST_FITTED = 5000
"""Series, at most, on which baselines are fitted, at random: they have eight numbers a channel, and each value
more costs some 0.1 ms."""

FITTED = 500
"""Training series, at most, on which the baselines are fitted that the weights are learned from: their eight numbers a
channel are known by then, and the fits on all series, which are the ones that are pooled, cost as much again."""


@dataclass(frozen=True)
class Stack:
    """Baselines, and what each law of the pool weighs.

    - `baselines`: each that could be fitted on the series that a run learned from, by name.
    - `notes`: those that could not, a sentence each.
    - `weights`: of each `[[model]]`, by what it is called, and of the pooled baselines; empty if there is no pool.
    - `series`: how many validation series the weights were learned from.
    """

    baselines: Mapping[str, Baseline]
    notes: tuple[str, ...] = ()
    weights: Mapping[str, float] | None = None
    series: int = 0

    def forecasts(
        self, times: np.ndarray, values: np.ndarray, context: np.ndarray, ts: np.ndarray
    ) -> dict[str, NormalForecast]:
        """The law of each baseline at times `ts`, of arrays as `nde.report.sample_forecast` takes them."""
        return {name: baseline_forecast(one, times, values, context, ts) for name, one in self.baselines.items()}

    def pool(
        self,
        laws: Mapping[str, AbstractForecast],
        samples: int,
        config: Seeded,
        *,
        series: Sequence[str],
    ) -> AbstractForecast:
        """The pool of these laws, the models' and the baselines', by name; `series`: the ids."""
        assert self.weights
        chosen = {name: laws[name] for name in self.weights}
        return PooledForecast.of(chosen, self.weights, samples, series=series, key=member_key(config, 0, "pool"))

    def line(self) -> str:
        """What the pool consists of, in a line."""
        assert self.weights is not None
        parts = [f"{weight:.2f} {name}" for name, weight in self.weights.items()]
        return (
            f"pool: {', '.join(parts)} (weights from {counted(self.series, 'validation series', 'validation series')})"
        )


def fit_baselines(problem: Problem, series: np.ndarray, seed: int) -> Stack:
    """The baselines fitted on some series, of more than `MOST_FITTED` on a part of them by `seed`, with a note.

    Those that the data do not determine are left out, with a note too.
    """
    chosen = sample_series(series, MOST_FITTED, seed)
    fold = problem.arrays(chosen, int(problem.panel.lengths[chosen].max()))
    fitted, notes = {}, []
    if len(chosen) < len(series):
        notes.append(f"baselines are fitted on {len(chosen)} of the {len(series)} series to learn from, at random.")
    for name, fit in BASELINES.items():
        try:
            fitted[name] = fit(*fold)
        except ValueError as error:
            notes.append(f"baseline '{name}' is left out: {error}.")
    return Stack(fitted, tuple(notes))


def learn_stack(run: OpenedRun, problem: Problem) -> Stack:
    """The pool of a trained run.

    The weights are those of `nde.report.pool_weights` on the validation series, in the config's own cut: of the
    models, which were trained on the training series, and of baselines fitted on the same. The baselines that are then
    pooled, and stand in the table of results, are fitted on the validation series too.

    **Limits:** the validation series also chose each member's best step, which makes the models look a little better
    there than they are. The weights are learned where the future is forecast, and hold between observations as well.
    """
    config: ForecastConfig = run.config
    split, seed = problem.split, config.data.split_seed
    whole = fit_baselines(problem, split.fold, seed)
    trial = fit_baselines(problem, sample_series(split.train, FITTED, seed), seed)
    names = [name for name in POOLED if name in whole.baselines and name in trial.baselines]
    models = run.models()
    if len(names) + len(models) < 2:
        return whole
    series = sample_series(split.validation, config.train.validation_series, seed)
    cut = build_cut(config.evaluate, problem.panel.time_scale)
    samples, key = config.evaluate.samples, member_key(config, 0, "pool")
    densities, scored = [], []
    for places, rows in problem.blocks(series, samples):
        times, values, mask = problem.arrays(series[places], rows)
        parts = cut.cut(times, mask)
        given = times, values, parts.context, times
        asked = {"series": problem.ids(series[places]), "samples": samples, "key": key}
        laws = {label: sample_forecast(each, *given, **asked).law for label, each in models.items()}
        others = trial.forecasts(*given)
        laws |= {name: others[name] for name in names}
        densities.append(np.stack([law.log_density(values)[parts.targets] for law in laws.values()]))
        scored.append(places[np.nonzero(parts.targets)[0]])
    series = np.concatenate(scored)
    weights = pool_weights(np.concatenate(densities, axis=1), series)
    named = dict(zip([*models, *names], weights.tolist(), strict=True))
    return Stack(whole.baselines, whole.notes, named, len(np.unique(series)))


def stack_to_plain(stack: Stack) -> dict[str, Any]:
    """What JSON can hold of a pool, to the last bit."""
    return {
        "weights": stack.weights,
        "validation_series": stack.series,
        "notes": stack.notes,
        "baselines": {name: baseline_to_plain(one) for name, one in stack.baselines.items()},
    }


def stack_from_plain(saved: Mapping[str, Any]) -> Stack:
    """What `stack_to_plain` wrote.

    **Raises:** `ValueError`, `KeyError`, `TypeError` or `AttributeError` for what it did not write.
    """
    baselines = {name: baseline_from_plain(one) for name, one in saved["baselines"].items()}
    return Stack(baselines, tuple(saved["notes"]), saved["weights"], saved["validation_series"])


def write_stack(folder: Path, stack: Stack) -> None:
    """Keep a pool as `stack.json`."""
    plain = stack_to_plain(stack)
    with in_one_piece(folder / FILE) as part:
        part.write_text(json.dumps(plain, indent=1) + "\n")


def read_stack(run: OpenedRun) -> Stack | None:
    """The pool that a run keeps; `None` if it has none, or its config wants none.

    **Raises:** `RunError` for a file that is no pool.
    """
    path = run.folder / FILE
    if not run.config.evaluate.stack or not path.is_file():
        return None
    try:
        return stack_from_plain(json.loads(path.read_text()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{path}: no pool is here ({error}); `nde fit --resume {run.folder}` makes it anew.") from None


def predictive_law(
    run: OpenedRun,
    models: Mapping[str, Sequence[Any]],
    given: tuple[np.ndarray, ...],
    series: Sequence[str],
    *,
    samples: int,
    redraws: int = 0,
) -> tuple[AbstractForecast, str]:
    """The law that a run forecasts by, and what it is called: its pool, if it keeps one, or one model.

    **Arguments:** `models`: the members of each `[[model]]`; the others are those of `law_of`.
    """
    stack = read_stack(run)
    pooled = stack is not None and bool(stack.weights)
    alone = predicting(run, None)
    chosen = models if pooled else {alone: models[alone]}
    law = law_of(chosen, stack, given, series, samples=samples, seeded=run.config, redraws=redraws)
    return law, pool_name(run.config) if pooled else alone


def law_of(
    models: Mapping[str, Sequence[Any]],
    stack: Stack | None,
    given: tuple[np.ndarray, ...],
    series: Sequence[str],
    *,
    samples: int,
    seeded: Seeded,
    redraws: int = 0,
) -> AbstractForecast:
    """The law of all of some models, pooled with the baselines, if the stack has weights; else of the first model.

    **Arguments:** `models`: the members of each; `given`, `series`: as `nde.report.sample_forecast` takes them;
    `seeded`: what keeps the run's seed; `redraws`: values drawn for each sample, for quantiles smooth to the eye.
    """
    laws: dict[str, AbstractForecast] = {}
    for label, members in models.items():
        key = member_key(seeded, 0, "forecasts")
        law = sample_forecast(members, *given, series=series, samples=samples, key=key).law
        if redraws:
            law = law.redrawn(redraws, series=series, key=member_key(seeded, 0, "figures"))
        laws[label] = law
    if stack is None or not stack.weights:
        return next(iter(laws.values()))
    return stack.pool({**stack.forecasts(*given), **laws}, max(redraws, 1) * samples, seeded, series=series)


def model_name(config: ForecastConfig, label: str) -> str:
    """What the members of one `[[model]]` are called in a table."""
    members = config.train.members
    return label if members == 1 else f"{label}, {members} members"


def pool_name(config: ForecastConfig) -> str:
    """What the pool of models and baselines is called."""
    return " + ".join([*(section.called() for section in config.model), "baselines"])


def no_stack(run: OpenedRun) -> str:
    """What to say of a run whose config wants a pool and whose folder has none."""
    return f"no {FILE} in {run.folder}, so no pool with the baselines; `nde fit --resume {run.folder}` makes it."
