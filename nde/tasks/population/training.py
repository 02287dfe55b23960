"""How a population is trained and validated: by marginal likelihoods."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from nde.config import build_loss, PopulationConfig
from nde.models import Population
from nde.objectives import LaplaceMarginal
from nde.report import Individuals
from nde.tasks.base import Examples
from nde.tasks.dynamics import batched_inputs, DynamicsProblem, Observing
from nde.train import LossFunction


def individuals(config: Observing, problem: DynamicsProblem, mask: np.ndarray) -> Individuals:
    """All series as individuals, of whose values the mask shows some; with inputs, after a row without values at the
    time at which the clock of each starts."""
    inputs = batched_inputs(config, problem)
    # Nothing is solved beyond the last value that is shown; rows before it stay, for steps lie between the rows.
    last = np.where(mask.any(-1), problem.panel.times, problem.clock[:, None]).max(1)
    arrays = (np.minimum(problem.panel.times, last[:, None]), problem.values, mask)
    if inputs is not None:
        arrays = tuple(np.insert(x, 0, first, axis=1) for x, first in zip(arrays, (0.0, 0.0, False), strict=True))
    dtype = jnp.result_type(float)
    with np.errstate(over="ignore"):  # a value beyond single precision is infinite, and its individual named
        times, values, mask = arrays[0].astype(dtype), arrays[1].astype(dtype), arrays[2]
    return times, values, mask, jax.tree.map(lambda x: np.asarray(x, dtype if x.dtype.kind == "f" else None), inputs)


def examples(config: PopulationConfig, problem: DynamicsProblem) -> Examples:
    """Times, values, mask and inputs of the individuals that are trained on."""
    arrays = jax.tree.map(lambda x: x[problem.series], individuals(config, problem, problem.fit))
    return Examples(arrays, [problem.panel.ids[i] for i in problem.series])


def objective(config: PopulationConfig, problem: DynamicsProblem) -> LaplaceMarginal:
    """The marginal likelihood, and the prior, which counts once over all values that are fitted."""
    return config.objective.build(int(problem.fit[problem.series].sum()))


def training_loss(config: PopulationConfig, problem: DynamicsProblem) -> LossFunction:
    """The negative log marginal likelihood of a batch per value, and the prior."""
    return build_loss(config.regularise, config.train, objective(config, problem))


def validation_score(config: PopulationConfig, problem: DynamicsProblem) -> Callable[[Population], float]:
    """The negative log marginal likelihood per value of the individuals that choose the model."""
    chosen = np.flatnonzero(problem.choose.any((1, 2)))
    data = jax.tree.map(lambda x: jnp.asarray(x[chosen]), individuals(config, problem, problem.choose))
    marginal = objective(config, problem)

    def score(model: Population) -> float:
        return -float(_sum(marginal, model, data)) / int(problem.choose.sum())

    return score


@eqx.filter_jit
def _sum(marginal: LaplaceMarginal, model: Population, data: Individuals):
    return jnp.sum(jax.vmap(lambda *one: marginal.log_marginal(model, one))(*data))
