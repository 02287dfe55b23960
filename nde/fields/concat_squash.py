"""The concat-squash network of FFJORD: layers that time gates and shifts."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from nde.fields.checks import check_sizes


class ConcatSquash(eqx.Module):
    r"""One layer, $(W x + b) \odot \sigma(a t + c) + d\,t$: `x` of shape `(in_size,)` to `(out_size,)`, at time `t`."""

    linear: eqx.nn.Linear
    gate: eqx.nn.Linear
    shift: eqx.nn.Linear

    def __init__(self, in_size: int, out_size: int, *, key: PRNGKeyArray):
        linear_key, gate_key, shift_key = jax.random.split(key, 3)
        self.linear = eqx.nn.Linear(in_size, out_size, key=linear_key)
        self.gate = eqx.nn.Linear("scalar", out_size, key=gate_key)
        self.shift = eqx.nn.Linear("scalar", out_size, use_bias=False, key=shift_key)

    def __call__(self, t: Float[Array, ""], x: Float[Array, " in"]) -> Float[Array, " out"]:
        return self.linear(x) * jax.nn.sigmoid(self.gate(t)) + self.shift(t)


class ConcatSquashField(eqx.Module):
    r"""A network of concat-squash layers, $x \mapsto (W x + b) \odot \sigma(a t + c) + d\,t$, an activation between.

    Time gates and shifts every layer, so that the dynamics can change along the way: the usual field of a continuous
    normalising flow.

    **Arguments of the constructor:**

    - `state_size`: length of `y`.
    - `width`, `depth`: of the hidden layers; `depth=0` is one layer from state to state.
    - `activation`: elementwise, between the layers; a smooth one, for the sake of the solver and of the divergence.
    - `key`: a JAX random key, for the initial weights.

    **Call:** `field(t, y, args)` with `y` of shape `(state_size,)`; returns that shape. `args` is not used.

    **Raises:** `ValueError` for a size below one or a depth below zero.

    **Limits:** time enters as it is, so measure it so that the horizon is of order one.

    **Source:** Grathwohl, Chen, Bettencourt, Sutskever, Duvenaud, *FFJORD: Free-form Continuous Dynamics for Scalable
    Reversible Generative Models*, ICLR 2019 (the `concatsquash` layers of its experiments).
    """

    layers: tuple[ConcatSquash, ...]
    activation: Callable[[Array], Array]

    def __init__(
        self,
        state_size: int,
        width: int,
        depth: int,
        *,
        activation: Callable[[Array], Array] = jax.nn.softplus,
        key: PRNGKeyArray,
    ):
        check_sizes("ConcatSquashField", state_size=state_size, width=width, depth=depth)
        sizes = [state_size, *[width] * depth, state_size]
        keys = jax.random.split(key, depth + 1)
        self.layers = tuple(ConcatSquash(n, m, key=k) for n, m, k in zip(sizes[:-1], sizes[1:], keys, strict=True))
        self.activation = activation

    def __call__(self, t: Any, y: Float[Array, " state"], args: Any = None) -> Float[Array, " state"]:
        t = jnp.asarray(t, y.dtype)
        for layer in self.layers[:-1]:
            y = self.activation(layer(t, y))
        return self.layers[-1](t, y)
