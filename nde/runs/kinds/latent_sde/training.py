"""How a latent SDE is trained and validated."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from nde import config as configs
from nde.config import LatentSDEConfig
from nde.models import LatentSDE
from nde.objectives import annealed, hide_future
from nde.report import sample_forecast
from nde.runs.interface import member_key
from nde.runs.kinds.latent_sde.problem import Problem, sample_series
from nde.runs.kinds.penalty import with_penalty
from nde.train import BatchLoss


def batch_loss(config: LatentSDEConfig) -> Callable[..., BatchLoss]:
    """The loss of a batch: the objective of each series in a random context, per observed value."""
    settings = config.objective
    objective = configs.build_objective(settings)
    regulariser = configs.build_regulariser(config.regularise)
    share = configs.build_share(config.regularise, config.train)

    def loss(model: PyTree, batch: PyTree, step: jax.Array, key: jax.Array) -> BatchLoss:
        def series(times, values, mask, key):
            context_key, path_key = jax.random.split(key)
            context = hide_future(times, mask, whole=settings.whole, key=context_key)
            return objective(model, times, values, mask, context, key=path_key, regulariser=regulariser)

        times, values, mask = batch
        terms = jax.vmap(series)(times, values, mask, jax.random.split(key, len(times)))
        weight = annealed(settings.kl_weight, settings.anneal_steps, step)
        losses = jax.vmap(lambda term: term.loss(weight))(terms)
        parts = {
            "log_likelihood": jnp.mean(terms.log_likelihood),
            "kl_path": jnp.mean(terms.kl_path),
            "kl_initial": jnp.mean(terms.kl_initial),
        }
        result = BatchLoss(jnp.sum(losses) / jnp.sum(terms.count), parts, losses)
        return result if regulariser is None else with_penalty(result, terms.penalty, share(step))

    return loss


def validation_score(config: LatentSDEConfig, problem: Problem) -> Callable[[LatentSDE], float]:
    """The mean negative log predictive density per value on the validation series, in the config's task.

    They are a sample of `train.validation_series` of them, the same at every validation.
    """
    series = sample_series(problem.split.validation, config.train.validation_series, config.data.split_seed)
    times, values, mask = problem.arrays(series)
    cut = configs.build_task(config.evaluate, problem.panel.time_scale).cut(times, mask)
    key, ids = member_key(config, 0, "validation"), problem.ids(series)

    def score(model: LatentSDE) -> float:
        samples = config.train.validation_samples
        given = times, values, cut.context, times
        forecast = sample_forecast([model], *given, series=ids, samples=samples, key=key)
        return float(-forecast.law.log_density(values)[cut.targets].mean())

    return score
