"""Forecasts of irregular series as a task."""

from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl
from jaxtyping import PyTree
from matplotlib.figure import Figure

from nde.config import build_loss, ForecastConfig, Member, SeriesFacts
from nde.report import BASELINES, counted
from nde.tasks.base import AbstractTask, Examples, OpenedRun, Prediction, RunError
from nde.tasks.forecast.drawing import figures
from nde.tasks.forecast.evaluation import evaluate, ForecastEvaluation
from nde.tasks.forecast.prediction import forecast_notes, portable, predict, predict_portable
from nde.tasks.forecast.problem import load_problem, Problem, resolve
from nde.tasks.forecast.stack import learn_stack, write_stack
from nde.tasks.forecast.validation import validation_score
from nde.tasks.portable import Portable, Ported
from nde.tasks.tables import describe_table, write_normaliser
from nde.train import LossFunction


class ForecastTask(AbstractTask):
    """Models of irregular series, scored on forecasts of series that they have not seen.

    Of a model it knows `nde.objectives.LatentPathModel`: a posterior path given the observed entries, a decoder and a
    likelihood.
    """

    def load(self, config: ForecastConfig) -> Problem:
        return load_problem(config)

    def resolve(self, config: ForecastConfig, problem: Problem) -> ForecastConfig:
        for section in config.model:
            if section.called() in BASELINES:
                raise RunError(f"a [[model]] is called '{section.called()}', as a baseline is; give another label.")
        return resolve(config, problem)

    def facts(self, config: ForecastConfig, *, until: float = 0.0) -> SeriesFacts:
        data = config.data
        assert data.channels is not None and data.horizon is not None
        return SeriesFacts(len(data.channels), data.horizon, max(until, data.horizon), data.observations or 1.0)

    def describe(self, config: ForecastConfig, problem: Problem) -> list[str]:
        panel, split = problem.panel, problem.split
        values, channels = counted(int(panel.mask.sum()), "value"), counted(len(panel.channels), "channel")
        size = f"{len(panel)} series, {values} of {channels}"
        parts = f"{len(split.train)} train, {len(split.validation)} validate, {len(split.test)} test"
        return [*describe_table(config.data, panel), f"{size}: {parts}"]

    def save(self, folder: Path, config: ForecastConfig, problem: Problem) -> None:
        write_normaliser(folder, problem.normaliser)

    def examples(self, config: ForecastConfig, problem: Problem, member: Member) -> Examples:
        series = problem.split.train
        names, lengths = [problem.panel.ids[i] for i in series], problem.panel.lengths[series]
        return Examples(problem.arrays(series), names, lengths, in_rows=(True, True, True))

    def loss(self, config: ForecastConfig, problem: Problem) -> LossFunction:
        return build_loss(config.regularise, config.train, config.objective.build())

    def validation(self, config: ForecastConfig, problem: Problem) -> Callable[[PyTree], float]:
        return validation_score(config, problem)

    def finish(self, run: OpenedRun, problem: Problem) -> None:
        if run.config.evaluate.stack:
            write_stack(run.folder, learn_stack(run, problem))

    def evaluate(self, run: OpenedRun, problem: Problem) -> ForecastEvaluation:
        return evaluate(run, problem)

    def figures(self, run: OpenedRun, problem: Problem, evaluation: ForecastEvaluation) -> dict[str, Figure]:
        return figures(run, problem, evaluation)

    def prediction_notes(self, run: OpenedRun, model: str | None = None) -> Sequence[str]:
        return forecast_notes(run) if model is None else ()

    def portable(self, run: OpenedRun, *, until: float | None, rows: int | None) -> Portable:
        return portable(run, until, rows)

    def predict_portable(self, portable: Ported, asked: Prediction) -> pl.DataFrame:
        return predict_portable(portable, asked)

    def predict(self, run: OpenedRun, asked: Prediction) -> pl.DataFrame:
        return predict(run, asked)
