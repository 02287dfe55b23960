"""A drift that reads a control path."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from nde.fields.checks import check_sizes
from nde.fields.mlp import append_time, MLPField


class ControlledField(eqx.Module):
    r"""A drift over a control path: $\gamma(\bar z)$, with `time` $\gamma(t, \bar z)$, where $\bar z = \zeta(t, z, X)$.

    $\zeta$ is linear, $\gamma$ a `nde.fields.MLPField`, so that the field grows at most linearly in `z`.

    **Arguments of the constructor:**

    - `state_size`: length of `z` and of $\bar z$; `path_size`: channels of the path.
    - `width`, `depth`: of the hidden layers of $\gamma$.
    - `time`: whether $\gamma$ sees the time beside $\bar z$. Measure time so that the horizon is of order one.
    - `activation`: elementwise. `final_activation`: of the output; `jnp.tanh` bounds the field by its scale.
    - `scale`: what a learned factor in front of the network starts from.
    - `key`: a JAX random key, for the initial weights.

    **Call:** `field(t, z, x)` with `z` of shape `(state_size,)` and `x` of shape `(path_size,)`, the path's value at
    `t`; returns `(state_size,)`.

    **Raises:** `ValueError` for a size below one or a depth below zero.

    **Source:** Oh, Lim, Kim, *Stable Neural Stochastic Differential Equations in Analyzing Irregular Time Series Data*,
    ICLR 2024, arXiv 2402.14989, section 3, whose authors' code has a linear $\zeta$ too.
    """

    mix: eqx.nn.Linear
    network: MLPField

    def __init__(
        self,
        state_size: int,
        path_size: int,
        width: int,
        depth: int,
        *,
        time: bool = True,
        activation: Callable[[Array], Array] = jax.nn.softplus,
        final_activation: Callable[[Array], Array] = lambda x: x,
        scale: float = 1.0,
        key: PRNGKeyArray,
    ):
        check_sizes("ControlledField", state_size=state_size, path_size=path_size, width=width, depth=depth)
        mix_key, network_key = jax.random.split(key)
        self.mix = eqx.nn.Linear(1 + state_size + path_size, state_size, key=mix_key)
        self.network = MLPField(
            state_size,
            width,
            depth,
            time=time,
            activation=activation,
            final_activation=final_activation,
            scale=scale,
            key=network_key,
        )

    def __call__(self, t: Any, y: Float[Array, " state"], args: Float[Array, " path"]) -> Float[Array, " state"]:
        return self.network(t, self.mix(append_time(t, jnp.concatenate([y, args]))))
