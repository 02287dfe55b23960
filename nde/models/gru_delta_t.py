"""A GRU that is told the gaps of a series: what a neural CDE is compared with."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from nde.models.checks import check_series
from nde.models.recurrent import output_layer, read_rows


class GRUDeltaT(eqx.Module):
    r"""A GRU with time gaps, read from the first row to the last: $h_i = \mathrm{GRU}(x_i, h_{i-1})$, output $A h + b$.

    Of each channel it reads the last value observed, whether that was in this row, and the time since the row before
    which the channel was last observed: $\delta_i = t_i - t_{i-1}$ where row $i-1$ observed it, else
    $\delta_{i-1} + t_i - t_{i-1}$, and zero in the first row. A channel that was not observed yet reads as zero. A row
    without any observation changes nothing but the gaps, so that padding leaves no trace.

    It acts on one series; use `jax.vmap` for batches.

    **Arguments of the constructor:** `channels`: of the series; `hidden_size`: of the GRU; `out_size`: of the output,
    `None` for the state itself;
    `gap_scale`: what the times are divided by before the network sees them, so that a usual gap is of order one; `key`.

    **Call:** `model(ts, values, mask)` with `ts` of shape `(rows,)`, increasing, values and mask of shape
    `(rows, channels)`; what the mask hides is never read, and NaN is missing. Returns the output after the last row,
    `(out_size,)`. `args` and `key` are accepted, so that it is called as `nde.models.NeuralCDE` is, and not used.
    `model.states(ts, values, mask)` returns the hidden state after each row, `(rows, hidden_size)`: that of row $i$ has
    read the rows up to $i$ alone.

    **Raises:** `ValueError` if `ts`, `values` and `mask` do not fit each other or the channels, or if `gap_scale` is
    not positive; an error at run time if the times do not increase, or if a row that repeats a time holds an
    observation.

    **Source:** Che, Purushotham, Cho, Sontag, Liu, *Recurrent Neural Networks for Multivariate Time Series with Missing
    Values*, Scientific Reports 2018, arXiv 1606.01865, equation 2 and "GRU-simple" with forward filling; as "GRU-Δt"
    the baseline of Kidger et al. 2020, arXiv 2005.08926.
    """

    cell: eqx.nn.GRUCell
    readout: eqx.nn.Linear | eqx.nn.Identity
    channels: int = eqx.field(static=True)
    gap_scale: float = eqx.field(static=True)

    def __init__(
        self, channels: int, hidden_size: int, out_size: int | None, *, gap_scale: float = 1.0, key: PRNGKeyArray
    ):
        if not gap_scale > 0:
            raise ValueError(f"GRUDeltaT needs gap_scale > 0, but got {gap_scale}.")
        cell_key, readout_key = jax.random.split(key)
        self.cell = eqx.nn.GRUCell(3 * channels, hidden_size, key=cell_key)
        self.readout = output_layer(hidden_size, out_size, key=readout_key)
        self.channels, self.gap_scale = channels, gap_scale

    @property
    def hidden_size(self) -> int:
        """The length of the state."""
        return self.cell.hidden_size

    @eqx.filter_jit  # or a call outside of `jit` would compile its scan anew
    def __call__(
        self,
        ts: ArrayLike,
        values: ArrayLike,
        mask: ArrayLike | None = None,
        args: None = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, " out"]:
        return self.readout(self._read(ts, values, mask)[0])

    @eqx.filter_jit
    def states(
        self, ts: ArrayLike, values: ArrayLike, mask: ArrayLike | None = None
    ) -> Float[Array, "rows hidden_size"]:
        """The hidden state after each row; arguments and errors are those of the call."""
        return self._read(ts, values, mask)[1]

    def _read(self, ts: ArrayLike, values: ArrayLike, mask: ArrayLike | None) -> tuple[Array, Array]:
        like = (self.cell, self.readout)
        ts, values, observed = check_series("GRUDeltaT", ts, values, mask, channels=self.channels, like=like)

        def update(hidden: Array, last: Array, seen: Array, gaps: Array) -> Array:
            return self.cell(jnp.concatenate([last, seen.astype(last.dtype), gaps]), hidden)

        start = jnp.zeros(self.hidden_size, values.dtype), jnp.zeros(self.channels, values.dtype)
        return read_rows(update, *start, ts, values, observed, gap_scale=self.gap_scale)
