"""Straight lines through a series that has missing values."""

import diffrax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from nde.paths.between import between, last_known


def linear_path(
    ts: Float[Array, " rows"], ys: Float[Array, "rows channels"], known: Bool[Array, "rows channels"]
) -> diffrax.LinearInterpolation:
    """A straight line between the known rows of each channel, constant after the last. The first row is known.

    Over a gap it looks ahead to the gap's end.
    """
    found = between(ts, ys, known)
    filled = found.start + found.gone * (found.rise / found.width)
    return diffrax.LinearInterpolation(ts, jnp.concatenate([filled, _held(ys, known)[-1:]]))


def rectilinear_path(
    ts: Float[Array, " rows"], ys: Float[Array, "rows channels"], known: Bool[Array, "rows channels"]
) -> diffrax.LinearInterpolation:
    """A causal path: up to each row first the clock goes on, then the values follow. The first channel is the clock.

    It has a knot at each row and one halfway between two rows. In the first half of an interval the clock runs to the
    next row's time, and all other channels stay at their last known values; in the second half they go to those of the
    next row, while the clock stands. So the path up to a row is a function of the rows up to it, and what an equation
    makes of it does not hang on the halves, since a CDE does not see how fast its path is run through. The first row is
    known.

    **Source:** Morrill, Kidger, Yang, Lyons, *Neural Controlled Differential Equations for Online Prediction Tasks*,
    2021, arXiv 2106.11028, section 3.3; the order of the corners is that of `diffrax.rectilinear_interpolation`.
    """
    held = _held(ys, known)
    halfway = ts[:-1] + (ts[1:] - ts[:-1]) / 2
    corners = jnp.concatenate([held[1:, :1], held[:-1, 1:]], axis=1)
    knots = jnp.stack([ts[:-1], halfway], axis=1).reshape(-1)
    points = jnp.stack([held[:-1], corners], axis=1).reshape(-1, ys.shape[1])
    return diffrax.LinearInterpolation(jnp.append(knots, ts[-1]), jnp.concatenate([points, held[-1:]]))


def _held(ys: Array, known: Array) -> Array:
    """Each row's last known values."""
    return jnp.take_along_axis(ys, last_known(known), axis=0)
