"""A path between its knots, piece by piece."""

from typing import Any

import diffrax
import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float


class Pieces(eqx.Module):
    r"""The pieces of a path: on the $i$-th, from knot $t_i$ to $t_{i+1}$, $t = t_i + u\,h_i$ with $u$ from 0 to 1, and

    $$\frac{dX}{du} = \sum_k r_{ik} u^k.$$

    - `starts`: $t_i$, of shape `(pieces,)`; `widths`: $h_i$, zero where two knots have one time.
    - `rates`: $r_{ik}$, of shape `(pieces, degree, channels)`; zero on a piece without width.
    """

    starts: Float[Array, " pieces"]
    widths: Float[Array, " pieces"]
    rates: Float[Array, "pieces degree channels"]


def pieces_of(path: Any) -> Pieces:
    """The pieces of a `diffrax.LinearInterpolation` or `diffrax.CubicInterpolation` of an array.

    **Raises:** `TypeError` for another path.
    """
    if isinstance(path, diffrax.LinearInterpolation):
        rates = jnp.diff(path.ys, axis=0)[:, None]
    elif isinstance(path, diffrax.CubicInterpolation):
        cubic, square, slope, _ = path.coeffs
        h = jnp.diff(path.ts)[:, None]
        rates = jnp.stack([h * slope, 2 * h**2 * square, 3 * h**3 * cubic], axis=1)
    else:
        raise TypeError(
            "the pieces between knots are those of a diffrax.LinearInterpolation or a diffrax.CubicInterpolation, as "
            f"nde.models.series_path makes it, but got {type(path).__name__}."
        )
    return Pieces(path.ts[:-1], jnp.diff(path.ts), rates)
