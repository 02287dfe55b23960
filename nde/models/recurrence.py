"""Linear recurrences, in sequence or by an associative scan."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Inexact

from nde.models.exponential import multiply

Scan = Literal["auto", "associative", "sequential"]


def linear_recurrence(
    matrices: Inexact[Array, "rows blocks n n"],
    offsets: Inexact[Array, "rows blocks n"],
    start: Inexact[Array, "blocks n"],
    scan: Scan = "auto",
) -> Inexact[Array, "rows blocks n"]:
    r"""All states of $h_i = E_i h_{i-1} + c_i$, of block-diagonal matrices, from $h_0$, which is not among them.

    `scan` says in which order. `"associative"`: the maps are composed in a tree, which takes $2 \log_2$ of the rows in
    turn, each over all rows at once, and a product of blocks for what is else one of a block and a vector.
    `"sequential"`: row by row. `"auto"`: the latter on a CPU, which has no use for that much at once; the former
    elsewhere.

    **Source:** Blelloch, *Prefix Sums and Their Applications*, 1990, section 1.4.
    """
    if scan == "sequential" or (scan == "auto" and jax.default_backend() == "cpu"):

        def step(h, row):
            matrix, offset = row
            h = _apply(matrix, h) + offset
            return h, h

        return jax.lax.scan(step, start, (matrices, offsets))[1]
    # the start goes into the first offset: the composed matrices are then of no further use
    offsets = offsets.at[0].add(_apply(matrices[0], start))
    return jax.lax.associative_scan(_compose, (matrices, offsets))[1]


def _compose(first, then):
    matrix, offset = then
    return multiply(matrix, first[0]), _apply(matrix, first[1]) + offset


def _apply(matrix: Array, vector: Array) -> Array:
    return jnp.sum(matrix * vector[..., None, :], -1)
