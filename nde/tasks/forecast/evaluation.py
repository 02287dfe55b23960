"""Score the models of a run on its held-out series, beside the baselines."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from nde.config import ForecastConfig
from nde.report import (
    AbstractCut,
    AbstractForecast,
    compare,
    counted,
    coverage,
    render,
    sample_forecast,
    score,
    Scores,
    verdict,
    write_table,
)
from nde.tasks.base import member_key, OpenedRun, predicting
from nde.tasks.forecast.problem import build_cut, Problem
from nde.tasks.forecast.stack import fit_baselines, model_name, no_stack, pool_name, read_stack, Stack
from nde.tasks.scores import AbstractEvaluation

COVERAGE_LEVELS = tuple(np.round(np.arange(0.1, 1.0, 0.1), 1)) + (0.95,)


@dataclass(frozen=True)
class ForecastEvaluation(AbstractEvaluation):
    """How a run did on its test series.

    - `scores`: `nde.report.Scores` of each method.
    - `models`: what each `[[model]]` is called there, by its label; the first is the one that all are compared with.
    - `pool`: what the pool of models and baselines is called there, or `None` for a run without one.
    - `law`: which of the methods `nde predict` draws from; what follows on coverage is that one's.
    - `kl_path`: `(series,)` of each model that has a latent path with noise, by label; path KL of each scored series
      given its context, in nats.
    - `covered`: `(levels, channels)`; share of targets inside the central intervals of `COVERAGE_LEVELS`.
    - `over_all`: `(levels,)`; the same over all channels.
    - `counts`: `(channels,)`; the number of targets of each channel.
    - `title`: over the table.
    - `asked`: what was forecast, in words and in the table's unit of time.
    - `notes`: baselines that these data do not determine, and why, a sentence each; what the pool consists of.
    """

    scores: dict[str, Scores]
    models: dict[str, str]
    pool: str | None
    law: str
    kl_path: dict[str, np.ndarray]
    covered: np.ndarray
    over_all: np.ndarray
    counts: np.ndarray
    title: str
    asked: str
    notes: tuple[str, ...]

    @property
    def method(self) -> str:
        """The model that all methods are compared with."""
        return next(iter(self.models.values()))

    def rows(self) -> list[dict[str, Any]]:
        return [asdict(row) for row in compare(self.scores, self.method)]

    def table(self) -> Table:
        return render(compare(self.scores, self.method), self.method, self.title)

    def lines(self) -> list[str]:
        scored = self.scores[self.method].count
        size = (
            f"scored: {counted(int(scored.sum()), 'value')} of {counted(int((scored > 0).sum()), 'series', 'series')}"
        )
        noise = []
        for label, kl in self.kl_path.items():
            of = f" of the {label}" if len(self.models) > 1 else ""
            share = 100 * (kl < 0.5).mean()
            noise.append(f"path KL{of} per series: mean {kl.mean():.2f} nats, {share:.0f} % below 0.5")
        return [*self.notes, f"{size}, {self.asked}", *noise, self._verdict()]

    def noted(self, notes: Sequence[str]) -> "ForecastEvaluation":
        return replace(self, notes=(*self.notes, *notes))

    def _verdict(self) -> str:
        return verdict(self.scores, list(self.models.values()), self.pool)

    def pooled(self, others: Sequence[AbstractEvaluation]) -> "ForecastEvaluation":
        """All folds as one: the methods that every fold has, scored on all their series together."""
        parts = [self, *(other for other in others if isinstance(other, ForecastEvaluation))]
        names = [name for name in self.scores if all(name in part.scores for part in parts)]
        counts = np.sum([part.counts for part in parts], axis=0)
        held = [np.nan_to_num(part.covered) * part.counts for part in parts]
        notes = dict.fromkeys(note for part in parts for note in part.notes)
        return replace(
            self,
            scores={name: Scores.concatenate([part.scores[name] for part in parts]) for name in names},
            kl_path={label: np.concatenate([part.kl_path[label] for part in parts]) for label in self.kl_path},
            covered=np.sum(held, axis=0) / np.where(counts > 0, counts, np.nan),
            over_all=np.sum(held, axis=(0, 2)) / counts.sum(),
            counts=counts,
            pool=self.pool if self.pool in names else None,
            title=f"held-out series, {len(parts)} folds",
            notes=tuple(notes),
        )

    def write(self, folder: Path) -> None:
        write_table(folder / "results.csv", compare(self.scores, self.method))
        scored = self.scores[self.method].count
        summary = {
            "series_scored": int((scored > 0).sum()),
            "values_scored": int(scored.sum()),
            "path_kl_nats": {label: _summary(kl) for label, kl in self.kl_path.items()},
            "asked": self.asked,
            "verdict": self._verdict(),
            "coverage_of": self.law,
            "coverage": dict(zip(map(str, COVERAGE_LEVELS), np.round(self.over_all, 4).tolist(), strict=True)),
            "methods": self.rows(),
            "notes": list(self.notes),
        }
        (folder / "results.json").write_text(json.dumps(summary, indent=1) + "\n")


def _summary(kl: np.ndarray) -> dict[str, float]:
    return {
        "mean": float(kl.mean()),
        "median": float(np.median(kl)),
        "share_below_half": float((kl < 0.5).mean()),
    }


def evaluate(run: OpenedRun, problem: Problem) -> ForecastEvaluation:
    """Score the run's models and the baselines, fitted on the same series, on the same values of the test series.

    The series are scored in blocks of like lengths: of all of them only the scores are held.
    """
    config: ForecastConfig = run.config
    settings, models = config.evaluate, run.models()
    kept = read_stack(run)
    stack = kept or fit_baselines(problem, problem.split.fold, config.data.split_seed)
    names = {label: model_name(config, label) for label in models}
    pool = pool_name(config) if stack.weights else None
    notes = [*stack.notes, *([stack.line()] if stack.weights else [])]
    if not stack.weights and settings.stack and kept is None:
        notes.append(no_stack(run))
    law = pool or names[predicting(run, None)]
    found = _score_blocks(config, problem, stack, models, law)
    return ForecastEvaluation(
        scores=found.scores,
        models=names,
        pool=pool,
        law=law,
        kl_path={label: kl for label, kl in found.kl_path.items() if kl.any()},
        covered=found.inside / np.where(found.counts > 0, found.counts, np.nan),
        over_all=found.inside.sum(1) / found.counts.sum(),
        counts=found.counts,
        title=f"held-out series, fold {config.data.fold} of {config.data.folds}",
        asked=_asked(config),
        notes=tuple(notes),
    )


@dataclass(frozen=True)
class _Scored:
    """What a block of series, or all of them, came to; the arrays are those of `ForecastEvaluation`.

    - `inside`: `(levels, channels)`; how many targets lie inside of the intervals.
    """

    scores: dict[str, Scores]
    kl_path: dict[str, np.ndarray]
    inside: np.ndarray
    counts: np.ndarray


def _score_blocks(
    config: ForecastConfig, problem: Problem, stack: Stack, models: Mapping[str, Sequence[Any]], law: str
) -> _Scored:
    """The scores of all test series with a target, in their order; `law`: of which the coverage is taken."""
    cut = build_cut(config.evaluate, problem.panel.time_scale)
    times, _, mask = problem.arrays(problem.split.test)
    series = problem.split.test[cut.cut(times, mask).targets.any((1, 2))]
    if not len(series):
        raise ValueError("There is no value to score: no series has an observation after its cut-off.")
    blocks = list(problem.blocks(series, config.evaluate.samples))
    parts = []
    for places, rows in blocks:
        chosen = series[places]
        parts.append(_score_block(config, problem.arrays(chosen, rows), cut, problem.ids(chosen), stack, models, law))
    order = np.argsort(np.concatenate([places for places, _ in blocks]))
    scores = {name: Scores.concatenate([part.scores[name] for part in parts]) for name in parts[0].scores}
    return _Scored(
        {name: Scores(one.nll[order], one.crps[order], one.count[order]) for name, one in scores.items()},
        {label: np.concatenate([part.kl_path[label] for part in parts])[order] for label in models},
        np.sum([part.inside for part in parts], axis=0),
        np.sum([part.counts for part in parts], axis=0),
    )


def _score_block(
    config: ForecastConfig,
    arrays: tuple[np.ndarray, ...],
    cut: AbstractCut,
    ids: Sequence[str],
    stack: Stack,
    models: Mapping[str, Sequence[Any]],
    law: str,
) -> _Scored:
    times, values, mask = arrays
    parts, samples = cut.cut(times, mask), config.evaluate.samples
    given, key = (times, values, parts.context, times), member_key(config, 0, "forecasts")
    found = {
        label: sample_forecast(members, *given, series=ids, samples=samples, key=key)
        for label, members in models.items()
    }
    others = stack.forecasts(*given)
    laws: dict[str, AbstractForecast] = {
        **others,
        **{model_name(config, label): one.law for label, one in found.items()},
    }
    if stack.weights:
        each = {**others, **{label: one.law for label, one in found.items()}}
        laws[pool_name(config)] = stack.pool(each, samples, config, series=ids)
    counts = parts.targets.sum((0, 1))
    return _Scored(
        {name: score(one, values, parts.targets) for name, one in laws.items()},
        {label: one.kl_path for label, one in found.items()},
        np.nan_to_num(coverage(laws[law], values, parts.targets, COVERAGE_LEVELS)) * counts,
        counts,
    )


def _asked(config: ForecastConfig) -> str:
    """The cut in words: what was given, and what was forecast, in the time column's own unit."""
    settings = config.evaluate
    if settings.cut == "second_half":
        return "given the first half of each, forecasting the second"
    scale = config.data.time_scale or 1.0
    at, until = settings.landmark(scale)
    unit, shown = config.data.time_unit or config.data.time, 1.0
    if settings.at is not None or settings.until is not None or config.data.table_unit:
        unit, shown = config.data.table_unit or f"units of '{config.data.time}'", scale
    return f"given what is known at {at * shown:g}, up to {until * shown:g} {unit} after the first row"
