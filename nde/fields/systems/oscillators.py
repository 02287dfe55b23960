"""Limit cycles and chaos, in units without dimension."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from nde.fields.known import KnownField
from nde.fields.parameter import Parameter
from nde.fields.systems.made import positive_system


def van_der_pol(mu: float = 1.0) -> KnownField:
    r"""An oscillator with a damping that changes its sign: $\dot x = v$, $\dot v = \mu (1 - x^2) v - x$.

    **Arguments:** `mu`: what $\mu > 0$ starts from; the system is stiff where it is large. States: `x`, `v`.

    **Source:** van der Pol, *On relaxation-oscillations*, 1926.
    """
    return positive_system(_relaxation, ("x", "v"), {"mu": (mu, "1")})


def _relaxation(t: Any, y: Float[Array, "2"], p: Any) -> Float[Array, "2"]:
    x, v = y
    return jnp.stack([v, p.mu * (1 - x**2) * v - x])


def fitzhugh_nagumo(a: float = 0.7, b: float = 0.8, tau: float = 12.5, current: float = 0.5) -> KnownField:
    r"""An excitable membrane: $\dot v = v - v^3 / 3 - w + I$, $\tau \dot w = v + a - b w$.

    **Arguments:** what the parameters start from: `a`, `b` and `tau`, positive; `current`, $I$, of any sign. States:
    `v`, the voltage, `w`, the recovery.

    **Source:** FitzHugh, *Impulses and physiological states in theoretical models of nerve membrane*, 1961; Nagumo et
    al. 1962. Here with $\tau$ in the second equation, and a current that is positive inward.
    """
    starts = {"a": (a, "1"), "b": (b, "1"), "tau": (tau, "1")}
    return positive_system(
        _membrane, ("v", "w"), starts, others={"current": Parameter(current, unit="1", name="current")}
    )


def _membrane(t: Any, y: Float[Array, "2"], p: Any) -> Float[Array, "2"]:
    v, w = y
    return jnp.stack([v - v**3 / 3 - w + p.current, (v + p.a - p.b * w) / p.tau])


def lorenz(sigma: float = 10.0, rho: float = 28.0, beta: float = 8 / 3) -> KnownField:
    r"""Convection in three modes: $\dot x = \sigma (y - x)$, $\dot y = x (\rho - z) - y$, $\dot z = x y - \beta z$.

    **Arguments:** what the parameters start from, positive: `sigma`, `rho`, `beta`; chaotic as they are. States: `x`,
    `y`, `z`.

    **Source:** Lorenz, *Deterministic nonperiodic flow*, 1963.
    """
    starts = {"sigma": (sigma, "1"), "rho": (rho, "1"), "beta": (beta, "1")}
    return positive_system(_convection, ("x", "y", "z"), starts)


def _convection(t: Any, y: Float[Array, "3"], p: Any) -> Float[Array, "3"]:
    a, b, c = y
    return jnp.stack([p.sigma * (b - a), a * (p.rho - c) - b, a * b - p.beta * c])
