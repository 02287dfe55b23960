"""Batches whose examples need very different numbers of steps, solved in buckets of like ones."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Shaped


def map_in_buckets(function: Callable, cost: Shaped[ArrayLike, " batch"], *batched: Any, buckets: int = 8) -> Any:
    r"""`jax.vmap(function)(*batched)`, with examples of like cost solved together, one bucket after the other.

    The loop of a batched adaptive solve takes as many turns as its slowest example, $B \max_i n_i$ steps of work for
    $\sum_i n_i$ that are useful. Sorted by their cost and cut into buckets $b$, the examples take
    $\sum_b |b| \max_{i \in b} n_i$. Worth it where the number of steps differs much over a batch, as with stiff
    members; buckets should be large enough to fill the machine.

    **Arguments:** `function`: of one example, for instance a solve; it may close over parameters, whose gradient is
    summed over all buckets. `cost`: shaped `(batch,)`, a number for each example that rises with its steps: the
    `num_steps` in the statistics of the last solve, or whatever is known to make it slow. It decides about time alone,
    never about values, and has no gradient. `batched`: trees of arrays `(batch, …)`. `buckets`: how many; a batch that
    they do not divide is filled up with its costliest example.

    **Returns:** what `jax.vmap` does, in the order of the batch.

    **Raises:** `ValueError` where `cost` or any array is not as long as the batch, or `buckets` is no positive integer.
    """
    cost = jnp.asarray(cost)
    if not isinstance(buckets, int | np.integer) or buckets < 1:
        raise ValueError(f"map_in_buckets: buckets must be a positive integer, not {buckets!r}.")
    if cost.ndim != 1 or any(jnp.shape(x)[:1] != cost.shape for x in jax.tree.leaves(batched)):
        shapes = [jnp.shape(x) for x in jax.tree.leaves(batched)]
        raise ValueError(
            "map_in_buckets: cost must be one number an example, and every array must have the batch as its first "
            f"axis, but cost has shape {cost.shape} and the arrays have {shapes}."
        )
    batch = len(cost)
    width = -(-batch // buckets)
    if width == 0:
        return jax.vmap(function)(*batched)
    order = jnp.argsort(jax.lax.stop_gradient(cost))
    filled = jnp.concatenate([order, jnp.broadcast_to(order[-1:], (buckets * width - batch,))])
    cut = jax.tree.map(lambda x: jnp.asarray(x)[filled].reshape(buckets, width, *jnp.shape(x)[1:]), batched)
    out = jax.lax.map(lambda bucket: jax.vmap(function)(*bucket), cut)
    back = jnp.argsort(order)
    return jax.tree.map(lambda x: x.reshape(buckets * width, *x.shape[2:])[back], out)
