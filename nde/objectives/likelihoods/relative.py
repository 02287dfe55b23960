"""Laws whose spread depends on the location: proportional, combined, log-normal."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy import stats
from jax.scipy.special import log_ndtr
from jaxtyping import Array, Float, PRNGKeyArray
from numpy.typing import ArrayLike

from nde.dtypes import as_floats
from nde.objectives.draws import draw_by_series
from nde.objectives.likelihoods.base import (
    AbstractCensorableLikelihood,
    Locations,
    MIN_SCALE,
    raw_of,
    spread,
    standard_normal,
)


class CombinedLikelihood(AbstractCensorableLikelihood):
    r"""$x_c \sim \mathcal N(f_c, a_c^2 + (b_c f_c)^2)$: additive and proportional noise, both learned.

    **Arguments of the constructor:** `channels`; `additive`, `proportional`: what $a$, in the unit of the values, and
    $b$ start from, a number or one for each channel. With `additive=None` the noise is proportional, and $a$ is a
    floor of 0.001, which keeps the density finite where the location is zero.
    """

    raw_additive: Float[Array, " channels"] | None
    raw_proportional: Float[Array, " channels"]

    def __init__(self, channels: int, *, additive: ArrayLike | None = 0.1, proportional: ArrayLike = 0.2):
        owner = "CombinedLikelihood"
        self.raw_additive = None if additive is None else raw_of(owner, "additive", channels, additive, above=0.0)
        self.raw_proportional = raw_of(owner, "proportional", channels, proportional, above=0.0)

    def std(self, loc: Array) -> Array:
        """The standard deviation of each value, of the shape of `loc`."""
        shares = spread(jax.nn.softplus(self.raw_proportional) + MIN_SCALE, loc)
        learned = 0.0 if self.raw_additive is None else spread(jax.nn.softplus(self.raw_additive), loc)
        return jnp.sqrt((learned + MIN_SCALE) ** 2 + (shares * loc) ** 2)

    def log_prob(self, values: Array, loc: Array) -> Array:
        values, loc = as_floats(values, loc, like=self)
        return stats.norm.logpdf(values, loc, self.std(loc))

    def log_cdf(self, values: Array, loc: Array) -> Array:
        values, loc = as_floats(values, loc, like=self)
        return log_ndtr((values - loc) / self.std(loc))

    def log_survival(self, values: Array, loc: Array) -> Array:
        values, loc = as_floats(values, loc, like=self)
        return log_ndtr((loc - values) / self.std(loc))

    def mean(self, loc: Array) -> Array:
        return loc

    def variance(self, loc: Array) -> Array:
        return self.std(loc) ** 2

    def sample(self, loc: Locations, *, series: Sequence[object], key: PRNGKeyArray) -> np.ndarray:
        noise = draw_by_series(standard_normal, loc.shape, loc.dtype, series=series, key=key)
        return loc + np.asarray(self.std(jnp.asarray(loc)), loc.dtype) * noise


class LogNormalLikelihood(AbstractCensorableLikelihood):
    r"""$\log x_c \sim \mathcal N(\log f_c, s_c^2)$: positive values around their median $f$, errors in proportion.

    **Arguments of the constructor:** `channels`; `scale`: what $s > 0$ starts from, a number or one for each channel.

    **Limits:** locations below $10^{-30}$ count as that, without a gradient.
    """

    raw_scale: Float[Array, " channels"]

    def __init__(self, channels: int, *, scale: ArrayLike = 0.2):
        self.raw_scale = raw_of("LogNormalLikelihood", "scale", channels, scale, above=0.0)

    @property
    def scale(self) -> Float[Array, " channels"]:
        """Standard deviation of each channel's logarithm."""
        return jax.nn.softplus(self.raw_scale) + MIN_SCALE

    def log_prob(self, values: Array, loc: Array) -> Array:
        values, loc = as_floats(values, loc, like=self)
        safe = jnp.where(values > 0, values, 1.0)
        density = stats.norm.logpdf(jnp.log(safe), _log(loc), spread(self.scale, loc)) - jnp.log(safe)
        return jnp.where(values > 0, density, -jnp.inf)

    def log_cdf(self, values: Array, loc: Array) -> Array:
        values, loc = as_floats(values, loc, like=self)
        return log_ndtr((_log(values) - _log(loc)) / spread(self.scale, loc))

    def log_survival(self, values: Array, loc: Array) -> Array:
        values, loc = as_floats(values, loc, like=self)
        return log_ndtr((_log(loc) - _log(values)) / spread(self.scale, loc))

    def mean(self, loc: Array) -> Array:
        return loc * jnp.exp(spread(self.scale, loc) ** 2 / 2)

    def variance(self, loc: Array) -> Array:
        square = spread(self.scale, loc) ** 2
        return jnp.expm1(square) * jnp.exp(square) * loc**2

    def sample(self, loc: Locations, *, series: Sequence[object], key: PRNGKeyArray) -> np.ndarray:
        noise = draw_by_series(standard_normal, loc.shape, loc.dtype, series=series, key=key)
        return np.maximum(loc, SMALLEST) * np.exp(np.asarray(self.scale, loc.dtype) * noise)


SMALLEST = 1e-30


def _log(x: Array) -> Array:
    return jnp.log(jnp.maximum(x, SMALLEST))
