"""A neural SDE over the path of one irregular, partly missing series."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar, Unpack

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, PyTree

from nde.dtypes import as_floats, promote_state, where_finite
from nde.fields import check_field
from nde.models.checks import refuse
from nde.models.numerics import AbstractSolvingModel, Keywords, Numerics, numerics_of, Solved
from nde.paths import BrownianGrid, check_interpolation, Interpolation, series_path
from nde.regularise import AbstractRegulariser, need_key
from nde.solvers import check_noise
from nde.terms import diffusion_term, noise_kind, NoiseKind, unwrap_solver

ROUNDING = 1e-3
"""Of a step, by which a time may miss its end: single precision, over thousands of steps."""


class ControlledSDE(AbstractSolvingModel):
    r"""A state driven by noise and by a series: $dz = f(t, z, X(t))\,dt + g(t, z)\,dW$, $z(t_0) = h(X(t_0))$, Itô.

    `X` is the path of `nde.NeuralCDE` through the data, of `path_size = 1 + 2 * channels` channels. Unlike a neural CDE
    the drift reads its value, not its slope. The time of the equation is the path's clock, $t = (t' - t'_0) / \tau$,
    with the unit $\tau$ = `time_scale`. With `geometric` the fields are those of $dz / z$: the equation is
    $dz = z\,(f\,dt + g\,dW)$, state by state.

    It acts on one series and draws one sample of the noise; use `jax.vmap` over series, and over keys for samples.

    ```python
    >>> import equinox as eqx, jax, jax.numpy as jnp, nde
    >>> keys = jax.random.split(jax.random.key(0), 4)
    >>> start, readout = eqx.nn.Linear(5, 8, key=keys[0]), eqx.nn.Linear(8, 3, key=keys[1])
    >>> drift, diffusion, geometric = nde.sde_pair("langevin", 8, 5, 16, 1, key=keys[2])
    >>> model = nde.ControlledSDE(start, drift, diffusion, readout, horizon=21.0, dt0=0.5)
    >>> days, values = jnp.array([0, 7, 14]), jnp.array([[1.0, 2.0], [jnp.nan, 2.5], [1.2, jnp.nan]])  # NaN is missing
    >>> model(days, values, key=keys[3]).shape  # the logits of three classes, say
    (3,)

    ```

    **Arguments of the constructor:**

    - `initial`: any callable `h` from `(path_size,)`, the path's first point, to the first state, `(state_size,)`.
    - `drift`: any callable `f(t, z, x)` of the clock, the state and the path's value, that returns `(state_size,)`.
    - `diffusion`: any callable `g(t, z, args)` that returns the diagonal, `(state_size,)`: each state has noise of its
      own.
    - `readout`: any callable from a state to an output.
    - `geometric`: see above. Static.
    - `interpolation`: what the path does between observations, as for `nde.NeuralCDE`. Static.
    - `horizon`: how long a series may last, in units of time. `time_scale`: the unit of the clock; `horizon` if `None`.
      Both static.
    - `numerics`: how it is solved, a `nde.Numerics`; or its members by keyword. The solver is `diffrax.Euler`
      (Euler–Maruyama), the default, or `diffrax.ItoMilstein`, which is of strong order one for noise that hangs on the
      state too. `dt0` is every step, in units of time, to which `horizon` is rounded up; there is no other controller.

    `nde.sde_pair` makes the fields of the stable classes of Oh et al. (2024), and those of a plain neural SDE.

    **Call:** `model(ts, values, mask=None, key=key)` with `ts` of shape `(rows,)`, values and mask of shape
    `(rows, channels)`; returns the readout of the state at the last row. `model.latent(ts, values, mask, key=key)`
    returns the states at all rows, `(rows, state_size)`; `model.solve(ts, values, mask, regulariser=regulariser,
    key=key)` the call's output and a penalty. The same key gives the same Brownian motion from the first row on,
    however long the series, and whatever `horizon`. What the mask hides is never read, NaN is missing, and padding
    leaves no trace, as for `nde.NeuralCDE`.

    **Geometric equations are solved for their growth** $u$ in $z = z_0\,e^u$:
    $du = (f - \tfrac12 g^2)\,dt + g\,dW$ by Itô's formula, $u(0) = 0$. So no state changes its sign and a zero stays
    zero, exactly, whatever the step and the noise, where Euler's method in $z$ crosses zero as soon as a draw
    has $g\,\Delta W < -1 - f \Delta t$. And the noise of $u$ is additive where $g$ hangs on the time alone: Euler's
    method is of strong order one, and exact for constant $f$ and $g$.

    **Divergence.** A solve whose state is not finite is an error; with `throw=False` its output is not finite either:
    count those by `~jnp.all(jnp.isfinite(model(ts, values, mask, key=key)))`.

    **Raises:** `ValueError` without a key, for a solver or controller that is none of these, if not
    `0 < dt0 <= horizon`, for a drift or diffusion that does not fit the state, and as `nde.NeuralCDE`; an error at run
    time if a series lasts longer than `horizon`, or if the solve fails.

    **Limits:** the noise is diagonal. A state looks ahead as far as the path does, and by a step. Memory of the
    gradient grows with `horizon / dt0`, and a short series costs as much as a long one: its steps past the end stand
    still.

    **Source:** Oh, Lim, Kim, *Stable Neural Stochastic Differential Equations in Analyzing Irregular Time Series Data*,
    ICLR 2024, arXiv 2402.14989.
    """

    draws_noise: ClassVar[bool] = True
    """A call draws from its key, so that a prediction is a mean over keys."""

    initial: Callable[..., Any]
    drift: Callable[..., Any]
    diffusion: Callable[..., Any]
    readout: Callable[..., Any]
    numerics: Numerics
    geometric: bool = eqx.field(static=True)
    interpolation: Interpolation = eqx.field(static=True)
    time_scale: float = eqx.field(static=True)
    num_steps: int = eqx.field(static=True)

    def __init__(
        self,
        initial: Callable[..., Any],
        drift: Callable[..., Any],
        diffusion: Callable[..., Any],
        readout: Callable[..., Any],
        *,
        geometric: bool = False,
        interpolation: Interpolation = "hermite",
        horizon: float,
        time_scale: float | None = None,
        numerics: Numerics | None = None,
        **keywords: Unpack[Keywords],
    ):
        default = Numerics(diffrax.Euler(), diffrax.ConstantStepSize())
        numerics = numerics_of("ControlledSDE", default, numerics, **keywords)
        dt0 = _checked_step(numerics, horizon, time_scale)
        check_noise(diffusion, numerics.solver)
        self.initial, self.drift, self.diffusion, self.readout = initial, drift, diffusion, readout
        check_interpolation(interpolation)
        self.geometric, self.interpolation = geometric, interpolation
        self.time_scale = float(horizon if time_scale is None else time_scale)
        self.num_steps = math.ceil(horizon / dt0 - 1e-6)
        self.numerics = dataclasses.replace(numerics, max_steps=self.num_steps)

    @property
    def horizon(self) -> float:
        """How long a series may last, in units of time: a whole number of steps."""
        assert self.dt0 is not None
        return self.num_steps * self.dt0

    def __call__(
        self, ts: ArrayLike, values: ArrayLike, mask: ArrayLike | None = None, *, key: PRNGKeyArray | None = None
    ) -> PyTree[Array]:
        return self.solve(ts, values, mask, key=key).ys

    @eqx.filter_jit  # or a call outside of `jit` would compile its scan anew
    def solve(
        self,
        ts: ArrayLike,
        values: ArrayLike,
        mask: ArrayLike | None = None,
        *,
        regulariser: AbstractRegulariser | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Solved:
        """The readout of the last state, and what the regulariser makes of the solve: see `nde.regularise`."""
        solved = self._solve(ts, values, mask, key, rows=False, regulariser=regulariser)
        return solved._replace(ys=where_finite(self.readout, solved.ys[0]))

    @eqx.filter_jit
    def latent(
        self, ts: ArrayLike, values: ArrayLike, mask: ArrayLike | None = None, *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "rows state"]:
        """The states at all rows, of the sample that the call draws; linear between the ends of a step."""
        return self._solve(ts, values, mask, key, rows=True).ys

    def _solve(self, ts, values, mask, key, *, rows: bool, regulariser=None) -> Solved:
        key = need_key(key, "ControlledSDE draws noise", "call model(ts, values, mask, key=jax.random.key(0))")
        ts, values = as_floats(ts, values, like=(self.initial, self.drift, self.diffusion, self.readout))
        path = series_path(ts, values, mask, interpolation=self.interpolation, scaled=True, time_scale=self.time_scale)
        too_long = path.t1 - path.t0 > self.horizon * (1 + 1e-6)
        ts = refuse(ts, too_long, f"ControlledSDE solves series that last up to {self.horizon:g}, but one is longer.")
        assert self.dt0 is not None
        width = self.dt0 / self.time_scale
        grid = np.arange(self.num_steps + 1) * np.asarray(width, ts.dtype)
        clock = (ts - ts[0]) / self.time_scale
        places = jnp.minimum(ts[0] + jnp.asarray(grid * self.time_scale, ts.dtype), ts[-1])
        control = _Control(jax.vmap(path.evaluate)(places), clock[-1], width)
        z0 = promote_state(where_finite(self.initial, control.points[0]), ts.dtype)
        _check_fields(self.drift, self.diffusion, z0, control.points[0])

        drift, diffusion, y0 = self.drift, self.diffusion, z0
        if self.geometric:
            drift, diffusion, y0 = _GrowthDrift(drift, diffusion, z0), _GrowthNoise(diffusion, z0), jnp.zeros_like(z0)
        noise = BrownianGrid(0.0, float(grid[-1]), self.num_steps, jax.ShapeDtypeStruct(z0.shape, z0.dtype), key)
        noise_term = diffusion_term(_StoppedNoise(diffusion, control), noise, diagonal=True)
        terms = diffrax.MultiTerm(diffrax.ODETerm(_StoppedDrift(drift, control)), noise_term)
        # the last step ends at the last row, so that the state there is that at the end of its step
        asked = jnp.where(clock < clock[-1], clock, jnp.asarray(grid)[control.steps_to(clock)])
        saveat = diffrax.SaveAt(ts=asked) if rows else diffrax.SaveAt(t1=True)
        numerics = dataclasses.replace(self.numerics, controller=diffrax.StepTo(ts=grid), dt0=None)
        other = jax.random.fold_in(key, 1)
        solved = numerics.solve(terms, grid[0], grid[-1], y0, saveat=saveat, regulariser=regulariser, key=other)
        if not self.geometric:
            return solved
        return solved._replace(ys=where_finite(lambda growth: z0[None] * jnp.exp(growth), solved.ys))


class _Control(eqx.Module):
    """The path at the grid's points, where the solvers read it, and where on the grid the series ends."""

    points: Float[Array, "points path"]
    end: Float[Array, ""]
    width: float = eqx.field(static=True)

    def at(self, t):
        return self.points[jnp.round(t / self.width).astype(jnp.int32)]

    def share(self, t):
        """How much of the step that begins at `t` lies before the end; what is left by rounding is nothing."""
        share = (self.end - t) / self.width
        return jnp.where(share > ROUNDING, jnp.minimum(share, 1.0), 0.0)

    def steps_to(self, t):
        """How many steps end at `t` or reach beyond it."""
        return jnp.ceil(t / self.width - ROUNDING).astype(jnp.int32)


