"""A neural CDE that reads a series row by row, as an encoder."""

from typing import Unpack

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from nde.fields import CDEField
from nde.models.checks import check_series
from nde.models.numerics import AbstractSolvingModel, Keywords, Numerics, numerics_of, over_unit


class CDEEncoder(AbstractSolvingModel):
    r"""An encoder of irregular series by a neural CDE, $dh = f(h)\,dX$, whose state at a row has read no later one.

    `X` is linear between the rows that hold an observation, of `1 + 2 * channels` channels: the time since the first
    row in units of `time_scale`, the last value of each channel, and $\log(1 + n)$ of the number `n` of its
    observations. Values and numbers start from zero, and so does the state. A channel that a row lacks keeps its value,
    so nothing of what comes later enters: causal at the rows, where it is read. A row without any observation changes
    nothing, and leaves no trace. It acts on one series; use `jax.vmap` for batches.

    **Arguments of the constructor:**

    - `channels`: of the series; `hidden_size`: length of the state; `width`, `depth`: of the hidden layers of `f`, a
      `nde.fields.CDEField`.
    - `time_scale`: a usual length of a series, in units of time.
    - `numerics`: how the equation is solved from row to row, a `nde.Numerics`; or its members by keyword. A gap is one
      unit of its time: `dt0` is a share of it, 1 by default, with `diffrax.Midpoint()`.
    - `key`: a JAX random key, for the initial weights.

    `encoder.states(times, values, mask)` returns the states, `(rows, hidden)`; row `i` has read the rows up to `i`.

    **Raises:** `ValueError` if times, values and mask do not fit each other or the channels, or if `time_scale` is not
    positive.

    **Source:** Kidger, Morrill, Foster, Lyons, *Neural Controlled Differential Equations for Irregular Time Series*,
    NeurIPS 2020, arXiv 2005.08926; linear interpolation, and what of it is causal: Morrill, Kidger, Yang, Lyons 2021,
    arXiv 2106.11028.
    """

    field: CDEField
    numerics: Numerics
    channels: int = eqx.field(static=True)
    time_scale: float = eqx.field(static=True)

    def __init__(
        self,
        channels: int,
        hidden_size: int,
        *,
        width: int = 32,
        depth: int = 1,
        time_scale: float = 1.0,
        numerics: Numerics | None = None,
        key: PRNGKeyArray,
        **keywords: Unpack[Keywords],
    ):
        if not time_scale > 0:
            raise ValueError(f"CDEEncoder needs time_scale > 0, but got {time_scale}.")
        self.field = CDEField(hidden_size, 1 + 2 * channels, width, depth, key=key)
        default = Numerics(diffrax.Midpoint(), diffrax.ConstantStepSize(), dt0=1.0)
        self.numerics = numerics_of("CDEEncoder", default, numerics, **keywords)
        self.channels, self.time_scale = channels, time_scale

    @property
    def hidden_size(self) -> int:
        """The length of the state."""
        return self.field.shape[0]

    @eqx.filter_jit  # or a call outside of `jit` would compile its scan anew
    def states(self, times: ArrayLike, values: ArrayLike, mask: ArrayLike) -> Float[Array, "rows hidden"]:
        times, values, mask = check_series("CDEEncoder", times, values, mask, channels=self.channels, like=self.field)

        def read(state, row):
            hidden, before = state
            t, value, observed = row
            _, last, count = before
            point = (t, jnp.where(observed, value, last), count + observed.astype(count.dtype))
            rise = self._path(*point) - self._path(*before)
            new = over_unit(self.numerics, self._along, hidden, rise)
            seen = jnp.any(observed)
            kept = jax.tree.map(lambda a, b: jnp.where(seen, a, b), (new, point), state)
            return kept, kept[0]

        nothing = jnp.zeros(self.channels, values.dtype)
        start = jnp.zeros(self.hidden_size, values.dtype), (times[0], nothing, nothing)
        return jax.lax.scan(read, start, (times, values, mask))[1]

    def _path(self, t, values, counts) -> Float[Array, " path"]:
        return jnp.concatenate([t[None] / self.time_scale, values, jnp.log1p(counts)])

    def _along(self, s, hidden, rise):
        return self.field(s, hidden) @ rise
