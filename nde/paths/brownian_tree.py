"""Brownian motion at any times, in any order, from one key."""

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PRNGKeyArray, PyTree, UInt32

from nde.paths.counter import key_words, named, normals, threefry
from nde.paths.legendre import (
    check_levy_area,
    constant_time,
    increment,
    ORDERS,
    overlap,
    small_product,
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
    derivative by time is asked for. A traced time outside gives NaN.

    **Limits:** cost grows with `log((t1 - t0) / tol)`, and is less if `t0`, `t1` and `tol` are known at trace time.
    Where they are not, a `tol` below $2^{-61}$ of the whole counts as that. It is not the path that diffrax makes of
    the same key.

    **Source:** Jelinčič, Foster, Kidger 2024, arXiv 2405.06464, the law (theorem 3.7) and the idea of one seed; Li,
    Wong, Chen, Duvenaud 2020, arXiv 2001.01328, the virtual tree; Alpert 1993, SIAM J. Math. Anal. 24, the functions.
    """

    t0: ArrayLike
    t1: ArrayLike
    tol: ArrayLike
    shape: PyTree[jax.ShapeDtypeStruct] = eqx.field(static=True)
    levy_area: Any = eqx.field(static=True)
    words: UInt32[Array, "2"]
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
        self.words = key_words(key)

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

    def _cells(self, query: "_Query", depth: Any, levels: Any) -> "_Cells":
        """The nodes of the given levels on the ways down to the two ends.

        Level 0 are the polynomials on the whole, level n > 0 the functions that split a cell of length 2**(1 - n), and
        level depth + 1 the bridge in a cell of length 2**-depth.
        """
        cut = np.maximum(levels - 1, 0) if isinstance(levels, np.ndarray) else jnp.maximum(levels - 1, 0)
        cut = jnp.broadcast_to(jnp.asarray(cut), (2, levels.shape[0]))
        ends = jnp.broadcast_to(query.ends[:, None], cut.shape)
        words, upper = self.words[None, None], jnp.zeros(cut.shape, jnp.uint32)
        if self.depth is None or self.depth >= KEY_LEVELS:
            number, below = _locate(query.ends, jnp.full(2, KEY_LEVELS))
            own = jnp.stack(threefry((self.words[:1], self.words[1:]), number, jnp.zeros(2, jnp.uint32)), -1)
            deep = cut >= KEY_LEVELS
            words = jnp.where(deep[..., None], own[:, None], words)
            upper = jnp.where(deep, number[:, None], 0)
            ends = jnp.where(deep, below[:, None], ends)
            cut = jnp.where(deep, cut - KEY_LEVELS, cut)
        number, place = _locate(ends, cut)
        number = jnp.where(jnp.asarray(levels == 0)[None], 0, number)
        return _Cells(number, upper, words, place)

    def _weights(self, query: "_Query", cells: "_Cells", depth: Any, levels: Any) -> Float[Array, "2 levels k j"]:
        """What each normal on the two ways down adds to each Legendre coordinate of the increment."""
        order, zero = ORDERS[self.levy_area], jnp.zeros(cells.place.shape, cells.place.dtype)
        whole, bridge = (jnp.broadcast_to(jnp.asarray(levels == n)[None], zero.shape) for n in (0, depth + 1))
        # All in units of the cell: the query from low to high, its part that counts, and where the cell is split. The
        # bridge to an end counts on the query's side of that end, even where the other end lies in the same cell.
        scale = jnp.asarray(SCALES, zero.dtype)[
            np.maximum(levels - 1, 0) if isinstance(levels, np.ndarray) else jnp.clip(levels - 1, 0, DEEPEST)
        ]
        length = jnp.broadcast_to((jnp.where(query.gap > 0, query.gap, 1) * scale)[None], zero.shape)
        earlier = jnp.array([True, False])[:, None]
        low = jnp.where(earlier, cells.place, cells.place - length)
        high = jnp.where(earlier, cells.place + length, cells.place)
        begin = jnp.where(bridge & ~earlier, 0, jnp.clip(low, 0, 1))
        end = jnp.where(bridge & earlier, 1, jnp.clip(high, 0, 1))
        theta = jnp.where(whole, 1, jnp.where(bridge, cells.place, 0.5))

        def side(theta: Array, start: Array, noise: Array) -> Array:
            """The part of the cell of length `theta` from `start` on."""
            safe = jnp.where(theta > 0, theta, 1)
            a, b = jnp.clip((begin - start) / safe, 0, 1), jnp.clip((end - start) / safe, 0, 1)
            factor = jnp.sqrt(theta / length)[..., None, None]
            return factor * small_product(overlap(order, theta / length, (start - low) / length, a, b), noise)

        flip = -((-1.0) ** np.add.outer(np.arange(order), np.arange(order)))
        eye, flip = (jnp.asarray(x, zero.dtype)[None, None] for x in (np.eye(order), flip))
        left = jnp.where(whole[..., None, None], eye, split(order, theta))
        weights = side(theta, zero, left) + side(1 - theta, theta, flip * split(order, 1 - theta))
        # A node on both ways counts once, except for the bridge, which is another function for each end.
        twice = ~earlier & (cells.same(cells.flip()) & ~bridge)
        beyond = jnp.asarray(levels > depth + 1)[None]
        weights = jnp.where((twice | beyond)[..., None, None], 0, weights)
        return jnp.where(query.inside, weights, jnp.nan)

    def _draw(self, cells: "_Cells") -> PyTree[Float[Array, " draws"]]:
        """The normals of nodes: for each leaf of the shape, `order` times its size of them."""
        order, first, out = ORDERS[self.levy_area], 0, []
        leaves, treedef = jax.tree.flatten(self.shape)
        for leaf in leaves:
            lanes = order * leaf.size
            words = cells.words[..., 0].reshape(-1), cells.words[..., 1].reshape(-1)
            z = normals(words, cells.number.reshape(-1), lanes, leaf.dtype, first)
            out.append(lax.stop_gradient(z.reshape(-1)))  # flat, because a kernel with few lanes in a row is slow
            first += lanes
        return jax.tree.unflatten(treedef, out)

    def _combine(self, weights: Float[Array, "ends levels k j"], z: PyTree[Array]) -> PyTree[Array]:
        """The sum of the weights times the normals: the increment's Legendre coordinates."""
        order = weights.shape[-1]
        matrix = jnp.moveaxis(weights, 2, 0).reshape(order, -1)

        def combine(leaf, z):
            columns = z.reshape(-1, leaf.size)
            out = jnp.matmul(matrix.astype(z.dtype), columns, precision=lax.Precision.HIGHEST)
            return out.reshape(order, *leaf.shape)

        return jax.tree.map(combine, self.shape, z)


@eqx.filter_jit
def _evaluate(path: VirtualBrownianTree, query: "_Query") -> PyTree[Array]:
    """The increment's Legendre coordinates."""

    def block(depth: Any, levels: Any) -> PyTree[Array]:
        cells = path._cells(query, depth, levels)
        return path._combine(path._weights(query, cells, depth, levels), path._draw(cells))

    if path.depth is not None:
        return block(path.depth, np.arange(path.depth + 2))
    span = jnp.asarray(path.t1) - jnp.asarray(path.t0)
    depth = jnp.minimum(_depth(jnp, jnp.asarray(path.tol) / span), DEEPEST)

    def body(carry):
        level, total = carry
        return level + BLOCK, jax.tree.map(jnp.add, total, block(depth, level + jnp.arange(BLOCK)))

    first = block(depth, np.arange(BLOCK))
    return lax.while_loop(lambda carry: carry[0] < depth + 2, body, (jnp.asarray(BLOCK), first))[1]


class _Query(eqx.Module):
    """Two times: their signed difference, and in units of the path's span the ends in order and their distance."""

    dt: Float[Array, ""]
    ends: Float[Array, "2"]
    gap: Float[Array, ""]
    inside: Bool[Array, ""]


class _Cells(eqx.Module):
    """Nodes on the ways down to two ends: the number under its key, the key's own number, the key, the place within."""

    number: UInt32[Array, "2 levels"]
    upper: UInt32[Array, "2 levels"]
    words: UInt32[Array, "#2 #levels 2"]
    place: Float[Array, "2 levels"]

    def flip(self) -> "_Cells":
        """The two ways exchanged."""
        return jax.tree.map(lambda x: x[::-1], self)

    def same(self, other: "_Cells") -> Bool[Array, "2 levels"]:
        return (self.number == other.number) & (self.upper == other.upper)


def _depth(xp: Any, tol: Any) -> Any:
    """How often the whole is halved until it is at most `tol`, in units of the whole."""
    return xp.sum(xp.asarray(1 / np.append(SCALES, 2 * SCALES[-1])) > tol)


def _locate(ends: Float[Array, "..."], cut: Int[Array, "..."]) -> tuple[UInt32[Array, "..."], Float[Array, "..."]]:
    """The number of the cell of length `2**-cut` that an end lies in, in heap order, and the place within it.

    Scaling by a power of two, and taking the whole part away, are exact.
    """
    scaled = ends * jnp.asarray(SCALES, ends.dtype)[cut]
    whole = jnp.floor(scaled)
    one = lax.shift_left(jnp.uint32(1), cut.astype(jnp.uint32))
    last = ends >= 1
    return one + jnp.where(last, one - 1, whole.astype(jnp.uint32)), jnp.where(last, 1, scaled - whole)
