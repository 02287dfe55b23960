"""Score the models of a run on its held-out series, beside the baselines."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from nde.config import ForecastConfig
from nde.report import (
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
from nde.tasks.base import AbstractEvaluation, member_key, OpenedRun, predicting
from nde.tasks.forecast.problem import build_cut, Problem
from nde.tasks.forecast.stack import fit_baselines, model_name, no_stack, pool_name, read_stack

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
    """Score the run's models and the baselines, fitted on the same series, on the same values of the test series."""
    config: ForecastConfig = run.config
    settings = config.evaluate
    times, values, mask = problem.arrays(problem.split.test)
    cut = build_cut(settings, problem.panel.time_scale).cut(times, mask)
    given, ids = (times, values, cut.context, times), problem.ids(problem.split.test)
    key = member_key(config, 0, "forecasts")
    found = {
        label: sample_forecast(models, *given, series=ids, samples=settings.samples, key=key)
        for label, models in run.models().items()
    }
    names = {label: model_name(config, label) for label in found}
    kept = read_stack(run)
    stack = kept or fit_baselines(problem, problem.split.fold)
    others = stack.forecasts(*given)
    laws: dict[str, AbstractForecast] = {**others, **{names[label]: one.law for label, one in found.items()}}
    pool, notes = None, list(stack.notes)
    law = names[predicting(run, None)]
    if stack.weights:
        pool = law = pool_name(config)
        parts = {**others, **{label: one.law for label, one in found.items()}}
        laws[pool] = stack.pool(parts, settings.samples, config, series=ids)
        notes.append(stack.line())
    elif settings.stack and kept is None:
        notes.append(no_stack(run))
    covered = coverage(laws[law], values, cut.targets, COVERAGE_LEVELS)
    counts = cut.targets.sum((0, 1))
    scored = cut.targets.any((1, 2))
    return ForecastEvaluation(
        scores={name: score(one, values, cut.targets) for name, one in laws.items()},
        models=names,
        pool=pool,
        law=law,
        kl_path={label: one.kl_path[scored] for label, one in found.items() if one.kl_path.any()},
        covered=covered,
        over_all=np.nansum(covered * counts, axis=1) / counts.sum(),
        counts=counts,
        title=f"held-out series, fold {config.data.fold} of {config.data.folds}",
        asked=_asked(config),
        notes=tuple(notes),
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
