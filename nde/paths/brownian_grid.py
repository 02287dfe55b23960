"""Brownian motion on a fixed grid of times."""

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray, PyTree, UInt32

from nde.paths.counter import key_words, named, normals
from nde.paths.legendre import (
    check_levy_area,
    constant_time,
    FACTORS,
    increment,
    ORDERS,
    overlap,
    structure,
)
from nde.paths.levy_area import assemble_area, SpaceSpaceLevyArea, wedge


class BrownianGrid(diffrax.AbstractBrownianPath):
    r"""Brownian motion known on `num_steps` equal steps from `t0` to `t1`: $W_{n+1} - W_n \sim \mathcal N(0, h I)$.

    Increment $n$ is a function of the key and $n$, drawn when it is asked for: the same path in any order and in every
    pass, forward or backward, and no memory but that of one increment. (A solve on a grid draws all increments of a
    small path beforehand, in one kernel.)

    ```python
    >>> import jax, nde
    >>> path = nde.BrownianGrid(0.0, 1.0, 10, (2,), jax.random.key(0))
    >>> path.evaluate(0.2, 0.5).shape
    (2,)

    ```

    **Arguments of the constructor:**

    - `t0`, `t1`: the ends, numbers known at trace time.
    - `num_steps`: how many equal steps lie between them.
    - `shape`: of an increment: a tuple of integers, for an array of the default floating dtype, or a pytree of
      `jax.ShapeDtypeStruct`.
    - `key`: a JAX random key.
    - `levy_area`: `diffrax.BrownianIncrement` for W, `diffrax.SpaceTimeLevyArea` for W and H,
      `diffrax.SpaceTimeTimeLevyArea` for W, H and K, `nde.paths.SpaceSpaceLevyArea` for W, H and the area A.

    **Call:** `path.evaluate(t0, t1)` gives $W_{t_1} - W_{t_0}$ for two points of the grid, of the shape `shape`; with
    `use_levy=True` an instance of `levy_area`. Times may be traced. Several steps are joined exactly: W adds, H and K
    by their coordinates (`nde.paths.legendre`), A by Chen's relation. `path.evaluate(t)` is the increment from the
    path's own `t0`. From the later to the earlier time, W, K and A change sign.

    **Raises:** `ValueError` if `t0` or `t1` is traced, if `t0 < t1` or `num_steps > 0` do not hold, if `shape` or
    `levy_area` is none of these, if a time that is known at trace time is no point of the grid (within a hundredth of a
    step, and rounding), and if a derivative by time is asked for. A traced time off the grid gives NaN.

    **Limits:** there is nothing between the grid's points: a solver that steps there needs a
    `nde.paths.VirtualBrownianTree`. A query over many steps takes time in proportion.

    **Source:** the joining of W, H and K: Foster 2020, *Numerical approximations for stochastic differential equations*
    (thesis, Oxford), section 4.2; Jelinčič, Foster, Kidger 2024, arXiv 2405.06464.
    """

    t0: float = eqx.field(static=True)
    t1: float = eqx.field(static=True)
    num_steps: int = eqx.field(static=True)
    shape: PyTree[jax.ShapeDtypeStruct] = eqx.field(static=True)
    levy_area: Any = eqx.field(static=True)
    words: tuple[UInt32[Array, ""], UInt32[Array, ""]]

    def __init__(
        self,
        t0: float,
        t1: float,
        num_steps: int,
        shape: tuple[int, ...] | PyTree[jax.ShapeDtypeStruct],
        key: PRNGKeyArray,
        *,
        levy_area: Any = diffrax.BrownianIncrement,
    ):
        if any(isinstance(t, Tracer) for t in (t0, t1)):
            raise ValueError(
                "BrownianGrid needs t0 and t1 to be known at trace time, but they are traced: use VirtualBrownianTree."
            )
        if not 0 < num_steps < 2**31 or not t0 < t1:
            raise ValueError(
                f"BrownianGrid needs t0 < t1 and num_steps > 0, below 2**31, but got {t0}, {t1} and {num_steps}."
            )
        check_levy_area("BrownianGrid", levy_area, (*ORDERS, SpaceSpaceLevyArea))
        self.shape = structure("BrownianGrid", shape)
        if levy_area is SpaceSpaceLevyArea and any(not leaf.shape for leaf in jax.tree.leaves(self.shape)):
            raise ValueError("BrownianGrid has space-space areas for leaves of shape (..., noise), but got a scalar.")
        self.t0, self.t1, self.num_steps = float(t0), float(t1), int(num_steps)
        self.levy_area = levy_area
        words = key_words(key)
        self.words = words[0], words[1]  # apart: a slice inside a loop would keep the noise from being vectorised

    def evaluate(self, t0: ArrayLike, t1: ArrayLike | None = None, left: bool = True, use_levy: bool = False) -> Any:
        """The increment from `t0` to `t1`, or from the grid's start to `t0` if there is no `t1`; see the class."""
        t0, t1 = (self.t0, t0) if t1 is None else (t0, t1)
        dtype = jnp.result_type(t0, t1, 0.0)
        if not any(isinstance(t, Tracer) for t in (t0, t1)):
            points = np.asarray([t0, t1], dtype)
            if not np.all(self._place(np, points)[1]):
                raise ValueError(
                    f"BrownianGrid knows the points of {self.num_steps} steps from {self.t0} to {self.t1}, but got "
                    f"{t0} and {t1}: use VirtualBrownianTree between the points of a grid."
                )
        times = jnp.stack([constant_time(jnp.asarray(t, dtype)) for t in (t0, t1)])
        out = named(_evaluate(self, times))
        return out if use_levy else out.W

    def knows(self, times: Any) -> Any:
        """Which of some times are points of the grid; times in a NumPy array are looked up at trace time."""
        return self._place(np if isinstance(times, np.ndarray) else jnp, times)[1]

    def _place(self, xp: Any, times: Any) -> tuple[Any, Any]:
        """The points of the grid nearest to the times, and whether they are the times."""
        density = self.num_steps / (self.t1 - self.t0)
        place = (times - self.t0) * density
        point = xp.round(place)
        rounding = 4 * float(jnp.finfo(times.dtype).eps) * density * max(abs(self.t0), abs(self.t1))
        known = (xp.abs(place - point) <= 0.01 + rounding) & (point >= 0) & (point <= self.num_steps)
        return point, known


