"""Observation models: the density of a value around a location, one scale (and one tail) a channel."""

import math
from abc import abstractmethod
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy import stats
from jaxtyping import Array, Float, PRNGKeyArray
from numpy.typing import ArrayLike

from nde.dtypes import as_floats, default_float
from nde.fields import inverse_softplus
from nde.objectives.draws import Draw, draw_by_series

Locations = Float[np.ndarray, "samples series rows channels"]


class AbstractLikelihood(eqx.Module):
    """The law of one row of values, shape `(channels,)`, around a location of the same shape."""

    @abstractmethod
    def log_prob(self, values: Float[Array, "*rows channels"], loc: Float[Array, "*rows channels"]) -> Array:
        """Log density of each value, shape `(*rows, channels)`."""

    @abstractmethod
    def sample(self, loc: Locations, *, series: Sequence[object], key: PRNGKeyArray) -> np.ndarray:
        """One draw of each value, of the shape of `loc`, made on the host.

        A series' draws are keyed by its id in `series`, see `nde.objectives.draw_by_series`. Not for use under `jit`:
        the rejection sampler behind Student's t takes XLA longer to compile than to run.
        """


class GaussianLikelihood(AbstractLikelihood):
    r"""$x_c \sim \mathcal N(\mu_c, s_c^2)$ with a learned scale $s_c > 0$ for each channel, starting at `scale`: a
    number, or one for each."""

    raw_scale: Float[Array, " channels"]

    def __init__(self, channels: int, *, scale: ArrayLike = 0.5):
        self.raw_scale = _raw("GaussianLikelihood", "scale", channels, scale, above=0.0)

    @property
    def scale(self) -> Float[Array, " channels"]:
        """Standard deviation of each channel."""
        return jax.nn.softplus(self.raw_scale) + MIN_SCALE

    def log_prob(self, values: Array, loc: Array) -> Array:
        values, loc = as_floats(values, loc, like=self)
        scale = jnp.broadcast_to(self.scale.astype(loc.dtype), loc.shape)
        return stats.norm.logpdf(values, loc, scale)

    def sample(self, loc: Locations, *, series: Sequence[object], key: PRNGKeyArray) -> np.ndarray:
        def draw(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
            return generator.standard_normal(shape, loc.dtype)

        return _around(loc, self.scale, draw, series, key)


class StudentTLikelihood(AbstractLikelihood):
    r"""$x_c \sim t_{\nu_c}(\mu_c, s_c)$: Student's t with a learned scale and a learned tail for each channel.

    $\nu_c = 2 + \mathrm{softplus}(\cdot) > 2$, so that the variance $s_c^2 \nu_c / (\nu_c - 2)$ exists; it starts at
    `degrees`. A laboratory value now and then lies far outside, and a Gaussian's loss would be mostly about those.
    """

    raw_scale: Float[Array, " channels"]
    raw_degrees: Float[Array, " channels"]

    def __init__(self, channels: int, *, scale: ArrayLike = 0.5, degrees: ArrayLike = 6.0):
        self.raw_scale = _raw("StudentTLikelihood", "scale", channels, scale, above=0.0)
        self.raw_degrees = _raw("StudentTLikelihood", "degrees", channels, degrees, above=2.0)

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

    def sample(self, loc: Locations, *, series: Sequence[object], key: PRNGKeyArray) -> np.ndarray:
        degrees = np.asarray(self.degrees, np.float64)

        def draw(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
            return generator.standard_t(degrees, shape)

        return _around(loc, self.scale, draw, series, key)


class ScaledLikelihood(AbstractLikelihood):
    r"""A law of values in units $u_c$ of their own: $\log p(x) = \log p_0(x / u) - \log u$ around $\mu / u$.

    What the law within holds, a scale and its floor, is then in units of $u$, and learns alike whatever the values are
    measured in.

    **Arguments of the constructor:** `law`: $p_0$; `unit`: $u > 0$, a number for each channel, not learned.

    **Raises:** `ValueError` if a unit is not positive.
    """

    law: AbstractLikelihood
    unit: tuple[float, ...] = eqx.field(static=True)

    def __init__(self, law: AbstractLikelihood, *, unit: Sequence[float]):
        if not all(0 < number < math.inf for number in unit):
            raise ValueError(f"ScaledLikelihood needs positive units, but got {unit=}.")
        self.law, self.unit = law, tuple(map(float, unit))

    def log_prob(self, values: Array, loc: Array) -> Array:
        unit = jnp.broadcast_to(jnp.asarray(self.unit, loc.dtype), loc.shape)
        return self.law.log_prob(values / unit, loc / unit) - jnp.log(unit)

    def sample(self, loc: Locations, *, series: Sequence[object], key: PRNGKeyArray) -> np.ndarray:
        unit = np.asarray(self.unit, loc.dtype)
        return unit * self.law.sample(loc / unit, series=series, key=key)


# Without a floor a channel that is nearly constant would drive its scale to zero and its density to infinity.
MIN_SCALE = 1e-3


def _raw(owner: str, name: str, channels: int, start: ArrayLike, *, above: float) -> Float[Array, " channels"]:
    """For each channel the `r` with `above` + softplus(`r`) = `start`, which may differ from channel to channel."""
    begin = np.asarray(start, np.float64)
    if not ((above < begin) & (begin < np.inf)).all():
        raise ValueError(f"{owner} needs {name} > {above:g}, and finite, but got {name}={start}.")
    return jnp.asarray(np.broadcast_to(inverse_softplus(begin - above), channels), default_float())


def _around(loc: Locations, scale: Array, draw: Draw, series: Sequence[object], key: PRNGKeyArray) -> np.ndarray:
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
