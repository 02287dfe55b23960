"""Numbers as users have them, whole or in another precision, as arrays of one floating-point type.

Days, visits and counts are whole numbers in every table, and tables are often in single precision. Models, baselines
and objectives make one type of what they are called with and of their own parameters, by these functions alone. They
work under strict promotion (`jax_numpy_dtype_promotion="strict"`), too, where JAX itself refuses to mix types.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree


def default_float() -> Any:
    """JAX's default floating dtype: single precision, or double with `jax_enable_x64`."""
    return jnp.result_type(float)


def float_dtype(*trees: PyTree[Any]) -> Any:
    """The real floating dtype that holds every array and number in `trees`; the default one if none is a float.

    Whole numbers and booleans take the type of the floats beside them; of complex numbers it is that of their parts.
    """
    leaves = [x for x in jax.tree.leaves(trees) if eqx.is_array_like(x)]
    with jax.numpy_dtype_promotion("standard"):
        dtype = jnp.result_type(*leaves) if leaves else default_float()
    return jnp.finfo(dtype).dtype if jnp.issubdtype(dtype, jnp.inexact) else default_float()


def as_floats(*arrays: Any, like: PyTree[Any] = None) -> tuple[Array, ...]:
    """Real arrays as floats of one type, which holds those of all of them and of the parameters in `like`."""
    dtype = float_dtype(arrays, eqx.filter(like, eqx.is_inexact_array))
    return tuple(jnp.asarray(x, dtype) for x in arrays)


def promote_state(y: PyTree[Any], dtype: Any) -> PyTree[Array]:
    """A state of any structure, each leaf as an array of the wider of its own type and `dtype`; complex stays so."""

    def promote(x: Any) -> Array:
        with jax.numpy_dtype_promotion("standard"):
            return jnp.asarray(x, jnp.result_type(x, dtype))

    return jax.tree.map(promote, y)


def where_finite(function: Callable[[Any], Any], x: PyTree[Array]) -> Any:
    """`function(x)`, and infinity, without a gradient, where an entry of `x` is no finite number.

    For what follows a solve that may fail, or reads a series that may be broken: a weight's derivative is a product
    with `x`, and zero times infinity is not zero, so that a loss which leaves a series out must not meet it there.
    """
    good = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(x)]))
    found = function(jax.tree.map(lambda leaf: jnp.where(good, leaf, 0), x))
    return jax.tree.map(lambda leaf: jnp.where(good, leaf, jnp.inf), found)