class _StoppedDrift(eqx.Module):
    """The drift along the path, and nothing after the end; of the step in which the end lies, the part before it."""

    drift: Callable[..., Any]
    control: _Control

    def __call__(self, t, y, args):
        share = self.control.share(t)
        return jnp.where(share > 0, share * self.drift(t, y, self.control.at(t)), 0.0)


class _StoppedNoise(eqx.Module):
    """The diffusion likewise: the noise of a part of a step has that part of its variance."""

    diffusion: Callable[..., Any]
    control: _Control

    @property
    def noise(self) -> NoiseKind:
        return noise_kind(self.diffusion)

    @property
    def __name__(self) -> str:
        return type(self.diffusion).__name__

    def __call__(self, t, y, args):
        share = self.control.share(t)
        inside = share > 0
        root = jnp.sqrt(jnp.where(inside, share, 1.0))  # the root's slope at zero is infinite
        return jnp.where(inside, root * self.diffusion(t, y, None), 0.0)


class _GrowthDrift(eqx.Module):
    """The drift of u, where z = z0 exp(u)."""

    drift: Callable[..., Any]
    diffusion: Callable[..., Any]
    z0: Float[Array, " state"]

    def __call__(self, t, u, x):
        z = self.z0 * jnp.exp(u)
        return self.drift(t, z, x) - 0.5 * self.diffusion(t, z, None) ** 2


