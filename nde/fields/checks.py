"""Checks of fields and of the numbers that they are made from: `ValueError` at trace time, nothing at run time."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree


def check_field(field: Callable[[Any, Any, Any], Any], t: Any, y: PyTree, args: Any = None) -> None:
    """Refuse a field whose output is not a rate of change of its state: the same structure, shapes and dtypes.

    The field is evaluated on shapes only (`jax.eval_shape`), so this costs nothing at run time.

    **Arguments:** `field`: any `f(t, y, args)`, to stand in an `ODETerm`; `t`, `y`, `args`: what it will be called
    with; arrays, or `jax.ShapeDtypeStruct`s in their place.

    **Raises:** `ValueError` naming the field, what it returned and what the state is.

    **Limits:** meant for drifts; the output of a diffusion or of a CDE field has another shape than the state, and is
    checked by `diffrax.ControlTerm` against its path.
    """
    name = getattr(field, "__name__", type(field).__name__)
    y = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)), y)
    out = eqx.filter_eval_shape(field, t, y, args)
    found, expected = jax.tree.structure(out), jax.tree.structure(y)
    if found != expected:
        raise ValueError(
            f"{name} returned the structure {found}, but the state has {expected}. A field returns the state's rate of "
            "change, of the state's own structure; components of one array are joined by jnp.stack."
        )
    for (path, leaf), state in zip(jax.tree.leaves_with_path(out), jax.tree.leaves(y), strict=True):
        where = f" at {jax.tree_util.keystr(path)}" if path else ""
        if jnp.shape(leaf) != state.shape:
            raise ValueError(
                f"{name} returned the shape {jnp.shape(leaf)}{where}, but the state has {state.shape}. A field returns "
                "the state's rate of change, of the state's own shape."
            )
        if jnp.result_type(leaf) != state.dtype:
            raise ValueError(
                f"{name} returned {jnp.result_type(leaf)}{where}, but the state is {state.dtype}. Cast the state, or "
                "the field's arrays, so that both agree."
            )


def check_sizes(owner: str, *, depth: int = 0, **sizes: int) -> None:
    """Refuse sizes that are not whole numbers of at least one, and a `depth` that is not one of at least zero.

    **Raises:** `ValueError` naming `owner`, the size and what it was.
    """
    for name, size in (("depth", depth), *sizes.items()):
        least = 0 if name == "depth" else 1
        if not isinstance(size, int) or isinstance(size, bool) or size < least:
            raise ValueError(f"{owner} needs {name} to be a whole number of at least {least}, but got {name}={size!r}.")
