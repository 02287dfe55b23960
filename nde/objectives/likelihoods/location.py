"""Laws around a location: normal, Student's t."""

from collections.abc import Sequence
from typing import Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy import stats
from jaxtyping import Array, Float, PRNGKeyArray
from numpy.typing import ArrayLike

from nde.dtypes import as_floats
from nde.objectives.likelihoods.base import (
    AbstractCensorableLikelihood,
    AbstractLikelihood,
    around,
    Locations,
    MIN_SCALE,
    raw_of,
    spread,
)


class GaussianLikelihood(AbstractCensorableLikelihood):
    r"""$x_c \sim \mathcal N(\mu_c, s_c^2)$ with a learned scale $s_c > 0$ for each channel, starting at `scale`: a
    number, or one for each."""

    raw_scale: Float[Array, " channels"]

    def __init__(self, channels: int, *, scale: ArrayLike = 0.5):
        self.raw_scale = raw_of("GaussianLikelihood", "scale", channels, scale, above=0.0)

    @property
    def scale(self) -> Float[Array, " channels"]:
        """Standard deviation of each channel."""
        return jax.nn.softplus(self.raw_scale) + MIN_SCALE

    def log_prob(self, values: Array, loc: Array) -> Array:
        values, loc = as_floats(values, loc, like=self)
        scale = jnp.broadcast_to(self.scale.astype(loc.dtype), loc.shape)
        return stats.norm.logpdf(values, loc, scale)

    def log_cdf(self, values: Array, loc: Array) -> Array:
        values, loc = as_floats(values, loc, like=self)
        return jax.scipy.special.log_ndtr((values - loc) / spread(self.scale, loc))

    def log_survival(self, values: Array, loc: Array) -> Array:
        values, loc = as_floats(values, loc, like=self)
        return jax.scipy.special.log_ndtr((loc - values) / spread(self.scale, loc))

    def mean(self, loc: Array) -> Array:
        return loc

    def variance(self, loc: Array) -> Array:
        return spread(self.scale, loc) ** 2

    def with_deviation(self, deviation: Float[Array, " channels"]) -> Self:
        above = jnp.maximum(deviation.astype(self.raw_scale.dtype) - MIN_SCALE, MIN_SCALE * 1e-3)
        return eqx.tree_at(lambda law: law.raw_scale, self, above + jnp.log(-jnp.expm1(-above)))

    def sample(self, loc: Locations, *, series: Sequence[object], key: PRNGKeyArray) -> np.ndarray:
        def draw(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
            return generator.standard_normal(shape, loc.dtype)

        return around(loc, self.scale, draw, series, key)


class StudentTLikelihood(AbstractLikelihood):
    r"""$x_c \sim t_{\nu_c}(\mu_c, s_c)$: Student's t with a learned scale and a learned tail for each channel.

    $\nu_c = 2 + \mathrm{softplus}(\cdot) > 2$, so that the variance $s_c^2 \nu_c / (\nu_c - 2)$ exists; it starts at
    `degrees`. A laboratory value now and then lies far outside, and a Gaussian's loss would be mostly about those.
    """

    raw_scale: Float[Array, " channels"]
    raw_degrees: Float[Array, " channels"]

    def __init__(self, channels: int, *, scale: ArrayLike = 0.5, degrees: ArrayLike = 6.0):
        self.raw_scale = raw_of("StudentTLikelihood", "scale", channels, scale, above=0.0)
        self.raw_degrees = raw_of("StudentTLikelihood", "degrees", channels, degrees, above=2.0)

    @property
    def scale(self) -> Float[Array, " channels"]:
        """Scale of each channel."""
        return jax.nn.softplus(self.raw_scale) + MIN_SCALE

    @property
    def degrees(self) -> Float[Array, " channels"]:
        """Degrees of freedom of each channel, above 2."""
        return 2.0 + jax.nn.softplus(self.raw_degrees)

    def log_prob(self, values: Array, loc: Array) -> Array:
        # The peak, with its gamma functions, is computed once a channel, not once a value.
        values, loc = as_floats(values, loc, like=self)
        peak = stats.t.logpdf(jnp.zeros_like(self.scale), self.degrees, scale=self.scale)
        parts = (peak, self.scale, self.degrees)
        peak, scale, degrees = (jnp.broadcast_to(x.astype(loc.dtype), loc.shape) for x in parts)
        return peak - 0.5 * (degrees + 1) * jnp.log1p(((values - loc) / scale) ** 2 / degrees)

    def mean(self, loc: Array) -> Array:
        return loc

    def variance(self, loc: Array) -> Array:
        return spread(self.scale**2 * self.degrees / (self.degrees - 2), loc)

    def sample(self, loc: Locations, *, series: Sequence[object], key: PRNGKeyArray) -> np.ndarray:
        degrees = np.asarray(self.degrees, np.float64)

        def draw(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
            return generator.standard_t(degrees, shape)

        return around(loc, self.scale, draw, series, key)
