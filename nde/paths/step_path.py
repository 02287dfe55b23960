"""An input that is held between its times."""

import diffrax
import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float

from nde.dtypes import as_floats
from nde.paths.between import last_known


class StepPath(diffrax.AbstractGlobalInterpolation):
    """An input $u(t)$ that keeps each value from its time on until the next: a dose rate, a setting, a held reading.

    ```python
    >>> import jax.numpy as jnp, nde
    >>> dose = nde.paths.StepPath(jnp.array([0.0, 1.0, 3.0]), jnp.array([[2.0], [5.0], [0.0]]))
    >>> control = nde.ClipStepSizeController(nde.PIDController(rtol=1e-6, atol=1e-9), jump_ts=dose.jump_ts)
    >>> term = nde.ODETerm(lambda t, y, dose: dose.evaluate(t))  # what was given by the time 4: 2 * 1 + 5 * 2
    >>> y = nde.diffeqsolve(term, nde.Tsit5(), 0.0, 4.0, None, jnp.zeros(1), dose, stepsize_controller=control).ys[-1]
    >>> round(float(y[0]), 6)
    12.0

    ```

    **Arguments of the constructor:** `ts`, of shape `(rows,)`, increasing; `values` and `mask`, of shape
    `(rows, channels)`: a value that is missing, by the mask or as NaN, changes nothing; a channel without a value yet
    is zero. Rows at the end that repeat the last time are padding and hold no value.

    **Call:** `path.evaluate(t)` is the value at `t`, of a time before the first that of the first; with `left=True` at
    a jump the value before it. `path.evaluate(t0, t1)` is the difference. `path.jump_ts` are the times at which it
    jumps: a controller that is told them, as above, steps onto them, so that no step sees two values, and makes the
    gradient exact in the values and in the times. The derivative is zero between jumps.

    **Raises:** `ValueError` for shapes that do not fit; an error at run time if the times do not increase.

    **Limits:** a controller that is not told the jumps finds them by rejected steps. Gradients in `ts` are then
    refused, if the path is in `args` or the terms; a field that has hold of it otherwise has none.
    """

    ts: Float[Array, " rows"]
    ys: Float[Array, "rows channels"]

    def __init__(self, ts: ArrayLike, values: ArrayLike, mask: Bool[ArrayLike, "rows channels"] | None = None):
        ts, values = as_floats(ts, values)
        mask = jnp.ones(values.shape, bool) if mask is None else jnp.asarray(mask, bool)
        if ts.ndim != 1 or ts.size < 1 or values.ndim != 2 or len(values) != len(ts) or mask.shape != values.shape:
            raise ValueError(
                "StepPath needs ts of shape (rows,), values and mask of shape (rows, channels), but got ts of shape "
                f"{ts.shape}, values of shape {values.shape} and mask of shape {mask.shape}."
            )
        known = mask & ~jnp.isnan(values)
        again = (ts[1:] == ts[:-1]) & ((ts[1:] != ts[-1]) | jnp.any(known[1:], axis=1))
        self.ts = eqx.error_if(
            ts,
            jnp.any(~(ts[1:] >= ts[:-1])) | jnp.any(again),
            "StepPath needs times ts that increase, but for rows without values that repeat the last time.",
        )
        last = last_known(known)
        held = jnp.take_along_axis(jnp.where(known, values, 0.0), last, axis=0)
        self.ys = held

    @property
    def ts_size(self) -> int:
        """The number of rows."""
        return self.ts.shape[0]

    @property
    def jump_ts(self) -> Float[Array, " jumps"]:
        """The times at which it may jump: all but the first, infinite for rows that are padding.

        Were these stops too, they would share in the derivative by the last time, which is not theirs.
        """
        return jump_times(self.ts)

    def evaluate(self, t0: ArrayLike, t1: ArrayLike | None = None, left: bool = False) -> Float[Array, " channels"]:
        """The value at `t0`, or how much higher it is at `t1`."""
        if t1 is not None:
            return self.evaluate(t1, left=left) - self.evaluate(t0, left=left)
        row = jnp.searchsorted(self.ts, t0, side="left" if left else "right") - 1
        return self.ys[jnp.maximum(row, 0)]

    def derivative(self, t: ArrayLike, left: bool = False) -> Float[Array, " channels"]:
        """Zero: it is constant but for its jumps."""
        return jnp.zeros_like(self.ys[0])


def jump_times(ts: Float[Array, " rows"]) -> Float[Array, " jumps"]:
    """The times of all rows but the first, infinite where one repeats that before it, as padding does."""
    return jnp.where(ts[1:] > ts[:-1], ts[1:], jnp.inf)
