"""Hermite cubics with backward differences through a series that has missing values."""

import diffrax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from nde.paths.between import between

_STEEPEST = 2.0
"""How far a slope may lead over the gap after it, in rises of the two gaps together: it overshoots by 0.3 of them."""


def hermite_path(
    ts: Float[Array, " rows"], ys: Float[Array, "rows channels"], known: Bool[Array, "rows channels"]
) -> diffrax.CubicInterpolation:
    """A Hermite cubic between the known rows of each channel, its slope at a row that of the line to the one before.

    At the first row the slope is that of the line to the second. Where that slope would lead further over the gap that
    follows than twice the rises of the two together, the cubic begins less steeply, by just that: the path stays near
    the values, however close two rows lie. After a channel's last known row it is constant. The first row is known.

    **Source:** Morrill, Kidger, Yang, Lyons 2021, arXiv 2106.11028; the bound of the slope is in the manner of Fritsch
    & Carlson, *Monotone piecewise cubic interpolation*, SIAM J. Numer. Anal. 1980. On complete series of even steps the
    coefficients are `diffrax.backward_hermite_coefficients`'s; those of diffrax 0.7.2 jump in slope at the end of a
    gap, depend on the rows inside it, and overwrite an observed first value if told to replace missing ones.
    """
    found = between(ts, ys, known)
    rise, width = found.rise, found.width
    secant = rise / width
    before = jnp.maximum(found.p - 1, 0)
    slope = jnp.where(found.inside, jnp.take_along_axis(secant, before, axis=0), 0.0)
    # noise between two rows close in time is a steep line; carried on over a long gap it would overshoot by 4/27 of
    # slope * width, without bound (100 random rows a series: a total variation of 7100, where the values' own is 10)
    steepest = _STEEPEST * (jnp.abs(rise) + jnp.abs(jnp.take_along_axis(rise, before, axis=0))) / width
    slope = jnp.clip(slope, -steepest, steepest)
    bend = (secant - slope) / width
    # through both values, with the slope `slope` at p and `secant` at q: y_p + s slope + 2 s^2 bend - s^3 bend / width
    return diffrax.CubicInterpolation(ts, found.cubic(slope, 2 * bend, -bend / width))
