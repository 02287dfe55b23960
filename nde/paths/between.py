"""The known rows around each interval of a series that has missing values."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class Between(NamedTuple):
    """Of each interval between two rows, the known rows `p` and `q` of each channel around it, `(rows - 1, channels)`.

    - `p`, `q`: the last known row up to the interval, and the first from it on.
    - `inside`: whether there is such a `q`. If not, `q` is the last row, `rise` is zero and `width` one.
    - `start`: the value at `p`; `rise`: how much that at `q` is above it; `width`: the time between them.
    - `gone`: the time between `p` and the interval's first row.
    """

    p: Int[Array, "intervals channels"]
    q: Int[Array, "intervals channels"]
    inside: Bool[Array, "intervals channels"]
    start: Float[Array, "intervals channels"]
    rise: Float[Array, "intervals channels"]
    width: Float[Array, "intervals channels"]
    gone: Float[Array, "intervals channels"]

    def cubic(self, slope: Array, bend: Array, cubic: Array) -> tuple[Array, Array, Array, Array]:
        """The coefficients about each row of `start + s slope + s^2 bend + s^3 cubic`, where `s` is time since `p`.

        They are those of `diffrax.CubicInterpolation`, the cubic one first.
        """
        s = self.gone
        a = self.start + s * (slope + s * (bend + s * cubic))
        b = slope + s * (2 * bend + 3 * s * cubic)
        return cubic, bend + 3 * s * cubic, b, a


def last_known(known: Bool[Array, "rows channels"]) -> Int[Array, "rows channels"]:
    """Of each row the last one up to it that is known, or the first row."""
    row = jnp.arange(known.shape[0])[:, None]
    return jax.lax.cummax(jnp.where(known, row, 0), axis=0)


def between(
    ts: Float[Array, " rows"], ys: Float[Array, "rows channels"], known: Bool[Array, "rows channels"]
) -> Between:
    """The known rows around each interval; the first row is known in every channel."""
    rows = ts.shape[0]
    row = jnp.arange(rows)[:, None]
    p = last_known(known)[:-1]
    q = jax.lax.cummin(jnp.where(known, row, rows), axis=0, reverse=True)[1:]
    inside, q = q < rows, jnp.minimum(q, rows - 1)
    start = jnp.take_along_axis(ys, p, axis=0)
    rise = jnp.where(inside, jnp.take_along_axis(ys, q, axis=0) - start, 0.0)
    width = jnp.where(inside, ts[q] - ts[p], 1.0)
    return Between(p, q, inside, start, rise, width, ts[:-1, None] - ts[p])
