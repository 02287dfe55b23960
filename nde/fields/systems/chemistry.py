"""Reactions with mass action and inhibition."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from nde.fields.known import KnownField
from nde.fields.parameter import Parameter
from nde.fields.systems.made import positive_system


def robertson(k1: float = 0.04, k2: float = 3e7, k3: float = 1e4) -> KnownField:
    r"""Three reactions of very different speed: $\dot a = -k_1 a + k_3 b c$,
    $\dot b = k_1 a - k_2 b^2 - k_3 b c$, $\dot c = k_2 b^2$.

    **Arguments:** what the rates start from: `k1`, in 1 / time; `k2`, `k3`, in 1 / (time × amount). States: `a`, `b`,
    `c`, shares of an amount that is conserved. The usual start is $(1, 0, 0)$, up to times of $10^{11}$.

    **Limits:** stiff: take an implicit solver.

    **Source:** Robertson, *The solution of a set of reaction rate equations*, 1966; Hairer and Wanner, *Solving
    Ordinary Differential Equations II*, section IV.1.
    """
    starts = {"k1": (k1, "1/time"), "k2": (k2, "1/(time*amount)"), "k3": (k3, "1/(time*amount)")}
    return positive_system(_autocatalysis, ("a", "b", "c"), starts)


def ignition(a: float = 1e7, e: float = 15.0, q: float = 1.5) -> KnownField:
    r"""A fuel that burns in one step by Arrhenius' law, without loss of heat: with $k = a\,e^{-e / T}$,
    $\dot T = q\,k\,Y$ and $\dot Y = -k\,Y$.

    $T + q Y$ is conserved. A cold mixture waits for about $T^2 / (e\,q\,Y\,k(T))$, the delay, and burns at once.

    **Arguments:** what the parameters start from: `a`, the rate at infinite temperature, in 1 / time; `e`, the
    temperature of activation; `q`, by how much the whole fuel warms the mixture. States: `temperature`, in the unit of
    `e` and `q`, such as 1000 K; `fuel`, its share of mass.

    **Limits:** stiff once it burns: take an implicit solver.

    **Source:** Semenov 1928; Law, *Combustion Physics*, 2006, section 8.1.
    """
    starts = {"e": (e, "temperature"), "q": (q, "temperature")}
    rate = {"a": Parameter(a, log=True, unit="1/time", name="a")}
    return positive_system(_arrhenius, ("temperature", "fuel"), starts, others=rate)


def _arrhenius(t: Any, y: Float[Array, "2"], p: Any) -> Float[Array, "2"]:
    temperature, fuel = y
    burnt = p.a * jnp.exp(-p.e / jnp.maximum(temperature, COLD)) * fuel
    return jnp.stack([p.q * burnt, -burnt])


COLD = 1e-3  # below it no reaction is left, and a solver that tries a state below zero has a rate all the same


def _autocatalysis(t: Any, y: Float[Array, "3"], p: Any) -> Float[Array, "3"]:
    a, b, c = y
    first, second, third = p.k1 * a, p.k2 * b**2, p.k3 * b * c
    return jnp.stack([third - first, first - second - third, second])


def glycolysis(  # noqa: PLR0913  (each is a parameter of the model)
    j0: float = 2.5,
    k1: float = 100.0,
    k2: float = 6.0,
    k3: float = 16.0,
    k4: float = 100.0,
    k5: float = 1.28,
    k6: float = 12.0,
    ki: float = 0.52,
    q: float = 4.0,
    n: float = 1.0,
    a: float = 4.0,
    kappa: float = 13.0,
    psi: float = 0.1,
    k: float = 1.8,
) -> KnownField:
    r"""Seven states of the glycolysis of yeast, which oscillates: with $v_1 = k_1 s_1 s_6 / (1 + (s_6 / K_i)^q)$,
    $v_2 = k_2 s_2 (N - s_5)$, $v_3 = k_3 s_3 (A - s_6)$, $v_4 = k_4 s_4 s_5$, $v_6 = k_6 s_2 s_5$ and
    $J = \kappa (s_4 - s_7)$,

    $$\dot s_1 = J_0 - v_1, \quad \dot s_2 = 2 v_1 - v_2 - v_6, \quad \dot s_3 = v_2 - v_3, \quad
    \dot s_4 = v_3 - v_4 - J, \quad \dot s_5 = v_2 - v_4 - v_6, \quad \dot s_6 = 2 v_3 - 2 v_1 - k_5 s_6, \quad
    \dot s_7 = \psi J - k s_7.$$

    **Arguments:** what the parameters start from, in mM and minutes: the influx `j0`; the rates `k1` to `k6` and `k`;
    the inhibition `ki` and its order `q`; the totals `n` of NAD and `a` of adenosines; the exchange `kappa` with what
    is outside, whose volume counts by `psi`. States: `s1` glucose, `s2` triose phosphates, `s3` bisphosphoglycerate,
    `s4` pyruvate and acetaldehyde, `s5` NADH, `s6` ATP, `s7` what of `s4` is outside.

    **Source:** Ruoff, Christensen, Wolf and Heinrich, *Temperature dependency and temperature compensation in a model
    of yeast glycolytic oscillations*, 2003; the form and the values in which it serves as a benchmark, Daniels and
    Nemenman, *Efficient inference of parsimonious phenomenological models of cellular dynamics*, 2015.
    """
    rates = {"k1": k1, "k2": k2, "k3": k3, "k4": k4, "k6": k6}
    starts = {
        "j0": (j0, "mM/min"), **{name: (rate, "1/(mM*min)") for name, rate in rates.items()}, "k5": (k5, "1/min"),
        "ki": (ki, "mM"), "q": (q, "1"), "n": (n, "mM"), "a": (a, "mM"), "kappa": (kappa, "1/min"), "psi": (psi, "1"),
        "k": (k, "1/min"),
    }  # fmt: skip
    return positive_system(_glycolysis, ("s1", "s2", "s3", "s4", "s5", "s6", "s7"), starts)


def _glycolysis(t: Any, y: Float[Array, "7"], p: Any) -> Float[Array, "7"]:
    s1, s2, s3, s4, s5, s6, s7 = y
    v1 = p.k1 * s1 * s6 / (1 + (s6 / p.ki) ** p.q)
    v2, v3 = p.k2 * s2 * (p.n - s5), p.k3 * s3 * (p.a - s6)
    v4, v6, out = p.k4 * s4 * s5, p.k6 * s2 * s5, p.kappa * (s4 - s7)
    rates = [
        p.j0 - v1, 2 * v1 - v2 - v6, v2 - v3, v3 - v4 - out, v2 - v4 - v6, 2 * v3 - 2 * v1 - p.k5 * s6,
        p.psi * out - p.k * s7,
    ]  # fmt: skip
    return jnp.stack(rates)
