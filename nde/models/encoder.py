"""An encoder of irregular, partly observed series, run backward in time."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, PRNGKeyArray

from nde.models.checks import as_series


class Context(eqx.Module):
    """What the observations say, as a function of time.

    - `times`: `(rows,)`, sorted.
    - `features`: `(rows, features)`; row `i` has read the observations of row `i` and of all later rows.
    - `next_time`: `(rows,)`; the time of the first row, from row `i` on, that holds an observation; infinite if none
      does.
    """

    times: Float[Array, " rows"]
    features: Float[Array, "rows features"]
    next_time: Float[Array, " rows"]

    def after(self, t: Float[Array, ""]) -> "Outlook":
        """What is known at time `t` of the observations that come later."""
        first_later = jnp.searchsorted(self.times, t, side="right")
        row = jnp.minimum(first_later, self.times.shape[0] - 1)
        next_time = jnp.where(first_later == row, self.next_time[row], jnp.inf)
        active = jnp.isfinite(next_time)
        return Outlook(self.features[row], jnp.where(active, next_time - t, 0.0), active)


class Outlook(eqx.Module):
    """The observations after some time: `features` that have read them, the `wait` for the next one, and whether there
    is any (`active`)."""

    features: Float[Array, " features"]
    wait: Float[Array, ""]
    active: Bool[Array, ""]


class BackwardEncoder(eqx.Module):
    r"""A GRU that reads a series from its last observation to its first.

    At each row it reads the observed values (zero where missing), the mask, and of each channel the value that it met
    last, with the time between: a channel that is measured seldom is not forgotten over rows that lack it. Times enter
    as $\log(1 + \cdot)$: the gap to the next row, the time since the start, the time to each channel's last met value
    (-1 before there is one). A row without any observation changes nothing, whatever its time or its values: padding
    and hidden futures leave no trace.

    **Arguments of the constructor:** `channels`: observed channels; `hidden_size`: length of the features; `key`.

    **Call:** `encoder(times, values, mask)` with times of shape `(rows,)`, sorted, and values and mask of shape
    `(rows, channels)`, where NaN is missing; returns a `nde.models.Context`.

    **Raises:** `ValueError` where the three do not fit each other or the channels.

    **Source:** the recognition network of Li et al. 2020 (section 5); masks and carried values after Che et al. 2018,
    *Recurrent Neural Networks for Multivariate Time Series with Missing Values*.
    """

    cell: eqx.nn.GRUCell

    def __init__(self, channels: int, hidden_size: int, *, key: PRNGKeyArray):
        self.cell = eqx.nn.GRUCell(4 * channels + 2, hidden_size, key=key)

    @eqx.filter_jit  # or a call outside of `jit` would compile its scan anew
    def __call__(
        self,
        times: ArrayLike,
        values: ArrayLike,
        mask: ArrayLike,
    ) -> Context:
        channels = (self.cell.input_size - 2) // 4
        times, values, mask = as_series("BackwardEncoder", times, values, mask, channels=channels, like=self.cell)

        def read(state: _Reader, row):
            t, value, observed = row
            value = jnp.where(observed, value, 0.0)
            carried = jnp.where(observed, value, state.carried)
            carried_time = jnp.where(observed, t, state.carried_time)
            clock = jnp.stack([_log_wait(state.next_time - t, 0.0), jnp.log1p(t - times[0])])
            waits = _log_wait(carried_time - t, -1.0)
            x = jnp.concatenate([value, observed.astype(value.dtype), clock, carried, waits])
            seen = jnp.any(observed)
            hidden = jnp.where(seen, self.cell(x, state.hidden), state.hidden)
            state = _Reader(hidden, jnp.where(seen, t, state.next_time), carried, carried_time)
            return state, (state.hidden, state.next_time)

        never = jnp.asarray(jnp.inf, times.dtype)
        hidden = jnp.zeros(self.cell.hidden_size, values.dtype)
        start = _Reader(hidden, never, jnp.zeros_like(values[0]), jnp.full(values.shape[1], never))
        _, (features, next_time) = jax.lax.scan(read, start, (times, values, mask), reverse=True)
        return Context(times, features, next_time)


class _Reader(eqx.Module):
    """The encoder's state, the time of the row that it read last, and each channel's last met value and its time."""

    hidden: Float[Array, " features"]
    next_time: Float[Array, ""]
    carried: Float[Array, " channels"]
    carried_time: Float[Array, " channels"]


def _log_wait(wait: Array, before: float) -> Array:
    """The logarithm of one plus a wait, and `before` where it is infinite; its gradient is finite everywhere."""
    known = jnp.isfinite(wait)
    return jnp.where(known, jnp.log1p(jnp.where(known, wait, 0.0)), before)
