"""At which times a diffusion model or a flow is trained: their laws."""

from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


class AbstractTimes(eqx.Module):
    """The law of the time of a training example."""

    @abstractmethod
    def draw(self, span: tuple[float, float], schedule: Any, *, key: PRNGKeyArray) -> Float[Array, ""]:
        """A time within `span`, of a model with a `nde.diffusion.AbstractSchedule` or `None`."""


class UniformTimes(AbstractTimes):
    """Every time alike."""

    def draw(self, span, schedule, *, key):
        return _within(span, jax.random.uniform(key))


class LogitNormalTimes(AbstractTimes):
    r"""$u = 1 / (1 + e^{-n})$ with $n \sim \mathcal N(m, s^2)$, as a share of the span: mostly in the middle.

    **Arguments:** `mean`: $m$; `std`: $s$, positive.

    **Source:** Esser et al., *Scaling rectified flow transformers*, 2024, arXiv 2403.03206, section 3.1.
    """

    mean: float = 0.0
    std: float = 1.0

    def __check_init__(self):
        if not self.std > 0:
            raise ValueError(f"LogitNormalTimes needs std > 0, but got {self.std}.")

    def draw(self, span, schedule, *, key):
        return _within(span, jax.nn.sigmoid(self.mean + self.std * jax.random.normal(key)))


class UShapedTimes(AbstractTimes):
    r"""A density $\propto \cosh(a\,(2u - 1))$ of the share $u$ of the span: mostly at both ends.

    For reflows, whose straight paths are hardest to tell there.

    **Arguments:** `rate`: $a$, positive.

    **Source:** after Lee, Lin, Fanti 2024, arXiv 2405.20320, with exponentials at both ends.
    """

    rate: float = 4.0

    def __check_init__(self):
        if not self.rate > 0:
            raise ValueError(f"UShapedTimes needs rate > 0, but got {self.rate}; take UniformTimes().")

    def draw(self, span, schedule, *, key):
        side = 2 * jax.random.uniform(key) - 1
        return _within(span, (jnp.arcsinh(side * jnp.sinh(self.rate)) / self.rate + 1) / 2)


class LogSNRTimes(AbstractTimes):
    r"""Even in the log-SNR of a schedule, between its values at the ends of the span.

    With the error measured by the noise this draws the times of the likelihood's bound by importance: its weight is
    $g^2 / \sigma^2 = -\mathrm d \log \mathrm{SNR} / \mathrm dt$, which is then the density.

    **Raises:** `ValueError` for a model without a schedule.

    **Source:** Kingma, Salimans, Poole, Ho, *Variational diffusion models*, 2021, arXiv 2107.00630.
    """

    def draw(self, span, schedule, *, key):
        if schedule is None:
            raise ValueError("LogSNRTimes needs a model with a schedule, but this one's interpolant has noise between.")
        low, high = (jnp.log(schedule.gamma(t)) for t in span)
        return schedule.time(jnp.exp(low + (high - low) * jax.random.uniform(key)))


def _within(span: tuple[float, float], share: Float[Array, ""]) -> Float[Array, ""]:
    return span[0] + (span[1] - span[0]) * share
