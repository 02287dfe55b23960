"""Laws of counts and of yes and no."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln
from jaxtyping import Array, PRNGKeyArray
from scipy.special import pdtr, pdtrik

from nde.dtypes import as_floats
from nde.objectives.draws import draw_by_series
from nde.objectives.likelihoods.base import AbstractLikelihood, Locations, uniform

SMALLEST_RATE = 1e-10
SMALLEST_CHANCE = 1e-6


class PoissonLikelihood(AbstractLikelihood):
    r"""Counts around their mean $f > 0$: $p(n) = f^n e^{-f} / n!$. Nothing is learned.

    **Limits:** a mean below $10^{-10}$ counts as that, without a gradient.
    """

    def log_prob(self, values: Array, loc: Array) -> Array:
        values, loc = as_floats(values, loc)
        rate = jnp.maximum(loc, SMALLEST_RATE)
        return values * jnp.log(rate) - rate - gammaln(values + 1)

    def mean(self, loc: Array) -> Array:
        return jnp.maximum(loc, SMALLEST_RATE)

    def variance(self, loc: Array) -> Array:
        return jnp.maximum(loc, SMALLEST_RATE)

    def sample(self, loc: Locations, *, series: Sequence[object], key: PRNGKeyArray) -> np.ndarray:
        chance = draw_by_series(uniform, loc.shape, loc.dtype, series=series, key=key)
        rate = np.maximum(loc, SMALLEST_RATE)
        above = np.maximum(np.ceil(pdtrik(chance, rate)), 0.0)
        below = np.maximum(above - 1, 0.0)
        return np.where(pdtr(below, rate) >= chance, below, above).astype(loc.dtype)


class BernoulliLikelihood(AbstractLikelihood):
    r"""Yes, 1, with the probability $f$, or no, 0. The location is the probability itself, not its logit, as a share of
    a population is one.

    **Limits:** probabilities count as between $10^{-6}$ and $1 - 10^{-6}$, without a gradient beyond.
    """

    def log_prob(self, values: Array, loc: Array) -> Array:
        values, loc = as_floats(values, loc)
        chance = self.mean(loc)
        return values * jnp.log(chance) + (1 - values) * jnp.log1p(-chance)

    def mean(self, loc: Array) -> Array:
        return jnp.clip(loc, SMALLEST_CHANCE, 1 - SMALLEST_CHANCE)

    def variance(self, loc: Array) -> Array:
        chance = self.mean(loc)
        return chance * (1 - chance)

    def sample(self, loc: Locations, *, series: Sequence[object], key: PRNGKeyArray) -> np.ndarray:
        drawn = draw_by_series(uniform, loc.shape, loc.dtype, series=series, key=key)
        return (drawn < np.clip(loc, SMALLEST_CHANCE, 1 - SMALLEST_CHANCE)).astype(loc.dtype)
