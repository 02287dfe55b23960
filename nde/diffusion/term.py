"""The equations that sample from diffusion models, as semilinear terms."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from nde.diffusion.predictions import check_prediction, converted
from nde.diffusion.schedules import AbstractSchedule
from nde.terms import AbstractVariables, SemilinearTerm


def diffusion_model_term(
    prediction: Callable,
    schedule: AbstractSchedule,
    predicts: str = "data",
    path: Any = None,
    *,
    noise: Any = None,
    form: str | None = None,
) -> SemilinearTerm:
    r"""The equation that samples from a diffusion model, solved from late times to early ones.

    The reverse equation may have any amount $\tau \geq 0$ of noise without its marginals changing,

    $$dx = \Bigl(\frac{\dot\alpha}{\alpha} x - \frac{1 + \tau^2}{2} g^2\,\nabla \log p_t(x)\Bigr)\,dt + \tau g\,dW,$$

    from the probability-flow ODE, $\tau = 0$, to the reverse-time SDE, $\tau = 1$. Its linear part can be solved for, in
    two ways: of $\gamma = \alpha_t / \sigma_t$,

    | form | any $\tau$ | $\tau = 0$ | $\tau = 1$ |
    |---|---|---|---|
    | data $\hat x_0$ | $\mathrm d(x / m) = \hat x_0\,\mathrm d\gamma^{1 + \tau^2} + \mathrm dW_{\gamma^{2 \tau^2}}$, $m = \alpha\,\gamma^{-(1 + \tau^2)}$ | $\mathrm d(x / \sigma) = \hat x_0\,\mathrm d\gamma$ | $\mathrm d(\alpha x / \sigma^2) = \hat x_0\,\mathrm d\gamma^2 + \mathrm dW_{\gamma^2}$ |
    | noise $\hat\varepsilon$ | $\mathrm d(x / \alpha) = (1 + \tau^2)\,\hat\varepsilon\,\mathrm d\gamma^{-1} + \mathrm dW_{\tau^2 \gamma^{-2}}$ | $\mathrm d(x / \alpha) = \hat\varepsilon\,\mathrm d\gamma^{-1}$ | $\mathrm d(x / \alpha) = 2\hat\varepsilon\,\mathrm d\gamma^{-1} + \mathrm dW_{\gamma^{-2}}$ |

    An amount that varies with time is given by a function $\varphi$ of $\chi = \gamma^{-1} = \sigma_t / \alpha_t$:
    $\mathrm d(x / (\alpha \varphi)) = \hat x_0\,\mathrm d\varphi^{-1} + \mathrm dW_{(\chi / \varphi)^2}$, whose $\tau$
    solves $1 + \tau^2 = \chi \varphi' / \varphi$; constant ones are $\varphi = \chi^{1 + \tau^2}$. Under a schedule with
    a centre $c$ these are the equations of $x - c$ and $\hat x_0 - c$.

    **Arguments:**

    - `prediction`: called `prediction(t, x, args)`, of the structure of `x`.
    - `schedule`: a `nde.diffusion.AbstractSchedule`.
    - `predicts`: what it predicts, one of `nde.diffusion.PREDICTIONS`.
    - `path`: for an SDE a Brownian motion in the time given above, from its least value to its greatest.
    - `noise`: $\tau$, a number; or $\varphi$, a function that grows, of an array, with $\chi / \varphi$ falling. Without
      a path it is 0, with one 1, unless given.
    - `form`: `"data"` or `"noise"`; as the prediction, and `"data"` for a score or a velocity, unless given.

    **Returns:** a `nde.terms.SemilinearTerm`: for `nde.Exponential`, `nde.ExponentialAdams`, `nde.Lawson` and `nde.Rex`,
    or written out for any other solver.

    **Raises:** `ValueError` for another prediction, form or path, for a path without noise and noise without a path, and
    for a $\varphi$ in the noise form.

    **Limits:** with a $\varphi$ there is no way back from $s$ to $t$, which `nde.Rex` and `nde.Lawson` need.

    **Source:** Song et al. 2021, arXiv 2011.13456, equations 6 and 13; the noise $\tau$, Xue et al., *SA-Solver*, 2023,
    arXiv 2305.14267, proposition 4.1; $\varphi$, Cui et al., *ER-SDE-Solver*, 2023, arXiv 2309.06169, equation 8; the
    forms of $\tau = 0$ and $1$, Blasingame & Liu, 2025, arXiv 2502.08834.
    """  # noqa: E501  (a row of a table can not be broken)
    check_prediction("diffusion_model_term", predicts)
    if form is None:
        form = predicts if predicts in ("data", "noise") else "data"
    if form not in ("data", "noise"):
        raise ValueError(f'diffusion_model_term: form must be "data" or "noise", but got {form!r}.')
    noise = (0.0 if path is None else 1.0) if noise is None else noise
    if callable(noise) and form == "noise":
        raise ValueError('diffusion_model_term: a function of noise needs form="data".')
    if isinstance(noise, int | float) and (noise < 0 or (noise == 0) != (path is None)):
        raise ValueError(
            f"diffusion_model_term: noise must be zero without a Brownian path, and above zero with one, but got "
            f"noise = {noise:g} {'without a path' if path is None else 'with a path'}."
        )
    variables = _variables(schedule, form, noise)
    field = converted(prediction, predicts, form, schedule)
    if form == "data" and schedule.centre is not None:
        return SemilinearTerm(_deviating(field, schedule), variables, path, schedule.centre)
    return SemilinearTerm(field, variables, path, schedule.centre)


def _deviating(field: Callable, schedule: AbstractSchedule) -> Callable:
    return lambda t, x, args: schedule.deviation(field(t, x, args))


def noise_span(schedule: AbstractSchedule, form: str, noise: Any, times: Any) -> tuple[jax.Array, jax.Array]:
    """The least and the greatest time at which the Brownian path of `diffusion_model_term` is read.

    **Arguments:** `schedule`, `form`, `noise`: as there; `times`: the two ends of the solve, in either order.
    """
    variables = _variables(schedule, form, noise)
    ends = [variables.path_time(jnp.asarray(t, jnp.result_type(float))) for t in times]
    return jnp.minimum(*ends), jnp.maximum(*ends)


def _variables(schedule: AbstractSchedule, form: str, noise: Any) -> AbstractVariables:
    if form == "noise":
        return _NoiseVariables(schedule, noise)
    return _RatioVariables(schedule, noise) if callable(noise) else _DataVariables(schedule, noise)


class _DataVariables(AbstractVariables):
    """Those of the data form at a constant amount of noise."""

    schedule: AbstractSchedule
    noise: Any

    def scale(self, t):
        return self.schedule.alpha(t) / self.clock(t)

    def clock(self, t):
        return self.schedule.gamma(t) ** self._power

    def time(self, s):
        return self.schedule.time(s ** (1 / self._power))

    def noise_clock(self, s):
        return s ** (2 * (1 - 1 / self._power))

    @property
    def _power(self):
        return 1 + self.noise**2


class _NoiseVariables(AbstractVariables):
    """Those of the noise form."""

    schedule: AbstractSchedule
    noise: Any

    def scale(self, t):
        return self.schedule.alpha(t)

    def clock(self, t):
        return (1 + self.noise**2) * self.schedule.sigma(t) / self.schedule.alpha(t)

    def time(self, s):
        return self.schedule.time((1 + self.noise**2) / s)

    def noise_clock(self, s):
        return (self.noise * s / (1 + self.noise**2)) ** 2


class _RatioVariables(AbstractVariables):
    """Those of the data form at an amount of noise by a function of the ratio of noise to signal."""

    schedule: AbstractSchedule
    ratio: Callable

    def _chi(self, t):
        return self.schedule.sigma(t) / self.schedule.alpha(t)

    def scale(self, t):
        return self.schedule.alpha(t) * self.ratio(self._chi(t))

    def clock(self, t):
        return 1 / self.ratio(self._chi(t))

    def time(self, s):
        raise ValueError(
            "an amount of noise given by a function has no inverse clock: give a number, or another solver."
        )

    def noise_clock(self, s):
        return self.path_time(self.time(s))

    def path_time(self, t):
        return (self._chi(t) / self.ratio(self._chi(t))) ** 2
