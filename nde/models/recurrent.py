"""How a recurrent network reads an irregular series: row by row, with the last values and how long ago they were."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

Update = Callable[[Array, Array, Array, Array], Array]
"""`(hidden, last, observed, gaps) -> hidden`, of shapes `(hidden,)` and three times `(channels,)`."""


def read_rows(
    update: Update,
    hidden: Float[Array, " hidden"],
    last: Float[Array, " channels"],
    ts: Float[Array, " rows"],
    values: Float[Array, "rows channels"],
    observed: Bool[Array, "rows channels"],
    *,
    gap_scale: float,
) -> tuple[Float[Array, " hidden"], Float[Array, "rows hidden"]]:
    r"""The state after the last row, and after each row.

    Of each row the update sees the last value $x_{t'}$ observed of each channel, this row's included, which channels
    this row observed, $m_i$, and the gaps: $\delta_i = t_i - t_{i-1}$ where row $i-1$ observed the channel, else
    $\delta_{i-1} + t_i - t_{i-1}$, and zero in the first row. A row without any observation changes nothing but the
    gaps, so that what follows is as if it were not there, and padding leaves no trace.

    **Arguments:** `update`; `hidden`: the first state; `last`: what a channel reads as before its first observation;
    `ts`, `values`, `observed`: the series; `gap_scale`: what gaps are divided by.

    **Source:** Che et al. 2018, arXiv 1606.01865, equation 2.
    """

    def read(state, row):
        hidden, last, since = state
        t, value, seen = row
        # from times, not as a sum of waits, in whose rounding a row without observations would leave a trace
        gaps = (t - since) / gap_scale
        last = jnp.where(seen, value, last)
        hidden = jnp.where(jnp.any(seen), update(hidden, last, seen, gaps), hidden)
        return (hidden, last, jnp.where(seen, t, since)), hidden

    start = hidden, last, jnp.full_like(last, ts[0] if ts.size else 0)
    (hidden, _, _), states = jax.lax.scan(read, start, (ts, values, observed))
    return hidden, states


def output_layer(hidden_size: int, out_size: int | None, *, key: PRNGKeyArray) -> eqx.nn.Linear | eqx.nn.Identity:
    """A linear layer to an output of that size; for `None`, as of an encoder, the state itself is the output."""
    return eqx.nn.Identity() if out_size is None else eqx.nn.Linear(hidden_size, out_size, key=key)
