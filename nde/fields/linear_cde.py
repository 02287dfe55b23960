"""A linear controlled differential equation."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from nde.fields.checks import check_sizes


class LinearCDEField(eqx.Module):
    r"""The factor in $dy = f(y)\,dx$ of a linear CDE: $f(y) = (A_1 y + b_1, \dots, A_d y + b_d)$, one column a channel.

    The solution is a linear function of the path's signature, and along a straight stretch of the path it is a matrix
    exponential, $\exp\bigl(\sum_k A_k \Delta x_k\bigr)$ where `b` is zero. The matrices start as independent normals of
    variance $\mathrm{scale}^2 / \mathrm{state\_size}$, so that $A_k y$ is of the size of `y`; `b` starts at zero.

    **Arguments of the constructor:**

    - `state_size`: length of `y`.
    - `path_size`: channels of the path `x`; time is one of them.
    - `scale`: of the initial matrices. The state grows at most like the exponential of their norm times the path's
      length, so a long path needs a small one.
    - `key`: a JAX random key, for the initial matrices.

    **Call:** `field(t, y, args)` with `y` of shape `(state_size,)`; returns `(state_size, path_size)`: use it as
    `diffrax.ControlTerm(field, path)`. `t` and `args` are not used. A `y` that starts at zero stays there until `b` is
    trained.

    **Raises:** `ValueError` for a size below one or a `scale` that is not positive.

    **Limits:** nothing bounds the state.

    **Source:** Lyons, Caruana, Lévy, *Differential Equations Driven by Rough Paths*, 2007, chapter 2; Cirone,
    Orvieto, Walker, Salvi, Lyons, *Theoretical Foundations of Deep Selective State-Space Models*, NeurIPS 2024.
    """

    matrices: Float[Array, "path state state"]
    bias: Float[Array, "state path"]

    def __init__(self, state_size: int, path_size: int, *, scale: float = 1.0, key: PRNGKeyArray):
        check_sizes("LinearCDEField", state_size=state_size, path_size=path_size)
        if not scale > 0:
            raise ValueError(f"LinearCDEField needs scale > 0, but got scale={scale}.")
        normals = jax.random.normal(key, (path_size, state_size, state_size))
        self.matrices = scale / math.sqrt(state_size) * normals
        self.bias = jnp.zeros((state_size, path_size))

    def __call__(self, t: Any, y: Float[Array, " state"], args: Any = None) -> Float[Array, "state path"]:
        return jnp.einsum("kij,j->ik", self.matrices, y) + self.bias
