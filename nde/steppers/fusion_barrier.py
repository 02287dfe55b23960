"""A barrier to fusion on CPUs, where XLA would fuse the stages of a step into something slower.

XLA's fusion on a CPU may compute a cheap value again in each of its readers. In a chain of stages, each of which reads
all that came before, every piece of the backward pass would so walk the whole chain again: for a field without matrix
products (Lotka-Volterra, a batch of 1000) that made a gradient four times slower than it need be. Between the two sides
of a branch nothing is fused (`jax.lax.optimization_barrier` does not do here: XLA's CPU pipeline drops it before it
fuses); so each stage stands in a branch that is always taken, by a predicate of which the compiler does not know it.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, jaxprs_in_params

_NEVER_RECOMPUTED = (
    "dot_general",
    "ragged_dot_general",
    "conv_general_dilated",
    "custom_linear_solve",
    "while",
    "scan",
    "cond",
)
"""Primitives that fusion never computes again for a reader."""


def is_fusible(function: Callable[..., Any], *examples: Any) -> bool:
    """Whether a function has only operations that the compiler may compute again for each reader."""
    return not _has_unfusible(jax.make_jaxpr(function)(*examples).jaxpr)


def _has_unfusible(jaxpr: Jaxpr) -> bool:
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in _NEVER_RECOMPUTED:
            return True
        if any(_has_unfusible(inner) for inner in jaxprs_in_params(eqn.params)):
            return True
    return False


def fusion_barrier(opaque_true: jax.Array | None, function: Callable[..., Any], *operands: Any) -> Any:
    """`function(*operands)` behind a `lax.cond` on `opaque_true`, an `opaque` truth; without a barrier if that is
    `None`.

    Not so inside of `jax.shard_map`, where both sides of a branch would have to vary alike over the mesh.
    """
    if opaque_true is None or jax.sharding.get_abstract_mesh().manual_axes:
        return function(*operands)
    shapes = jax.eval_shape(function, *operands)

    def never(*_: Any) -> Any:
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    return jax.lax.cond(opaque_true, function, never, *operands)


def opaque(true: jax.Array) -> jax.Array:
    """A predicate that is true, but that XLA can not fold on a CPU; other compilers are told that it is."""
    return jax.lax.platform_dependent(true, cpu=lambda x: x, default=jnp.ones_like)
