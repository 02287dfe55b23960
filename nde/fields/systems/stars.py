"""The structure of stars."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from nde.fields.known import KnownField
from nde.fields.parameter import Parameter

NEAR_CENTRE = 1e-3


def white_dwarf(c: float = 0.1) -> KnownField:
    r"""Chandrasekhar's equation of a cold star held up by its electrons, over the distance $\eta$ from its centre:

    $$\varphi'' + \frac 2 \eta \varphi' = -(\varphi^2 - C)^{3/2}, \qquad \varphi(0) = 1, \quad \varphi'(0) = 0.$$

    The density is in proportion to $(\varphi^2 - C)^{3/2}$; the star ends where $\varphi = \sqrt C$, and beyond the
    right-hand side is zero. With $C = 0$ it is the Lane–Emden equation of index 3.

    **Arguments:** `c`: what $C = 1 / y_0^2$, between 0 and 1, starts from; small for a dense centre. States: `phi`,
    `slope` $= \varphi'$. "Time" is $\eta$, without dimension.

    At $\eta = 0$ the equation is singular. Below 0.001, $\varphi' / \eta$ is taken from the series of the one solution
    that is regular there, $\varphi = 1 - q^3 \eta^2 / 6 + q^4 \eta^4 / 40 + O(\eta^6)$ with $q^2 = 1 - C$, whose next
    term is below $10^{-13}$ of it: a solve may start at the centre.

    **Source:** Chandrasekhar, *An Introduction to the Study of Stellar Structure*, 1939, chapter XI.
    """
    return KnownField(_star, {"c": Parameter(c, lower=0.0, upper=1.0, unit="1", name="c")}, states=("phi", "slope"))


def _star(t: Any, y: Float[Array, "2"], p: Any) -> Float[Array, "2"]:
    phi, slope = y
    q, t = jnp.sqrt(1 - p.c), jnp.asarray(t, y.dtype)
    near = t < NEAR_CENTRE
    by_series = -(q**3) / 3 + q**4 * t**2 / 10
    # The division is by one where it is not taken: its gradient would be infinite at the centre.
    ratio = jnp.where(near, by_series, slope / jnp.where(near, 1.0, t))
    return jnp.stack([slope, -(jnp.maximum(phi**2 - p.c, 0.0) ** 1.5) - 2 * ratio])