class _Steps(eqx.Module):
    """Some steps joined: the Legendre coordinates, and for a space–space area W and A."""

    coordinates: PyTree[Float[Array, "order ..."]]
    W: PyTree[Array] | None
    A: PyTree[Array] | None


@eqx.filter_jit
def _evaluate(path: BrownianGrid, times: Float[Array, "2"]) -> Any:
    place, known = path._place(jnp, times)
    point = place.astype(jnp.int32)
    first, count = jnp.min(point), jnp.abs(point[1] - point[0])
    most = _largest(count)

    def add(carry: tuple[Int[Array, ""], _Steps]):
        i, steps = carry
        joined = _join(steps, _step(path, first, i, count))
        return i + 1, jax.tree.map(lambda new, old: jnp.where(i < count, new, old), joined, steps)

    # Mostly it is one step: that one stands outside of the loop, which XLA drops where it knows the times, because
    # what it compares is one number, over all queries.
    one = _step(path, first, jnp.zeros_like(count), count)
    steps = lax.while_loop(lambda carry: carry[0] < most, add, (jnp.ones_like(most), one))[1]
    h = jnp.asarray((path.t1 - path.t0) / path.num_steps, float)
    dt = (point[1] - point[0]).astype(h.dtype) * h
    return _output(path, jnp.where(jnp.all(known), dt, jnp.nan), steps)


@jax.custom_batching.custom_vmap
def _largest(count: Int[Array, "..."]) -> Int[Array, ""]:
    """The largest of all, over every `vmap` outside too."""
    return jnp.max(count)


@_largest.def_vmap
def _largest_vmap(axis_size, in_batched, count):
    del axis_size, in_batched
    return _largest(count), False


def _step(path: BrownianGrid, first: Int[Array, ""], i: Int[Array, ""], count: Int[Array, ""]) -> _Steps:
    """Step `i` of the `count` that start at `first`, as a part of their sum."""
    area = path.levy_area is SpaceSpaceLevyArea
    order = 3 if area else ORDERS[path.levy_area]
    h = (path.t1 - path.t0) / path.num_steps
    node = lax.bitcast_convert_type(first + i, jnp.uint32)
    leaves, treedef = jax.tree.flatten(path.shape)
    coordinates, Ws, As, lane = [], [], [], 0
    for leaf in leaves:
        noise = leaf.shape[-1] if area else 0
        lanes = (order + noise) * leaf.size
        counter = jnp.arange(lane, lane + lanes, dtype=jnp.uint32)
        z = lax.stop_gradient(normals(path.words, node, counter, leaf.dtype))
        lane += lanes
        xi = z[: order * leaf.size].reshape(order, *leaf.shape)
        coordinates.append(_part_of_sum(xi, i, count))
        if area:
            W, H, K = ((h**0.5 * factor) * x for factor, x in zip(FACTORS, xi, strict=True))
            Ws.append(W)
            As.append(assemble_area(h, W, H, K, z[order * leaf.size :].reshape(*leaf.shape, noise)))
    join = treedef.unflatten
    return _Steps(join(coordinates), join(Ws) if area else None, join(As) if area else None)


def _part_of_sum(xi: Float[Array, "order ..."], i: Int[Array, ""], count: Int[Array, ""]) -> Array:
    """What step `i` with coordinates `xi` adds to the coordinates of `count` steps together."""
    width = 1 / jnp.maximum(count, 1).astype(xi.dtype)
    if xi.shape[0] == 1:
        return jnp.sqrt(width) * xi
    rows = overlap(xi.shape[0], width, i.astype(xi.dtype) * width, 0 * width, 0 * width + 1)
    matrix = jnp.sqrt(width) * jnp.stack([jnp.stack(row) for row in rows])
    return jnp.tensordot(matrix, xi, 1, precision=lax.Precision.HIGHEST)


def _join(earlier: _Steps, later: _Steps) -> _Steps:
    if earlier.A is None:
        return jax.tree.map(jnp.add, earlier, later)
    chen = jax.tree.map(lambda w, x: 0.5 * wedge(w, x), earlier.W, later.W)
    joined = jax.tree.map(jnp.add, earlier, later)
    return _Steps(joined.coordinates, joined.W, jax.tree.map(jnp.add, joined.A, chen))


def _output(path: BrownianGrid, dt: Float[Array, ""], steps: _Steps) -> Any:
    if steps.A is None:
        return increment(path.levy_area, dt, steps.coordinates)
    base = increment(diffrax.SpaceTimeLevyArea, dt, steps.coordinates)
    sign = jnp.sign(dt)  # no area for no time
    return SpaceSpaceLevyArea(base.dt, base.W, base.H, jax.tree.map(lambda x: sign.astype(x.dtype) * x, steps.A))
