"""A GRU that is told the gaps of a series: what a neural CDE is compared with."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from nde.dtypes import as_floats


class GRUDeltaT(eqx.Module):
    r"""A GRU with time gaps, read from the first row to the last: $h_i = \mathrm{GRU}(x_i, h_{i-1})$, output $A h + b$.

    Of each channel it reads the last value observed, whether that was in this row, and the time since the row before
    which the channel was last observed: $\delta_i = t_i - t_{i-1}$ where row $i-1$ observed it, else
    $\delta_{i-1} + t_i - t_{i-1}$, and zero in the first row. A channel that was not observed yet reads as zero. A row
    without any observation changes nothing but the gaps, so that padding leaves no trace.

    It acts on one series; use `jax.vmap` for batches.

    **Arguments of the constructor:** `channels`: of the series; `hidden_size`: of the GRU; `out_size`: of the output;
    `gap_scale`: what the times are divided by before the network sees them, so that a usual gap is of order one; `key`.

    **Call:** `model(ts, values, mask)` with `ts` of shape `(rows,)`, sorted, values and mask of shape
    `(rows, channels)`; what the mask hides is never read. Returns the output after the last row, `(out_size,)`. `args`
    and `key` are accepted, so that it is called as `nde.models.NeuralCDE` is, and not used.

    **Raises:** `ValueError` if `ts`, `values` and `mask` do not fit each other or the channels, or if `gap_scale` is
    not positive.

    **Source:** Che, Purushotham, Cho, Sontag, Liu, *Recurrent Neural Networks for Multivariate Time Series with Missing
    Values*, Scientific Reports 2018, arXiv 1606.01865, equation 2 and "GRU-simple" with forward filling; as "GRU-Δt"
    the baseline of Kidger et al. 2020, arXiv 2005.08926.
    """

    cell: eqx.nn.GRUCell
    readout: eqx.nn.Linear
    channels: int = eqx.field(static=True)
    gap_scale: float = eqx.field(static=True)

    def __init__(self, channels: int, hidden_size: int, out_size: int, *, gap_scale: float = 1.0, key: PRNGKeyArray):
        if not gap_scale > 0:
            raise ValueError(f"GRUDeltaT needs gap_scale > 0, but got {gap_scale}.")
        cell_key, readout_key = jax.random.split(key)
        self.cell = eqx.nn.GRUCell(3 * channels, hidden_size, key=cell_key)
        self.readout = eqx.nn.Linear(hidden_size, out_size, key=readout_key)
        self.channels, self.gap_scale = channels, gap_scale

    @eqx.filter_jit  # or a call outside of `jit` would compile its scan anew
    def __call__(
        self,
        ts: ArrayLike,
        values: ArrayLike,
        mask: ArrayLike,
        args: None = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, " out"]:
        (ts, values), mask = as_floats(ts, values, like=(self.cell, self.readout)), jnp.asarray(mask, bool)
        if values.shape != (*ts.shape, self.channels) or ts.ndim != 1 or mask.shape != values.shape:
            raise ValueError(
                f"GRUDeltaT needs ts of shape (rows,), values and mask of shape (rows, {self.channels}), but got ts of "
                f"shape {ts.shape}, values of shape {values.shape} and mask of shape {mask.shape}."
            )
        waits = jnp.diff(ts, prepend=ts[:1]) / self.gap_scale

        def read(state, row):
            hidden, last, gaps = state
            wait, value, observed = row
            gaps = gaps + wait
            last = jnp.where(observed, value, last)
            new = self.cell(jnp.concatenate([last, observed.astype(last.dtype), gaps]), hidden)
            hidden = jnp.where(jnp.any(observed), new, hidden)
            return (hidden, last, jnp.where(observed, 0.0, gaps)), None

        nothing = jnp.zeros(self.channels, values.dtype)
        start = (jnp.zeros(self.cell.hidden_size, values.dtype), nothing, nothing)
        (hidden, _, _), _ = jax.lax.scan(read, start, (waits, values, mask))
        return self.readout(hidden)
