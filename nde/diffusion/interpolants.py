"""Interpolants: paths from a point of one law to a point of another, blurred on the way."""

from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from nde.diffusion.schedules import AbstractSchedule, CosineSchedule, LinearFlow


class AbstractInterpolant(eqx.Module):
    r"""A path from a point of the source to one of the target: $x_t = \alpha_t x_0 + \beta_t x_1 + \gamma_t z$.

    At $t = 0$ it is $x_0$ and at $t = 1$ it is $x_1$; $z$ is standard normal and independent of both. The law of $x_t$
    is carried from one to the other by the velocity $b(t, x) = \mathbb E[\dot x_t | x_t = x]$, and where
    $\gamma_t > 0$ its score is $-\gamma_t^{-1} \mathbb E[z | x_t = x]$.

    An interpolant defines `alpha`, `beta` and `gamma`, with derivatives that are bounded up to both ends, so that what
    is learned and what is solved need not stop short of them.

    **Source:** Albergo, Boffi, Vanden-Eijnden, *Stochastic interpolants: a unifying framework for flows and
    diffusions*, 2023, arXiv 2303.08797.
    """

    @abstractmethod
    def alpha(self, t: Any) -> jax.Array:
        r"""$\alpha_t$, the share of the source, from 1 to 0."""

    @abstractmethod
    def beta(self, t: Any) -> jax.Array:
        r"""$\beta_t$, the share of the target, from 0 to 1."""

    def gamma(self, t: Any) -> jax.Array:
        r"""$\gamma_t$, the standard deviation of the noise, zero at both ends; everywhere, unless overridden."""
        return jnp.zeros_like(_time(t))

    @property
    def is_noisy(self) -> bool:
        r"""Whether $\gamma$ is not zero on the way, so that there is a denoiser to be learned."""
        return False

    @property
    def schedule(self) -> AbstractSchedule | None:
        r"""With a standard normal source, the same path as a schedule of $1 - t$; `None` for one that is none."""
        return None

    def coefficients(self, t: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        r"""$\alpha_t$, $\beta_t$, $\gamma_t$."""
        t = _time(t)
        return self.alpha(t), self.beta(t), self.gamma(t)

    def rates(self, t: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        r"""$\dot\alpha_t$, $\dot\beta_t$, $\dot\gamma_t$."""
        t = _time(t)
        return jax.jvp(self.coefficients, (t,), (jnp.ones_like(t),))[1]

    def point(self, t: Any, x0: jax.Array, x1: jax.Array, z: jax.Array) -> jax.Array:
        """$x_t$, of the shape and dtype of the points."""
        return _combined(self.coefficients(t), x0, x1, z)

    def velocity(self, t: Any, x0: jax.Array, x1: jax.Array, z: jax.Array) -> jax.Array:
        r"""$\dot x_t$, of the shape and dtype of the points."""
        return _combined(self.rates(t), x0, x1, z)


class LinearInterpolant(AbstractInterpolant):
    r"""The straight line $x_t = (1 - t)\,x_0 + t\,x_1$, of flow matching and of rectified flows.

    **Source:** Liu, Gong, Liu, *Flow straight and fast*, 2022, arXiv 2209.03003; Lipman et al. 2023, arXiv 2210.02747.
    """

    def alpha(self, t):
        return 1 - _time(t)

    def beta(self, t):
        return _time(t)

    @property
    def schedule(self):
        return LinearFlow()


class TrigonometricInterpolant(AbstractInterpolant):
    r"""$x_t = \cos(\tfrac\pi2 t)\,x_0 + \sin(\tfrac\pi2 t)\,x_1$.

    For source and target of one variance, $x_t$ has it too.

    **Source:** Albergo & Vanden-Eijnden, *Building normalizing flows with stochastic interpolants*, 2023, arXiv
    2209.15571.
    """

    def alpha(self, t):
        return jnp.cos(jnp.pi / 2 * _time(t))

    def beta(self, t):
        return jnp.sin(jnp.pi / 2 * _time(t))

    @property
    def schedule(self):
        return CosineSchedule(0.0)


class BridgeInterpolant(AbstractInterpolant):
    r"""A straight line with the noise of a Brownian bridge: $\beta_t = \sin^2(\tfrac\pi2 t)$, $\alpha = 1 - \beta$,
    $\gamma_t^2 = a^2\,\alpha_t \beta_t$.

    With $\beta$ itself for the time this is the linear interpolant with $\gamma = a \sqrt{u (1 - u)}$, whose rate is
    infinite at both ends: time runs slower there, so that $\gamma_t = \tfrac a2 \sin \pi t$ has a bounded one.

    **Arguments:** `scale`: $a$, positive, in units of the data; $\sqrt 2$ is the usual choice. Static.

    **Raises:** `ValueError` for a scale that is not positive.
    """

    scale: float = eqx.field(default=2.0**0.5, static=True)

    def __check_init__(self):
        _check_scale("BridgeInterpolant", self.scale)

    def alpha(self, t):
        return jnp.cos(jnp.pi / 2 * _time(t)) ** 2

    def beta(self, t):
        return jnp.sin(jnp.pi / 2 * _time(t)) ** 2

    def gamma(self, t):
        return self.scale / 2 * jnp.sin(jnp.pi * _time(t))

    @property
    def is_noisy(self) -> bool:
        return True


class EncodingDecodingInterpolant(AbstractInterpolant):
    r"""From the source into noise until $t = \tfrac12$ and from noise to the target after:
    $\alpha_t = \cos^2 \pi t$ before and $\beta_t = \cos^2 \pi t$ after it, else zero, $\gamma_t = a \sin^2 \pi t$.

    **Arguments:** `scale`: $a$, positive, in units of the data. Static.

    **Raises:** `ValueError` for a scale that is not positive.

    **Source:** Albergo, Boffi, Vanden-Eijnden 2023, arXiv 2303.08797, there with $a = 1$.
    """

    scale: float = eqx.field(default=1.0, static=True)

    def __check_init__(self):
        _check_scale("EncodingDecodingInterpolant", self.scale)

    def alpha(self, t):
        t = _time(t)
        return jnp.where(t < 0.5, jnp.cos(jnp.pi * t) ** 2, 0.0)

    def beta(self, t):
        t = _time(t)
        return jnp.where(t > 0.5, jnp.cos(jnp.pi * t) ** 2, 0.0)

    def gamma(self, t):
        return self.scale * jnp.sin(jnp.pi * _time(t)) ** 2

    @property
    def is_noisy(self) -> bool:
        return True


def _time(t: Any) -> jax.Array:
    return jnp.asarray(t, jnp.result_type(float, t))


def _check_scale(name: str, scale: float) -> None:
    if not 0 < scale < float("inf"):
        raise ValueError(f"{name} needs scale > 0, but got {scale=}; without noise take LinearInterpolant().")


def _combined(factors: tuple[jax.Array, jax.Array, jax.Array], *points: jax.Array) -> jax.Array:
    dtype = points[0].dtype
    return sum(
        (f.astype(dtype) * x for f, x in zip(factors[1:], points[1:], strict=True)),
        factors[0].astype(dtype) * points[0],
    )
