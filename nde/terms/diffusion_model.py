"""The equations that sample from diffusion models, as semilinear terms, and their noise schedules."""

from collections.abc import Callable
from typing import Any, Protocol

import equinox as eqx
import jax
import jax.numpy as jnp

from nde.terms.semilinear import AbstractVariables, SemilinearTerm


class Schedule(Protocol):
    r"""Of the noise of a diffusion model, $x_t = \alpha_t x_0 + \sigma_t \varepsilon$ with a normal $\varepsilon$."""

    def alpha(self, t: Any) -> jax.Array:
        r"""$\alpha_t$."""
        ...

    def sigma(self, t: Any) -> jax.Array:
        r"""$\sigma_t$."""
        ...

    def time(self, gamma: Any) -> jax.Array:
        r"""The time at which $\alpha_t / \sigma_t$, which falls in $t$, is `gamma`."""
        ...


class VariancePreserving(eqx.Module):
    r"""The schedule $\alpha_t = e^{-L_t / 2}$, $\sigma_t^2 = 1 - \alpha_t^2$,
    $L_t = \beta_0 t + \tfrac12 (\beta_1 - \beta_0)\,t^2$ for $t$ from 0 to 1.

    **Arguments:** `beta0`, `beta1`: positive numbers. **Limits:** at $t = 0$ nothing is noise and
    $\alpha_t / \sigma_t$ infinite: solves must end before. **Source:** Song et al., *Score-based generative modeling
    through stochastic differential equations*, 2021, arXiv 2011.13456, appendix B.
    """

    beta0: Any = 0.1
    beta1: Any = 20.0

    def _log(self, t):
        return self.beta0 * t + (self.beta1 - self.beta0) * t**2 / 2

    def alpha(self, t):
        return jnp.exp(-self._log(t) / 2)

    def sigma(self, t):
        return jnp.sqrt(-jnp.expm1(-self._log(t)))

    def time(self, gamma):
        log = jnp.log1p(1 / gamma**2)
        return 2 * log / (self.beta0 + jnp.sqrt(self.beta0**2 + 2 * (self.beta1 - self.beta0) * log))


def diffusion_model_term(prediction: Callable, schedule: Schedule, predicts: str = "data", path: Any = None):
    r"""The equation that samples from a diffusion model, solved from late times to early ones; of
    $\gamma = \alpha_t / \sigma_t$:

    | | probability-flow ODE | reverse-time SDE |
    |---|---|---|
    | data $\hat x_0(t, x)$ | $\mathrm d(x / \sigma) = \hat x_0\,\mathrm d\gamma$ | $\mathrm d(\alpha x / \sigma^2) = \hat x_0\,\mathrm d\gamma^2 + \mathrm dW_{\gamma^2}$ |
    | noise $\hat\varepsilon(t, x)$ | $\mathrm d(x / \alpha) = \hat\varepsilon\,\mathrm d\gamma^{-1}$ | $\mathrm d(x / \alpha) = 2\hat\varepsilon\,\mathrm d\gamma^{-1} + \mathrm dW_{\gamma^{-2}}$ |

    The two predictions, of $x = \alpha \hat x_0 + \sigma \hat\varepsilon$, give one equation. The score is
    $-\hat\varepsilon / \sigma$.

    **Arguments:** `prediction`: called `prediction(t, x, args)`; `schedule`: $\alpha$, $\sigma$ and the time of a
    $\gamma$, as `nde.terms.VariancePreserving`; `predicts`: `"data"` or `"noise"`; `path`: for the SDE a Brownian
    motion in the time $\gamma^2$ for data, $\gamma^{-2}$ for noise, from its least value to its greatest.

    **Returns:** an `nde.terms.SemilinearTerm`. **Raises:** `ValueError` for another `predicts` or path.

    **Source:** Blasingame & Liu, 2025, arXiv 2502.08834; Song et al., 2021, arXiv 2011.13456, equations 6 and 13.
    """  # noqa: E501  (a row of a table can not be broken)
    if predicts not in ("data", "noise"):
        raise ValueError(f'diffusion_model_term: predicts must be "data" or "noise", but got {predicts!r}.')
    return SemilinearTerm(prediction, _DiffusionVariables(schedule, predicts == "data", path is not None), path)


class _DiffusionVariables(AbstractVariables):
    schedule: Any
    data: bool = eqx.field(static=True)
    noisy: bool = eqx.field(static=True)

    def _gamma(self, t):
        return self.schedule.alpha(t) / self.schedule.sigma(t)

    def scale(self, t):
        if not self.data:
            return self.schedule.alpha(t)
        return self.schedule.sigma(t) / (self._gamma(t) if self.noisy else 1)

    def clock(self, t):
        if self.data:
            return self._gamma(t) ** (2 if self.noisy else 1)
        return (2 if self.noisy else 1) / self._gamma(t)

    def time(self, s):
        if self.data:
            return self.schedule.time(jnp.sqrt(s) if self.noisy else s)
        return self.schedule.time((2 if self.noisy else 1) / s)

    def noise_clock(self, s):
        return s if self.data else (s / 2) ** 2
