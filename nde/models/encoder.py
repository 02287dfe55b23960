"""An encoder for irregular, masked observations, run backward in time."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray


class Context(eqx.Module):
    """What the observations say, as a function of time.

    - `times`: `(times,)`, sorted.
    - `features`: `(times, features)`; row `i` has read the observations of row `i` and of every later row.
    - `next_time`: `(times,)`; the time of the first observation in row `i` or later, infinite if there is none.
    """

    times: Float[Array, " times"]
    features: Float[Array, "times features"]
    next_time: Float[Array, " times"]

    def at(self, t):
        row = jnp.searchsorted(self.times, t, side="right")
        row = jnp.minimum(row, self.times.shape[0] - 1)
        next_time = jnp.where(t < self.times[-1], self.next_time[row], jnp.inf)
        active = jnp.isfinite(next_time)
        return self.features[row], jnp.where(active, next_time - t, 0.0), active


class BackwardEncoder(eqx.Module):
    """GRU"""

    cell: eqx.nn.GRUCell

    def __init__(self, channels: int, hidden_size: int, *, key: PRNGKeyArray):
        self.cell = eqx.nn.GRUCell(2 * channels + 2, hidden_size, key=key)

    def __call__(self, times, values, mask) -> Context:
        def read(carry, row):
            hidden, next_time = carry
            t, value, observed = row
            gap = jnp.where(jnp.isfinite(next_time), next_time - t, 0.0)
            flags = observed.astype(value.dtype)
            x = jnp.concatenate([jnp.where(observed, value, 0.0), flags, jnp.log1p(jnp.stack([gap, t - times[0]]))])
            seen = observed.any()
            hidden = jnp.where(seen, self.cell(x, hidden), hidden)
            next_time = jnp.where(seen, t, next_time)
            return (hidden, next_time), (hidden, next_time)

        start = jnp.zeros(self.cell.hidden_size, values.dtype), jnp.asarray(jnp.inf, times.dtype)
        _, (features, next_time) = jax.lax.scan(read, start, (times, values, mask), reverse=True)
        return Context(times, features, next_time)
