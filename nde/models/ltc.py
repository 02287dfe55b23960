"""A liquid time-constant network that reads one irregular, partly missing series."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from nde.dtypes import as_floats
from nde.fields import LTCField
from nde.paths import check_interpolation, Interpolation, series_path


class LTC(eqx.Module):
    r"""A liquid time-constant network over the path of a series: $\dot x = -(1/\tau + f) x + f A$, $f = f(x, X(t))$.

    `X` is the path of `nde.NeuralCDE` through the data, of `1 + 2 * channels` channels, by default the rectilinear one,
    which is causal. Time is the path's clock, $(t - t_0)$ over `time_scale`. The state starts at zero, and goes from
    row to row by fused steps (`nde.fields.LTCField.step`), `substeps` of equal size in each gap, with the path's value
    at the end of each. It is bounded whatever the gaps, and a gap of length zero, as in padding, changes nothing.

    It acts on one series; use `jax.vmap` for batches.

    ```python
    >>> import jax, jax.numpy as jnp, nde
    >>> model = nde.LTC(2, 8, 3, time_scale=14.0, key=jax.random.key(0))
    >>> days, values = jnp.array([0, 7, 14]), jnp.array([[1.0, 2.0], [jnp.nan, 2.5], [1.2, jnp.nan]])  # NaN is missing
    >>> model(days, values).shape  # the logits of three classes, say
    (3,)

    ```

    **Arguments of the constructor:**

    - `channels`: of the series; `hidden_size`: of the state; `out_size`: of the output, which is linear in the state.
    - `time_scale`: the unit of the clock, in units of time: a usual length of a series. Static.
    - `time_constants`: the shortest and the longest to start from, in units of the clock; for the shortest a usual gap
      does well.
    - `substeps`: of a gap. Static.
    - `interpolation`: what the path does between observations, as for `nde.NeuralCDE`. Static.
    - `key`: a JAX random key, for the initial weights.

    **Call:** `model(ts, values, mask=None)` with `ts` of shape `(rows,)`, values and mask of shape `(rows, channels)`;
    returns the output after the last row, `(out_size,)`. `args` and `key` are accepted, so that all models are called
    alike, and not used. `model.states(ts, values, mask)` returns the state after each row, `(rows, hidden_size)`: with
    the rectilinear path it hangs on the rows up to it alone. What the mask hides is never read; NaN is missing.

    **Raises:** `ValueError` for sizes or a scale that are not positive, for an interpolation of another name, and as
    `nde.paths.series_path`.

    **Limits:** of order one in the size of its steps: a gap of many time constants is crossed in `substeps` steps, as
    the paper's six are. Memory of the gradient grows with the rows times `substeps`.

    **Source:** Hasani, Lechner, Amini, Rus, Grosu, *Liquid Time-constant Networks*, AAAI 2021, arXiv 2006.04439,
    algorithm 1.
    """

    field: LTCField
    readout: eqx.nn.Linear
    channels: int = eqx.field(static=True)
    time_scale: float = eqx.field(static=True)
    substeps: int = eqx.field(static=True)
    interpolation: Interpolation = eqx.field(static=True)

    def __init__(
        self,
        channels: int,
        hidden_size: int,
        out_size: int,
        *,
        time_scale: float,
        time_constants: tuple[float, float] = (0.05, 1.0),
        substeps: int = 6,
        interpolation: Interpolation = "rectilinear",
        key: PRNGKeyArray,
    ):
        if not (time_scale > 0 and substeps >= 1):
            raise ValueError(
                f"LTC needs time_scale > 0 and substeps >= 1, but got time_scale={time_scale}, substeps={substeps}."
            )
        check_interpolation(interpolation)
        field_key, readout_key = jax.random.split(key)
        self.field = LTCField(hidden_size, 1 + 2 * channels, time_constants=time_constants, key=field_key)
        self.readout = eqx.nn.Linear(hidden_size, out_size, key=readout_key)
        self.channels, self.time_scale = channels, float(time_scale)
        self.substeps, self.interpolation = substeps, interpolation

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
        return self.readout(self._read(ts, values, mask)[-1])

    @eqx.filter_jit
    def states(
        self, ts: ArrayLike, values: ArrayLike, mask: ArrayLike | None = None
    ) -> Float[Array, "rows hidden_size"]:
        """The state after each row; arguments and errors are those of the call."""
        return self._read(ts, values, mask)

    def _read(self, ts: ArrayLike, values: ArrayLike, mask: ArrayLike | None) -> Float[Array, "rows hidden_size"]:
        ts, values = as_floats(ts, values, like=(self.field, self.readout))
        path = series_path(ts, values, mask, interpolation=self.interpolation, scaled=True, time_scale=self.time_scale)
        if values.shape[1] != self.channels:
            raise ValueError(f"LTC reads {self.channels} channels, but got values of shape {values.shape}.")
        gaps = jnp.diff(ts)
        shares = jnp.arange(1, self.substeps, dtype=ts.dtype) / self.substeps
        # a gap's last step ends at its row, whatever the rounding: beyond it lies the next row
        inside = ts[:-1, None] + gaps[:, None] * shares[None, :]
        ends = jnp.concatenate([inside, ts[1:, None]], axis=1)
        drives = jax.vmap(jax.vmap(lambda t: self.field.sensory(path.evaluate(t))))(ends)

        def cross(x: Array, gap: tuple[Array, Array]) -> tuple[Array, Array]:
            drive, dt = gap
            for n in range(self.substeps):
                x = self.field.step_driven(x, drive[n], dt)
            return x, x

        start = jnp.zeros_like(self.field.target)
        start = start.astype(ts.dtype)
        _, states = jax.lax.scan(cross, start, (drives, gaps / (self.time_scale * self.substeps)))
        return jnp.concatenate([start[None], states])
