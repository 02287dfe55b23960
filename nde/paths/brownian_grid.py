"""Brownian motion on a fixed grid, its increments drawn by counter."""

from typing import Any

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray


class BrownianGrid(diffrax.AbstractPath):
    t0: Any
    t1: Any
    num_steps: Any
    shape: Any
    key: PRNGKeyArray

    def evaluate(self, t0, t1=None, left=True):
        h = (self.t1 - self.t0) / self.num_steps
        n = jnp.round((t0 - self.t0) / h).astype(jnp.uint32)
        k = jax.random.fold_in(self.key, n)
        return jax.random.normal(k, self.shape) * jnp.sqrt(h)
