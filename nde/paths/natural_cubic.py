"""Natural cubic splines through a series that has missing values."""

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from nde.paths.between import between


def natural_cubic_path(
    ts: Float[Array, " rows"], ys: Float[Array, "rows channels"], known: Bool[Array, "rows channels"]
) -> diffrax.CubicInterpolation:
    """The twice differentiable cubic spline of each channel through its known rows, straight at the first and the last.

    After a channel's last known row it is constant, and its slope jumps there. Every value has a part in the whole
    path: it looks ahead, and it overshoots where two rows lie close together. The first row is known.

    **Source:** Kidger, Morrill, Foster, Lyons 2020, arXiv 2005.08926, appendix A; the tridiagonal system for the second
    derivatives is that of any textbook, as Stoer & Bulirsch, section 2.4.2, and is solved by elimination.
    """
    found = between(ts, ys, known)
    width, secant = found.width, found.rise / found.width
    second = _second_derivatives(known, found.inside, width, secant)
    at_p = jnp.where(found.inside, jnp.take_along_axis(second, found.p, axis=0), 0.0)
    at_q = jnp.where(found.inside, jnp.take_along_axis(second, found.q, axis=0), 0.0)
    slope = secant - width * (2 * at_p + at_q) / 6
    return diffrax.CubicInterpolation(ts, found.cubic(slope, at_p / 2, (at_q - at_p) / (6 * width)))


def _second_derivatives(known: Array, inside: Array, width: Array, secant: Array) -> Float[Array, "rows channels"]:
    """Of each channel's spline at its known rows; other rows repeat the next known one's, and change nothing.

    At an inner known row, `h M_before + 2 (h + k) M + k M_after = 6 (slope after - slope before)`, where `h` and `k`
    are the widths of the gaps before and after it.
    """
    inner = known[1:-1] & inside[1:]
    h, k = width[:-1], width[1:]
    right = 6 * (secant[1:] - secant[:-1])

    # an unknown row hands on what it is given, so that padding and missing rows leave the sums as they are to the bit
    def forward(carry, row):
        c, d = carry
        known, inner, h, k, right = row
        pivot = jnp.where(inner, 2 * (h + k) - h * c, 1.0)
        c = jnp.where(inner, k / pivot, jnp.where(known, 0.0, c))
        d = jnp.where(inner, (right - h * d) / pivot, jnp.where(known, 0.0, d))
        return (c, d), (c, d)

    def backward(after, row):
        known, c, d = row
        second = jnp.where(known, d - c * after, after)
        return second, second

    nothing = jnp.zeros_like(width[0])
    _, (c, d) = jax.lax.scan(forward, (nothing, nothing), (known[1:-1], inner, h, k, right))
    _, second = jax.lax.scan(backward, nothing, (known[1:-1], c, d), reverse=True)
    return jnp.concatenate([nothing[None], second, nothing[None]])
