"""Noise schedules of diffusion models and flows."""

from abc import abstractmethod
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from nde.dtypes import promote_state
from nde.terms import scaled


class AbstractSchedule(eqx.Module):
    r"""How data become noise: $x_t = \alpha_t x_0 + \sigma_t \varepsilon$ with a standard normal $\varepsilon$.

    A schedule defines `alpha`, `sigma` and `time`, the inverse of $\gamma_t = \alpha_t / \sigma_t$, which falls in
    $t$; everything else follows. `ends` are two times, near the data and near the noise, between which one usually
    samples: at the first $\sigma$ is small, not zero, and at the second $\alpha$ is, so that both are finite in every
    form of the equation.

    Under a schedule with a `centre` $c$ (`nde.diffusion.MeanReverting`) all of this holds of $x - c$.
    """

    ends: ClassVar[tuple[float, float]]

    @abstractmethod
    def alpha(self, t: Any) -> jax.Array:
        r"""$\alpha_t$, the share of the data."""

    @abstractmethod
    def sigma(self, t: Any) -> jax.Array:
        r"""$\sigma_t$, the standard deviation of the noise."""

    @abstractmethod
    def time(self, gamma: Any) -> jax.Array:
        r"""The time at which $\alpha_t / \sigma_t$ is `gamma`."""

    @property
    def centre(self) -> Any:
        """What the data are drawn to; `None` for zero."""
        return None

    def gamma(self, t: Any) -> jax.Array:
        r"""$\gamma_t = \alpha_t / \sigma_t$."""
        return self.alpha(t) / self.sigma(t)

    def log_snr(self, t: Any) -> jax.Array:
        r"""The logarithm of the ratio of signal to noise, $2 \log (\alpha_t / \sigma_t)$; half of it is the $\lambda$
        of DPM-Solver."""
        return 2 * (jnp.log(self.alpha(t)) - jnp.log(self.sigma(t)))

    def rates(self, t: Any) -> tuple[jax.Array, jax.Array]:
        r"""$\dot\alpha_t$ and $\dot\sigma_t$."""
        t = jnp.asarray(t)
        return jax.jvp(lambda t: (self.alpha(t), self.sigma(t)), (t,), (jnp.ones_like(t),))[1]

    def drift_rate(self, t: Any) -> jax.Array:
        r"""$\dot\alpha_t / \alpha_t$: the drift of the forward equation $dx = \dot\alpha / \alpha\,x\,dt + g\,dW$."""
        return self.rates(t)[0] / self.alpha(t)

    def squared_diffusion(self, t: Any) -> jax.Array:
        r"""$g_t^2 = 2 \sigma_t (\dot\sigma_t - \sigma_t\,\dot\alpha_t / \alpha_t)$, of the forward equation."""
        alpha_rate, sigma_rate = self.rates(t)
        alpha, sigma = self.alpha(t), self.sigma(t)
        return 2 * sigma * (sigma_rate - sigma * alpha_rate / alpha)

    def perturb(self, t: Any, data: Any, noise: Any) -> Any:
        r"""$x_t = c + \alpha_t (x_0 - c) + \sigma_t \varepsilon$, of the structure and dtype of the data."""
        centred = self.deviation(data)
        moved = jax.tree.map(jnp.add, scaled(self.alpha(t), centred), scaled(self.sigma(t), noise))
        return moved if self.centre is None else jax.tree.map(jnp.add, moved, self.centre)

    def deviation(self, x: Any) -> Any:
        """$x - c$."""
        return x if self.centre is None else jax.tree.map(jnp.subtract, x, self.centre)


class VariancePreserving(AbstractSchedule):
    r"""$\alpha_t = e^{-L_t / 2}$, $\sigma_t^2 = 1 - \alpha_t^2$, $L_t = \beta_0 t + \tfrac12 (\beta_1 - \beta_0)\,t^2$.

    **Arguments:** `beta0`, `beta1`: positive numbers. **Limits:** at $t = 0$ nothing is noise and
    $\alpha_t / \sigma_t$ infinite: solves must end before. **Source:** Song et al., *Score-based generative modeling
    through stochastic differential equations*, 2021, arXiv 2011.13456, appendix B.
    """

    ends = (1e-3, 1.0)

    beta0: Any = 0.1
    beta1: Any = 20.0

    def _log(self, t):
        return self.beta0 * t + (self.beta1 - self.beta0) * t**2 / 2

    def _time(self, log):
        return 2 * log / (self.beta0 + jnp.sqrt(self.beta0**2 + 2 * (self.beta1 - self.beta0) * log))

    def alpha(self, t):
        return jnp.exp(-self._log(t) / 2)

    def sigma(self, t):
        return jnp.sqrt(-jnp.expm1(-self._log(t)))

    def time(self, gamma):
        return self._time(jnp.log1p(1 / gamma**2))


class SubVariancePreserving(VariancePreserving):
    r"""$\alpha_t = e^{-L_t / 2}$, $\sigma_t = 1 - \alpha_t^2$, with the $L_t$ of `VariancePreserving`.

    **Arguments, limits and source:** as there; appendix B, "sub-VP".
    """

    def sigma(self, t):
        return -jnp.expm1(-self._log(t))

    def time(self, gamma):
        alpha_over_gamma = 2 / (1 + jnp.sqrt(1 + 4 * gamma**2))
        return self._time(-jnp.log1p(-alpha_over_gamma))


