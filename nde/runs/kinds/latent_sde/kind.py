"""The latent SDE as a kind of run."""

from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl
from jaxtyping import PRNGKeyArray
from matplotlib.figure import Figure

from nde import config as configs
from nde.config import LatentSDEConfig
from nde.models import LatentSDE
from nde.report import counted
from nde.runs.interface import AbstractKind, Examples, OpenedRun, Prediction
from nde.runs.kinds.latent_sde.drawing import figures
from nde.runs.kinds.latent_sde.evaluation import evaluate, LatentSDEEvaluation
from nde.runs.kinds.latent_sde.prediction import forecast_notes, predict
from nde.runs.kinds.latent_sde.problem import load_problem, Problem, resolve
from nde.runs.kinds.latent_sde.stack import learn_stack, write_stack
from nde.runs.kinds.latent_sde.training import batch_loss, validation_score
from nde.runs.kinds.normaliser_file import write_normaliser
from nde.runs.kinds.tables import describe_table
from nde.train import LossFunction


class LatentSDEKind(AbstractKind):
    """A latent SDE of the irregular series of a table, scored on forecasts of series that it has not seen."""

    def load(self, config: LatentSDEConfig) -> Problem:
        return load_problem(config)

    def resolve(self, config: LatentSDEConfig, problem: Problem) -> LatentSDEConfig:
        return resolve(config, problem)

    def describe(self, config: LatentSDEConfig, problem: Problem) -> list[str]:
        panel, split = problem.panel, problem.split
        values, channels = counted(int(panel.mask.sum()), "value"), counted(len(panel.channels), "channel")
        size = f"{len(panel)} series, {values} of {channels}"
        parts = f"{len(split.train)} train, {len(split.validation)} validate, {len(split.test)} test"
        return [*describe_table(config.data, panel), f"{size}: {parts}"]

    def save(self, folder: Path, config: LatentSDEConfig, problem: Problem) -> None:
        write_normaliser(folder / "normaliser.json", problem.normaliser)

    def new_model(self, config: LatentSDEConfig, member: int, *, key: PRNGKeyArray, horizon: float = 0.0) -> LatentSDE:
        channels, model = config.data.channels, config.model
        assert channels is not None and model.horizon is not None
        return configs.build_model(model, len(channels), horizon=max(horizon, model.horizon), key=key)

    def examples(self, config: LatentSDEConfig, problem: Problem, member: int) -> Examples:
        series = problem.split.train
        return Examples(problem.arrays(series), [problem.panel.ids[i] for i in series])

    def loss(self, config: LatentSDEConfig, problem: Problem) -> LossFunction:
        return batch_loss(config)

    def validation(self, config: LatentSDEConfig, problem: Problem) -> Callable[[LatentSDE], float]:
        return validation_score(config, problem)

    def remedies(self, config: LatentSDEConfig) -> list[str]:
        return [f"lower model.dt0 (now {config.model.dt0:g})"]

    def finish(self, run: OpenedRun, problem: Problem) -> None:
        if run.config.evaluate.stack:
            write_stack(run.folder, learn_stack(run, problem))

    def evaluate(self, run: OpenedRun, problem: Problem) -> LatentSDEEvaluation:
        return evaluate(run, problem)

    def figures(self, run: OpenedRun, problem: Problem, evaluation: LatentSDEEvaluation) -> dict[str, Figure]:
        return figures(run, problem, evaluation)

    def forecast_notes(self, run: OpenedRun) -> Sequence[str]:
        return forecast_notes(run)

    def predict(self, run: OpenedRun, asked: Prediction) -> pl.DataFrame:
        return predict(run, asked)
