"""What Gaussian data would have made of a noisy state, and what is left for a network."""

from typing import Any

import equinox as eqx
from jaxtyping import Array

from nde.diffusion import AbstractSchedule


class GaussianShares(eqx.Module):
    r"""Each prediction as a share of the state and one of a network: see `nde.DiffusionModel`.

    Of data $\mathcal N(0, s^2 I)$ the state at time $t$ has the spread $\rho$, $\rho^2 = \alpha^2 s^2 + \sigma^2$, and
    the prediction is known; with a network $u$ of order one for the rest

    | data | noise | score | velocity |
    |---|---|---|---|
    | $\frac{\alpha s^2}{\rho^2} x + \frac{\sigma s}{\rho} u$ | $\frac{\sigma}{\rho^2} x - \frac{\alpha s}{\rho} u$ | $-\frac{1}{\rho^2} x + \frac{\alpha s}{\rho \sigma} u$ | $\frac{\dot\alpha \alpha s^2 + \dot\sigma \sigma}{\rho^2} x + \frac{\dot\alpha \sigma - \dot\sigma \alpha}{\rho} s u$ |

    **Arguments:** `schedule`: of $\alpha$ and $\sigma$; `scale`: $s$.
    """  # noqa: E501  (a row of a table can not be broken)

    schedule: AbstractSchedule
    scale: float = eqx.field(static=True)

    def spread(self, t: Any) -> Array:
        r"""$\rho$."""
        return (self.schedule.alpha(t) ** 2 * self.scale**2 + self.schedule.sigma(t) ** 2) ** 0.5

    def of(self, predicts: str, t: Any) -> tuple[Array, Array]:
        """The shares of one of `nde.diffusion.PREDICTIONS`."""
        alpha, sigma, rho, s = self.schedule.alpha(t), self.schedule.sigma(t), self.spread(t), self.scale
        alpha_rate, sigma_rate = self.schedule.rates(t)
        return {
            "data": (alpha * s**2 / rho**2, sigma * s / rho),
            "noise": (sigma / rho**2, -alpha * s / rho),
            "score": (-1 / rho**2, alpha * s / (rho * sigma)),
            "velocity": (
                (alpha_rate * alpha * s**2 + sigma_rate * sigma) / rho**2,
                (alpha_rate * sigma - sigma_rate * alpha) * s / rho,
            ),
        }[predicts]
