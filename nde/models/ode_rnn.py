"""The ODE-RNN: a recurrent network whose state follows an ODE between the rows of an irregular series."""

from typing import Unpack

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, PRNGKeyArray

from nde.dtypes import as_floats
from nde.fields import MLPField
from nde.models.checks import check_series
from nde.models.numerics import AbstractSolvingModel, Keywords, Numerics, numerics_of, over_unit


class ODERNN(AbstractSolvingModel):
    r"""An encoder of irregular series: $dh = f(h)\,dt$ between rows, $h_i = \mathrm{GRU}(x_i, h(t_i))$ at them.

    At a row the GRU reads the observed values (zero where missing) and the mask. The state starts at zero with the
    first row that holds an observation. A row without any changes nothing: padding leaves no trace, nor does a time at
    which nothing was seen. What the mask hides is never read. It acts on one series; use `jax.vmap` for batches.

    **Arguments of the constructor:**

    - `channels`: of the series.
    - `hidden_size`: length of the state.
    - `width`, `depth`: of the hidden layers of the field `f`, a `nde.fields.MLPField`.
    - `numerics`: how the ODE is solved over a gap, a `nde.Numerics`; or its members by keyword. A gap is one unit of
      its time, so that `dt0` is a share of it: 0.5, the default with `diffrax.Heun()`, makes two steps of every gap.
    - `key`: a JAX random key, for the initial weights.

    `encoder.states(times, values, mask)` returns the states, `(rows, hidden)`; row `i` has read the rows up to `i`.
    `encoder.moved(hidden, wait)` returns a state after so long a time without observations.

    **Raises:** `ValueError` if times, values and mask do not fit each other or the channels.

    **Source:** Rubanova, Chen, Duvenaud, *Latent ODEs for Irregularly-Sampled Time Series*, NeurIPS 2019, arXiv
    1907.03907, algorithm 1. The GRU here is a plain one; that of the authors' code carries a mean and a deviation.
    """

    cell: eqx.nn.GRUCell
    field: MLPField
    numerics: Numerics
    channels: int = eqx.field(static=True)

    def __init__(
        self,
        channels: int,
        hidden_size: int,
        *,
        width: int = 32,
        depth: int = 1,
        numerics: Numerics | None = None,
        key: PRNGKeyArray,
        **keywords: Unpack[Keywords],
    ):
        cell_key, field_key = jax.random.split(key)
        self.cell = eqx.nn.GRUCell(2 * channels, hidden_size, key=cell_key)
        self.field = MLPField(hidden_size, width, depth, activation=jnp.tanh, scale=0.1, key=field_key)
        self.numerics = numerics_of("ODERNN", GAP_NUMERICS, numerics, **keywords)
        self.channels = channels

    @property
    def hidden_size(self) -> int:
        """The length of the state."""
        return self.cell.hidden_size

    @eqx.filter_jit  # or a call outside of `jit` would compile its scan anew
    def states(self, times: ArrayLike, values: ArrayLike, mask: ArrayLike) -> Float[Array, "rows hidden"]:
        like = self.cell, self.field
        return self.read(*check_series("ODERNN", times, values, mask, channels=self.channels, like=like))

    def read(
        self, times: Float[Array, " rows"], values: Float[Array, "rows channels"], mask: Bool[Array, "rows channels"]
    ) -> Float[Array, "rows hidden"]:
        """The states, of arrays of one floating type that are a series, or one turned back to front."""

        def read(state, row):
            hidden, last = state
            t, value, observed = row
            seen = jnp.any(observed)
            x = jnp.concatenate([jnp.where(observed, value, 0.0), observed.astype(value.dtype)])
            new = self.cell(x, self.moved(hidden, jnp.where(seen & jnp.isfinite(last), t - last, 0.0)))
            return (jnp.where(seen, new, hidden), jnp.where(seen, t, last)), jnp.where(seen, new, hidden)

        start = jnp.zeros(self.hidden_size, values.dtype), jnp.asarray(-jnp.inf, times.dtype)
        return jax.lax.scan(read, start, (times, values, mask))[1]

    @eqx.filter_jit
    def moved(self, hidden: Float[Array, " hidden"], wait: ArrayLike) -> Float[Array, " hidden"]:
        hidden, wait = as_floats(hidden, wait, like=self.field)
        return over_unit(self.numerics, self._over_gap, hidden, wait)

    def _over_gap(self, s, hidden, wait):
        return wait * self.field(s, hidden)


GAP_NUMERICS = Numerics(diffrax.Heun(), diffrax.ConstantStepSize(), dt0=0.5)
"""Two steps a gap, whose number does not depend on the data: the rows are one scan, and a row costs four fields."""
