"""Doses: what is given into a state at a time, at once or over a while."""

from collections.abc import Sequence

import diffrax
import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float

from nde.dtypes import as_floats


class Doses(diffrax.AbstractGlobalInterpolation):
    r"""Amounts $a_k$ given into states at times $t_k$: at once, or at a constant rate over $d_k$.

    $$G(t) = \sum_{k:\, d_k = 0} a_k\,\mathbb 1[t \ge t_k], \qquad
    R(t) = \sum_{k:\, d_k > 0} \frac{a_k}{d_k}\,\mathbb 1[t_k \le t < t_k + d_k].$$

    What is given at once moves the state by $a_k$; what is given over a while adds $R$ to its rate of change. A model
    that is solved with `nde.paths.Inputs` steps onto every one of these times.

    ```python
    >>> import jax.numpy as jnp, nde
    >>> doses = nde.paths.Doses([0.0, 6.0], [100.0, 50.0], [0, 1], states=2, durations=[0.0, 2.0])
    >>> [float(x) for x in doses.given(7.0)], [float(x) for x in doses.rate(7.0)]
    ([100.0, 0.0], [0.0, 25.0])

    ```

    **Arguments of the constructor:**

    - `times`: `(doses,)`, in any order; infinite ones are padding.
    - `amounts`: `(doses,)` with `states_given`, the index of the state of each, `(doses,)`; or `(doses, states)`.
    - `states`: how many states there are, where `states_given` says which.
    - `resets`: `(doses,)`, or `(doses, states)` as the amounts: which set a state to the amount instead of adding
      it, as a vessel that is emptied. Only on a known grid: with `steps_per_row`, or constant steps.
    - `durations`: `(doses,)`; zero, as without them, for a dose that is given at once, which has no gradient in it.

    **Raises:** `ValueError` for shapes that do not fit; an error at run time for a state that does not exist, a
    negative duration, or a time, an amount or a duration that is NaN.

    **Limits:** an amount may be negative (blood that is taken), which is for the caller to forbid. Doses that have the
    same time are given one after another, in their order; see `nde.paths.Inputs` for what gradients in times are then.
    """

    times: Float[Array, " doses"]
    ends: Float[Array, " doses"]
    amounts: Float[Array, "doses states"]
    resets: Bool[Array, "doses states"] | None

    def __init__(
        self,
        times: ArrayLike | Sequence[float],
        amounts: ArrayLike | Sequence[float],
        states_given: ArrayLike | Sequence[int] | None = None,
        *,
        states: int | None = None,
        durations: ArrayLike | Sequence[float] | None = None,
        resets: ArrayLike | Sequence[bool] | None = None,
    ):
        times, amounts = as_floats(jnp.asarray(times), jnp.asarray(amounts))
        durations = jnp.zeros_like(times) if durations is None else jnp.asarray(durations, times.dtype)
        if states_given is not None and states is not None and amounts.shape == times.shape:
            which = jnp.asarray(states_given)
            outside = (which < 0) | (which >= states)
            # On the amounts, which are floats, so that it can answer by NaN too: `nde.train.checks_as_nan`.
            amounts = jnp.asarray(eqx.error_if(amounts, outside, f"Doses has states 0 to {states - 1}."))
            into = which[:, None] == jnp.arange(states)[None, :]
            amounts = jnp.where(into, amounts[:, None], 0.0)
            resets = None if resets is None else into & jnp.asarray(resets, bool)[:, None]
        resets = None if resets is None else jnp.asarray(resets, bool)
        fits = resets is None or resets.shape == amounts.shape
        if (
            not fits
            or times.ndim != 1
            or amounts.ndim != 2
            or len(amounts) != len(times)
            or durations.shape != times.shape
        ):
            raise ValueError(
                "Doses needs times and durations of shape (doses,), and amounts of that shape, with states_given and "
                f"states, or of shape (doses, states), but got times of shape {times.shape}, amounts of shape "
                f"{amounts.shape} and durations of shape {durations.shape}."
            )
        bad = jnp.any(jnp.isnan(times) | jnp.isnan(durations) | (durations < 0)) | jnp.any(jnp.isnan(amounts))
        self.times = eqx.error_if(times, bad, "Doses needs times and amounts that are numbers, and durations >= 0.")
        self.ends, self.amounts, self.resets = self.times + durations, amounts, resets

    @property
    def durations(self) -> Float[Array, " doses"]:
        """How long each is given; zero at once."""
        return self.ends - self.times

    @property
    def ts(self) -> Float[Array, " jumps"]:
        """The times at which something changes: all doses, and the ends of those that last, infinite for the others."""
        return jnp.concatenate([self.times, jnp.where(self.ends > self.times, self.ends, jnp.inf)])

    @property
    def ts_size(self) -> int:
        """How many these are."""
        return 2 * self.times.shape[0]

    def given(self, t: ArrayLike, left: bool = False) -> Float[Array, " states"]:
        """$G(t)$, what was given at once by the time `t`; with `left=True` without what is given at `t` itself."""
        since = self.times < t if left else self.times <= t
        return self._summed(self.amounts, since & (self.ends == self.times))

    def rate(self, t: ArrayLike, left: bool = False) -> Float[Array, " states"]:
        """$R(t)$, what is being given at `t` in a unit of time."""
        on = (self.times < t) & (t <= self.ends) if left else (self.times <= t) & (t < self.ends)
        lasts = self.ends > self.times
        duration = jnp.where(lasts, self.ends - self.times, 1.0)
        return self._summed(self.amounts / duration[:, None], on & lasts)

    def _summed(self, amounts: Array, chosen: Array) -> Float[Array, " states"]:
        return jnp.sum(jnp.where(chosen[:, None], amounts, 0.0), axis=0)

    def evaluate(self, t0: ArrayLike, t1: ArrayLike | None = None, left: bool = False) -> Float[Array, " states"]:
        """What was given at once by `t0`, or between `t0` and `t1`."""
        given = self.given(t0, left)
        return given if t1 is None else self.given(t1, left) - given
