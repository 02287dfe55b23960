"""An encoder of irregular, partly observed series, run backward in time."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray


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

    At each row it reads the observed values (zero where missing), the mask, and $\log(1 + \cdot)$ of the gap to the
    next observation and of the time since the start. A row without any observation changes nothing, whatever its time
    or its values: padding and hidden futures leave no trace.

    **Arguments of the constructor:** `channels`: observed channels; `hidden_size`: length of the features; `key`.

    **Call:** `encoder(times, values, mask)` with times of shape `(rows,)`, values and mask of shape `(rows, channels)`;
    returns a [`nde.models.Context`][].

    **Source:** the recognition network of Li et al. 2020 (section 5), with the mask as an input as in Che et al. 2018.
    """

    cell: eqx.nn.GRUCell

    def __init__(self, channels: int, hidden_size: int, *, key: PRNGKeyArray):
        self.cell = eqx.nn.GRUCell(2 * channels + 2, hidden_size, key=key)

    def __call__(
        self,
        times: Float[Array, " rows"],
        values: Float[Array, "rows channels"],
        mask: Bool[Array, "rows channels"],
    ) -> Context:
        def read(carry, row):
            hidden, next_time = carry
            t, value, observed = row
            gap = jnp.where(jnp.isfinite(next_time), next_time - t, 0.0)
            clock = jnp.log1p(jnp.stack([gap, t - times[0]]))
            x = jnp.concatenate([jnp.where(observed, value, 0.0), observed.astype(value.dtype), clock])
            seen = jnp.any(observed)
            hidden = jnp.where(seen, self.cell(x, hidden), hidden)
            next_time = jnp.where(seen, t, next_time)
            return (hidden, next_time), (hidden, next_time)

        start = jnp.zeros(self.cell.hidden_size, values.dtype), jnp.asarray(jnp.inf, times.dtype)
        _, (features, next_time) = jax.lax.scan(read, start, (times, values, mask), reverse=True)
        return Context(times, features, next_time)
