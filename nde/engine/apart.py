"""Keeping the parts of a computation apart, where the compiler would fuse them into something slower.

XLA's fusion on a CPU may compute a cheap value again in each of its readers. In a chain of stages, each of which reads
all that came before, every piece of the way back would so walk the whole chain again: for a field without matrix
products (Lotka-Volterra, a batch of 1000) that made a gradient four times slower than it need be. Between the two sides
of a branch nothing is fused.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import jaxprs_in_params

_PRODUCTS = (
    "dot_general",
    "ragged_dot_general",
    "conv_general_dilated",
    "custom_linear_solve",
    "while",
    "scan",
    "cond",
)
"""Primitives that are never computed again for a reader."""


def is_cheap(function: Callable, *examples: Any) -> bool:
    """Whether a function has only operations that the compiler may compute again for each reader."""
    return not _has_products(jax.make_jaxpr(function)(*examples).jaxpr)


def _has_products(jaxpr: Any) -> bool:
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in _PRODUCTS:
            return True
        if any(_has_products(inner) for inner in jaxprs_in_params(eqn.params)):
            return True
    return False


def apart(truth: jax.Array | None, function: Callable, *operands: Any) -> Any:
    """`function(*operands)`, computed on its own. `truth`: true, but not known to be so by the compiler; or `None`.

    Not so inside of `jax.shard_map`, where both sides of a branch would have to vary alike over the mesh.
    """
    if truth is None or jax.sharding.get_abstract_mesh().manual_axes:
        return function(*operands)
    shapes = jax.eval_shape(function, *operands)

    def nothing(*_):
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    return jax.lax.cond(truth, function, nothing, *operands)


def hide(truth: jax.Array) -> jax.Array:
    """A truth for `nde.engine.apart.apart`; other compilers than a CPU's are told that it is one."""
    return jax.lax.platform_dependent(truth, cpu=lambda x: x, default=jnp.ones_like)
