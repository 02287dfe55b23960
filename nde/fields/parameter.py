"""A parameter with bounds, behind a transform."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PyTree

from nde.dtypes import default_float, float_dtype
from nde.fields.priors import AbstractPrior


class Parameter(eqx.Module):
    r"""A learnable quantity in its own units, kept between its bounds by a transform of an unbounded `raw`:

    | bounds | value |
    |---|---|
    | none | $r$ |
    | `lower` | $l + \mathrm{softplus}(r)$ |
    | `upper` | $u - \mathrm{softplus}(-r)$ |
    | both | $l + (u - l)\,\mathrm{sigmoid}(r)$ |

    With `log` the table holds for the logarithms of value and bounds: the value is positive, $e^r$ where there are
    none, and a step of an optimiser changes it by a factor. The value grows with $r$ in each. An optimiser moves `raw`,
    and cannot leave the bounds; read `value`.

    ```python
    >>> import nde
    >>> clearance = nde.Parameter(0.04, log=True, unit="L/h/kg", prior=nde.fields.LogNormalPrior(0.04, 0.3))
    >>> round(float(clearance.value), 3), round(float(clearance.raw), 3)
    (0.04, -3.219)

    ```

    **Arguments of the constructor:**

    - `start`: a number or an array to start from, concrete and strictly between the bounds.
    - `lower`, `upper`: numbers, in the units of `start`, or `None` for no bound on that side.
    - `log`: whether it is positive and learned as a logarithm; a `lower` of zero is then no bound.
    - `fixed`: whether it stays at `start`, which may then be a bound. It is no leaf of the model: no gradient is taken
      of it, no optimiser and no weight decay moves it, and no curvature counts it.
    - `unit`: for printing.
    - `prior`: a `nde.fields.AbstractPrior` of the value; see `nde.fields.log_prior`.
    - `name`: what to call it in errors.

    **Raises:** `ValueError` if not `lower < upper`, or if `start` does not lie strictly between them, naming the
    parameter, the start and the bounds (on a bound, `raw` would be infinite and have no gradient); for `log` with a
    negative bound or a start that is not positive.

    **Limits:** in floating point a value far along reaches its bound itself, and there its gradient vanishes. To build
    one from a traced value, make it first and replace `raw` by `equinox.tree_at`.
    """

    raw: Float[Array, "..."] | None
    lower: float | None = eqx.field(static=True)
    upper: float | None = eqx.field(static=True)
    log: bool = eqx.field(static=True)
    unit: str | None = eqx.field(static=True)
    held: Any = eqx.field(static=True)
    prior: AbstractPrior | None

    def __init__(
        self,
        start: ArrayLike,
        *,
        lower: float | None = None,
        upper: float | None = None,
        log: bool = False,
        fixed: bool = False,
        unit: str | None = None,
        prior: AbstractPrior | None = None,
        name: str | None = None,
    ):
        given = np.asarray(start)
        values = given.astype(np.float64)
        _check("Parameter" if name is None else f"Parameter {name!r}", start, values, (lower, upper), log, fixed)
        self.lower = None if lower is None or (log and lower == 0) else float(lower)
        self.upper = None if upper is None else float(upper)
        self.log, self.unit, self.prior = log, unit, prior
        self.held = _nested(values.tolist()) if fixed else None
        raw = None if fixed else _inverse(*(_scaled(x, log) for x in (values, self.lower, self.upper)))
        self.raw = None if raw is None else jnp.asarray(raw, float_dtype(given))

    @property
    def fixed(self) -> bool:
        """Whether it stays where it started."""
        return self.raw is None

    @property
    def value(self) -> Float[Array, "..."]:
        """The parameter in its own units, of the shape of `start`; between the bounds, these included."""
        if self.raw is None:
            return jnp.asarray(self.held, default_float())
        if not self.log:
            return _bounded(self.raw, self.lower, self.upper)
        lower, upper = (_scaled(bound, True) for bound in (self.lower, self.upper))
        return jnp.clip(jnp.exp(_bounded(self.raw, lower, upper)), self.lower, self.upper)

    def log_prior(self) -> Float[Array, ""]:
        """Log density of the value, summed over its entries; zero without a prior, and where it is fixed."""
        if self.prior is None or self.raw is None:
            return jnp.zeros((), default_float() if self.raw is None else self.raw.dtype)
        return jnp.sum(self.prior.log_prob(self.value))


def log_prior(tree: PyTree[Any]) -> Float[Array, ""]:
    r"""$\log p(\theta)$: the log priors of every `nde.fields.Parameter` in a model, summed; zero where none has one.

    Beside a mean negative log likelihood *per value*, of $N$ values in all, it counts $-\log p(\theta) / N$: so their
    sum is the log posterior density, in nats per value.
    """
    parts = [parameter.log_prior() for parameter in _with_prior(tree)]
    return jnp.sum(jnp.stack(parts)) if parts else jnp.zeros(())


def has_prior(tree: PyTree[Any]) -> bool:
    """Whether a `nde.fields.Parameter` in a model has a prior, and is not fixed."""
    return bool(_with_prior(tree))


def _with_prior(tree: PyTree[Any]) -> list[Parameter]:
    leaves = jax.tree.leaves(tree, is_leaf=_is_parameter)
    return [x for x in leaves if _is_parameter(x) and x.prior is not None and not x.fixed]


def _is_parameter(x: Any) -> bool:
    return isinstance(x, Parameter)


def _check(who: str, start, values: np.ndarray, bounds, log: bool, fixed: bool) -> None:
    lower, upper = bounds
    low = -math.inf if lower is None else float(lower)
    high = math.inf if upper is None else float(upper)
    if not low < high:
        raise ValueError(f"{who} needs lower < upper, but got lower={lower} and upper={upper}.")
    if log and (not np.all(values > 0) or not (lower is None or low >= 0)):
        raise ValueError(f"{who} is positive, for log=True, but got start={start}, lower={lower}, upper={upper}.")
    inside = np.all((low <= values) & (values <= high)) if fixed else np.all((low < values) & (values < high))
    if not inside or not np.isfinite(values).all():
        how = "between" if fixed else "strictly between"
        raise ValueError(f"{who} needs a start {how} its bounds, but start={start}, lower={lower}, upper={upper}.")


def _nested(values: Any) -> Any:
    """Lists as tuples, so that they can be static."""
    return tuple(map(_nested, values)) if isinstance(values, list) else values


def _scaled(value: Any, log: bool) -> Any:
    return np.log(value) if log and value is not None else value


def _bounded(raw: Array, lower: float | None, upper: float | None) -> Array:
    if lower is None:
        return raw if upper is None else upper - jax.nn.softplus(-raw)
    if upper is None:
        return lower + jax.nn.softplus(raw)
    # rounding could step over the upper bound by one unit in the last place
    return jnp.clip(lower + (upper - lower) * jax.nn.sigmoid(raw), lower, upper)


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
