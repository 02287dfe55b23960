"""A linear neural CDE of one irregular, partly missing series, solved in parallel over its rows."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, PyTree

from nde.dtypes import promote_state
from nde.fields import LinearCDEField
from nde.models.checks import check_series, last_observed
from nde.models.exponential import matrix_exponential
from nde.models.recurrence import linear_recurrence, Scan

Discretisation = Literal["exact", "euler"]

MOST_AT_ONCE = 2**22
"""Numbers in the transition maps that are held at once."""


class LinearCDE(eqx.Module):
    r"""A linear CDE driven by a series: $dh = \sum_k A_k h\,dX^k + b\,dX$, $h(t_0) = \zeta(X(t_0))$, output $\ell(h)$.

    `X` has `path_size = 1 + 2 * channels` channels, as that of `nde.models.NeuralCDE`: time, the values, and for each
    value channel the number of its observations so far. From row to row it is a straight line between the values last
    observed, so that the state after a row has read that row and those before it: the model is causal. Along a line
    the equation has constant coefficients, and its solution is a matrix exponential of the increments. A row is then a
    linear map of the state, known before any state is, and a series is a product of maps: it is found by a scan, with
    no solver, no steps and no tolerance. It equals the solution of the equation (`nde.diffeqsolve` with the same field
    and path) to rounding.

    The matrices may be diagonal, block-diagonal, dense, or diagonal plus low rank: see `nde.fields.LinearCDEField`.
    What is not linear stands in the initial layer and the readout.

    ```python
    >>> import equinox as eqx, jax, jax.numpy as jnp, nde
    >>> keys = jax.random.split(jax.random.key(0), 3)
    >>> start, readout = eqx.nn.Linear(5, 8, key=keys[0]), eqx.nn.MLP(8, 3, 16, 1, key=keys[1])
    >>> field = nde.LinearCDEField(8, 5, block_size=4, scale=0.5, key=keys[2])
    >>> model = nde.models.LinearCDE(start, field, readout)
    >>> days, values = jnp.array([0, 7, 14]), jnp.array([[1.0, 2.0], [jnp.nan, 2.5], [1.2, jnp.nan]])  # NaN is missing
    >>> model(days, values).shape  # the logits of three classes, say
    (3,)

    ```

    **Arguments of the constructor:**

    - `initial`: any callable from `(path_size,)`, the path's first point, to the first state, an array `(state_size,)`.
    - `field`: a `nde.fields.LinearCDEField`.
    - `readout`: any callable from a state to an output.
    - `scales`: what each channel of the path is multiplied by, `path_size` numbers; ones if `None`. Let time and counts
      run over a range of order one: the state grows like the exponential of the path's length. Static.
    - `discretisation`: of a row. `"exact"`, or `"euler"`: $I + \sum_k A_k \Delta X^k$ and $b \Delta X$, the recurrence
      of Walker et al., which needs no exponentials and is another model where increments are large. Static.
    - `scan`: how the maps are composed, see `nde.models.linear_recurrence`. Static.

    **Call:** `model(ts, values, mask=None)` with `ts` of shape `(rows,)`, values and mask of shape `(rows, channels)`;
    returns the readout of the last state. `args` and `key` are accepted, so that all models are called alike, and not
    used. `model.states(ts, values, mask)` returns the state after each row, `(rows, state_size)`. It acts on one
    series; use `jax.vmap` for batches.

    What the mask hides is never read. NaN is missing, with a mask or without one; a channel that was not observed yet
    is zero. Times increase strictly, but for padding: rows without observations that repeat the last time, which change
    nothing.

    **Raises:** `ValueError` if `ts`, `values` and `mask` do not fit each other, or the field; an error at run time if
    the times do not increase, or if a row that repeats a time holds an observation.

    **Limits:** nothing bounds the state. A low rank does not last: the sum of two is of twice the rank, and the product
    too, so that diagonal plus low rank costs here what a dense matrix costs, and saves parameters alone. The exact
    discretisation has no forward-mode derivative. Transition maps take `state_size * block_size` numbers a row; rows
    are taken in parts of at most 4 million of them, each computed again for the gradient.

    **Source:** Walker, Yang, Muca Cirone, Salvi, Lyons, *Structured Linear CDEs: Maximally Expressive and
    Parallel-in-Time Sequence Models*, NeurIPS 2025, arXiv 2505.17761. One layer of it: there several are stacked.
    """

    initial: Callable[..., Any]
    field: LinearCDEField
    readout: Callable[..., Any]
    scales: tuple[float, ...] | None = eqx.field(static=True)
    discretisation: Discretisation = eqx.field(static=True)
    scan: Scan = eqx.field(static=True)

    def __init__(
        self,
        initial: Callable[..., Any],
        field: LinearCDEField,
        readout: Callable[..., Any],
        *,
        scales: Sequence[float] | None = None,
        discretisation: Discretisation = "exact",
        scan: Scan = "auto",
    ):
        path_size = field.bias.shape[1]
        if path_size % 2 == 0:
            raise ValueError(
                f"LinearCDE needs a field of 1 + 2 * channels path channels, an odd number, but got {path_size}."
            )
        if scales is not None and len(scales) != path_size:
            raise ValueError(f"LinearCDE needs a scale of each of {path_size} path channels, but got {len(scales)}.")
        if discretisation not in ("exact", "euler"):
            raise ValueError(f"LinearCDE knows the discretisations 'exact' and 'euler', but got {discretisation!r}.")
        if scan not in ("auto", "associative", "sequential"):
            raise ValueError(f"LinearCDE knows the scans 'auto', 'associative' and 'sequential', but got {scan!r}.")
        self.initial, self.field, self.readout = initial, field, readout
        self.scales = None if scales is None else tuple(float(x) for x in scales)
        self.discretisation, self.scan = discretisation, scan

    def __call__(
        self,
        ts: ArrayLike,
        values: ArrayLike,
        mask: ArrayLike | None = None,
        args: PyTree[Any] = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> PyTree[Array]:
        return self.readout(self.states(ts, values, mask)[-1])

    @eqx.filter_jit  # or a call outside of `jit` would compile its scan anew
    def states(
        self, ts: ArrayLike, values: ArrayLike, mask: ArrayLike | None = None
    ) -> Float[Array, "rows state_size"]:
        """The state after each row; arguments and errors are those of the call."""
        points = self.points(ts, values, mask)
        start = promote_state(self.initial(points[0]), points.dtype)
        size = self.field.bias.shape[0]
        if getattr(start, "shape", None) != (size,):
            raise ValueError(f"LinearCDE needs an initial state of shape ({size},), but got {eqx.tree_pformat(start)}.")
        return jnp.concatenate([start[None], self.along(jnp.diff(points, axis=0), start)])

    def points(self, ts: ArrayLike, values: ArrayLike, mask: ArrayLike | None = None) -> Float[Array, "rows path_size"]:
        """The path at each row, scaled: between them it is straight."""
        channels = self.field.bias.shape[1] // 2
        like = (self.initial, self.field, self.readout)
        ts, values, observed = check_series("LinearCDE", ts, values, mask, channels=channels, like=like)
        if not ts.size:
            raise ValueError("LinearCDE needs a series of one row or more, but got none.")
        counts = jnp.cumsum(observed, axis=0, dtype=ts.dtype)
        points = jnp.concatenate([(ts - ts[0])[:, None], last_observed(values, observed), counts], axis=1)
        return points if self.scales is None else points * jnp.asarray(self.scales, points.dtype)[None]

    def along(
        self, increments: Float[Array, "stretches path_size"], start: Float[Array, " state_size"]
    ) -> Float[Array, "stretches state_size"]:
        """The state at the end of each straight stretch of a path, from its increments and the state before them."""
        blocks, bias = self.field.closed_blocks, self.field.bias
        _, number, size, _ = blocks.shape
        start = start.reshape(number, size)
        most = max(MOST_AT_ONCE // (number * size * size), 1)
        parts = -(-increments.shape[0] // most)
        if parts <= 1:
            return self._part(blocks, bias, increments, start).reshape(-1, number * size)
        rows = -(-increments.shape[0] // parts)
        padded = jnp.pad(increments, ((0, parts * rows - increments.shape[0]), (0, 0)))  # a row of zeros is no motion

        @jax.checkpoint  # the maps of one part alone are held, on the way back too
        def part(h, dx):
            states = self._part(blocks, bias, dx, h)
            return states[-1], states

        states = jax.lax.scan(part, start, padded.reshape(parts, rows, -1))[1]
        return states.reshape(parts * rows, -1)[: increments.shape[0]]

    def _part(self, blocks, bias, increments, start):
        rows, (path, number, size, _) = increments.shape[0], blocks.shape
        generators = (increments @ blocks.reshape(path, -1)).reshape(rows, number, size, size)
        offsets = (increments @ bias.T).reshape(rows, number, size)
        one = jnp.eye(size, dtype=generators.dtype)[None, None]
        if self.discretisation == "euler":
            matrices = one + generators
        elif size == 1:
            matrices = jnp.exp(generators)
            offsets = offsets * _phi(generators[..., 0])
        else:
            # exp of the map (y, 1) -> (A y + b, 0), of one more row, holds the integral of b as its last column
            affine = jnp.concatenate([generators, offsets[..., None]], axis=-1)
            affine = matrix_exponential(jnp.pad(affine, ((0, 0), (0, 0), (0, 1), (0, 0))))
            matrices, offsets = affine[..., :size, :size], affine[..., :size, size]
        return linear_recurrence(matrices, offsets, start, self.scan)


def _phi(x: Array) -> Array:
    """(exp(x) - 1) / x, and its derivatives, through zero."""
    small = jnp.abs(x) < jnp.finfo(x.dtype).eps ** 0.25
    safe = jnp.where(small, 1.0, x)
    return jnp.where(small, 1 + x / 2 + x**2 / 6 + x**3 / 24, jnp.expm1(safe) / safe)
