"""The diagonal diffusion: the factor in front of each state's own noise."""

import math
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nde.dtypes import default_float
from nde.terms import NoiseKind


class DiagonalDiffusion(eqx.Module):
    r"""Diagonal noise, each state's own: $\sigma_i(y) = \sigma_{\max}\,\mathrm{sigmoid}(a_i + b_i y_i)$.

    Bounded in $(0, \sigma_{\max})$ and positive, as Girsanov's theorem needs. It starts constant, $b = 0$ and
    $\sigma_i = \mathrm{scale}$: additive noise, for which the Itô and the Stratonovich reading agree, until training
    moves `b`. Declares diagonal noise, `noise = NoiseKind.DIAGONAL`.

    **Arguments of the constructor:**

    - `state_size`: length of `y`.
    - `scale`: the value to start from, in units of state per square root of time; below `largest`.
    - `largest`: the bound $\sigma_{\max}$.

    **Call:** `field(t, y, args)` with `y` of shape `(state_size,)`; returns the diagonal, of the same shape. `t` and
    `args` are not used.

    **Raises:** `ValueError` if not `0 < scale < largest`.
    """

    noise: ClassVar[NoiseKind] = NoiseKind.DIAGONAL

    level: Float[Array, " state"]
    slope: Float[Array, " state"]
    largest: float = eqx.field(static=True)

    def __init__(self, state_size: int, *, scale: float = 0.3, largest: float = 2.0):
        if not 0 < scale < largest:
            raise ValueError(f"DiagonalDiffusion needs 0 < scale < largest, but got scale={scale}, largest={largest}.")
        self.level = jnp.full(state_size, math.log(scale / (largest - scale)), default_float())
        self.slope = jnp.zeros(state_size)
        self.largest = largest

    def __call__(self, t: Any, y: Float[Array, " state"], args: Any = None) -> Float[Array, " state"]:
        return self.largest * jax.nn.sigmoid(self.level + self.slope * y)
