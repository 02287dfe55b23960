"""The exact velocity and denoiser of a stochastic interpolant between two mixtures of Gaussians."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from nde.diffusion.mixture import GaussianMixture
from nde.dtypes import as_floats


class MixtureInterpolant(eqx.Module):
    r"""$x_t = \alpha(t)\,x_0 + \beta(t)\,x_1 + \gamma(t)\,z$, with $x_0$ and $x_1$ drawn from two mixtures.

    They are drawn independently, and $z$ is standard normal. Its law is a mixture over the pairs of components,
    $\mathcal N(\mu_{ij}, C_{ij})$ with $\mu_{ij} = \alpha m_i + \beta m'_j$ and
    $C_{ij} = \alpha^2 \Sigma_i + \beta^2 \Sigma'_j + \gamma^2 I$; in each, of $r = C_{ij}^{-1} (x - \mu_{ij})$,

    $$\mathbb E[x_0 \mid x] = m_i + \alpha \Sigma_i r,\quad \mathbb E[x_1 \mid x] = m'_j + \beta \Sigma'_j r,\quad
    \mathbb E[z \mid x] = \gamma r.$$

    **Arguments:** `first`, `last`: $x_0$ and $x_1$, two `nde.diffusion.GaussianMixture` of one size; `alpha`, `beta`,
    `gamma`: functions of time to a number; `gamma` may be `None` for zero.

    Its methods act on one state, of shape `(size,)`, and have the arguments `(t, x, args)` of a field, of which `args`
    is not used.

    **Raises:** `ValueError` for mixtures of two sizes, and a state of another shape.

    **Limits:** a derivative of $\gamma$ that is infinite at an end, as of $\sqrt{t (1 - t)}$, makes the velocity there
    NaN. With covariances that are not diagonal a call factorises one matrix for each pair.

    **Source:** Albergo, Boffi, Vanden-Eijnden, *Stochastic interpolants: a unifying framework for flows and
    diffusions*, 2023, arXiv 2303.08797.
    """

    first: GaussianMixture
    last: GaussianMixture
    alpha: Callable[[Any], Any]
    beta: Callable[[Any], Any]
    gamma: Callable[[Any], Any] | None = None

    def __check_init__(self):
        sizes = [mixture.means.shape[1] for mixture in (self.first, self.last)]
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"MixtureInterpolant needs two mixtures of one size, but got sizes {sizes[0]}, {sizes[1]}."
            )

    def velocity(self, t: Any, x: ArrayLike, args: Any = None) -> Float[Array, " size"]:
        r"""$\mathbb E[\dot\alpha x_0 + \dot\beta x_1 + \dot\gamma z \mid x_t = x]$, which carries the law along."""
        del args
        return self._mean(t, x, "velocity")

    def denoiser(self, t: Any, x: ArrayLike, args: Any = None) -> Float[Array, " size"]:
        r"""$\mathbb E[z \mid x_t = x]$, which is $-\gamma \nabla \log p_t(x)$."""
        del args
        return self._mean(t, x, "denoiser")

    def score(self, t: Any, x: ArrayLike, args: Any = None) -> Float[Array, " size"]:
        r"""$\nabla \log p_t(x)$, also where $\gamma$ is zero."""
        del args
        return self._mean(t, x, "score")

    def log_prob(self, t: Any, x: ArrayLike) -> Float[Array, ""]:
        """The log-density of the law at a time, in nats."""
        return jax.nn.logsumexp(self._pairs(t, *self._matched(x))[0])

    def sample(self, t: Any, key: PRNGKeyArray, count: int) -> Float[Array, "count size"]:
        """Points of the law at a time, drawn independently."""
        keys = jax.random.split(key, 3)
        x0, x1 = self.first.sample(keys[0], count), self.last.sample(keys[1], count)
        x0, x1 = as_floats(x0, x1)
        alpha, beta, gamma = self._at(t, x0.dtype)[0]
        return alpha * x0 + beta * x1 + gamma * jax.random.normal(keys[2], x0.shape, x0.dtype)

    def _matched(self, x: ArrayLike) -> tuple[GaussianMixture, GaussianMixture, Float[Array, " size"]]:
        """Both mixtures and a state, of the floating type that holds all."""
        _, point = self.first.matched(x)
        last, point = self.last.matched(point)
        first, point = self.first.matched(point)
        return first, last, point

    def _at(self, t: Any, dtype: Any) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        r"""$\alpha$, $\beta$, $\gamma$ and their derivatives."""

        def values(t):
            gamma = jnp.zeros_like(t) if self.gamma is None else self.gamma(t)
            return tuple(jnp.asarray(x, dtype) for x in (self.alpha(t), self.beta(t), gamma))

        t = jnp.asarray(t, jnp.result_type(float, t))
        return jax.jvp(values, (t,), (jnp.ones_like(t),))

    def _pairs(self, t: Any, first: GaussianMixture, last: GaussianMixture, x: Float[Array, " size"]):
        r"""For each pair $\log w_i w'_j\,\mathcal N(x; \mu_{ij}, C_{ij})$, shape `(first, last)`, and $r$ beside it."""
        (alpha, beta, gamma), _ = self._at(t, x.dtype)
        apart = x[None, None] - alpha * first.means[:, None] - beta * last.means[None]
        if first.axes is None and last.axes is None:
            variances = alpha**2 * first.variances[:, None] + beta**2 * last.variances[None] + gamma**2
            r, log_determinant = apart / variances, jnp.sum(jnp.log(variances), axis=-1)
        else:
            covariances = alpha**2 * first.covariances[:, None] + beta**2 * last.covariances[None]
            factors = jnp.linalg.cholesky(covariances + gamma**2 * jnp.eye(len(x), dtype=x.dtype)[None, None])
            r = jax.vmap(jax.vmap(lambda factor, b: jsl.cho_solve((factor, True), b)))(factors, apart)
            log_determinant = 2 * jnp.sum(jnp.log(jnp.diagonal(factors, axis1=-2, axis2=-1)), axis=-1)
        weights = first.log_weights[:, None] + last.log_weights[None]
        exponent = jnp.sum(apart * r, axis=-1) + log_determinant + len(x) * jnp.log(2 * jnp.asarray(jnp.pi, x.dtype))
        return weights - 0.5 * exponent, r

    def _mean(self, t: Any, x: ArrayLike, of: str) -> Float[Array, " size"]:
        """The posterior mean of one of the three, over all pairs."""
        first, last, point = self._matched(x)
        (alpha, beta, gamma), rates = self._at(t, point.dtype)
        log_joint, r = self._pairs(t, first, last, point)
        if of == "velocity":
            x0 = first.means[:, None] + alpha * _times(first, r, "kij,klj->kli")
            x1 = last.means[None] + beta * _times(last, r, "lij,klj->kli")
            value = rates[0] * x0 + rates[1] * x1 + rates[2] * gamma * r
        else:
            value = gamma * r if of == "denoiser" else -r
        share = jax.nn.softmax(log_joint.ravel())
        return (share @ value.reshape(len(share), -1)).astype(as_floats(x)[0].dtype)


def _times(mixture: GaussianMixture, r: Float[Array, "first last size"], product: str) -> Array:
    r"""$\Sigma r$ for each pair, with the covariances of one of the two mixtures."""
    if mixture.axes is None:
        return (mixture.variances[:, None] if product.startswith("k") else mixture.variances[None]) * r
    return jnp.einsum(product, mixture.covariances, r)