class _GrowthNoise(eqx.Module):
    """The diffusion of u; of the same kind, for u is a function of z, state by state."""

    diffusion: Callable[..., Any]
    z0: Float[Array, " state"]

    @property
    def noise(self) -> NoiseKind:
        return noise_kind(self.diffusion)

    def __call__(self, t, u, args):
        return self.diffusion(t, self.z0 * jnp.exp(u), args)


def _checked_step(numerics: Numerics, horizon: float, time_scale: float | None) -> float:
    solver, dt0 = unwrap_solver(numerics.solver)[0], numerics.dt0
    # They evaluate the fields at a step's start alone, which is what the part of a last step hangs on.
    if not isinstance(solver, diffrax.Euler | diffrax.ItoMilstein):
        raise ValueError(
            f"ControlledSDE is solved by diffrax.Euler or diffrax.ItoMilstein, but got {type(solver).__name__}."
        )
    if dt0 is None or not isinstance(numerics.controller, diffrax.ConstantStepSize):
        raise ValueError(
            f"ControlledSDE takes steps of one size and needs a dt0 and no other controller, but got dt0={dt0} and "
            f"{type(numerics.controller).__name__}."
        )
    if not (0 < dt0 <= horizon and (time_scale is None or time_scale > 0)):
        raise ValueError(
            "ControlledSDE needs 0 < dt0 <= horizon and time_scale > 0, but got "
            f"dt0={dt0}, horizon={horizon} and time_scale={time_scale}."
        )
    return float(dt0)


def _check_fields(drift, diffusion, z0, x) -> None:
    if z0.ndim != 1:
        raise ValueError(f"ControlledSDE needs an initial state of shape (state_size,), but it is {z0.shape}.")
    check_field(drift, z0[0], z0, x)
    check_field(diffusion, z0[0], z0, None)
