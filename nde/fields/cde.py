"""The vector field of a neural controlled differential equation."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from nde.fields.checks import check_sizes


class CDEField(eqx.Module):
    r"""The factor in $dy = f(y)\,dx$: a matrix of shape `(state, path)`, $f(y) = \tanh \mathrm{MLP}(y)$ in $(-1, 1)$.

    The bound keeps a solve from blowing up, whatever the network: $|dy_i| \le \sum_j |dx_j|$.

    **Arguments of the constructor:**

    - `state_size`: length of `y`.
    - `path_size`: channels of the path `x`; time is one of them, so the field itself does not see it.
    - `width`, `depth`: of the network's hidden layers.
    - `activation`: elementwise; a smooth one lets a solver keep its order.
    - `key`: a JAX random key, for the initial weights.

    **Call:** `field(t, y, args)` with `y` of shape `(state_size,)`; returns `(state_size, path_size)`: use it as
    `diffrax.ControlTerm(field, path)`, and `.to_ode()` where the path is differentiable. `t` and `args` are not used.

    **Raises:** `ValueError` for a size below one or a depth below zero.

    **Limits:** the last layer has `width * state_size * path_size` weights; for a path of many channels see
    `nde.fields.LinearCDEField` or a smaller state.

    **Source:** Kidger, Morrill, Foster, Lyons, *Neural Controlled Differential Equations for Irregular Time Series*,
    NeurIPS 2020; the final tanh is that of its experiments.
    """

    network: eqx.nn.MLP
    shape: tuple[int, int] = eqx.field(static=True)

    def __init__(
        self,
        state_size: int,
        path_size: int,
        width: int,
        depth: int,
        *,
        activation: Callable[[Array], Array] = jax.nn.softplus,
        key: PRNGKeyArray,
    ):
        check_sizes("CDEField", state_size=state_size, path_size=path_size, width=width, depth=depth)
        self.network = eqx.nn.MLP(
            state_size,
            state_size * path_size,
            width,
            depth,
            activation=activation,
            final_activation=jnp.tanh,
            key=key,
        )
        self.shape = (state_size, path_size)

    def __call__(self, t: Any, y: Float[Array, " state"], args: Any = None) -> Float[Array, "state path"]:
        return self.network(y).reshape(self.shape)
