"""An SDE that is seen, in part and with noise: its likelihood by the extended Kalman filter."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Unpack

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float

from nde.dtypes import as_floats
from nde.fields import Parameter
from nde.models.neural_ode import NeuralODE
from nde.models.numerics import Keywords


class Filtered(NamedTuple):
    """What a filter says of each row, given the rows before it.

    - `locations`, `covariances`: `(rows, channels)` and `(rows, channels, channels)`, the normal law of the values.
    - `states`, `spreads`: `(rows, state)` and `(rows, state, state)`, of the state, given this row too.
    - `log_prob`: `(rows,)`, the log density of the values that were seen, in nats; their sum is the log likelihood.
    """

    locations: Float[Array, "rows channels"]
    covariances: Float[Array, "rows channels channels"]
    states: Float[Array, "rows state"]
    spreads: Float[Array, "rows state state"]
    log_prob: Float[Array, " rows"]


class ObservedSDE(eqx.Module):
    r"""An equation whose state is also pushed at random, $dy = f(t, y)\,dt + \mathrm{diag}(q)\,dW$, seen as
    $x_c = y_{i(c)} + \varepsilon_c$ with $\varepsilon_c \sim \mathcal N(0, r_c^2)$.

    An ODE with noise of observation alone holds that its one trajectory is exact for ever: where the equation is not
    quite right, as of animals, its forecasts are far too sure. Here the size of what pushes the state is learned, and a
    forecast's variance grows with it. Between rows the moments of the linearised equation are solved,

    $$\dot m = f(t, m), \qquad \dot P = F P + P F^\top + \mathrm{diag}(q^2), \qquad F = \partial f/\partial y(t, m),$$

    and each row is taken in by Kalman's update. Of a linear field this is exact.

    ```python
    >>> import jax.numpy as jnp, nde
    >>> field = nde.fields.LogField(nde.fields.lotka_volterra())              # logarithms of animals
    >>> given = {"start": [3.0, 3.0], "start_spread": 1.0, "observed": [0, 1]}
    >>> model = nde.ObservedSDE(field, push=[0.2, 0.2], noise=[0.1, 0.1], **given)
    >>> times, pelts = nde.data.load_lynx_hare()
    >>> seen = times[:, None] < 16                                            # the last five years are forecast
    >>> found = model.filter(times, jnp.log(pelts), jnp.broadcast_to(seen, pelts.shape))
    >>> found.locations.shape, bool(found.covariances[-1, 0, 0] > found.covariances[16, 0, 0])
    ((21, 2), True)

    ```

    **Arguments of the constructor:**

    - `field`: $f$, a field `f(t, y, args)` on one array, differentiable in `y`.
    - `start`: `(state,)`, the state at the first row; learned. `start_spread`: its standard deviation around that,
      positive: a start that were exact would be learned to pass through the first row, and the likelihood grow without
      bound as the noise vanished.
    - `push`: `(state,)`, positive: $q$ to start from, in units of the state per root of time; learned.
    - `noise`: `(channels,)`, positive: $r$ to start from; learned.
    - `observed`: the state that each channel sees, indices.
    - The rest are members of `nde.Numerics`, by keyword, as of `nde.NeuralODE`.

    **Call:** `model(times, values, seen, args=None)`: the log likelihood, a number, differentiable in all that is
    learned. `model.filter` gives the law of each row: of rows that are not `seen` it is their forecast, from all seen
    before.

    **Raises:** `ValueError` for sizes that do not go together, an index that is no state, a spread that is not
    positive.

    **Limits:** the law is normal around a linearised equation: good while the spread is small beside what the field
    bends over. The cost of the moments grows as the cube of the state's size.

    **Source:** Jazwinski, *Stochastic Processes and Filtering Theory*, 1970, sections 8.3 and 9.3; Särkkä, *Bayesian
    Filtering and Smoothing*, 2013, chapter 5.
    """

    ode: NeuralODE
    start: Float[Array, " state"]
    noise: Parameter
    observed: tuple[int, ...] = eqx.field(static=True)
    start_spread: float = eqx.field(static=True)

    def __init__(
        self,
        field: Callable[..., Any],
        *,
        start: ArrayLike,
        start_spread: float,
        push: ArrayLike,
        noise: ArrayLike,
        observed: Sequence[int],
        **numerics: Unpack[Keywords],
    ):
        (self.start,) = as_floats(start)
        self.noise = Parameter(noise, log=True, name="noise")
        self.observed, self.start_spread = tuple(observed), start_spread
        self.ode = NeuralODE(_Moments(field, Parameter(push, log=True, name="push")), **numerics)
        size = self.start.shape
        if len(size) != 1 or self.push.value.shape != size or self.noise.value.shape != (len(self.observed),):
            raise ValueError(
                f"ObservedSDE needs a push for each state and a noise for each channel, but got the shapes {size} of "
                f"start, {self.push.value.shape} of push and {self.noise.value.shape} of noise, and {observed=}."
            )
        if not all(0 <= i < size[0] for i in self.observed) or not start_spread > 0:
            raise ValueError(
                f"ObservedSDE's channels observe states 0 to {size[0] - 1}, with start_spread > 0, but got "
                f"{observed=} and {start_spread=}."
            )

    @property
    def push(self) -> Parameter:
        """What pushes the states, $q$."""
        return self.ode.field.push  # pyright: ignore[reportFunctionMemberAccess]

    def __call__(self, times: ArrayLike, values: ArrayLike, seen: ArrayLike, args: Any = None) -> Float[Array, ""]:
        return jnp.sum(self.filter(times, values, seen, args).log_prob)

    def filter(
        self,
        times: Float[ArrayLike, " rows"],
        values: Float[ArrayLike, "rows channels"],
        seen: Bool[ArrayLike, "rows channels"],
        args: Any = None,
    ) -> Filtered:
        """The law of each row given those before it; `values` that are not `seen` may be anything."""
        times, values = as_floats(times, values)
        seen = jnp.asarray(seen, bool)
        if values.shape != (len(times), len(self.observed)) or seen.shape != values.shape:
            raise ValueError(
                f"ObservedSDE.filter needs times (rows,), and values and seen (rows, {len(self.observed)}), but got "
                f"the shapes {times.shape}, {values.shape} and {seen.shape}."
            )
        start = self.start.astype(values.dtype)
        spread = self.start_spread**2 * jnp.eye(len(start), dtype=values.dtype)

        def step(state, row):
            before, mean, spread = state
            time, value, there = row
            ts = jnp.stack([before, time])
            mean, spread = jax.tree.map(lambda y: y[-1], self.ode(ts, (mean, spread), args))
            found = self._updated(mean, spread, value, there)
            return (time, found.states, found.spreads), found

        first = self._updated(start, spread, values[0], seen[0])
        rows = (times[1:], values[1:], seen[1:])
        _, rest = jax.lax.scan(step, (times[0], first.states, first.spreads), rows)
        return jax.tree.map(lambda one, more: jnp.concatenate([one[None], more]), first, rest)

    def _updated(self, mean: Array, spread: Array, value: Array, seen: Array) -> Filtered:
        """Kalman's update by one row. A channel that is not seen is one that sees nothing, with unit noise."""
        every = jnp.eye(len(mean), dtype=mean.dtype)[np.array(self.observed)]
        noise = self.noise.value.astype(mean.dtype) ** 2
        location, covariance = every @ mean, every @ spread @ every.T + jnp.diag(noise)
        sees = jnp.diag(seen.astype(mean.dtype)) @ every
        noise = jnp.where(seen, noise, 1.0)
        error = jnp.where(seen, jnp.where(seen, value, 0.0) - location, 0.0)
        factor = jnp.linalg.cholesky(sees @ spread @ sees.T + jnp.diag(noise))
        gain = jax.scipy.linalg.cho_solve((factor, True), sees @ spread).T
        scaled = jax.scipy.linalg.solve_triangular(factor, error, lower=True)
        log_prob = -0.5 * jnp.sum(scaled**2) - jnp.sum(jnp.log(jnp.diagonal(factor)))
        log_prob = log_prob - 0.5 * math.log(2 * math.pi) * jnp.sum(seen.astype(mean.dtype))
        kept = jnp.eye(len(mean), dtype=mean.dtype) - gain @ sees
        # Joseph's form, which stays positive definite in floating point
        after = kept @ spread @ kept.T + gain @ jnp.diag(noise) @ gain.T
        return Filtered(location, covariance, mean + gain @ error, after, log_prob)


class _Moments(eqx.Module):
    """The mean and the covariance of a linearised equation."""

    field: Callable[..., Any]
    push: Parameter

    def __call__(self, t: Any, y: tuple[Array, Array], args: Any = None) -> tuple[Array, Array]:
        mean, spread = y

        def twice(m: Array) -> tuple[Array, Array]:
            rate = self.field(t, m, args)
            return rate, rate

        slope, rate = jax.jacfwd(twice, has_aux=True)(mean)
        turned = slope @ spread
        return rate, turned + turned.T + jnp.diag(self.push.value.astype(mean.dtype) ** 2)
