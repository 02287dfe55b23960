"""How to fit the solution of an ODE to a long series: from several starts, or over a horizon that grows.

A solution that is fitted from one start over many periods of an oscillation flattens: while its phase is wrong, the
mean of the data is the best that it can do, and the loss has a minimum there. Both ways out here make the problem short
first. Multiple shooting solves each segment from a start of its own and asks that the segments meet; a growing horizon
fits the first part first.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, PyTree

from nde.dtypes import as_floats

Solve = Callable[[Array, Array], Float[Array, "times state"]]


class Shots(eqx.Module):
    """A solution in segments, from `nde.objectives.multiple_shooting`.

    - `ys`: `(rows, state)`; the states at the times asked for, each from the segment that it lies in.
    - `gaps`: `(segments - 1, state)`; the end of each segment minus the start of the next.
    """

    ys: Float[Array, "rows state"]
    gaps: Float[Array, "gaps state"]

    def penalty(self) -> Float[Array, ""]:
        r"""$\sum_s |\mathrm{gap}_s|^2$, in squared units of the state; weigh it, and add it to the loss."""
        return jnp.sum(self.gaps**2)


def multiple_shooting(
    solve: Solve,
    ts: Float[ArrayLike, " rows"],
    knots: Float[ArrayLike, " segments"],
    starts: Float[ArrayLike, "_ state"],
) -> Shots:
    r"""Solve each segment $[\tau_s, \tau_{s+1}]$ from its own start $z_s$: $\dot y = f(t, y),\; y(\tau_s) = z_s$.

    Fit model and starts together: with $y$ the states at the data's times,
    $\min_{f, z} \sum_n \ell(x_n, y(t_n)) + \lambda \sum_s |y_s(\tau_{s+1}) - z_{s+1}|^2$. As $\lambda$ grows the
    segments become one trajectory from $z_0$; judge the fit by that one.

    ```python
    knots = segment_knots(ts, 5)
    def loss(model_and_starts):
        model, starts = model_and_starts
        shots = multiple_shooting(model, ts, knots, starts)
        return jnp.mean((shots.ys - values) ** 2) + 10.0 * shots.penalty()
    ```

    **Arguments:**

    - `solve`: `solve(ts, y0)` that returns the states at sorted times `ts`, some of them repeated, the first that of
      `y0`, as `nde.models.NeuralODE` does.
    - `ts`: `(rows,)`, sorted, none before `knots[0]`.
    - `knots`: `(segments,)`, increasing; the time of each start. The last segment ends at `ts[-1]`.
    - `starts`: `(segments, state)`; an array to be learned, from the data near the knots to begin with.

    **Returns:** `nde.objectives.Shots`. A row at a knot belongs to the segment that starts there.

    **Raises:** `ValueError` if `knots` and `starts` differ in length, or `ts` is no row of times.

    **Limits:** the segments are solved by `vmap`, each over its own part only, but with a buffer of all `rows`.

    **Source:** Bock & Plitt, *A multiple shooting algorithm for direct solution of optimal control problems*, 1984; for
    neural ODEs with a penalty, Turan & Jäschke, *Multiple shooting for training neural differential equations on time
    series*, IEEE Control Systems Letters 2022, arXiv 2109.06786.
    """
    ts, knots = as_floats(ts, knots)
    (starts,) = as_floats(starts, like=ts)
    if ts.ndim != 1 or knots.ndim != 1 or starts.shape[:1] != knots.shape:
        raise ValueError(
            "multiple_shooting needs ts of shape (rows,), knots of shape (segments,) and as many starts, but got "
            f"{ts.shape}, {knots.shape} and starts of shape {starts.shape}."
        )
    ends = jnp.append(knots[1:], jnp.maximum(ts[-1], knots[-1]))

    def segment(first: Array, last: Array, start: Array) -> Array:
        return solve(jnp.concatenate([first[None], jnp.clip(ts, first, last), last[None]]), start)

    ys = jax.vmap(segment)(knots, ends, starts)
    own = jnp.searchsorted(knots, ts, side="right") - 1
    return Shots(ys[own, jnp.arange(len(ts)) + 1], ys[:-1, -1] - starts[1:])


def segment_knots(ts: Float[ArrayLike, " rows"], segments: int) -> Float[Array, " segments"]:
    """The first times of so many segments with the same number of rows each, or one more: `(segments,)`.

    **Raises:** `ValueError` if there are fewer rows than segments, or no segment.
    """
    ts = jnp.asarray(ts)
    if not 1 <= segments <= ts.shape[0]:
        raise ValueError(f"segments must be in 1 … {ts.shape[0]}, the number of rows, but is {segments}.")
    return ts[jnp.arange(segments) * ts.shape[0] // segments]


def growing_horizon(ts: Float[ArrayLike, " rows"], step: Array | int, *, first: float, steps: int) -> Float[Array, ""]:
    r"""How far to fit at a training step: $t_0 + (t_n - t_0)\,\bigl(a + (1 - a)\min(1, k / K)\bigr)$.

    **Arguments:** `ts`: sorted; `step`: $k$, from zero; `first`: $a$, the share in (0, 1] of the span to begin with;
    `steps`: $K$, after how many steps the horizon is the whole span.

    **Raises:** `ValueError` for another `first`, or fewer than one step.
    """
    if not 0 < first <= 1 or steps < 1:
        raise ValueError(f"growing_horizon needs first in (0, 1] and steps >= 1, but got {first} and {steps}.")
    (ts,) = as_floats(ts)
    share = first + (1 - first) * jnp.minimum(1.0, jnp.asarray(step, ts.dtype) / steps)
    return ts[0] + (ts[-1] - ts[0]) * share


def solve_within(
    solve: Callable[[Array, Any], PyTree[Array]], ts: Float[ArrayLike, " rows"], y0: PyTree[Any], horizon: ArrayLike
) -> tuple[PyTree[Array], Bool[Array, " rows"]]:
    """Solve up to a horizon and no further: the states at `ts`, and which of the times lie within.

    The state is whatever `solve` takes and gives, an array or a pytree; what comes back has a leading axis of rows.

    Rows past the horizon repeat the state there; leave them out of the loss. Nothing past the horizon is computed, so
    that a solution which would blow up later does no harm, and a short horizon costs little.

    ```python
    def loss(model, step):
        ys, seen = solve_within(model, ts, y0, growing_horizon(ts, step, first=0.2, steps=500))
        return jnp.sum((ys - values) ** 2, where=seen[:, None]) / jnp.sum(seen, dtype=ys.dtype)
    ```
    """
    ts, horizon = as_floats(ts, horizon)
    return solve(jnp.minimum(ts, horizon), y0), ts <= horizon
