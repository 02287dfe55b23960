"""Trees of which a derivative sees the inexact leaves alone."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree


def count_bytes(tree: PyTree[jax.Array | jax.ShapeDtypeStruct]) -> int:
    """The bytes of all arrays in a tree."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def is_inexact(x: jax.Array | jax.ShapeDtypeStruct) -> bool:
    """Whether it has numbers that a derivative is taken in: floating ones, real or complex."""
    return jnp.issubdtype(x.dtype, jnp.inexact)


def partition_inexact(tree: PyTree[jax.Array]) -> tuple[PyTree[jax.Array], Callable[[Any], Any]]:
    """The tree with `None` for all leaves but the inexact ones; and what puts such a tree back among the others."""
    inexact, rest = eqx.partition(tree, is_inexact)
    return inexact, lambda changed: eqx.combine(changed, rest)
