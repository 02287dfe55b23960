"""Priors of parameters: log densities of a value in its own units."""

import math
from abc import abstractmethod
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy import stats
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray


class AbstractPrior(eqx.Module):
    """What is believed of a `nde.fields.Parameter` before the data are seen."""

    @abstractmethod
    def log_prob(self, value: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
        """Log density of each number, in the parameter's own units."""

    @abstractmethod
    def draw(self, shape: Sequence[int], *, key: PRNGKeyArray) -> Float[Array, "..."]:
        """Independent values of this shape."""


class NormalPrior(AbstractPrior):
    r"""$\theta \sim \mathcal N(m, s^2)$, in the parameter's own units.

    **Arguments of the constructor:** `location`: $m$; `scale`: $s > 0$.

    **Raises:** `ValueError` for a scale that is not positive.

    **Limits:** of a bounded parameter it is the density without the bounds, which is off by a constant.
    """

    location: float = eqx.field(static=True)
    scale: float = eqx.field(static=True)

    def __init__(self, location: float, scale: float):
        self.location, self.scale = float(location), _positive("NormalPrior", "scale", scale)

    def log_prob(self, value: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
        x = (jnp.asarray(value) - self.location) / self.scale
        return stats.norm.logpdf(x) - math.log(self.scale)

    def draw(self, shape: Sequence[int], *, key: PRNGKeyArray) -> Float[Array, "..."]:
        return self.location + self.scale * jax.random.normal(key, tuple(shape))


class LogNormalPrior(AbstractPrior):
    r"""$\log\theta \sim \mathcal N(\log m, s^2)$: of a positive parameter, known up to a factor of about $e^{\pm s}$.

    Its density is that of $\theta$ itself, $\mathcal N(\log\theta; \log m, s^2) / \theta$.

    **Arguments of the constructor:** `location`: the median $m > 0$, in the parameter's own units; `scale`: $s > 0$,
    the standard deviation of the logarithm, so that 0.3 is some 30 per cent.

    **Raises:** `ValueError` for a location or a scale that is not positive.
    """

    location: float = eqx.field(static=True)
    scale: float = eqx.field(static=True)

    def __init__(self, location: float, scale: float):
        self.location = _positive("LogNormalPrior", "location", location)
        self.scale = _positive("LogNormalPrior", "scale", scale)

    def log_prob(self, value: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
        log = jnp.log(jnp.asarray(value))
        return stats.norm.logpdf((log - math.log(self.location)) / self.scale) - math.log(self.scale) - log

    def draw(self, shape: Sequence[int], *, key: PRNGKeyArray) -> Float[Array, "..."]:
        return self.location * jnp.exp(self.scale * jax.random.normal(key, tuple(shape)))


def _positive(owner: str, name: str, number: float) -> float:
    if not 0 < number < math.inf:
        raise ValueError(f"{owner} needs {name} > 0, and finite, but got {name}={number}.")
    return float(number)
