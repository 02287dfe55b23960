"""Checks of what models are called with."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, PyTree


def check_times(model: str, ts: Any) -> Array:
    """The times as an array of floats, if there are two or more in one row.

    **Raises:** `ValueError`, naming `model` and the shape, otherwise.
    """
    ts = jnp.asarray(ts)
    if ts.ndim != 1 or ts.shape[0] < 2:
        raise ValueError(
            f"{model} needs ts of shape (times,) with two times or more, the first that of the start, but got ts of "
            f"shape {ts.shape}."
        )
    return ts if jnp.issubdtype(ts.dtype, jnp.floating) else ts.astype(float)


def promote_state(y0: PyTree[Any], ts: Array) -> PyTree[Array]:
    """The state as arrays of the wider of its own and the times' type, which is what the solver returns."""
    return jax.tree.map(lambda y: jnp.asarray(y, jnp.result_type(y, ts)), y0)


def refuse(ts: Array, bad: ArrayLike, message: str) -> Array:
    """The times, and an error at run time if any of `bad` is true."""
    return eqx.error_if(ts, bad, message)
