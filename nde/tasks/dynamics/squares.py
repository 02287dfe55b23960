"""The fit of an observed ODE with normal noise as a problem of least squares."""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from nde.config import DynamicsConfig
from nde.models import forward_mode, ObservedODE
from nde.train import then_least_squares, Update


def with_least_squares(config: DynamicsConfig, update: Update) -> Update:
    """`update` for the steps of the config, then Levenberg–Marquardt, the noise where it is likeliest after each step.

    A solve that fails is a bad point, from which the search turns back.
    """
    fit = config.objective.build(config.train.steps, 1)

    def residuals(model: ObservedODE, batch: tuple[Any, ...]) -> Array:
        # Tangents of few parameters through many values: forward, which diffrax's own loop allows and this engine's not
        return jax.vmap(partial(fit.residuals, forward_mode(model)))(*batch)

    def settle(model: ObservedODE, batch: tuple[Any, ...]) -> ObservedODE:
        off, weights = residuals(model, batch), batch[2]
        held = jnp.sqrt(model.likelihood.variance(jnp.zeros(weights.shape[-1], off.dtype)))
        mean = jnp.sum(off**2, (0, 1)) / jnp.maximum(jnp.sum(weights, (0, 1)).astype(off.dtype), 1e-30)
        likeliest = model.likelihood.with_deviation(held * jnp.sqrt(mean))
        return eqx.tree_at(lambda m: m.likelihood, model, likeliest)

    return then_least_squares(update, residuals, after=config.train.steps, settle=settle)
