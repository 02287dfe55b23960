"""Weights of exponential methods: integrals of Lagrange's polynomials over a step."""

from collections.abc import Sequence
from functools import reduce
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from nde.solvers.new_variables import NewVariables
from nde.types import ScalarLike, Terms

Abscissa: TypeAlias = Literal["log_clock", "time", "clock"]
WeightKind: TypeAlias = Literal["exact", "mean", "B1", "B2"]
ABSCISSAE = ("log_clock", "time", "clock")
NODES, SHARES = np.polynomial.legendre.leggauss(16)


def check_abscissa(name: str, abscissa: str) -> None:
    """A `ValueError` for what is none of the three."""
    if abscissa not in ABSCISSAE:
        raise ValueError(f"{name}: abscissa must be one of {', '.join(ABSCISSAE)}, but got {abscissa!r}.")


def abscissa_of(new: NewVariables, abscissa: str, t: ScalarLike) -> jax.Array:
    r"""$\xi$ at a time: $\log |s|$, $t$ or $s$."""
    if abscissa == "time":
        return jnp.asarray(t)
    clock = new.clock(t)
    return jnp.log(jnp.abs(clock)) if abscissa == "log_clock" else clock


def time_of(new: NewVariables, abscissa: str, xi: jax.Array, t0: ScalarLike) -> jax.Array:
    r"""The time at which $\xi$ is a value, on the side of zero of the clock on which it is at `t0`."""
    if abscissa == "time":
        return xi
    return new.time(jnp.sign(new.clock(t0)) * jnp.exp(xi) if abscissa == "log_clock" else xi)


def place_in(abscissa: str, terms: Terms, t0: ScalarLike, t1: ScalarLike, share: ScalarLike) -> jax.Array:
    r"""The time at a share of a step, in $\xi$."""
    new = NewVariables(terms)
    xi0, xi1 = abscissa_of(new, abscissa, t0), abscissa_of(new, abscissa, t1)
    return time_of(new, abscissa, xi0 + share * (xi1 - xi0), t0)


def lagrange_weights(
    new: NewVariables,
    abscissa: str,
    t0: ScalarLike,
    t1: ScalarLike,
    times: Sequence[Any],
    *,
    valid: Sequence[Any] | None = None,
    kind: str = "exact",
) -> list[jax.Array]:
    r"""$w_j = \int_{s_0}^{s_1} \ell_j(\xi(s))\,ds$, with Lagrange's polynomials through the $\xi$ of some times.

    Their sum is $s_1 - s_0$ exactly; the others are by 16 Gauss nodes in $\xi$.

    **Arguments:** `new`: the variables; `abscissa`: what $\xi$ is; `t0`, `t1`: the step; `times`: where the field is
    known, the first of them for certain; `valid`: whether it is, at each; `kind`: for `"mean"` the weights are
    $(s_1 - s_0)\,\frac1{\xi_1 - \xi_0} \int_{\xi_0}^{\xi_1} \ell_j(\xi)\,d\xi$ instead, those of Adams and Bashforth,
    which are of order 2 at most; for `"B1"` and `"B2"`, where no more than two times are valid, the second's weight is
    $\tfrac12 B\,(\xi_1 - \xi_0) / (\xi_{(2)} - \xi_0)$ with $B_1 = s_1 \log (s_1 / s_0)$ or $B_2 = s_1 - s_0$.
    """
    whole = new.clock(t1) - new.clock(t0)
    if len(times) == 1:
        return [whole]
    xi0, xi1 = abscissa_of(new, abscissa, t0), abscissa_of(new, abscissa, t1)
    knots = [abscissa_of(new, abscissa, t) for t in times]
    valid = [True] * len(times) if valid is None else valid
    half = (xi1 - xi0) / 2
    nodes = xi0 + half * (1 + jnp.asarray(NODES, half.dtype))
    shares = jnp.asarray(SHARES, half.dtype) * half
    if kind == "mean":
        density = jnp.asarray(SHARES / 2, half.dtype) * whole
    elif abscissa == "log_clock":
        density = shares * jnp.sign(new.clock(t0)) * jnp.exp(nodes)
    elif abscissa == "time":
        density = shares * jax.jvp(new.clock, (nodes,), (jnp.ones_like(nodes),))[1]
    else:
        density = shares
    weights: list[jax.Array] = []
    for j in range(1, len(times)):
        # A knot that is not valid is none of the product, and its own weight is zero.
        factors = [
            jnp.where(valid[i], (nodes - knots[i]) / _apart(knots[j] - knots[i], valid[i], valid[j]), 1)
            for i in range(len(times))
            if i != j
        ]
        product = factors[0]
        for factor in factors[1:]:
            product = product * factor
        weight = jnp.sum(density * product)
        if kind in ("B1", "B2"):
            scale = new.clock(t1) * jnp.log(new.clock(t1) / new.clock(t0)) if kind == "B1" else whole
            pair = scale * half / _apart(knots[j] - xi0, valid[j])
            weight = jnp.where(sum(jnp.asarray(v, int) for v in valid) == 2, pair, weight)
        weights.append(jnp.where(valid[j], weight, 0))
    return [whole - sum(weights[1:], weights[0]), *weights]


def _apart(distance: jax.Array, *valid: Any) -> jax.Array:
    """The distance of two knots, and 1 where one that is not valid is among them: they may coincide there."""
    return jnp.where(reduce(jnp.logical_and, valid), distance, 1)
