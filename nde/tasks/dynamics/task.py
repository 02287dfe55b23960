"""The dynamics of one or several series as a task."""

from collections.abc import Callable

import polars as pl
from jaxtyping import PyTree
from matplotlib.figure import Figure

from nde.config import DynamicsConfig, DynamicsFacts, Member
from nde.models import ObservedODE
from nde.report import LogDensity, Posterior
from nde.tasks.base import AbstractTask, Examples, OpenedRun, Prediction
from nde.tasks.dynamics.drawing import figures
from nde.tasks.dynamics.evaluation import evaluate, held_out
from nde.tasks.dynamics.posterior import log_density, posterior
from nde.tasks.dynamics.prediction import portable, predict, predict_portable
from nde.tasks.dynamics.problem import describe_inputs, DynamicsProblem, load, resolve, unfitted_starts
from nde.tasks.dynamics.squares import with_least_squares
from nde.tasks.dynamics.training import examples, failure_time, training_loss, validation_score
from nde.tasks.portable import Portable, Ported
from nde.tasks.scores import TableEvaluation
from nde.tasks.tables import describe_table
from nde.train import LossFunction, Update


class DynamicsTask(AbstractTask):
    """An equation of one or several series, known, learned or both, fitted to them and solved on.

    Of a model it knows that it is a `nde.models.ObservedODE`, of whatever field.
    """

    def load(self, config: DynamicsConfig) -> DynamicsProblem:
        return load(config)

    def resolve(self, config: DynamicsConfig, problem: DynamicsProblem) -> DynamicsConfig:
        return resolve(config, problem)

    def facts(self, config: DynamicsConfig, *, until: float = 0.0) -> DynamicsFacts:
        del until  # whose steps are chosen on the way
        return config.observe.facts()

    def describe(self, config: DynamicsConfig, problem: DynamicsProblem) -> list[str]:
        panel = problem.panel
        size = f"{len(panel)} series: {int(problem.fit.sum())} values to fit"
        held = f"{size}, {int(problem.test.sum())} held out ({held_out(config)})"
        starts = unfitted_starts(problem) if config.observe.start == "learned" else []
        return [
            *describe_table(config.data, panel),
            *describe_inputs(problem),
            held,
            *starts,
            *(code.said() for code in config.own_code()),
        ]

    def examples(self, config: DynamicsConfig, problem: DynamicsProblem, member: Member) -> Examples:
        return examples(config, problem, member)

    def loss(self, config: DynamicsConfig, problem: DynamicsProblem) -> LossFunction:
        return training_loss(config, problem)

    def update(self, config: DynamicsConfig, problem: DynamicsProblem) -> Update:
        update = super().update(config, problem)
        by_squares = config.train.polish and config.train.polish_method == "lm"
        return with_least_squares(config, update) if by_squares else update

    def validation(self, config: DynamicsConfig, problem: DynamicsProblem) -> Callable[[ObservedODE], float]:
        return validation_score(config, problem)

    def failure_time(self, config: DynamicsConfig, model: ObservedODE, example: PyTree) -> float | None:
        return failure_time(model, *example)

    def log_density(self, run: OpenedRun, problem: DynamicsProblem, model: ObservedODE) -> LogDensity:
        return log_density(run.config, problem, model)

    def posterior(self, run: OpenedRun, problem: DynamicsProblem, model: ObservedODE) -> Posterior:
        return posterior(run.config, problem, model)

    def predict(self, run: OpenedRun, asked: Prediction) -> pl.DataFrame:
        return predict(run, asked)

    def portable(self, run: OpenedRun, *, until: float | None, rows: int | None) -> Portable:
        return portable(run, until, rows, self.prediction_notes(run))

    def predict_portable(self, portable: Ported, asked: Prediction) -> pl.DataFrame:
        return predict_portable(portable, asked)

    def evaluate(self, run: OpenedRun, problem: DynamicsProblem) -> TableEvaluation:
        return evaluate(run, problem)

    def figures(self, run: OpenedRun, problem: DynamicsProblem, evaluation: TableEvaluation) -> dict[str, Figure]:
        return figures(run, problem, evaluation)
