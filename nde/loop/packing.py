"""Trees as few flat rows: a loop that writes a row a turn pays for each array that it writes to."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


class Packing:
    """Trees like `example`, which is of one example, as one array for each of their dtypes.

    Truth values ride along as numbers of the first inexact dtype.
    """

    def __init__(self, example: Any):
        leaves, self._structure = jax.tree.flatten(example)
        inexact = [x.dtype for x in leaves if jnp.issubdtype(x.dtype, jnp.floating)]
        carrier = inexact[0] if inexact else None
        self._leaves = [(x.shape, x.dtype, carrier if x.dtype == bool and carrier else x.dtype) for x in leaves]
        self._groups = list(dict.fromkeys(group for _, _, group in self._leaves))

    def pack(self, tree: Any) -> list[jax.Array]:
        """The rows of a tree: `(…, width)`, a list."""
        leaves = jax.tree.leaves(tree)
        parts: dict[Any, list[jax.Array]] = {group: [] for group in self._groups}
        for x, (shape, _, group) in zip(leaves, self._leaves, strict=True):
            lead = x.shape[: x.ndim - len(shape)]
            parts[group].append(x.reshape(*lead, _size(shape)).astype(group))
        return [jnp.concatenate(parts[group], axis=-1) for group in self._groups]

    def unpack(self, rows: list[jax.Array]) -> Any:
        """The tree of some rows."""
        given, used, leaves = dict(zip(self._groups, rows, strict=True)), dict.fromkeys(self._groups, 0), []
        for shape, dtype, group in self._leaves:
            row, start, size = given[group], used[group], _size(shape)
            part = jax.lax.slice_in_dim(row, start, start + size, axis=row.ndim - 1)
            leaves.append(part.reshape(*row.shape[:-1], *shape).astype(dtype))
            used[group] = start + size
        return self._structure.unflatten(leaves)


def _size(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=int))
