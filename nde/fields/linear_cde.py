"""A linear controlled differential equation, of structured matrices."""

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
    exponential, $\exp\bigl(\sum_k A_k \Delta x_k\bigr)$ where `b` is zero.

    $A_k = \mathrm{blockdiag}(D_{k1}, D_{k2}, \dots) + U_k V_k^\top$, of blocks of `block_size` and of `rank`:

    | structure | `block_size` | `rank` | parameters a channel | what it can tell apart |
    |---|---|---|---|---|
    | dense | `None` | 0 | $n^2$ | every two paths |
    | block-diagonal | 2 to 16 | 0 | $n\,$`block_size` | every two paths, as `n` grows |
    | diagonal plus low rank | 1 | 1 to 4 | $n (1 + 2\,$`rank`$)$ | every two paths, as `n` grows |
    | diagonal | 1 | 0 | $n$ | not the order of events, but through `b` |

    Entries start as independent normals, so that the blocks' part of $A_k y$ is of the size of `scale` times that of
    `y`, and so is that of low rank. `b` starts as normals of `bias_scale`, zero by default.

    **Arguments of the constructor:**

    - `state_size`: length of `y`.
    - `path_size`: channels of the path `x`; time is one of them.
    - `block_size`: of the blocks on the diagonal, which divides `state_size`; `None` for one block, the whole matrix.
    - `rank`: of what is added to the blocks for each channel.
    - `scale`: of the initial matrices. The state grows at most like the exponential of their norm times the path's
      length, so a long path needs a small one.
    - `bias_scale`: of the initial `b`.
    - `key`: a JAX random key, for the initial matrices.

    **Call:** `field(t, y, args)` with `y` of shape `(state_size,)`; returns `(state_size, path_size)`: use it as
    `diffrax.ControlTerm(field, path)`. `t` and `args` are not used. A `y` that starts at zero stays there while `b` is
    zero. `nde.models.LinearCDE` solves the equation faster, along a path of straight lines.

    **Raises:** `ValueError` for a size below one, blocks that do not fit the state, a negative `rank`, or a `scale`
    that is not positive.

    **Limits:** nothing bounds the state.

    **Source:** Lyons, Caruana, Lévy, *Differential Equations Driven by Rough Paths*, 2007, chapter 2; Cirone,
    Orvieto, Walker, Salvi, Lyons, *Theoretical Foundations of Deep Selective State-Space Models*, NeurIPS 2024; the
    structures, Walker, Yang, Muca Cirone, Salvi, Lyons, *Structured Linear CDEs*, NeurIPS 2025, arXiv 2505.17761.
    """

    blocks: Float[Array, "path blocks block block"]
    left: Float[Array, "path state rank"] | None
    right: Float[Array, "path state rank"] | None
    bias: Float[Array, "state path"]

    def __init__(
        self,
        state_size: int,
        path_size: int,
        *,
        block_size: int | None = None,
        rank: int = 0,
        scale: float = 1.0,
        bias_scale: float = 0.0,
        key: PRNGKeyArray,
    ):
        size = state_size if block_size is None else block_size
        check_sizes("LinearCDEField", state_size=state_size, path_size=path_size, block_size=size)
        if state_size % size:
            raise ValueError(f"LinearCDEField needs blocks that fill the state: got {block_size=} of {state_size=}.")
        if not isinstance(rank, int) or rank < 0:
            raise ValueError(f"LinearCDEField needs rank to be a whole number of at least 0, but got {rank=}.")
        if not scale > 0:
            raise ValueError(f"LinearCDEField needs scale > 0, but got scale={scale}.")
        left_key, right_key, bias_key = (jax.random.fold_in(key, i) for i in range(3))
        normals = jax.random.normal(key, (path_size, state_size // size, size, size))
        self.blocks = scale / math.sqrt(size) * normals
        self.left = self.right = None
        if rank:
            # the entries of U V^T then have the variance scale^2 / state_size
            part = math.sqrt(scale) / (rank * state_size) ** 0.25
            self.left = part * jax.random.normal(left_key, (path_size, state_size, rank))
            self.right = part * jax.random.normal(right_key, (path_size, state_size, rank))
        self.bias = bias_scale * jax.random.normal(bias_key, (state_size, path_size))

    @property
    def matrices(self) -> Float[Array, "path state state"]:
        """The matrices $A_k$, with the zeros outside of their blocks."""
        path, number, size, _ = self.blocks.shape
        where = jnp.eye(number, dtype=self.blocks.dtype)
        whole = jnp.einsum("kpij,pq->kpiqj", self.blocks, where).reshape(path, number * size, number * size)
        if self.left is None or self.right is None:
            return whole
        return whole + self.left @ self.right.swapaxes(1, 2)

    @property
    def closed_blocks(self) -> Float[Array, "path blocks block block"]:
        """The blocks that products of the matrices have, too: one that is the whole matrix where there is a low rank.

        Blocks stay blocks when matrices are multiplied; a low rank adds up with every factor.
        """
        return self.blocks if self.left is None else self.matrices[:, None]

    def __call__(self, t: Any, y: Float[Array, " state"], args: Any = None) -> Float[Array, "state path"]:
        path, number, size, _ = self.blocks.shape
        products = jnp.einsum("kpij,pj->pik", self.blocks, y.reshape(number, size)).reshape(-1, path)
        if self.left is not None and self.right is not None:
            products = products + jnp.einsum("kir,kr->ik", self.left, jnp.einsum("kjr,j->kr", self.right, y))
        return products + self.bias
