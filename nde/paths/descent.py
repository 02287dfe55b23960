"""One descent of a Brownian tree: from the whole of time to two ends, all levels drawn at once.

A chain of key splits, one a level, would be as many kernels one after another. Here each node has a number in heap
order, and its normals are drawn by counter from it (see `nde.paths.counter`), so that the nodes on the ways to both
ends are located, drawn and weighted in a few kernels over the levels.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, UInt32

from nde.paths.counter import normals, threefry
from nde.paths.legendre import Matrix, overlap, product, split

# A node's number is a word of 32 bits, so that a key serves 31 levels; below them each cell has a key of its own.
KEY_LEVELS = 31
DEEPEST = 2 * KEY_LEVELS - 1
SCALES = 2.0 ** np.arange(DEEPEST + 1)
# How many levels are drawn at a time where the depth is known only at run time.
BLOCK = 8


class Descent(NamedTuple):
    """What of a tree is known at trace time: the order, sizes and dtypes of the leaves, the depth if it is."""

    order: int
    leaves: tuple[tuple[int, Any], ...]
    depth: int | None

    def coordinates(self, key: Array, key2: Array, low: Array, high: Array, gap: Array, *depth: Array) -> list[Array]:
        """For each leaf, of shape `(order, size, *batch)`. All arguments have the batch's axes, or ones.

        `key`, `key2`: the words; `low`, `high`, `gap`: two times and their distance, in units of the path's span;
        `depth`: where it is not known.
        """
        shape = jnp.broadcast_shapes(*(x.shape for x in (key, key2, low, high, gap, *depth)))
        ends = jnp.stack([low, high])[:, None]
        # All that follows has the axes of ends and of levels before those of the batch.
        key, key2, gap, *deep = (x[None, None] for x in (key, key2, gap, *depth))

        def block(depth: Any, levels: Any) -> list[Array]:
            levels = levels.reshape(1, -1, *(1,) * len(shape))
            cells = self._cells((key, key2), ends, levels)
            sums = self._sums(cells, self._weights(cells, gap, depth, levels))
            return [jnp.broadcast_to(x, (*x.shape[:2], *shape)) for x in sums]

        if self.depth is not None:
            return block(self.depth, np.arange(self.depth + 2))

        def body(carry):
            level, total = carry
            return level + BLOCK, jax.tree.map(jnp.add, total, block(deep[0], level + jnp.arange(BLOCK)))

        first = block(deep[0], np.arange(BLOCK))
        return lax.while_loop(
            lambda carry: carry[0] < jnp.max(deep[0], initial=0) + 2, body, (jnp.asarray(BLOCK), first)
        )[1]

    def _cells(self, words: tuple[Array, Array], ends: Array, levels: Any) -> "Cells":
        """The nodes of the given levels on the ways down to the two ends.

        Level 0 are the polynomials on the whole, level n > 0 the functions that split a cell of length 2**(1 - n), and
        level depth + 1 the bridge in a cell of length 2**-depth.
        """
        cut, same = _cut(levels), True
        if self.depth is None or self.depth >= KEY_LEVELS:
            number, below = _locate(ends, np.full((1,) * ends.ndim, KEY_LEVELS))
            own, deep = threefry(words, number, jnp.uint32(0)), cut >= KEY_LEVELS
            words = jnp.where(deep, own[0], words[0]), jnp.where(deep, own[1], words[1])
            same = ~deep | (number[:1] == number[1:])
            cut, ends = jnp.where(deep, cut - KEY_LEVELS, cut), jnp.where(deep, below, ends)
        number, place = _locate(ends, cut)
        number = jnp.where(jnp.asarray(levels == 0), 0, number)
        return Cells(words, number, place, same & (number[:1] == number[1:]))

    def _weights(self, cells: "Cells", gap: Array, depth: Any, levels: Any) -> Matrix:
        """What each normal `j` on the two ways down adds to the Legendre coordinate `k` of the increment."""
        whole, bridge = jnp.asarray(levels == 0), jnp.asarray(levels == depth + 1)
        # All in units of the cell: the query from low to high, its part that counts, and where the cell is split. The
        # bridge to an end counts on the query's side of that end, even where the other end lies in the same cell.
        length = jnp.where(gap > 0, gap, 1) * _scale(_cut(levels), gap.dtype)
        earlier = np.array([True, False]).reshape(2, *(1,) * (cells.place.ndim - 1))
        low = jnp.where(earlier, cells.place, cells.place - length)
        high = jnp.where(earlier, cells.place + length, cells.place)
        begin = jnp.where(bridge & ~earlier, 0, jnp.clip(low, 0, 1))
        end = jnp.where(bridge & earlier, 1, jnp.clip(high, 0, 1))
        theta = jnp.where(whole, 1, jnp.where(bridge, cells.place, 0.5))

        def side(theta: Array, start: Any, noise: Matrix) -> Matrix:
            """The part of the cell of length `theta` from `start` on."""
            safe = jnp.where(theta > 0, theta, 1)
            a, b = jnp.clip((begin - start) / safe, 0, 1), jnp.clip((end - start) / safe, 0, 1)
            factor = jnp.sqrt(theta / length)
            mixed = product(overlap(self.order, theta / length, (start - low) / length, a, b), noise)
            return tuple(tuple(factor * x for x in row) for row in mixed)

        # The whole is not split: all of it is the left part, whose noise is the coordinates themselves.
        left = _entries(lambda i, j, x: jnp.where(whole, float(i == j), x), split(self.order, theta))
        right = _entries(lambda i, j, x: -((-1.0) ** (i + j)) * x, split(self.order, 1 - theta))
        # A node on both ways counts once, except for the bridge, which is another function for each end.
        gone = (~earlier & cells.same & ~bridge) | jnp.asarray(levels > depth + 1)
        return tuple(
            tuple(jnp.where(gone, 0, x + y) for x, y in zip(*rows, strict=True))
            for rows in zip(side(theta, 0.0, left), side(1 - theta, theta, right), strict=True)
        )

    def _sums(self, cells: "Cells", weights: Matrix) -> list[Array]:
        """The sums of the weights times the normals, for each leaf."""
        alone = cells.place.ndim == 2
        first, out = 0, []
        for size, dtype in self.leaves:
            z = [self._normals(cells, first + j * size, size, dtype, alone) for j in range(self.order)]
            if alone:
                rows = [sum(_times(w, x) for w, x in zip(row, z, strict=True)) for row in weights]
            else:
                terms = [sum(w[None].astype(dtype) * x for w, x in zip(row, z, strict=True)) for row in weights]
                rows = [jnp.sum(x, axis=(1, 2)) for x in terms]
            out.append(jnp.stack(rows))
            first += self.order * size
        return out

    def _normals(self, cells: "Cells", first: int, size: int, dtype: Any, alone: bool) -> Array:
        """Those of `size` lanes: along the last axis where there is no batch, else along the first."""
        lanes = jnp.arange(first, first + size, dtype=jnp.uint32)
        if alone:
            words, number = jax.tree.map(lambda x: x[..., None], (cells.words, cells.number))
            return normals(words, number, lanes[None, None], dtype)
        words, number = jax.tree.map(lambda x: x[None], (cells.words, cells.number))
        return normals(words, number, lanes.reshape(size, *(1,) * cells.place.ndim), dtype)


def _times(weights: Float[Array, "2 levels"], z: Float[Array, "2 levels lanes"]) -> Float[Array, " lanes"]:
    """The sum over the nodes, as a product of matrices: for many lanes it is the fastest."""
    columns = z.reshape(weights.size, z.shape[-1])
    return jnp.matmul(weights.reshape(-1).astype(z.dtype), columns, precision=lax.Precision.HIGHEST)


def _entries(function: Callable[[int, int, Array], Array], matrix: Matrix) -> Matrix:
    """A function of the place of each entry, and the entry; zeros stay."""
    return tuple(
        tuple(x if isinstance(x, int) else function(i, j, x) for j, x in enumerate(row)) for i, row in enumerate(matrix)
    )


class Cells(NamedTuple):
    """Nodes on the ways down to two ends, of shape `(2, levels, *batch)`.

    `words`: the key of each; `number`: under that key; `place`: of the end within the node's cell; `same`: whether both
    ends have the same node.
    """

    words: tuple[UInt32[Array, "..."], UInt32[Array, "..."]]
    number: UInt32[Array, "2 ..."]
    place: Float[Array, "2 ..."]
    same: Bool[Array, "1 ..."]


def depth_of(xp: Any, tol: Any) -> Any:
    """How often the whole is halved until it is at most `tol`, in units of the whole."""
    return xp.sum(xp.asarray(1 / np.append(SCALES, 2 * SCALES[-1])) > xp.asarray(tol, float))


def _cut(levels: Any) -> Any:
    """How often the whole is halved for a cell of some levels."""
    return np.maximum(levels - 1, 0) if isinstance(levels, np.ndarray) else jnp.clip(levels - 1, 0, DEEPEST)


def _scale(cut: Any, dtype: Any) -> Float[Array, "..."]:
    """How many cells the whole has, cut so often."""
    return jnp.asarray(SCALES[cut] if isinstance(cut, np.ndarray) else jnp.asarray(SCALES)[cut], dtype)


def _locate(ends: Float[Array, "..."], cut: Any) -> tuple[UInt32[Array, "..."], Float[Array, "..."]]:
    """The number of the cell of length `2**-cut` that an end lies in, in heap order, and the place within it.

    Scaling by a power of two, and taking the whole part away, are exact.
    """
    scaled = ends * _scale(cut, ends.dtype)
    whole = jnp.floor(scaled)
    one = lax.shift_left(jnp.uint32(1), jnp.asarray(cut, jnp.uint32))
    last = ends >= 1
    return one + jnp.where(last, one - 1, whole.astype(jnp.uint32)), jnp.where(last, 1, scaled - whole)
