"""Individuals of one equation as a task."""

from collections.abc import Callable

import polars as pl
from matplotlib.figure import Figure

from nde.config import DynamicsFacts, Member, PopulationConfig
from nde.models import Population
from nde.report import LogDensity, Posterior
from nde.tasks.base import AbstractTask, Examples, OpenedRun, Prediction
from nde.tasks.dynamics import describe_inputs, DynamicsProblem, load, resolve
from nde.tasks.population.drawing import figures
from nde.tasks.population.evaluation import evaluate
from nde.tasks.population.posterior import log_density, posterior
from nde.tasks.population.prediction import portable, predict, predict_portable
from nde.tasks.population.training import examples, training_loss, validation_score
from nde.tasks.portable import Portable, Ported
from nde.tasks.scores import TableEvaluation
from nde.tasks.tables import describe_table
from nde.train import LossFunction


class PopulationTask(AbstractTask):
    """A nonlinear mixed-effects model: what is common to individuals, and how they differ.

    Of a model it knows that it is a `nde.models.Population`.
    """

    loss_name = "negative log marginal likelihood (nats per value)"
    score_name = "validation marginal NLL per value"
    counts_solves = False  # the Laplace approximation takes second derivatives

    def load(self, config: PopulationConfig) -> DynamicsProblem:
        return load(config)

    def resolve(self, config: PopulationConfig, problem: DynamicsProblem) -> PopulationConfig:
        found = resolve(config, problem)
        assert isinstance(found, PopulationConfig)
        until = {"until": float(problem.panel.times.max())}
        return found.model_copy(update={"observe": found.observe.model_copy(update=until)})

    def facts(self, config: PopulationConfig, *, until: float = 0.0) -> DynamicsFacts:
        return config.observe.facts(until)

    def describe(self, config: PopulationConfig, problem: DynamicsProblem) -> list[str]:
        panel = problem.panel
        held = len(panel) - len(problem.series)
        size = f"{len(panel)} individuals: {int(problem.fit.sum())} values to fit; {held} of them are held out"
        return [
            *describe_table(config.data, panel),
            *describe_inputs(problem),
            size,
            *(code.said() for code in config.own_code()),
        ]

    def examples(self, config: PopulationConfig, problem: DynamicsProblem, member: Member) -> Examples:
        del member
        return examples(config, problem)

    def loss(self, config: PopulationConfig, problem: DynamicsProblem) -> LossFunction:
        return training_loss(config, problem)

    def validation(self, config: PopulationConfig, problem: DynamicsProblem) -> Callable[[Population], float]:
        return validation_score(config, problem)

    def log_density(self, run: OpenedRun, problem: DynamicsProblem, model: Population) -> LogDensity:
        return log_density(run.config, problem, model)

    def posterior(self, run: OpenedRun, problem: DynamicsProblem, model: Population) -> Posterior:
        return posterior(run.config, problem, model)

    def evaluate(self, run: OpenedRun, problem: DynamicsProblem) -> TableEvaluation:
        return evaluate(run, problem)

    def figures(self, run: OpenedRun, problem: DynamicsProblem, evaluation: TableEvaluation) -> dict[str, Figure]:
        return figures(run, problem, evaluation)

    def predict(self, run: OpenedRun, asked: Prediction) -> pl.DataFrame:
        return predict(run, asked)

    def portable(self, run: OpenedRun, *, until: float | None, rows: int | None) -> Portable:
        return portable(run, until, rows, self.prediction_notes(run))

    def predict_portable(self, portable: Ported, asked: Prediction) -> pl.DataFrame:
        return predict_portable(portable, asked)
