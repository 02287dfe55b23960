"""A neural CDE of one irregular, partly missing series."""

from collections.abc import Callable
from typing import Any, Unpack

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, PRNGKeyArray, PyTree

from nde.dtypes import as_floats, promote_state
from nde.models.checks import check_times, refuse
from nde.models.numerics import AbstractSolvingModel, Keywords, Numerics, numerics_of, Solved
from nde.regularise import AbstractRegulariser

_STEEPEST = 2.0
"""How far a slope may lead over the gap after it, in rises of the two gaps together: it overshoots by 0.3 of them."""


class NeuralCDE(AbstractSolvingModel):
    r"""A state driven by a series: $dy = f(t, y)\,dX(t)$, $y(t_0) = \zeta(X(t_0))$, output $\ell(y(t))$.

    `X` is a smooth path through the data, of `path_size = 1 + 2 * channels` channels: time, the values, and for each
    value channel the number of its observations so far (`nde.models.series_path`), time and numbers on scales that
    hang neither on the unit of time nor much on how long a series is. It acts on one series; use `jax.vmap` for
    batches, padded as below.

    ```python
    >>> import equinox as eqx, jax, jax.numpy as jnp, nde
    >>> keys = jax.random.split(jax.random.key(0), 3)
    >>> start, readout = eqx.nn.Linear(5, 8, key=keys[0]), eqx.nn.Linear(8, 3, key=keys[1])
    >>> model = nde.NeuralCDE(start, nde.CDEField(8, 5, width=16, depth=1, key=keys[2]), readout)
    >>> days, values = jnp.array([0, 7, 14]), jnp.array([[1.0, 2.0], [jnp.nan, 2.5], [1.2, jnp.nan]])  # NaN is missing
    >>> model(days, values).shape  # the logits of three classes, say
    (3,)

    ```

    **Arguments of the constructor:**

    - `initial`: any callable from `(path_size,)`, the path's first point, to the first state, an array `(state_size,)`.
    - `field`: any callable `f(t, y, args)` that returns a matrix `(state_size, path_size)`.
    - `readout`: any callable from a state to an output.
    - `numerics`: how it is solved, a `nde.Numerics`; or its members by keyword, as for `nde.models.NeuralODE`. The
      solver is one for ODEs, since the path is differentiable and $dX = \dot X\,dt$.
    - `scaled`: whether time enters as $(t - t_0) / \tau$ and each count $n$ as $\log(1 + n)$. As they are, they outgrow
      the values in long series or small units of time, and a bounded field such as `nde.fields.CDEField` hardly
      learns. (Spirals of either direction, 12 rows over 1000 units of
      time, 30 % missing: held-out accuracy 0.38 and 0.56 unscaled, 1.00 scaled, after 60 steps of Adam, two seeds. With
      30 to 100 rows over 1 to 1000 units, none to 60 % missing: 0.98 or more scaled, eight seeds, 150 steps.)
      `False` if they are scaled already, as by `nde.fields.PathScaledField`. Static.
    - `time_scale`: $\tau$, in units of time: a usual length of a series. `None` for each series' own. Static.

    **Call:** `model(ts, values, mask=None)` with `ts` of shape `(rows,)`, values and mask of shape `(rows, channels)`;
    returns the readout of the last state. `key` is accepted, so that all models are called alike, and not used.
    `model.trajectory(ts, values, mask)` returns the readouts at all `ts`, with a leading axis of rows;
    `model.solve(ts, values, mask, regulariser=regulariser, key=key)` the call's output and a penalty.

    What the mask hides is never read. NaN is missing, with a mask or without one. Times increase strictly, but for
    padding: rows without observations that repeat the last time, which change nothing. A later row without observations
    is none: the path goes on to its time.

    **Raises:** `ValueError` if `ts`, `values` and `mask` differ in length, if there are fewer than two rows, or if the
    field's matrix does not fit the state and the path; an error at run time if the times do not increase, or if a row
    that repeats a time holds an observation.

    **Limits:** values are cubic between two observations of a channel, so that `trajectory` at a time looks ahead to
    the next observation of each channel. With `scaled` and no `time_scale` a state knows how long its series will be,
    as a share of it is the clock: give a `time_scale` where outputs on the way must not. The values enter as they are:
    standardise them. The path's second derivative jumps at observations, and its slope where a channel ends before the
    series, and after two rows that lie close together.

    **Source:** Kidger, Morrill, Foster, Lyons, *Neural Controlled Differential Equations for Irregular Time Series*,
    NeurIPS 2020, arXiv 2005.08926; the interpolation, Morrill, Kidger, Yang, Lyons 2021, arXiv 2106.11028.
    """

    initial: Callable[..., Any]
    field: Callable[..., Any]
    readout: Callable[..., Any]
    numerics: Numerics
    scaled: bool = eqx.field(static=True)
    time_scale: float | None = eqx.field(static=True)

    def __init__(
        self,
        initial: Callable[..., Any],
        field: Callable[..., Any],
        readout: Callable[..., Any],
        *,
        numerics: Numerics | None = None,
        scaled: bool = True,
        time_scale: float | None = None,
        **keywords: Unpack[Keywords],
    ):
        self.initial, self.field, self.readout = initial, field, readout
        self.numerics = numerics_of("NeuralCDE", Numerics(), numerics, **keywords)
        self.scaled, self.time_scale = scaled, time_scale

    def __check_init__(self):
        if self.time_scale is not None and not (self.scaled and self.time_scale > 0):
            raise ValueError(
                "NeuralCDE needs time_scale > 0, and only with scaled=True, but got "
                f"time_scale={self.time_scale} and scaled={self.scaled}."
            )

    def __call__(
        self,
        ts: ArrayLike,
        values: ArrayLike,
        mask: ArrayLike | None = None,
        args: PyTree[Any] = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> PyTree[Array]:
        return self.solve(ts, values, mask, args).ys

    def solve(
        self,
        ts: ArrayLike,
        values: ArrayLike,
        mask: ArrayLike | None = None,
        args: PyTree[Any] = None,
        *,
        regulariser: AbstractRegulariser | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Solved:
        """The readout of the last state, and what the regulariser makes of the solve: see `nde.regularise`."""
        solved = self._solve(ts, values, mask, args, diffrax.SaveAt(t1=True), regulariser, key)
        return solved._replace(ys=self.readout(solved.ys[0]))

    def trajectory(
        self,
        ts: ArrayLike,
        values: ArrayLike,
        mask: ArrayLike | None = None,
        args: PyTree[Any] = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> PyTree[Array]:
        """The outputs at all `ts`, with a leading axis of rows; arguments and errors as those of the call."""
        saveat = diffrax.SaveAt(ts=check_times("NeuralCDE", ts, (values, self.initial, self.field, self.readout)))
        return jax.vmap(self.readout)(self._solve(ts, values, mask, args, saveat).ys)

    def _solve(self, ts, values, mask, args, saveat: diffrax.SaveAt, regulariser=None, key=None):
        ts, values = as_floats(ts, values, like=(self.initial, self.field, self.readout))
        path = series_path(ts, values, mask, scaled=self.scaled, time_scale=self.time_scale)
        first = path.evaluate(path.t0)
        y0 = promote_state(self.initial(first), first.dtype)
        _check_matrix(y0, first, eqx.filter_eval_shape(self.field, path.t0, y0, args))
        term = diffrax.ControlTerm(self.field, path).to_ode()
        return self.numerics.solve(term, path.t0, path.t1, y0, args, saveat=saveat, regulariser=regulariser, key=key)


def series_path(
    ts: ArrayLike,
    values: ArrayLike,
    mask: ArrayLike | None = None,
    *,
    scaled: bool = False,
    time_scale: float | None = None,
) -> diffrax.CubicInterpolation:
    r"""A path of `1 + 2 * channels` channels through a series: time, the values, and the count of their observations.

    Each channel is a Hermite cubic between its own observations, whose slope at an observation is that of the line back
    to the one before it; at the first, that of the line to the second. Where that slope would lead further over the
    gap that follows than twice the rises of the two together, the cubic begins less steeply, by just that: the path
    stays near the values, however close two rows lie. A row that lacks a channel leaves its values as they are. A
    channel that is missing at the first row starts from zero there; after its last observation it is constant. Time and
    counts are known in every row.

    **Arguments:** `ts` of shape `(rows,)`; `values` and `mask` of shape `(rows, channels)`; a value is missing where
    the mask is `False` or the value NaN. Rows at the end that repeat the last time are padding and hold no observation.
    `scaled`, `time_scale`: of time and counts, as for `nde.models.NeuralCDE`.

    **Returns:** the path, from `ts[0]` to `ts[-1]`.

    **Raises:** as `nde.models.NeuralCDE`.

    **Source:** Kidger et al. 2020, section 3 (time and counts as channels); Morrill et al. 2021 (Hermite cubics with
    backward differences); the bound of the slope is in the manner of Fritsch & Carlson, *Monotone piecewise cubic
    interpolation*, SIAM J. Numer. Anal. 1980. On complete series of even steps the coefficients are
    `diffrax.backward_hermite_coefficients`'s; those of diffrax 0.7.2 jump in slope at the end of a gap, depend on the
    rows inside it, and overwrite an observed first value if told to replace missing ones.
    """
    ts, values, observed = _check_series(ts, values, mask)
    repeats = jnp.concatenate([jnp.zeros(1, bool), ts[1:] == ts[:-1]])
    ts = refuse(ts, ~(ts[1:] >= ts[:-1]), "NeuralCDE needs times ts that increase, but a row lies before another.")
    ts = refuse(
        ts,
        repeats & ((ts != ts[-1]) | jnp.any(observed, axis=1)),
        "NeuralCDE needs times ts that increase strictly, but for rows without observations that repeat the last time.",
    )
    clock, counts = ts, jnp.cumsum(observed, axis=0, dtype=ts.dtype)
    if scaled:
        span = ts[-1] - ts[0]
        # a series of one row and its padding has no length
        unit = jnp.where(span > 0, span, 1) if time_scale is None else jnp.asarray(time_scale, ts.dtype)
        clock, counts = (ts - ts[0]) / unit, jnp.log1p(counts)
    channels = jnp.concatenate([clock[:, None], jnp.where(observed, values, 0.0), counts], axis=1)
    always = jnp.ones((ts.shape[0], 1), bool)
    known = jnp.concatenate([always, observed, jnp.broadcast_to(always, observed.shape)], axis=1)
    known = (known & ~repeats[:, None]).at[0].set(True)
    return diffrax.CubicInterpolation(ts, _hermite(ts, channels, known))


def _hermite(
    ts: Float[Array, " rows"], ys: Float[Array, "rows channels"], known: Bool[Array, "rows channels"]
) -> tuple[Array, Array, Array, Array]:
    """The coefficients of each row's interval, cubic first: from the cubic between known rows `p` and `q` around it."""
    rows = ts.shape[0]
    row = jnp.arange(rows)[:, None]
    p = jax.lax.cummax(jnp.where(known, row, 0), axis=0)[:-1]
    q = jax.lax.cummin(jnp.where(known, row, rows), axis=0, reverse=True)[1:]
    inside, q = q < rows, jnp.minimum(q, rows - 1)
    start = jnp.take_along_axis(ys, p, axis=0)
    rise = jnp.where(inside, jnp.take_along_axis(ys, q, axis=0) - start, 0.0)
    width = jnp.where(inside, ts[q] - ts[p], 1.0)
    secant = rise / width
    before = jnp.maximum(p - 1, 0)
    slope = jnp.where(inside, jnp.take_along_axis(secant, before, axis=0), 0.0)
    # noise between two rows close in time is a steep line; carried on over a long gap it would overshoot by 4/27 of
    # slope * width, without bound (100 random rows a series: a total variation of 7100, where the values' own is 10)
    steepest = _STEEPEST * (jnp.abs(rise) + jnp.abs(jnp.take_along_axis(rise, before, axis=0))) / width
    slope = jnp.clip(slope, -steepest, steepest)
    bend = (secant - slope) / width
    # y(p + s) = start + s slope + 2 s^2 bend - s^3 bend / width, and the same cubic about the row instead of p
    s, d = ts[:-1, None] - ts[p], -bend / width
    a = start + s * (slope + s * (2 * bend + s * d))
    b = slope + s * (4 * bend + 3 * s * d)
    return d, 2 * bend + 3 * s * d, b, a


def _check_series(ts, values, mask) -> tuple[Array, Array, Bool[Array, "rows channels"]]:
    ts, values = check_times("NeuralCDE", ts, as_floats(values)), jnp.asarray(values)
    mask = jnp.ones(values.shape, bool) if mask is None else jnp.asarray(mask)
    if values.ndim != 2 or values.shape[0] != ts.shape[0] or mask.shape != values.shape:
        raise ValueError(
            "NeuralCDE needs ts of shape (rows,), values and mask of shape (rows, channels), but got ts of shape "
            f"{ts.shape}, values of shape {values.shape} and mask of shape {mask.shape}."
        )
    values = values.astype(ts.dtype)
    return ts, values, mask.astype(bool) & ~jnp.isnan(values)


def _check_matrix(y0, first, matrix) -> None:
    if getattr(y0, "ndim", None) != 1 or getattr(matrix, "shape", None) != (*y0.shape, *first.shape):
        raise ValueError(
            "NeuralCDE needs a field that returns a matrix (state_size, path_size), with path_size = 1 + 2 * channels "
            f"= {first.shape[0]}, but the initial state is {eqx.tree_pformat(y0)} and the field's output "
            f"{eqx.tree_pformat(matrix)}."
        )
