"""Amounts of a drug in the body, absorbed from the gut at a rate in proportion to what is left there."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from nde.fields.known import KnownField
from nde.fields.systems.made import positive_system


def one_compartment(ka: float = 1.5, cl: float = 3.0, v: float = 30.0) -> KnownField:
    r"""Gut $A_g$ and central compartment $A_c$: $\dot A_g = -k_a A_g$, $\dot A_c = k_a A_g - (CL / V) A_c$.

    The concentration is `central / v`. An oral dose is an amount in `gut`, an intravenous one an amount in `central`.

    **Arguments:** what the parameters start from: `ka`, the rate of absorption, in 1/h; `cl`, the clearance, in L/h;
    `v`, the volume of distribution, in L. States: `gut`, `central`, in mg.

    **Limits:** by mouth, `cl` and `v` are known up to the share of the dose that is absorbed, and exchanging $k_a$ with
    $CL / V$ gives the same curve up to a factor ("flip-flop").

    **Source:** Gabrielsson and Weiner, *Pharmacokinetic and Pharmacodynamic Data Analysis*; Bateman 1910 has the
    solution.
    """
    return positive_system(_one, ("gut", "central"), {"ka": (ka, "1/h"), "cl": (cl, "L/h"), "v": (v, "L")})


def _one(t: Any, y: Float[Array, "2"], p: Any) -> Float[Array, "2"]:
    gut, central = y
    return jnp.stack([-p.ka * gut, p.ka * gut - p.cl / p.v * central])


def two_compartment(ka: float = 1.5, cl: float = 3.0, v: float = 10.0, q: float = 5.0, v2: float = 20.0) -> KnownField:
    r"""As `one_compartment`, with a peripheral one: $\dot A_c = k_a A_g - (CL / V) A_c - (Q / V) A_c + (Q / V_2) A_p$,
    $\dot A_p = (Q / V) A_c - (Q / V_2) A_p$.

    **Arguments:** what the parameters start from: `ka`, in 1/h; `cl` and `q`, the clearance and the exchange between
    the compartments, in L/h; `v` and `v2`, their volumes, in L. States: `gut`, `central`, `peripheral`, in mg.

    **Source:** Gabrielsson and Weiner, *Pharmacokinetic and Pharmacodynamic Data Analysis*.
    """
    starts = {"ka": (ka, "1/h"), "cl": (cl, "L/h"), "v": (v, "L"), "q": (q, "L/h"), "v2": (v2, "L")}
    return positive_system(_two, ("gut", "central", "peripheral"), starts)


def _two(t: Any, y: Float[Array, "3"], p: Any) -> Float[Array, "3"]:
    gut, central, peripheral = y
    absorbed, out, back = p.ka * gut, p.q / p.v * central, p.q / p.v2 * peripheral
    return jnp.stack([-absorbed, absorbed - p.cl / p.v * central - out + back, out - back])
