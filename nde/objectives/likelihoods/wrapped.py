"""Laws made of others: in other units, a law a channel, censored."""

import math
from collections.abc import Sequence
from typing import Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from nde.objectives.likelihoods.base import AbstractCensorableLikelihood, AbstractLikelihood, Locations, spread


def censorable(law: AbstractLikelihood) -> AbstractCensorableLikelihood:
    """The law, if it has tails.

    **Raises:** `ValueError` if it has none, naming it.
    """
    if not isinstance(law, AbstractCensorableLikelihood):
        raise ValueError(f"A {type(law).__name__} can not be censored: its tail probabilities are not known.")
    return law


class ScaledLikelihood(AbstractCensorableLikelihood):
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
        unit = spread(self.unit, loc)
        return self.law.log_prob(values / unit, loc / unit) - jnp.log(unit)

    def log_cdf(self, values: Array, loc: Array) -> Array:
        law, unit = censorable(self.law), spread(self.unit, loc)
        return law.log_cdf(values / unit, loc / unit)

    def log_survival(self, values: Array, loc: Array) -> Array:
        law, unit = censorable(self.law), spread(self.unit, loc)
        return law.log_survival(values / unit, loc / unit)

    def mean(self, loc: Array) -> Array:
        unit = spread(self.unit, loc)
        return unit * self.law.mean(loc / unit)

    def variance(self, loc: Array) -> Array:
        unit = spread(self.unit, loc)
        return unit**2 * self.law.variance(loc / unit)

    def with_deviation(self, deviation: Array) -> Self:
        law = self.law.with_deviation(deviation / jnp.asarray(self.unit, deviation.dtype))
        return eqx.tree_at(lambda scaled: scaled.law, self, law)

    def sample(self, loc: Locations, *, series: Sequence[object], key: PRNGKeyArray) -> np.ndarray:
        unit = np.asarray(self.unit, loc.dtype)
        return unit * self.law.sample(loc / unit, series=series, key=key)


class ChannelLikelihood(AbstractCensorableLikelihood):
    r"""A law of its own for each channel: $\log p(x) = \sum_c \log p_c(x_c)$.

    **Arguments of the constructor:** `laws`: for each channel a law of one channel.
    """

    laws: tuple[AbstractLikelihood, ...]

    def __init__(self, laws: Sequence[AbstractLikelihood]):
        self.laws = tuple(laws)

    def log_prob(self, values: Array, loc: Array) -> Array:
        return self._each(lambda law, x, m: law.log_prob(x, m), values, loc)

    def log_cdf(self, values: Array, loc: Array) -> Array:
        return self._each(lambda law, x, m: _tail(law, x, m, "log_cdf"), values, loc)

    def log_survival(self, values: Array, loc: Array) -> Array:
        return self._each(lambda law, x, m: _tail(law, x, m, "log_survival"), values, loc)

    def mean(self, loc: Array) -> Array:
        return self._each(lambda law, _, m: law.mean(m), loc, loc)

    def variance(self, loc: Array) -> Array:
        return self._each(lambda law, _, m: law.variance(m), loc, loc)

    def with_deviation(self, deviation: Array) -> Self:
        laws = tuple(law.with_deviation(deviation[c : c + 1]) for c, law in enumerate(self.laws))
        return eqx.tree_at(lambda channels: channels.laws, self, laws)

    def sample(self, loc: Locations, *, series: Sequence[object], key: PRNGKeyArray) -> np.ndarray:
        keys = jax.random.split(key, len(self.laws))
        drawn = [law.sample(loc[..., c : c + 1], series=series, key=keys[c]) for c, law in enumerate(self.laws)]
        return np.concatenate(drawn, axis=-1)

    def _each(self, of, values: Array, loc: Array) -> Array:
        parts = [of(law, values[..., c : c + 1], loc[..., c : c + 1]) for c, law in enumerate(self.laws)]
        return jnp.concatenate(parts, axis=-1)


def _tail(law: AbstractLikelihood, values: Array, loc: Array, name: str) -> Array:
    """A tail of a channel's law; minus infinity of one without, whose channel is then not censored."""
    return getattr(law, name)(values, loc) if isinstance(law, AbstractCensorableLikelihood) else -jnp.inf + 0 * loc


class CensoredLikelihood(AbstractLikelihood):
    r"""A law of what is seen of a value through limits of quantification, $l_c$ below and $u_c$ above:

    | value | $\log p$ |
    |---|---|
    | $x \le l$ | $\log P(X \le l)$ |
    | $l < x < u$ | $\log p(x)$ |
    | $x \ge u$ | $\log P(X > u)$ |

    A value below the limit is written as the limit, or as anything below it, and likewise above: only that it is so
    counts ("M3"). Draws are what would be written, so that they lie on a limit as often as the values do; mean and
    variance are those of the law without limits.

    **Arguments of the constructor:** `law`: of the values themselves; `below`, `above`: for each channel a limit, or
    `None`.

    **Raises:** `ValueError` for a limit below that is not under that above, or a law without tails.

    **Source:** Beal, *Ways to fit a PK model with some data below the quantification limit*, 2001, method M3.
    """

    law: AbstractLikelihood
    below: tuple[float, ...] = eqx.field(static=True)
    above: tuple[float, ...] = eqx.field(static=True)

    def __init__(
        self, law: AbstractLikelihood, *, below: Sequence[float | None], above: Sequence[float | None] | None = None
    ):
        self.law = censorable(law)
        self.below = tuple(-math.inf if limit is None else float(limit) for limit in below)
        limits = [None] * len(below) if above is None else above
        self.above = tuple(math.inf if limit is None else float(limit) for limit in limits)
        if len(self.below) != len(self.above) or not all(b < a for b, a in zip(self.below, self.above, strict=True)):
            raise ValueError(f"CensoredLikelihood needs limits below under those above, but got {below=} and {above=}.")

    def log_prob(self, values: Array, loc: Array) -> Array:
        law = censorable(self.law)
        below, above = (spread(limits, loc) for limits in (self.below, self.above))
        low, high = values <= below, values >= above
        # Where a branch is not taken it is evaluated at an inner point: infinities would reach the gradient.
        inner = jnp.where(low | high, loc, values)
        density = law.log_prob(inner, loc)
        cdf = law.log_cdf(jnp.where(low, below, loc), loc)
        survival = law.log_survival(jnp.where(high, above, loc), loc)
        return jnp.where(low, cdf, jnp.where(high, survival, density))

    def mean(self, loc: Array) -> Array:
        return self.law.mean(loc)

    def variance(self, loc: Array) -> Array:
        return self.law.variance(loc)

    def sample(self, loc: Locations, *, series: Sequence[object], key: PRNGKeyArray) -> np.ndarray:
        drawn = self.law.sample(loc, series=series, key=key)
        return np.clip(drawn, np.array(self.below, drawn.dtype), np.array(self.above, drawn.dtype))
