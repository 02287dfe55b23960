"""A neural CDE that crosses whole windows of a series in one step, by their log-signatures."""

from collections.abc import Callable
from typing import Any, Unpack

import diffrax
import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, PRNGKeyArray, PyTree

from nde.dtypes import as_floats, promote_state, where_finite
from nde.models.checks import check_matrix
from nde.models.controlled import stopping_at_knots
from nde.models.numerics import AbstractSolvingModel, Keywords, Numerics, numerics_of, Solved
from nde.paths import log_signature_path, RowWindows, series_path, TimeWindows
from nde.regularise import AbstractRegulariser
from nde.terms import LogODEField

LINEAR = ("linear", "rectilinear")
DEEPEST = 3


class LogNCDE(AbstractSolvingModel):
    r"""The controlled equation of `nde.NeuralCDE`, $dy = f(y)\,dX$, by log-ODE steps over windows of its path.

    What the path does in a window enters by its log-signature: at depth one its increment, at depth two also the areas
    that its channels enclose, which meet the Lie brackets of the columns of `f` (`nde.terms.LogODEField`). So the
    number of steps is that of windows, not of rows.

    ```python
    >>> import equinox as eqx, jax, jax.numpy as jnp, nde
    >>> keys = jax.random.split(jax.random.key(0), 3)
    >>> start, readout = eqx.nn.Linear(5, 8, key=keys[0]), eqx.nn.Linear(8, 3, key=keys[1])
    >>> field = nde.CDEField(8, 5, width=16, depth=1, key=keys[2])
    >>> model = nde.models.LogNCDE(start, field, readout, windows=nde.paths.RowWindows(10), depth=2)
    >>> days = jnp.arange(100.0)
    >>> model(days, jnp.stack([jnp.sin(days / 9), jnp.cos(days / 7)], axis=1)).shape  # in ten steps
    (3,)

    ```

    **Arguments of the constructor:**

    - `initial`, `field`, `readout`: as those of `nde.NeuralCDE`; the field does not depend on time, which is a channel,
      and is differentiable `depth - 1` times, as smooth activations are.
    - `windows`: `nde.paths.RowWindows(rows)`, or `nde.paths.TimeWindows(length, number)`.
    - `depth`: of the log-signatures, 1 to 3; a step takes `path_size` directional derivatives of the field at depth
      two, `path_size + path_size**2` at three. Static.
    - `interpolation`: `"linear"` or `"rectilinear"`, as `nde.paths.series_path` has them. Static.
    - `scaled`, `time_scale`: as those of `nde.NeuralCDE`. Static.
    - `numerics`, or its members by keyword, as for `nde.NeuralODE`, in which time is counted in windows: by default one
      step of Heun's method each, `dt0=1.0`.

    **Call, `solve`:** as those of `nde.NeuralCDE`.

    **Raises:** as `nde.NeuralCDE`; `ValueError` for a series shorter than a window, for a `depth` or an interpolation
    that is none of those above; an error at run time for a series longer than all `TimeWindows`.

    **Limits:** a state is known at the ends of windows only. A window's step does not see the path inside of it but by
    its log-signature: where the path is long, take shorter windows before more depth. Memory for the windows'
    log-signatures grows with `path_size ** depth`.

    **Source:** Walker, McLeod, Qin, Cheng, Li, Lyons, *Log Neural Controlled Differential Equations: The Lie Brackets
    Make a Difference*, ICML 2024, arXiv 2402.18512; without its penalty on the field's Lipschitz norm.
    """

    initial: Callable[..., Any]
    field: Callable[..., Any]
    readout: Callable[..., Any]
    numerics: Numerics
    windows: RowWindows | TimeWindows
    depth: int = eqx.field(static=True)
    interpolation: Any = eqx.field(static=True)
    scaled: bool = eqx.field(static=True)
    time_scale: float | None = eqx.field(static=True)

    def __init__(
        self,
        initial: Callable[..., Any],
        field: Callable[..., Any],
        readout: Callable[..., Any],
        *,
        windows: RowWindows | TimeWindows,
        depth: int = 2,
        interpolation: str = "linear",
        scaled: bool = True,
        time_scale: float | None = None,
        numerics: Numerics | None = None,
        **keywords: Unpack[Keywords],
    ):
        self.initial, self.field, self.readout = initial, field, readout
        self.windows, self.depth, self.interpolation = windows, depth, interpolation
        self.scaled, self.time_scale = scaled, time_scale
        default = Numerics(diffrax.Heun(), diffrax.ConstantStepSize(), dt0=1.0)
        self.numerics = numerics_of("LogNCDE", default, numerics, **keywords)

    def __check_init__(self) -> None:
        if not 1 <= self.depth <= DEEPEST:
            raise ValueError(f"LogNCDE needs a depth from 1 to {DEEPEST}, but got {self.depth}.")
        if self.interpolation not in LINEAR:
            raise ValueError(f"LogNCDE needs interpolation 'linear' or 'rectilinear', but got '{self.interpolation}'.")

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
        ts, values = as_floats(ts, values, like=(self.initial, self.field, self.readout))
        options: Any = {"scaled": self.scaled, "time_scale": self.time_scale}
        path = series_path(ts, values, mask, interpolation=self.interpolation, **options)
        assert isinstance(path, diffrax.LinearInterpolation)
        first = path.evaluate(path.t0)
        y0 = promote_state(where_finite(self.initial, first), first.dtype)
        check_matrix("LogNCDE", y0, first, eqx.filter_eval_shape(self.field, path.t0, y0, args))
        knots_per_row = (len(path.ts) - 1) // (len(ts) - 1)
        logs = log_signature_path(path, self.windows, self.depth, knots_per_row=knots_per_row)
        # in time counted by windows: a step is one, or a part of one, whatever the times of the series
        counted = diffrax.LinearInterpolation(jnp.arange(len(logs.ts), dtype=first.dtype), logs.ys)
        term = diffrax.ControlTerm(LogODEField(self.field, self.depth), counted)
        saveat = diffrax.SaveAt(t1=True)
        end = len(logs.ts) - 1.0
        numerics = stopping_at_knots(self.numerics, counted)
        solved = numerics.solve(term, 0.0, end, y0, args, saveat=saveat, regulariser=regulariser, key=key)
        return solved._replace(ys=where_finite(self.readout, solved.ys[0]))
