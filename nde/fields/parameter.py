"""A parameter with bounds, behind a transform."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from nde.dtypes import float_dtype


class Parameter(eqx.Module):
    r"""A learnable quantity in its own units, kept between its bounds by a transform of an unbounded `raw`:

    | bounds | value |
    |---|---|
    | none | $r$ |
    | `lower` | $l + \mathrm{softplus}(r)$ |
    | `upper` | $u - \mathrm{softplus}(-r)$ |
    | both | $l + (u - l)\,\mathrm{sigmoid}(r)$ |

    The value grows with $r$ in each. An optimiser moves `raw`, and cannot leave the bounds; read `value`.

    **Arguments of the constructor:**

    - `start`: a number or an array to start from, concrete and strictly between the bounds.
    - `lower`, `upper`: numbers, in the units of `start`, or `None` for no bound on that side.
    - `name`: what to call it in errors.

    **Raises:** `ValueError` if not `lower < upper`, or if `start` does not lie strictly between them, naming the
    parameter, the start and the bounds. (On a bound, `raw` would be infinite and have no gradient.)

    **Limits:** in floating point a value far along reaches its bound itself, and there its gradient vanishes. To build
    one from a traced value, make it first and replace `raw` by `equinox.tree_at`.
    """

    raw: Float[Array, "..."]
    lower: float | None = eqx.field(static=True)
    upper: float | None = eqx.field(static=True)

    def __init__(
        self,
        start: ArrayLike,
        *,
        lower: float | None = None,
        upper: float | None = None,
        name: str | None = None,
    ):
        given = np.asarray(start)
        values = given.astype(np.float64)
        low = -math.inf if lower is None else float(lower)
        high = math.inf if upper is None else float(upper)
        who = "Parameter" if name is None else f"Parameter {name!r}"
        if not low < high:
            raise ValueError(f"{who} needs lower < upper, but got lower={lower} and upper={upper}.")
        if not np.all((low < values) & (values < high)):
            raise ValueError(
                f"{who} needs a start strictly between its bounds, but start={start}, lower={lower}, upper={upper}."
            )
        self.lower = None if lower is None else low
        self.upper = None if upper is None else high
        raw = _inverse(values, self.lower, self.upper)
        self.raw = jnp.asarray(raw, float_dtype(given))

    @property
    def value(self) -> Float[Array, "..."]:
        """The parameter in its own units, of the shape of `start`; between the bounds, these included."""
        if self.lower is None:
            return self.raw if self.upper is None else self.upper - jax.nn.softplus(-self.raw)
        if self.upper is None:
            return self.lower + jax.nn.softplus(self.raw)
        # rounding could step over the upper bound by one unit in the last place
        value = self.lower + (self.upper - self.lower) * jax.nn.sigmoid(self.raw)
        return jnp.clip(value, self.lower, self.upper)


def _inverse(value: np.ndarray, lower: float | None, upper: float | None) -> np.ndarray:
    if lower is None:
        return value if upper is None else -inverse_softplus(upper - value)
    if upper is None:
        return inverse_softplus(value - lower)
    return np.log(value - lower) - np.log(upper - value)


def inverse_softplus(x: ArrayLike) -> np.ndarray:
    r"""The `y` with $\log(1 + e^y) = x$, for concrete `x > 0`, in double precision.

    Written as $x + \log(1 - e^{-x})$, since $\log(e^x - 1)$ overflows: in single precision above 88.
    """
    x = np.asarray(x, np.float64)
    return x + np.log(-np.expm1(-x))
