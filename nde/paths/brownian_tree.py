"""Brownian motion at any times, in any order, from one key."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.custom_batching import custom_vmap
from jaxtyping import Array, ArrayLike, Bool, Float, PRNGKeyArray, PyTree, UInt32

from nde.paths.counter import key_words, named, normals, threefry
from nde.paths.legendre import (
    check_levy_area,
    constant_time,
    increment,
    Matrix,
    ORDERS,
    overlap,
    product,
    split,
    structure,
)

# A node's number is a word of 32 bits, so that a key serves 31 levels; below them each cell has a key of its own.
KEY_LEVELS = 31
DEEPEST = 2 * KEY_LEVELS - 1
SCALES = 2.0 ** np.arange(DEEPEST + 1)
# How many levels are drawn at a time where the depth is known only at run time.
BLOCK = 8


class VirtualBrownianTree(diffrax.AbstractBrownianPath):
    r"""Brownian motion on $[t_0, t_1]$ at any times, asked for in any order: a function of the key and the times.

    White noise is expanded in piecewise polynomials on dyadic intervals: for W Haar's functions, the classical
    construction of Lévy and Ciesielski; for W, H and K Alpert's of degree up to 2. The increment over $[s, t]$ is a sum
    over the cells that contain $s$ and those that contain $t$, one of each length down to `tol`,

    $$\xi_{s,t} = \sum_{\ell} C_\ell(s, t)\,z_\ell, \qquad z_\ell \sim \mathcal N(0, I),$$

    with matrices $C_\ell$ that depend on the times alone, and normals $z_\ell$ that are functions of the key and the
    cell's number: all are drawn at once. Within a cell of the least length a Brownian bridge leads to the time itself.
    The sum runs over what the increment is made of, not over differences from $t_0$: short steps lose no digits.

    W, H and K have their exact joint law for all times of which no two lie in one cell of the least length, at most
    `tol`. In one such cell each time alone has the right law, and W, H and K of neighbouring intervals still join
    exactly, but increments within it have too small a variance.

    ```python
    >>> import jax, nde
    >>> path = nde.VirtualBrownianTree(0.0, 1.0, 1e-3, (2,), jax.random.key(0))
    >>> path.evaluate(0.123, 0.5).shape
    (2,)

    ```

    **Arguments of the constructor** (those of `diffrax.VirtualBrownianTree`):

    - `t0`, `t1`: the ends.
    - `tol`: the length of time below which the path is not resolved: less than the solver's least step; half of it is
      usual. Another `tol` is another path.
    - `shape`: of an increment: a tuple of integers, for an array of the default floating dtype, or a pytree of
      `jax.ShapeDtypeStruct`.
    - `key`: a JAX random key.
    - `levy_area`: `diffrax.BrownianIncrement` for W, `diffrax.SpaceTimeLevyArea` for W and H,
      `diffrax.SpaceTimeTimeLevyArea` for W, H and K. Another kind is another path.

    **Call:** `path.evaluate(t0, t1)` gives $W_{t_1} - W_{t_0}$, of the shape `shape`; with `use_levy=True` an instance
    of `levy_area`. `path.evaluate(t)` is the increment from the path's own `t0`. From the later to the earlier time, W
    and K change sign.

    **Raises:** `ValueError` if `t0 < t1` or `tol > 0` do not hold, if `tol` is below $2^{-61}$ of the whole, if `shape`
    or `levy_area` is none of the above, if a time that is known at trace time lies outside `[t0, t1]`, and if a
    derivative by a time of a call is asked for. A traced time outside gives NaN.

    **Limits:** cost grows with `log((t1 - t0) / tol)`, and is less if `t0`, `t1` and `tol` are known at trace time.
    Where they are not, a `tol` below $2^{-61}$ of the whole counts as that. All three are constants of any derivative.
    It is not the path that diffrax makes of the same key.

    **Source:** Jelinčič, Foster, Kidger 2024, arXiv 2405.06464, the law (theorem 3.7) and the idea of one seed; Li,
    Wong, Chen, Duvenaud 2020, arXiv 2001.01328, the virtual tree; Alpert 1993, SIAM J. Math. Anal. 24, the functions.
    """

    t0: ArrayLike
    t1: ArrayLike
    tol: ArrayLike
    shape: PyTree[jax.ShapeDtypeStruct] = eqx.field(static=True)
    levy_area: Any = eqx.field(static=True)
    words: tuple[UInt32[Array, ""], UInt32[Array, ""]]
    depth: int | None = eqx.field(static=True)

    def __init__(
        self,
        t0: ArrayLike,
        t1: ArrayLike,
        tol: ArrayLike,
        shape: tuple[int, ...] | PyTree[jax.ShapeDtypeStruct],
        key: PRNGKeyArray,
        levy_area: Any = diffrax.BrownianIncrement,
    ):
        check_levy_area("VirtualBrownianTree", levy_area, tuple(ORDERS))
        self.shape = structure("VirtualBrownianTree", shape)
        self.levy_area = levy_area
        self.depth = None
        if any(isinstance(x, Tracer) for x in (t0, t1, tol)):
            bad = ~((jnp.asarray(t0) < t1) & (jnp.asarray(tol) > 0))
            t0, t1, tol = eqx.error_if((t0, t1, tol), bad, "VirtualBrownianTree needs t0 < t1 and tol > 0.")
        else:
            if not (np.asarray(t0) < np.asarray(t1) and np.asarray(tol) > 0):
                raise ValueError(f"VirtualBrownianTree needs t0 < t1 and tol > 0, but got {t0=}, {t1=} and {tol=}.")
            self.depth = int(_depth(np, np.asarray(tol) / (np.asarray(t1) - np.asarray(t0))))
            if self.depth > DEEPEST:
                raise ValueError(
                    f"VirtualBrownianTree needs tol of at least 2**-{DEEPEST} of t1 - t0, but got {t0=}, {t1=}, {tol=}."
                )
        self.t0, self.t1, self.tol = t0, t1, tol
        words = key_words(key)
        self.words = words[0], words[1]  # apart: a slice inside a loop would keep the noise from being vectorised

    def evaluate(self, t0: ArrayLike, t1: ArrayLike | None = None, left: bool = True, use_levy: bool = False) -> Any:
        """The increment from `t0` to `t1`, or from the path's start to `t0` if there is no `t1`; see the class."""
        query = self._query(*((self.t0, t0) if t1 is None else (t0, t1)))
        return self._output(query, _evaluate(self, query), use_levy)

    def _query(self, t0: ArrayLike, t1: ArrayLike) -> "_Query":
        """The two times as fractions of the path's span, in the precision that they have."""
        dtype = jnp.result_type(t0, t1, self.t0, self.t1, 0.0)
        slack = 4 * float(jnp.finfo(dtype).eps)
        if not any(isinstance(t, Tracer) for t in (t0, t1, self.t0, self.t1)):
            places = [(np.asarray(t, dtype) - self.t0) / (np.asarray(self.t1) - self.t0) for t in (t0, t1)]
            if not all(-slack <= place <= 1 + slack for place in places):
                raise ValueError(
                    f"VirtualBrownianTree knows the times from {self.t0} to {self.t1}, but got {t0} and {t1}."
                )
        a, b = constant_time(jnp.asarray(t0, dtype)), constant_time(jnp.asarray(t1, dtype))
        start, span = jnp.asarray(self.t0, dtype), jnp.asarray(self.t1, dtype) - jnp.asarray(self.t0, dtype)
        low, high = jnp.minimum(a, b), jnp.maximum(a, b)
        ends = jnp.stack([low - start, high - start]) / span
        inside = (ends[0] >= -slack) & (ends[1] <= 1 + slack)
        return _Query(b - a, jnp.clip(ends, 0, 1), (high - low) / span, inside)

    def _output(self, query: "_Query", values: PyTree[Array], use_levy: bool) -> Any:
        out = named(increment(self.levy_area, query.dt, values))
        return out if use_levy else out.W


