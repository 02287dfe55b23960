"""Epidemics by compartments, with homogeneous mixing."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from nde.fields.known import KnownField
from nde.fields.systems.made import positive_system


def sir(infection: float = 0.5, recovery: float = 0.2) -> KnownField:
    r"""Susceptible, infectious and recovered of $N = S + I + R$ people: $\dot S = -\beta S I / N$,
    $\dot I = \beta S I / N - \gamma I$, $\dot R = \gamma I$.

    **Arguments:** what the rates start from, in 1 / time: `infection`, $\beta$; `recovery`, $\gamma$. The basic
    reproduction number is $\beta / \gamma$. States: `susceptible`, `infectious`, `recovered`, as numbers or as shares.

    **Source:** Kermack and McKendrick, *A contribution to the mathematical theory of epidemics*, 1927.
    """
    starts = {"infection": (infection, "1/time"), "recovery": (recovery, "1/time")}
    return positive_system(_sir, ("susceptible", "infectious", "recovered"), starts)


def _sir(t: Any, y: Float[Array, "3"], p: Any) -> Float[Array, "3"]:
    susceptible, infectious, _ = y
    infected, recovers = p.infection * susceptible * infectious / jnp.sum(y), p.recovery * infectious
    return jnp.stack([-infected, infected - recovers, recovers])


def seir(infection: float = 0.5, onset: float = 0.3, recovery: float = 0.2) -> KnownField:
    r"""As `sir`, with a latent period: $\dot S = -\beta S I / N$, $\dot E = \beta S I / N - \sigma E$,
    $\dot I = \sigma E - \gamma I$, $\dot R = \gamma I$.

    **Arguments:** what the rates start from, in 1 / time: `infection`, $\beta$; `onset`, $\sigma$, one over the mean
    latent period; `recovery`, $\gamma$. States: `susceptible`, `exposed`, `infectious`, `recovered`.

    **Source:** Anderson and May, *Infectious Diseases of Humans*, 1991.
    """
    starts = {"infection": (infection, "1/time"), "onset": (onset, "1/time"), "recovery": (recovery, "1/time")}
    return positive_system(_seir, ("susceptible", "exposed", "infectious", "recovered"), starts)


def _seir(t: Any, y: Float[Array, "4"], p: Any) -> Float[Array, "4"]:
    susceptible, exposed, infectious, _ = y
    infected, recovers = p.infection * susceptible * infectious / jnp.sum(y), p.recovery * infectious
    falls_ill = p.onset * exposed
    return jnp.stack([-infected, infected - falls_ill, falls_ill - recovers, recovers])