class CosineSchedule(AbstractSchedule):
    r"""$\alpha_t = \cos(\tfrac\pi2 \tfrac{t + \eta}{1 + \eta}) / \cos(\tfrac\pi2 \tfrac{\eta}{1 + \eta})$,
    $\sigma_t^2 = 1 - \alpha_t^2$, for $t$ from 0 to 1.

    **Arguments:** `offset`: $\eta$. **Limits:** all is noise at $t = 1$, and none at $t = 0$: sample between `ends`.
    **Source:** Nichol & Dhariwal, *Improved denoising diffusion probabilistic models*, 2021, arXiv 2102.09672,
    equation 17; the end at 0.9946 as in Lu et al. 2022, arXiv 2206.00927, appendix D.4.
    """

    ends = (1e-3, 0.9946)

    offset: Any = 0.008

    def _angle(self, t):
        return jnp.pi / 2 * (t + self.offset) / (1 + self.offset)

    def alpha(self, t):
        return jnp.cos(self._angle(t)) / jnp.cos(self._angle(0.0))

    def sigma(self, t):
        # 1 - alpha^2 without cancellation near t = 0: sin(a - b) sin(a + b) = cos^2 b - cos^2 a.
        angle, first = self._angle(t), self._angle(0.0)
        return jnp.sqrt(jnp.sin(angle - first) * jnp.sin(angle + first)) / jnp.cos(first)

    def time(self, gamma):
        alpha = gamma / jnp.sqrt(1 + gamma**2)
        angle = jnp.arccos(alpha * jnp.cos(self._angle(0.0)))
        return angle * 2 / jnp.pi * (1 + self.offset) - self.offset


class VarianceExploding(AbstractSchedule):
    r"""$\alpha_t = 1$, $\sigma_t = \sigma_0 (\sigma_1 / \sigma_0)^t$, for $t$ from 0 to 1.

    **Arguments:** `sigma0`, `sigma1`: the least and the greatest standard deviation, in units of the data.
    **Source:** Song et al. 2021, arXiv 2011.13456, appendix C.
    """

    ends = (0.0, 1.0)

    sigma0: Any = 0.01
    sigma1: Any = 50.0

    def alpha(self, t):
        return jnp.ones_like(jnp.asarray(t, jnp.result_type(float, t)))

    def sigma(self, t):
        return self.sigma0 * (self.sigma1 / self.sigma0) ** t

    def time(self, gamma):
        return -jnp.log(gamma * self.sigma0) / jnp.log(self.sigma1 / self.sigma0)


class EDMSchedule(AbstractSchedule):
    r"""$\alpha_t = 1$, $\sigma_t = t$: time is the standard deviation of the noise, from 0.002 to 80 data units.

    **Source:** Karras, Aittala, Aila, Laine, *Elucidating the design space of diffusion-based generative models*, 2022,
    arXiv 2206.00364, table 1.
    """

    ends = (0.002, 80.0)

    def alpha(self, t):
        return jnp.ones_like(jnp.asarray(t, jnp.result_type(float, t)))

    def sigma(self, t):
        return jnp.asarray(t, jnp.result_type(float, t))

    def time(self, gamma):
        return 1 / gamma


class LinearFlow(AbstractSchedule):
    r"""$\alpha_t = 1 - t$, $\sigma_t = t$: the straight line from data at 0 to noise at 1, of flow matching.

    **Source:** Lipman et al., *Flow matching for generative modeling*, 2023, arXiv 2210.02747, section 4.1 (its time
    runs the other way).
    """

    ends = (1e-3, 1 - 1e-3)

    def alpha(self, t):
        return 1 - jnp.asarray(t, jnp.result_type(float, t))

    def sigma(self, t):
        return jnp.asarray(t, jnp.result_type(float, t))

    def time(self, gamma):
        return 1 / (1 + gamma)


class MeanReverting(AbstractSchedule):
    r"""Data that become noise about a centre: $x_t = c + \alpha_t (x_0 - c) + \lambda \sigma_t \varepsilon$.

    Of the equation $dx = \theta_t (c - x)\,dt + \sqrt{2 \lambda^2 \theta_t}\,dW$ where $\alpha^2 + \sigma^2 = 1$, with
    $\alpha_t = e^{-\int \theta}$; used to restore a degraded $c$.

    **Arguments:** `schedule`: of $\alpha$ and $\sigma$; `centre`: $c$, of the structure of the data; `scale`:
    $\lambda$.

    **Source:** Luo et al., *Image restoration with mean-reverting stochastic differential equations*, 2023, arXiv
    2301.11699, equations 3 to 6.
    """

    schedule: AbstractSchedule
    target: Any
    scale: Any

    def __init__(self, schedule: AbstractSchedule, centre: Any, scale: Any = 1.0):
        self.schedule, self.target, self.scale = schedule, promote_state(centre, jnp.result_type(float)), scale

    @property
    def ends(self):  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.schedule.ends

    @property
    def centre(self):
        return self.target

    def alpha(self, t):
        return self.schedule.alpha(t)

    def sigma(self, t):
        return self.scale * self.schedule.sigma(t)

    def time(self, gamma):
        return self.schedule.time(gamma * self.scale)
