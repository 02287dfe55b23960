"""Checks of what models are called with."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, PyTree

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


def refuse(ts: Array, bad: ArrayLike, message: str) -> Array:
    """The times, and an error at run time if any of `bad` is true."""
    return eqx.error_if(ts, bad, message)
