"""A neural CDE of one irregular, partly missing series."""

from collections.abc import Callable
from functools import partial
from typing import Any, Unpack

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, PyTree

from nde.dtypes import as_floats, promote_state, where_finite
from nde.models.checks import check_matrix, check_times
from nde.models.controlled import solve_controlled
from nde.models.numerics import AbstractSolvingModel, Keywords, Numerics, numerics_of, Solved
from nde.paths import CAUSAL, check_interpolation, Interpolation, series_path
from nde.regularise import AbstractRegulariser


class NeuralCDE(AbstractSolvingModel):
    r"""A state driven by a series: $dy = f(t, y)\,dX(t)$, $y(t_0) = \zeta(X(t_0))$, output $\ell(y(t))$.

    `X` is a path through the data, of `path_size = 1 + 2 * channels` channels: time, the values, and for each
    value channel the number of its observations so far (`nde.paths.series_path`), time and numbers on scales that
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
      solver is one for ODEs, since the path is differentiable and $dX = \dot X\,dt$. `steps_per_row=1` with
      `solver=nde.Midpoint()` steps from row to row, whatever the times; a rectilinear path has two steps a row then.
    - `interpolation`: what the path does between observations: "hermite", "linear", "rectilinear" or "natural_cubic",
      as `nde.paths.series_path` has them. Static.
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
    `model.solve(ts, values, mask, regulariser=regulariser, key=key)` the call's output and a penalty;
    `model.states(ts, values, mask)` the states at all `ts`, of a model that does not look ahead: an encoder's.

    What the mask hides is never read. NaN is missing, with a mask or without one. Times increase strictly, but for
    padding: rows without observations that repeat the last time, which change nothing. A later row without observations
    is none: the path goes on to its time.

    **Raises:** `ValueError` if `ts`, `values` and `mask` differ in length, if there are fewer than two rows, or if the
    field's matrix does not fit the state and the path; an error at run time if the times do not increase, or if a row
    that repeats a time holds an observation.

    **Limits:** with Hermite cubics `trajectory` at a time looks ahead to the next observation of each channel, and to
    the end with natural ones; with `interpolation="rectilinear"` a row's output hangs on the rows up to it, as far as
    no step goes past that row (`steps_per_row` sees to it). With `scaled` and no `time_scale` a state knows how long
    its series will be, as a share of it is the clock: give a `time_scale` where outputs on the way must not. The values
    enter as they are: standardise them. The path's second derivative jumps at observations, and its slope where a
    channel ends before the series, and after two rows that lie close together; that of linear and rectilinear paths
    jumps at all their times, where the steps of a `diffrax.PIDController` end therefore; give steps of one size short
    enough, or `steps_per_row`.

    **Source:** Kidger, Morrill, Foster, Lyons, *Neural Controlled Differential Equations for Irregular Time Series*,
    NeurIPS 2020, arXiv 2005.08926; the interpolation, Morrill, Kidger, Yang, Lyons 2021, arXiv 2106.11028.
    """

    initial: Callable[..., Any]
    field: Callable[..., Any]
    readout: Callable[..., Any]
    numerics: Numerics
    interpolation: Interpolation = eqx.field(static=True)
    scaled: bool = eqx.field(static=True)
    time_scale: float | None = eqx.field(static=True)

    def __init__(
        self,
        initial: Callable[..., Any],
        field: Callable[..., Any],
        readout: Callable[..., Any],
        *,
        numerics: Numerics | None = None,
        interpolation: Interpolation = "hermite",
        scaled: bool = True,
        time_scale: float | None = None,
        **keywords: Unpack[Keywords],
    ):
        self.initial, self.field, self.readout = initial, field, readout
        self.numerics = numerics_of("NeuralCDE", Numerics(), numerics, **keywords)
        self.interpolation, self.scaled, self.time_scale = interpolation, scaled, time_scale

    def __check_init__(self):
        check_interpolation(self.interpolation)
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
        solved = self._solve(ts, values, mask, args, regulariser=regulariser, key=key)
        return solved._replace(ys=where_finite(self.readout, solved.ys[0]))

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
        rows = check_times("NeuralCDE", ts, (values, self.initial, self.field, self.readout))
        return jax.vmap(partial(where_finite, self.readout))(self._solve(ts, values, mask, args, rows=rows).ys)

    def states(
        self, ts: ArrayLike, values: ArrayLike, mask: ArrayLike | None = None, args: PyTree[Any] = None
    ) -> Float[Array, "rows state"]:
        """The states at all `ts`, each of which has read the rows up to its own and nothing of later ones.

        **Raises:** as the call; `ValueError` for a model that looks ahead.
        """
        unit = not self.scaled or self.time_scale is not None
        if not (self.interpolation in CAUSAL and self.numerics.steps_per_row and unit):
            raise ValueError(
                "NeuralCDE.states needs a model that does not look ahead: interpolation='rectilinear', steps_per_row, "
                f"and a time_scale or scaled=False; this one has interpolation='{self.interpolation}', steps_per_row="
                f"{self.numerics.steps_per_row}, time_scale={self.time_scale} and scaled={self.scaled}."
            )
        rows = check_times("NeuralCDE", ts, (values, self.initial, self.field, self.readout))
        return self._solve(ts, values, mask, args, rows=rows).ys

    def _solve(self, ts, values, mask, args, **options: Any) -> Solved:
        ts, values = as_floats(ts, values, like=(self.initial, self.field, self.readout))
        infinite, values = jnp.isinf(values), jnp.where(jnp.isinf(values), 0, values)
        scales: Any = {"scaled": self.scaled, "time_scale": self.time_scale}
        path = series_path(ts, values, mask, interpolation=self.interpolation, **scales)
        first = path.evaluate(path.t0)
        y0 = promote_state(self.initial(first), first.dtype)
        check_matrix("NeuralCDE", y0, first, eqx.filter_eval_shape(self.field, path.t0, y0, args))
        # an infinite value makes a start that fails, beside a path whose derivatives are numbers all the same
        seen = infinite if mask is None else infinite & jnp.asarray(mask, bool)
        y0 = jnp.where(jnp.any(seen), jnp.inf, y0)
        return solve_controlled(self.numerics, self.field, path, y0, args, **options)