@eqx.filter_jit
def _evaluate(path: VirtualBrownianTree, query: "_Query") -> PyTree[Array]:
    """The increment's Legendre coordinates."""
    leaves, treedef = jax.tree.flatten(path.shape)
    tree = _Tree(ORDERS[path.levy_area], tuple((leaf.size, leaf.dtype) for leaf in leaves), path.depth)
    depth = []
    if path.depth is None:
        span = jnp.asarray(path.t1) - jnp.asarray(path.t0)
        depth = [jnp.minimum(_depth(jnp, jnp.asarray(path.tol) / span), DEEPEST)]
    times = lax.stop_gradient((query.ends[0], query.ends[1], query.gap))
    values = _batched(tree, 0)(*path.words, *times, *depth)
    inside = [
        jnp.where(query.inside, x, jnp.nan).reshape(tree.order, *leaf.shape)
        for x, leaf in zip(values, leaves, strict=True)
    ]
    return treedef.unflatten(inside)


@functools.cache
def _batched(tree: "_Tree", rank: int) -> Callable[..., list[Array]]:
    """The coordinates for arguments with `rank` axes of a batch.

    These stand last: a kernel then runs along the batch, and not along the few lanes of a node, for which it would not
    be vectorised. What is the same over the batch has an axis of length one, and is computed once. Where there is no
    batch the lanes stand last.
    """

    @custom_vmap
    def coordinates(*arguments: Array) -> list[Array]:
        return tree.coordinates(*arguments)

    @coordinates.def_vmap
    def rule(axis_size, in_batched, *arguments):
        del axis_size
        last = [jnp.moveaxis(x, 0, -1) if own else x[..., None] for x, own in zip(arguments, in_batched, strict=True)]
        out = _batched(tree, rank + 1)(*last)
        return [jnp.moveaxis(x, -1, 0) for x in out], [True] * len(out)

    return coordinates


class _Tree(NamedTuple):
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

    def _cells(self, words: tuple[Array, Array], ends: Array, levels: Any) -> "_Cells":
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
        return _Cells(words, number, place, same & (number[:1] == number[1:]))

    def _weights(self, cells: "_Cells", gap: Array, depth: Any, levels: Any) -> Matrix:
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

    def _sums(self, cells: "_Cells", weights: Matrix) -> list[Array]:
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

    def _normals(self, cells: "_Cells", first: int, size: int, dtype: Any, alone: bool) -> Array:
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


class _Query(eqx.Module):
    """Two times: their signed difference, and in units of the path's span the ends in order and their distance."""

    dt: Float[Array, ""]
    ends: Float[Array, "2"]
    gap: Float[Array, ""]
    inside: Bool[Array, ""]


class _Cells(NamedTuple):
    """Nodes on the ways down to two ends, of shape `(2, levels, *batch)`.

    `words`: the key of each; `number`: under that key; `place`: of the end within the node's cell; `same`: whether both
    ends have the same node.
    """

    words: tuple[UInt32[Array, "..."], UInt32[Array, "..."]]
    number: UInt32[Array, "2 ..."]
    place: Float[Array, "2 ..."]
    same: Bool[Array, "1 ..."]


def _depth(xp: Any, tol: Any) -> Any:
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
