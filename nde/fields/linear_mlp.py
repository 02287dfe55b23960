"""A linear drift with a small network on top."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


class LinearMLPField(eqx.Module):
    r"""Linear dynamics plus a network: $f(y) = A y + b + \mathrm{MLP}(y)$, the network's last layer starting at zero.

    The untrained field is a stable linear system, $A = -\mathrm{rate} \cdot I$, so that little data goes a long way and
    the network only has to learn what is not linear. With `width=0` there is no network and the field is linear.

    **Arguments of the constructor:**

    - `state_size`: length of `y`.
    - `width`, `depth`: of the network; softplus activations. `width=0` leaves it out.
    - `rate`: the decay rate that `A` starts from, in units of 1 / time.
    - `key`: a JAX random key, for the initial weights.

    **Call:** `field(t, y, args)` with `y` of shape `(state_size,)`; returns that shape. `t` and `args` are not used.
    """

    matrix: Float[Array, "state state"]
    bias: Float[Array, " state"]
    network: eqx.nn.MLP | None

    def __init__(self, state_size: int, width: int, depth: int, *, rate: float = 0.1, key: PRNGKeyArray):
        self.matrix = -rate * jnp.eye(state_size)
        self.bias = jnp.zeros(state_size)
        if width == 0:
            self.network = None
        else:
            network = eqx.nn.MLP(state_size, state_size, width, depth, activation=jax.nn.softplus, key=key)
            self.network = silence_last_layer(network)

    def __call__(self, t: Any, y: Float[Array, " state"], args: Any = None) -> Float[Array, " state"]:
        linear = self.matrix @ y + self.bias
        return linear if self.network is None else linear + self.network(y)


def silence_last_layer(network: eqx.nn.MLP) -> eqx.nn.MLP:
    """The same network with its last layer at zero, so that it starts as the zero function and still trains."""

    def last(net: eqx.nn.MLP) -> tuple[Any, ...]:
        layer = net.layers[-1]
        return (layer.weight,) if layer.bias is None else (layer.weight, layer.bias)

    return eqx.tree_at(last, network, tuple(jnp.zeros_like(leaf) for leaf in last(network)))
