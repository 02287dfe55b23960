"""Score a latent SDE on its held-out series, beside the baselines."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from rich.table import Table

from nde import config as configs
from nde.config import LatentSDEConfig
from nde.report import (
    compare,
    counted,
    coverage,
    render,
    Row,
    sample_forecast,
    score,
    Scores,
    verdict,
    write_table,
)
from nde.runs.interface import AbstractEvaluation, member_key, OpenedRun
from nde.runs.kinds.latent_sde.problem import Problem
from nde.runs.kinds.latent_sde.stack import fit_baselines, model_name, no_stack, pool_name, read_stack

COVERAGE_LEVELS = tuple(np.round(np.arange(0.1, 1.0, 0.1), 1)) + (0.95,)


@dataclass(frozen=True)
class LatentSDEEvaluation(AbstractEvaluation):
    """How a run did on its test series.

    - `scores`: `nde.report.Scores` of each method; the model's own stand under `method`.
    - `method`: what the model is called in the table.
    - `pool`: what its pool with the baselines is called there, or `None` for a run without one. What follows on
      coverage is then the pool's, since it is what `nde predict` draws from.
    - `kl_path`: `(series,)`; path KL of each scored series given its context, in nats.
    - `covered`: `(levels, channels)`; share of targets inside the central intervals of `COVERAGE_LEVELS`.
    - `over_all`: `(levels,)`; the same over all channels.
    - `counts`: `(channels,)`; the number of targets of each channel.
    - `title`: over the table.
    - `asked`: what was forecast, in words and in the table's unit of time.
    - `notes`: baselines that these data do not determine, and why, a sentence each; what the pool consists of.
    - `noisy`: whether the model has noise, and its path KL something to say.
    """

    scores: dict[str, Scores]
    method: str
    pool: str | None
    kl_path: np.ndarray
    covered: np.ndarray
    over_all: np.ndarray
    counts: np.ndarray
    title: str
    asked: str
    notes: tuple[str, ...]
    noisy: bool

    def rows(self) -> list[Row]:
        """The table of results."""
        return compare(self.scores, self.method)

    def table(self) -> Table:
        return render(self.rows(), self.method, self.title)

    def lines(self) -> list[str]:
        scored = self.scores[self.method].count
        size = (
            f"scored: {counted(int(scored.sum()), 'value')} of {counted(int((scored > 0).sum()), 'series', 'series')}"
        )
        kl = self.kl_path
        said = f"path KL per series: mean {kl.mean():.2f} nats, {100 * (kl < 0.5).mean():.0f} % below 0.5"
        noise = [said] if self.noisy else []
        return [*self.notes, f"{size}, {self.asked}", *noise, verdict(self.scores, self.method, self.pool)]

    def pooled(self, others: Sequence[AbstractEvaluation]) -> "LatentSDEEvaluation":
        """All folds as one: the methods that every fold has, scored on all their series together."""
        parts = [self, *(other for other in others if isinstance(other, LatentSDEEvaluation))]
        names = [name for name in self.scores if all(name in part.scores for part in parts)]
        counts = np.sum([part.counts for part in parts], axis=0)
        held = [np.nan_to_num(part.covered) * part.counts for part in parts]
        notes = dict.fromkeys(note for part in parts for note in part.notes)
        return replace(
            self,
            scores={name: Scores.concatenate([part.scores[name] for part in parts]) for name in names},
            kl_path=np.concatenate([part.kl_path for part in parts]),
            covered=np.sum(held, axis=0) / np.where(counts > 0, counts, np.nan),
            over_all=np.sum(held, axis=(0, 2)) / counts.sum(),
            counts=counts,
            pool=self.pool if self.pool in names else None,
            title=f"held-out series, {len(parts)} folds",
            notes=tuple(notes),
        )

    def write(self, folder: Path) -> None:
        write_table(folder / "results.csv", self.rows())
        scored = self.scores[self.method].count
        summary = {
            "series_scored": int((scored > 0).sum()),
            "values_scored": int(scored.sum()),
            "path_kl_nats": {
                "mean": float(self.kl_path.mean()),
                "median": float(np.median(self.kl_path)),
                "share_below_half": float((self.kl_path < 0.5).mean()),
            },
            "asked": self.asked,
            "verdict": verdict(self.scores, self.method, self.pool),
            "coverage_of": self.pool or self.method,
            "coverage": dict(zip(map(str, COVERAGE_LEVELS), np.round(self.over_all, 4).tolist(), strict=True)),
            "methods": [asdict(row) for row in self.rows()],
        }
        (folder / "results.json").write_text(json.dumps(summary, indent=1) + "\n")


def evaluate(run: OpenedRun, problem: Problem) -> LatentSDEEvaluation:
    """Score the run's model and the baselines, all fitted on the same series, on the same values of the test series."""
    config: LatentSDEConfig = run.config
    settings = config.evaluate
    times, values, mask = problem.arrays(problem.split.test)
    ids = problem.ids(problem.split.test)
    cut = configs.build_task(settings, problem.panel.time_scale).cut(times, mask)
    models = run.models()
    key = member_key(config, 0, "forecasts")
    given = times, values, cut.context, times
    forecast = sample_forecast(models, *given, series=ids, samples=settings.samples, key=key)
    method = model_name(config)
    kept = read_stack(run)
    stack = kept or fit_baselines(problem, problem.split.fold)
    others = stack.forecasts(*given)
    scores = {name: score(law, values, cut.targets) for name, law in others.items()}
    scores[method] = score(forecast.law, values, cut.targets)
    law, pool, notes = forecast.law, None, list(stack.notes)
    if stack.weights:
        law, pool = stack.pool(law, others, settings.samples, config, series=ids), pool_name(config)
        scores[pool] = score(law, values, cut.targets)
        notes.append(stack.line(method))
    elif settings.stack and kept is None:
        notes.append(no_stack(run))
    covered = coverage(law, values, cut.targets, COVERAGE_LEVELS)
    counts = cut.targets.sum((0, 1))
    over_all = np.nansum(covered * counts, axis=1) / counts.sum()
    scored = cut.targets.any((1, 2))
    return LatentSDEEvaluation(
        scores=scores,
        method=method,
        pool=pool,
        kl_path=forecast.kl_path[scored],
        covered=covered,
        over_all=over_all,
        counts=counts,
        title=f"held-out series, fold {config.data.fold} of {config.data.folds}",
        asked=_asked(config),
        notes=tuple(notes),
        noisy=bool(config.model.diffusion_scale),
    )


def _asked(config: LatentSDEConfig) -> str:
    """The task in words: what was given, and what was forecast, in the time column's own unit."""
    settings = config.evaluate
    if settings.task == "second_half":
        return "given the first half of each, forecasting the second"
    scale = config.data.time_scale or 1.0
    at, until = settings.landmark(scale)
    unit, shown = config.data.time_unit or config.data.time, 1.0
    if settings.at is not None or settings.until is not None or config.data.table_unit:
        unit, shown = config.data.table_unit or f"units of '{config.data.time}'", scale
    return f"given what is known at {at * shown:g}, up to {until * shown:g} {unit} after the first row"
