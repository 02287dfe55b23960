"""Noise whose size is a function of the time, and noise in proportion to the state."""

import math
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from nde.dtypes import default_float
from nde.fields.checks import check_sizes
from nde.fields.linear_mlp import silence_last_layer
from nde.terms import NoiseKind


class TimeDiffusion(eqx.Module):
    r"""Additive noise, each state's own, whose size is a network of the time: $\sigma(t) = c + \mathrm{MLP}(t)$.

    The network starts at zero, so that $\sigma$ starts constant. It may change its sign, which changes no law. Declares
    additive noise, `noise = NoiseKind.ADDITIVE`.

    **Arguments of the constructor:**

    - `state_size`: length of `y`.
    - `width`, `depth`: of the network's hidden layers.
    - `scale`: the value to start from, in units of state per square root of time.
    - `bounded`: whether it is $\tanh$ of that sum, and so below one.
    - `key`: a JAX random key, for the initial weights.

    **Call:** `field(t, y, args)`; returns the diagonal, `(state_size,)`. Measure `t` so that the horizon is of order
    one. `y` and `args` are not used.

    **Raises:** `ValueError` for a size below one, a depth below zero, a `scale` that is not positive, or not below one
    where it is bounded.

    **Source:** Oh, Lim, Kim, ICLR 2024, arXiv 2402.14989, section 3: the diffusion of their Langevin-type SDE.
    """

    noise: ClassVar[NoiseKind] = NoiseKind.ADDITIVE

    level: Float[Array, " state"]
    network: eqx.nn.MLP
    bounded: bool = eqx.field(static=True)

    def __init__(
        self, state_size: int, width: int, depth: int, *, scale: float = 0.3, bounded: bool = False, key: PRNGKeyArray
    ):
        check_sizes("TimeDiffusion", state_size=state_size, width=width, depth=depth)
        if not 0 < scale < (1.0 if bounded else math.inf):
            raise ValueError(
                f"TimeDiffusion needs scale > 0, and below one if it is bounded, but got {scale}, bounded={bounded}."
            )
        network = eqx.nn.MLP(1, state_size, width, depth, activation=jax.nn.softplus, key=key)
        self.network = silence_last_layer(network)
        self.level = jnp.full(state_size, math.atanh(scale) if bounded else scale, default_float())
        self.bounded = bounded

    def __call__(self, t: Any, y: Any = None, args: Any = None) -> Float[Array, " state"]:
        value = self.level + self.network(jnp.asarray(t, self.level.dtype)[None])
        return jnp.tanh(value) if self.bounded else value


class LinearNoise(eqx.Module):
    r"""Noise in proportion to the state, each state's own: $g(t, y) = \sigma(t) \odot y$.

    Zero is left alone by it. Declares diagonal noise, `noise = NoiseKind.DIAGONAL`.

    **Arguments of the constructor:** `rate`: $\sigma$, a callable `f(t, y, args)` that returns what `y` is and does not
    hang on `y`, such as a `nde.fields.TimeDiffusion`; per square root of time.

    **Call:** `field(t, y, args)`; returns the diagonal, of the shape of `y`.

    **Source:** Oh, Lim, Kim, ICLR 2024, arXiv 2402.14989, section 3: the diffusion of their linear noise SDE.
    """

    noise: ClassVar[NoiseKind] = NoiseKind.DIAGONAL

    rate: Callable[..., Any]

    def __call__(self, t: Any, y: Float[Array, " state"], args: Any = None) -> Float[Array, " state"]:
        return self.rate(t, y, args) * y
