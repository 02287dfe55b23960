"""Checks of what models are called with."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, PyTree

from nde.dtypes import as_floats, float_dtype, promote_state


def check_times(model: str, ts: Any, like: PyTree[Any] = None) -> Array:
    """The times as an array of floats, of a type that holds those of `like` too, if there are two or more in one row.

    **Raises:** `ValueError`, naming `model` and the shape, otherwise.
    """
    if jnp.ndim(ts) != 1 or jnp.shape(ts)[0] < 2:
        raise ValueError(
            f"{model} needs ts of shape (times,) with two times or more, the first that of the start, but got ts of "
            f"shape {jnp.shape(ts)}."
        )
    return as_floats(ts, like=like)[0]


def check_times_and_state(model: str, ts: Any, y0: PyTree[Any], parameters: PyTree[Any]) -> tuple[Array, PyTree[Array]]:
    """Times and a state of one precision, which holds that of the model's parameters too; a complex state stays so.

    **Raises:** as `nde.models.checks.check_times`.
    """
    ts = check_times(model, ts, parameters)
    dtype = float_dtype(ts, y0)
    return ts.astype(dtype), promote_state(y0, dtype)


Series = tuple[Float[Array, " rows"], Float[Array, "rows channels"], Bool[Array, "rows channels"]]


def as_series(model: str, ts: Any, values: Any, mask: Any = None, *, channels: int, like: PyTree[Any] = None) -> Series:
    """Times and values of one series in one floating type, and which values were observed: NaN is missing.

    **Raises:** `ValueError`, naming `model` and the shapes, where they do not fit each other or the channels.
    """
    ts, values = as_floats(ts, values, like=like)
    mask = jnp.ones(values.shape, bool) if mask is None else jnp.asarray(mask, bool)
    if values.shape != (*ts.shape, channels) or ts.ndim != 1 or mask.shape != values.shape:
        raise ValueError(
            f"{model} needs ts of shape (rows,), values and mask of shape (rows, {channels}), but got ts of shape "
            f"{ts.shape}, values of shape {values.shape} and mask of shape {mask.shape}."
        )
    return ts, values, mask & ~jnp.isnan(values)


def check_series(
    model: str, ts: Any, values: Any, mask: Any = None, *, channels: int, like: PyTree[Any] = None
) -> Series:
    """`as_series`, of times that increase, but for padding: rows without observations that repeat the last time.

    **Raises:** as `as_series`; and an error at run time for other times.
    """
    ts, values, observed = as_series(model, ts, values, mask, channels=channels, like=like)
    if ts.size < 2:
        return ts, values, observed
    ts = refuse(ts, ~(ts[1:] >= ts[:-1]), f"{model} needs times ts that increase, but a row lies before another.")
    again = (ts[1:] == ts[:-1]) & ((ts[1:] != ts[-1]) | jnp.any(observed[1:], axis=1))
    only_padding = "increase strictly, but for rows without observations that repeat the last time."
    return refuse(ts, again, f"{model} needs times ts that {only_padding}"), values, observed


def check_matrix(model: str, y0: Any, first: Array, matrix: Any) -> None:
    """**Raises:** `ValueError` if a field's output does not fit the state and the path's first point `first`."""
    if getattr(y0, "ndim", None) != 1 or getattr(matrix, "shape", None) != (*y0.shape, *first.shape):
        raise ValueError(
            f"{model} needs a field that returns a matrix (state_size, path_size), with path_size = 1 + 2 * channels "
            f"= {first.shape[0]}, but the initial state is {eqx.tree_pformat(y0)} and the field's output "
            f"{eqx.tree_pformat(matrix)}."
        )


def refuse(ts: Array, bad: ArrayLike, message: str) -> Array:
    """The times, and an error at run time if any of `bad` is true."""
    return eqx.error_if(ts, bad, message)


def up_to(ts: Array, end: float) -> Array:
    """The times, those within rounding past the end of a solve as that end."""
    return jnp.where(ts < end * (1 + 1e-6), jnp.minimum(ts, end), ts)


def last_observed(
    values: Float[Array, "rows channels"], observed: Bool[Array, "rows channels"]
) -> Float[Array, "rows channels"]:
    """The value last observed at each row, zero before there is one."""
    rows = jnp.where(observed, jnp.arange(1, values.shape[0] + 1)[:, None], 0)
    last = jax.lax.cummax(rows, axis=0)
    found = jnp.take_along_axis(jnp.where(observed, values, 0.0), jnp.maximum(last - 1, 0), axis=0)
    return jnp.where(last > 0, found, 0.0)


def check_point(model: str, x: Any, size: int, like: PyTree[Any] = None) -> Float[Array, " size"]:
    """A point of shape `(size,)`, of a floating type that holds that of `like` too.

    **Raises:** `ValueError`, naming `model` and the shape, for another shape.
    """
    if jnp.shape(x) != (size,):
        raise ValueError(
            f"{model} of size {size} needs a point of shape ({size},), but got {jnp.shape(x)}; use jax.vmap over "
            "points."
        )
    return as_floats(x, like=like)[0]
