"""How a recurrent network reads an irregular series: row by row, with the last values and how long ago they were."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

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
    waits = jnp.diff(ts, prepend=ts[:1]) / gap_scale

    def read(state, row):
        hidden, last, gaps = state
        wait, value, seen = row
        gaps = gaps + wait
        last = jnp.where(seen, value, last)
        hidden = jnp.where(jnp.any(seen), update(hidden, last, seen, gaps), hidden)
        return (hidden, last, jnp.where(seen, 0.0, gaps)), hidden

    (hidden, _, _), states = jax.lax.scan(read, (hidden, last, jnp.zeros_like(last)), (waits, values, observed))
    return hidden, states
