"""A GRU whose inputs and state decay while nothing is observed."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from nde.dtypes import default_float
from nde.models.checks import check_series
from nde.models.recurrent import output_layer, read_rows


class GRUD(eqx.Module):
    r"""GRU-D: a GRU in which a missing value decays to its channel's mean, and the state to zero, both as is learned.

    With $m_i$ which channels row $i$ observed, $\delta_i$ the time since the row before which each was last observed
    (as in `nde.models.GRUDeltaT`), $x_{i'}$ the last value observed and $\tilde x$ the channels' means:

    $$\begin{aligned}
    \gamma_i &= \exp\bigl(-\max(0, W_\gamma \delta_i + b_\gamma)\bigr), \\
    \hat x_i &= m_i \odot x_i + (1 - m_i) \odot
        \bigl(\gamma^x_i \odot x_{i'} + (1 - \gamma^x_i) \odot \tilde x\bigr), \qquad
    \hat h_{i-1} = \gamma^h_i \odot h_{i-1}, \\
    z_i, r_i &= \sigma(W \hat x_i + U \hat h_{i-1} + V m_i + b) \text{ each by its own}, \\
    h_i &= (1 - z_i) \odot \hat h_{i-1}
        + z_i \odot \tanh\bigl(W \hat x_i + U (r_i \odot \hat h_{i-1}) + V m_i + b\bigr),
    \end{aligned}$$

    and the output $A h + c$ of the last $h$. $W_\gamma$ is diagonal in $\gamma^x$ and full in $\gamma^h$. A channel
    that was not observed yet reads as its mean. A row without any observation changes nothing but $\delta$, so that
    padding leaves no trace.

    It acts on one series; use `jax.vmap` for batches.

    **Arguments of the constructor:** `channels`: of the series; `hidden_size`; `out_size`: of the output,
    `None` for the state itself; `gap_scale`:
    what the times are divided by before the network sees them, so that a usual gap is of order one; `mean`: $\tilde x$,
    one of each channel, zero if left out, as of standardised values; not trained; `key`.

    **Call:** `model(ts, values, mask)`, arguments, `states` and errors as of `nde.models.GRUDeltaT`.

    **Raises:** `ValueError` for a `gap_scale` that is not positive, or a `mean` that is not of the channels.

    **Limits:** the diagonal of $W_\gamma$ of the inputs starts between 0 and 1, where the decay can be learned: from a
    negative weight and bias neither has a gradient. The paper's dropout and batch normalisation are left out. The
    state is that of the last row that observed anything, not decayed further.

    **Source:** Che, Purushotham, Cho, Sontag, Liu, *Recurrent Neural Networks for Multivariate Time Series with Missing
    Values*, Scientific Reports 2018, arXiv 1606.01865, equation 2 and "GRU-D: Model with trainable decays".
    """

    input_decay: Float[Array, " channels"]
    input_bias: Float[Array, " channels"]
    hidden_decay: eqx.nn.Linear
    gates: eqx.nn.Linear
    candidate: eqx.nn.Linear
    readout: eqx.nn.Linear | eqx.nn.Identity
    mean: tuple[float, ...] = eqx.field(static=True)
    gap_scale: float = eqx.field(static=True)

    def __init__(
        self,
        channels: int,
        hidden_size: int,
        out_size: int | None,
        *,
        gap_scale: float = 1.0,
        mean: Sequence[float] | None = None,
        key: PRNGKeyArray,
    ):
        if not gap_scale > 0:
            raise ValueError(f"GRUD needs gap_scale > 0, but got {gap_scale}.")
        self.mean = (0.0,) * channels if mean is None else tuple(float(x) for x in mean)
        if len(self.mean) != channels:
            raise ValueError(f"GRUD needs a mean of each of its {channels} channels, but got {len(self.mean)}.")
        keys = jax.random.split(key, 5)
        self.input_decay = jax.random.uniform(keys[0], (channels,), default_float())
        self.input_bias = jnp.zeros(channels, default_float())
        self.hidden_decay = eqx.nn.Linear(channels, hidden_size, key=keys[1])
        self.gates = eqx.nn.Linear(2 * channels + hidden_size, 2 * hidden_size, key=keys[2])
        self.candidate = eqx.nn.Linear(2 * channels + hidden_size, hidden_size, key=keys[3])
        self.readout = output_layer(hidden_size, out_size, key=keys[4])
        self.gap_scale = gap_scale

    @property
    def hidden_size(self) -> int:
        """The length of the state."""
        return self.hidden_decay.weight.shape[0]

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
        channels = len(self.mean)
        ts, values, observed = check_series("GRUD", ts, values, mask, channels=channels, like=self)
        mean = jnp.asarray(self.mean, values.dtype)

        def update(hidden: Array, last: Array, seen: Array, gaps: Array) -> Array:
            decay = jnp.exp(-jax.nn.relu(self.input_decay * gaps + self.input_bias))
            hidden = hidden * jnp.exp(-jax.nn.relu(self.hidden_decay(gaps)))
            x = [jnp.where(seen, last, decay * last + (1 - decay) * mean), seen.astype(last.dtype)]
            z, r = jnp.split(jax.nn.sigmoid(self.gates(jnp.concatenate([*x, hidden]))), 2)
            return (1 - z) * hidden + z * jnp.tanh(self.candidate(jnp.concatenate([*x, r * hidden])))

        start = jnp.zeros(self.hidden_size, values.dtype)
        return read_rows(update, start, mean, ts, values, observed, gap_scale=self.gap_scale)
