"""What a law of observations is, and what the leaves have in common."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Self

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray
from numpy.typing import ArrayLike

from nde.dtypes import default_float
from nde.fields import inverse_softplus
from nde.objectives.draws import Draw, draw_by_series

Locations = Float[np.ndarray, "samples series rows channels"]


class AbstractLikelihood(eqx.Module):
    """The law of one row of values, shape `(channels,)`, around a location of the same shape."""

    @abstractmethod
    def log_prob(self, values: Float[Array, "*rows channels"], loc: Float[Array, "*rows channels"]) -> Array:
        """Log density of each value, shape `(*rows, channels)`."""

    @abstractmethod
    def mean(self, loc: Float[Array, "*rows channels"]) -> Array:
        """Mean of each value, shape `(*rows, channels)`."""

    @abstractmethod
    def variance(self, loc: Float[Array, "*rows channels"]) -> Array:
        """Variance of each value, shape `(*rows, channels)`: a weighted residual is `(x - mean) / sqrt(variance)`."""

    def with_deviation(self, deviation: Float[Array, " channels"]) -> Self:
        """The same law with this standard deviation of each channel, at least its smallest; of normal laws alone.

        **Raises:** `ValueError` for another law.
        """
        raise ValueError(f"A {type(self).__name__} has no standard deviation to be set: only normal laws have.")

    @abstractmethod
    def sample(self, loc: Locations, *, series: Sequence[object], key: PRNGKeyArray) -> np.ndarray:
        """One draw of each value, of the shape of `loc`, made on the host.

        A series' draws are keyed by its id in `series`, see `nde.objectives.draw_by_series`. Not for use under `jit`:
        the rejection sampler behind Student's t takes XLA longer to compile than to run.
        """


class AbstractCensorableLikelihood(AbstractLikelihood):
    """A law of continuous values whose tails are known, so that it can be censored: `CensoredLikelihood`."""

    @abstractmethod
    def log_cdf(self, values: Float[Array, "*rows channels"], loc: Float[Array, "*rows channels"]) -> Array:
        """Log of the probability of a value of at most `values`, accurate far in the tail."""

    @abstractmethod
    def log_survival(self, values: Float[Array, "*rows channels"], loc: Float[Array, "*rows channels"]) -> Array:
        """Log of the probability of a value above `values`, accurate far in the tail."""


# Without a floor a channel that is nearly constant would drive its scale to zero and its density to infinity.
MIN_SCALE = 1e-3


def raw_of(owner: str, name: str, channels: int, start: ArrayLike, *, above: float) -> Float[Array, " channels"]:
    """For each channel the `r` with `above` + softplus(`r`) = `start`, which may differ from channel to channel."""
    begin = np.asarray(start, np.float64)
    if not ((above < begin) & (begin < np.inf)).all():
        raise ValueError(f"{owner} needs {name} > {above:g}, and finite, but got {name}={start}.")
    return jnp.asarray(np.broadcast_to(inverse_softplus(begin - above), channels), default_float())


def around(loc: Locations, scale: Array, draw: Draw, series: Sequence[object], key: PRNGKeyArray) -> np.ndarray:
    """`loc + scale * noise`, made in the noise's place: at 200 samples of many series each copy counts.

    A product over the last axis alone would go by pieces of as few numbers as there are channels (6 times slower for
    two of them), so the scale is repeated over the rows.
    """
    noise = draw_by_series(draw, loc.shape, loc.dtype, series=series, key=key)
    samples, count, rows, channels = loc.shape
    by_series = noise.reshape(samples * count, rows * channels)
    by_series *= np.tile(np.asarray(scale, loc.dtype), rows)
    noise += loc
    return noise


def standard_normal(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """A `nde.objectives.draws.Draw` of standard normal numbers."""
    return generator.standard_normal(shape)


def uniform(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """A `nde.objectives.draws.Draw` of numbers between 0 and 1."""
    return generator.random(shape)


def spread(numbers: Array | Sequence[float], loc: Array) -> Array:
    """A number a channel, over rows: of the shape and the type of `loc`."""
    return jnp.broadcast_to(jnp.asarray(numbers, loc.dtype), loc.shape)
