"""Brownian motion at any times, in any order, from one key."""

import functools
from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.custom_batching import custom_vmap
from jaxtyping import Array, ArrayLike, Bool, Float, PRNGKeyArray, PyTree, UInt32

from nde.paths.counter import key_words, named
from nde.paths.descent import DEEPEST, depth_of, Descent
from nde.paths.legendre import (
    check_levy_area,
    constant_time,
    increment,
    ORDERS,
    structure,
)


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
            self.depth = int(depth_of(np, np.asarray(tol) / (np.asarray(t1) - np.asarray(t0))))
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
    tree = Descent(ORDERS[path.levy_area], tuple((leaf.size, leaf.dtype) for leaf in leaves), path.depth)
    depth = []
    if path.depth is None:
        span = jnp.asarray(path.t1) - jnp.asarray(path.t0)
        depth = [jnp.minimum(depth_of(jnp, jnp.asarray(path.tol) / span), DEEPEST)]
    times = lax.stop_gradient((query.ends[0], query.ends[1], query.gap))
    values = _batched(tree, 0)(*path.words, *times, *depth)
    inside = [
        jnp.where(query.inside, x, jnp.nan).reshape(tree.order, *leaf.shape)
        for x, leaf in zip(values, leaves, strict=True)
    ]
    return treedef.unflatten(inside)


@functools.cache
def _batched(tree: Descent, rank: int) -> Callable[..., list[Array]]:
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


class _Query(eqx.Module):
    """Two times: their signed difference, and in units of the path's span the ends in order and their distance."""

    dt: Float[Array, ""]
    ends: Float[Array, "2"]
    gap: Float[Array, ""]
    inside: Bool[Array, ""]
