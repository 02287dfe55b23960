"""The path from noise to data of the least kinetic energy, among those of a share of each."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from nde.diffusion.interpolants import AbstractInterpolant
from nde.diffusion.schedules import AbstractSchedule

MOST_POINTS = 2048


class KineticInterpolant(AbstractInterpolant):
    r"""From a standard normal source, the path $x_t = \alpha_t x_0 + \beta_t x_1$ of the least kinetic energy.

    With $c^2 = \mathbb E|x_1|^2 / d$ let $\alpha = r \cos\theta$ and $c \beta = r \sin\theta$. The velocity
    $b(t, x) = \mathbb E[\dot x_t | x_t = x]$ has the energy

    $$\frac1d\,\mathbb E|b(t, x_t)|^2 = \dot\alpha^2 + c^2 \dot\beta^2
    - \bigl(1 - \lambda(\beta / \alpha)\bigr)\,c^2 \bigl(\dot\beta - \beta \dot\alpha / \alpha\bigr)^2
    = \dot r^2 + r^2 \mu(\theta)\,\dot\theta^2, \qquad \mu = 1 - \frac{1 - \lambda(\tan\theta / c)}{\cos^2\theta},$$

    where all that it takes of the data is their separation $\lambda$, see `separation`. In polar coordinates with the
    angle $\varphi(\theta) = \int_0^\theta \sqrt\mu$ this is the squared length of a plane curve: the best path is a
    straight line, from $(1, 0)$ to $c\,(\cos\Phi, \sin\Phi)$ with $\Phi = \varphi(\tfrac\pi2)$, of constant energy
    $1 + c^2 - 2 c \cos\Phi$. Where every point is known from its noisy version, $\lambda = 1$, it is the linear
    interpolant; that is so in the limit of $n$ points in $d$ dimensions with $n / \sqrt d \to 0$.

    `fit_kinetic` makes one from data. $\sqrt\mu$ is linear between even angles, so that $\varphi$ and its inverse are
    closed forms.

    **Arguments:** `speeds`: $\sqrt\mu$ at that many even angles from 0 to $\tfrac\pi2$, positive; `spread`: $c$,
    positive. Both static.

    **Raises:** `ValueError` for what is not positive, and fewer than two speeds.

    **Source:** Shaul, Chen, Nickel, Le, Lipman, *On kinetic optimal probability paths for generative models*, ICML
    2023, arXiv 2306.06626, whose are the energy, the separation and the limit. The straight line is derived here.
    """

    speeds: tuple[float, ...] = eqx.field(static=True)
    spread: float = eqx.field(default=1.0, static=True)

    def __check_init__(self):
        if len(self.speeds) < 2 or not all(0 < each < np.inf for each in (*self.speeds, self.spread)):
            raise ValueError(
                f"KineticInterpolant needs two or more speeds and a spread, all positive, but got {self.speeds} and "
                f"{self.spread}."
            )

    @property
    def energy(self) -> float:
        r"""$\int_0^1 \mathbb E|b|^2\,dt / d = 1 + c^2 - 2 c \cos\Phi$, with the speeds as given."""
        return 1 + self.spread**2 - 2 * self._end()[0]

    @property
    def schedule(self) -> AbstractSchedule:
        return _KineticSchedule(self)

    def alpha(self, t):
        radius, theta = self._polar(t)
        return radius * jnp.cos(theta)

    def beta(self, t):
        radius, theta = self._polar(t)
        return radius * jnp.sin(theta) / self.spread

    def time(self, ratio: Any) -> jax.Array:
        r"""The time at which $\beta_t / \alpha_t$ is `ratio`."""
        theta = jnp.arctan(self.spread * jnp.asarray(ratio, jnp.result_type(float, ratio)))
        width, speeds = np.pi / 2 / (len(self.speeds) - 1), jnp.asarray(self.speeds, theta.dtype)
        i = jnp.clip((theta / width).astype(int), 0, len(self.speeds) - 2)
        part = theta - i.astype(theta.dtype) * width
        slope = (speeds[i + 1] - speeds[i]) / width
        phi = jnp.asarray(self._angles(), theta.dtype)[i] + part * (speeds[i] + slope * part / 2)
        across, up = self._end()
        return jnp.sin(phi) / (up * jnp.cos(phi) + (1 - across) * jnp.sin(phi))

    def _angles(self) -> np.ndarray:
        r"""$\varphi$ at the even angles."""
        width, speeds = np.pi / 2 / (len(self.speeds) - 1), np.asarray(self.speeds)
        return np.concatenate([[0.0], np.cumsum(width * (speeds[1:] + speeds[:-1]) / 2)])

    def _end(self) -> tuple[float, float]:
        """Where the straight line ends."""
        last = float(self._angles()[-1])
        return self.spread * math.cos(last), self.spread * math.sin(last)

    def _polar(self, t: Any) -> tuple[jax.Array, jax.Array]:
        r"""$r$ and $\theta$, the latter by the root of a quadratic."""
        t = jnp.asarray(t, jnp.result_type(float, t))
        angles, (across, up) = self._angles(), self._end()
        x, y = 1 + t * (across - 1), t * up
        width, speeds, known = (
            np.pi / 2 / (len(angles) - 1),
            jnp.asarray(self.speeds, t.dtype),
            jnp.asarray(angles, t.dtype),
        )
        phi = jnp.arctan2(y, x)
        i = jnp.clip(jnp.searchsorted(known, phi, side="right") - 1, 0, len(angles) - 2)
        rest, slope = phi - known[i], (speeds[i + 1] - speeds[i]) / width
        part = 2 * rest / (speeds[i] + jnp.sqrt(jnp.maximum(speeds[i] ** 2 + 2 * slope * rest, 0)))
        return jnp.hypot(x, y), i.astype(t.dtype) * width + part


class _KineticSchedule(AbstractSchedule):
    """The path with data at time 0 and noise at time 1."""

    ends = (1e-3, 1 - 1e-3)

    path: KineticInterpolant

    def alpha(self, t):
        return self.path.beta(1 - jnp.asarray(t, jnp.result_type(float, t)))

    def sigma(self, t):
        return self.path.alpha(1 - jnp.asarray(t, jnp.result_type(float, t)))

    def time(self, gamma):
        return 1 - self.path.time(gamma)


def squared_speed(
    points: Float[Array, "points size"], angle: ArrayLike, *, key: PRNGKeyArray, samples: int = 1024
) -> Float[Array, ""]:
    r"""$\mu(\theta) = \mathbb E\bigl|\mathbb E[x_1 | y] - y \sin\theta\bigr|^2 / (d \cos^2\theta)$ with
    $y = x_0 \cos\theta + x_1 \sin\theta$.

    It is the squared speed of the path of $y$ in $\theta$ from a standard normal $x_0$ to the points, which are taken
    for the whole law; see `KineticInterpolant`.

    **Arguments:** `points`: of $\mathbb E|x_1|^2 = d$; `angle`: $\theta$, in $[0, \tfrac\pi2)$; `samples`: how many $y$
    the mean is over.
    """
    noise_key, key = jax.random.split(key)
    angle = jnp.asarray(angle, points.dtype)
    start = points[jax.random.randint(key, (samples,), 0, len(points))]
    y = jnp.sin(angle) * start + jnp.cos(angle) * jax.random.normal(noise_key, start.shape, start.dtype)
    # Of the exponents -|y - x sin|^2 / (2 cos^2) what all points have in common is left out.
    square = jnp.sum(points**2, axis=1)[None]
    logits = (jnp.sin(angle) * (y @ points.T) - jnp.sin(angle) ** 2 * square / 2) / jnp.cos(angle) ** 2
    away = jax.nn.softmax(logits) @ points - jnp.sin(angle) * y
    return jnp.mean(away**2) / jnp.cos(angle) ** 2


def separation(
    points: Float[Array, "points size"], ratio: ArrayLike, *, key: PRNGKeyArray, samples: int = 1024
) -> Float[Array, ""]:
    r"""How well noisy points tell which they are:
    $\lambda(s) = \mathbb E\bigl|\mathbb E[x_1 | s x_1 + x_0]\bigr|^2 / \mathbb E|x_1|^2$, from near 0 to 1.

    **Arguments:** `points`: taken for the whole law; `ratio`: $s$, at least 0; `samples`: how many the mean is over.
    **Source:** as of `KineticInterpolant`.
    """
    spread = jnp.sqrt(jnp.mean(points**2))
    angle = jnp.arctan(spread * jnp.asarray(ratio, points.dtype))
    speed = squared_speed(points / spread, angle, key=key, samples=samples)
    return 1 - jnp.cos(angle) ** 2 * (1 - speed)


def kinetic_energy(
    interpolant: AbstractInterpolant,
    squared_speed: Callable[[Array], ArrayLike],
    spread: float = 1.0,
    *,
    nodes: int = 64,
) -> Float[Array, ""]:
    r"""$\int_0^1 \mathbb E|b(t, x_t)|^2\,dt / d = \int_0^1 \dot r^2 + r^2 \mu(\theta)\,\dot\theta^2\,dt$ of a path.

    It begins in standard normal noise; for the rest see `KineticInterpolant`.

    **Arguments:** `interpolant`: without noise of its own; `squared_speed`: $\mu$, a function of the angle, which is
    well conditioned where $1 - \lambda$ and $\cos\theta$ are both small; `spread`: $c$; `nodes`: of Gauss's rule.

    **Raises:** `ValueError` for an interpolant with noise.
    """
    if interpolant.is_noisy:
        raise ValueError(
            f"kinetic_energy is of a path without noise between, but got {type(interpolant).__name__}; take a linear "
            "or trigonometric one."
        )
    places, weights = np.polynomial.legendre.leggauss(nodes)
    t = jnp.asarray((places + 1) / 2)
    (a, b, _), (da, db, _) = interpolant.coefficients(t), interpolant.rates(t)
    along, across = a * da + spread**2 * b * db, spread * (a * db - b * da)
    speeds = jax.lax.map(lambda angle: jnp.asarray(squared_speed(angle)), jnp.arctan2(spread * b, a))
    return jnp.sum(jnp.asarray(weights / 2) * (along**2 + speeds * across**2) / (a**2 + spread**2 * b**2))


def fit_kinetic(
    points: ArrayLike,
    *,
    key: PRNGKeyArray,
    conditional: float = 0.05,
    knots: int = 33,
    samples: int = 1024,
) -> KineticInterpolant:
    r"""The `KineticInterpolant` of data.

    **Arguments:**

    - `points`: `(points, size)`; at most 2048 of them, drawn at random, stand for the law.
    - `conditional`: a share $\epsilon$, in $(0, 1]$, of the energy that is minimised which is that of the paths of
      single pairs, for which $\mu = 1$. Data of one scale and mean zero are as noise while there is little of them:
      $\mu$ goes to zero with $\theta$ and the best path leaves the source at an infinite rate. This bounds the rates
      by about $\epsilon^{-1/2}$; at 1 the path is linear.
    - `knots`: at how many angles $\mu$ is found; `samples`: by how many noisy points at each.

    **Raises:** `ValueError` for points that are no such array or all zero, and another share.
    """
    points = jnp.asarray(points, jnp.result_type(float))
    if points.ndim != 2 or not len(points) or not bool(jnp.any(points != 0) & jnp.all(jnp.isfinite(points))):
        raise ValueError(
            f"fit_kinetic needs finite points of shape (points, size), not all zero, but got shape {points.shape}."
        )
    if not 0 < conditional <= 1 or knots < 2:
        raise ValueError(f"fit_kinetic needs a share in (0, 1] and two knots, but got {conditional=} and {knots=}.")
    choice_key, key = jax.random.split(key)
    if len(points) > MOST_POINTS:
        points = points[jax.random.choice(choice_key, len(points), (MOST_POINTS,), replace=False)]
    spread = jnp.sqrt(jnp.mean(points**2))
    angles = jnp.linspace(0, jnp.pi / 2, knots)[:-1]

    @jax.jit
    def found(points):
        return jax.lax.map(lambda angle: squared_speed(points, angle, key=key, samples=samples), angles)

    # At the last angle nothing is noise: every point is known. Above 1 it is by chance alone.
    speeds = np.append(np.minimum(np.asarray(found(points / spread)), 1), 1)
    return KineticInterpolant(tuple(np.sqrt((1 - conditional) * speeds + conditional).tolist()), float(spread))
