"""ODE models as a kind of run."""

from collections.abc import Callable

from jaxtyping import PRNGKeyArray, PyTree
from matplotlib.figure import Figure

from nde.config import build_observed_ode, ODEConfig
from nde.models import ObservedODE
from nde.runs.interface import AbstractKind, Examples, OpenedRun, TableEvaluation
from nde.runs.kinds.ode.drawing import figures
from nde.runs.kinds.ode.evaluation import evaluate, held_out, NAMES
from nde.runs.kinds.ode.problem import load, ODEProblem, resolve, unfitted_starts
from nde.runs.kinds.ode.training import batch_loss, examples, failure_time, validation_score
from nde.runs.kinds.tables import describe_table
from nde.train import LossFunction


class ODEKind(AbstractKind):
    """Known systems, hybrids and neural ODEs of one or several series, side by side."""

    def load(self, config: ODEConfig) -> ODEProblem:
        return load(config)

    def resolve(self, config: ODEConfig, problem: ODEProblem) -> ODEConfig:
        return resolve(config, problem)

    def describe(self, config: ODEConfig, problem: ODEProblem) -> list[str]:
        panel = problem.panel
        size = f"{len(panel)} series: {int(problem.fit.sum())} values to fit"
        held = f"{size}, {int(problem.test.sum())} held out ({held_out(config)})"
        starts = unfitted_starts(problem) if config.model.start == "learned" else []
        return [*describe_table(config.data, panel), held, *starts]

    def members(self, config: ODEConfig) -> list[str]:
        count = config.train.members
        number = [f" {i + 1}/{count}" if count > 1 else "" for i in range(count)]
        return [NAMES[method] + of for method in config.model.methods for of in number]

    def new_model(self, config: ODEConfig, member: int, *, key: PRNGKeyArray, horizon: float = 0.0) -> ObservedODE:
        method = config.model.methods[member // config.train.members]
        return build_observed_ode(config.model, method, config.data.channels or (), key=key)

    def examples(self, config: ODEConfig, problem: ODEProblem, member: int) -> Examples:
        return examples(config, problem, member)

    def loss(self, config: ODEConfig, problem: ODEProblem) -> LossFunction:
        return batch_loss(config)

    def validation(self, config: ODEConfig, problem: ODEProblem) -> Callable[[ObservedODE], float]:
        return validation_score(config, problem)

    def remedies(self, config: ODEConfig) -> list[str]:
        model = config.model
        return [f"raise model.max_steps (now {model.max_steps}) or model.rtol (now {model.rtol:g})"]

    def failure_time(self, config: ODEConfig, model: ObservedODE, example: PyTree) -> float | None:
        return failure_time(model, *example)

    def evaluate(self, run: OpenedRun, problem: ODEProblem) -> TableEvaluation:
        return evaluate(run, problem)

    def figures(self, run: OpenedRun, problem: ODEProblem, evaluation: TableEvaluation) -> dict[str, Figure]:
        return figures(run, problem, evaluation)
