r"""Space–space Lévy area, for equations whose noise does not commute."""

from typing import Any

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, PyTree


class SpaceSpaceLevyArea(diffrax.AbstractSpaceTimeLevyArea):
    r"""An increment with its space–time area H and an approximate space–space area

    $$A^{ij} \approx \tfrac12 \int_s^t \bigl(W^i_{s,u}\,dW^j_u - W^j_{s,u}\,dW^i_u\bigr),$$

    as `nde.paths.davie_foster_area` makes it. Stratonovich's iterated integrals of one step are
    $\int W^i \circ dW^j = \tfrac12 W^i W^j + A^{ij}$.

    - `dt`: the length of time, a scalar for each leaf.
    - `W`, `H`: of the increment's shape, `(..., noise)`.
    - `A`: of shape `(..., noise, noise)`, antisymmetric; each leaf has its own, between its own entries.

    A `levy_area` for `nde.paths.BrownianGrid`.
    """

    dt: PyTree[Any]
    W: PyTree[Array]
    H: PyTree[Array]
    A: PyTree[Array]


def davie_foster_area(
    dt: ArrayLike, W: Float[Array, "*shape noise"], H: Float[Array, "*shape noise"], *, key: PRNGKeyArray
) -> Float[Array, "*shape noise noise"]:
    r"""A sample of the space–space Lévy area over `dt`, given the increment `W` and the space–time area `H`:

    $$A = H W^\top - W H^\top + 12\,(K H^\top - H K^\top) + a, \qquad
      K \sim \mathcal N(0, \tfrac{h}{720}), \quad a^{ij} = -a^{ji} \sim \mathcal N(0, \tfrac{h^2}{20}).$$

    Its first two moments given `W` and `H` are those of the true area: the mean $H^i W^j - W^i H^j$, the variances
    $\tfrac{h^2}{20} + \tfrac h5 \bigl((H^i)^2 + (H^j)^2\bigr)$, and, since K is drawn once for all entries, the
    covariances $\tfrac h5 H^j H^k$ of $A^{ij}$ and $A^{ik}$. (Davie's own has the variance $h^2/12$ whatever H is.)

    **Arguments:** `dt`: the length of time $h$, a scalar; `W`, `H`: of shape `(..., noise)`; `key`: of a draw that is
    independent of them.

    **Returns:** shape `(..., noise, noise)`, antisymmetric.

    **Raises:** `ValueError` if `W` and `H` are not arrays of one shape with at least one axis.

    **Limits:** higher moments are those of a Gaussian mixture, not of the true area: right for weak order and for
    strong order in Wasserstein's sense (Davie), not path by path. Queries are independent of each other but through
    `W` and `H`.

    **Source:** Davie 2014, *KMT theory applied to approximations of SDE*; Foster 2020, *Numerical approximations for
    stochastic differential equations* (thesis, Oxford); Foster & Habermann 2023, *Brownian bridge expansions for Lévy
    area approximations and particular values of the Riemann zeta function*, doi 10.1017/S096354832200030X.
    """
    if jnp.ndim(W) < 1 or jnp.shape(W) != jnp.shape(H):
        raise ValueError(
            "davie_foster_area needs W and H of one shape (..., noise), but got the shapes "
            f"{jnp.shape(W)} and {jnp.shape(H)}."
        )
    noise_key, mixed_key = jax.random.split(key)
    K = jnp.sqrt(jnp.asarray(dt, W.dtype) / 720) * jax.random.normal(noise_key, W.shape, W.dtype)
    return assemble_area(dt, W, H, K, jax.random.normal(mixed_key, (*W.shape, W.shape[-1]), W.dtype))


def assemble_area(dt: ArrayLike, W: Array, H: Array, K: Array, z: Float[Array, "*shape noise noise"]) -> Array:
    """The area from its parts; `z` standard normal, of which the antisymmetric part counts."""
    h = jnp.asarray(dt, W.dtype)
    return wedge(H, W - 12 * K) + h / 40**0.5 * (z - jnp.swapaxes(z, -1, -2))


def wedge(x: Float[Array, "*shape noise"], y: Float[Array, "*shape noise"]) -> Float[Array, "*shape noise noise"]:
    r"""$x y^\top - y x^\top$."""
    product = x[..., :, None] * y[..., None, :]
    return product - jnp.swapaxes(product, -1, -2)
