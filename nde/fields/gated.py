"""The gated field of GRU-ODE."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from nde.fields.checks import check_sizes


class GatedField(eqx.Module):
    r"""A GRU in continuous time: $f(y) = (1 - z) \odot (g - y)$.

    $$r = \sigma(W_r y + b_r), \qquad z = \sigma(W_z y + b_z), \qquad g = \tanh(W_g (r \odot y) + b_g).$$

    Each state decays towards a target in $(-1, 1)$ at a rate in $(0, 1)$: a state that starts in $[-1, 1]$ stays there,
    one outside decays into it, and a solve cannot blow up. Good for hidden states; a state in units of the data needs a
    readout behind it.

    **Arguments of the constructor:**

    - `state_size`: length of `y`.
    - `key`: a JAX random key, for the initial weights.

    **Call:** `field(t, y, args)` with `y` of shape `(state_size,)`; returns that shape. `t` and `args` are not used.

    **Raises:** `ValueError` for a size below one.

    **Limits:** autonomous; rates are below one per unit of time, so measure time in units in which things change.

    **Source:** De Brouwer, Simm, Arany, Moreau, *GRU-ODE-Bayes*, NeurIPS 2019: its GRU-ODE, without
    the input.
    """

    reset: eqx.nn.Linear
    update: eqx.nn.Linear
    target: eqx.nn.Linear

    def __init__(self, state_size: int, *, key: PRNGKeyArray):
        check_sizes("GatedField", state_size=state_size)
        keys = jax.random.split(key, 3)
        self.reset, self.update, self.target = (eqx.nn.Linear(state_size, state_size, key=k) for k in keys)

    def __call__(self, t: Any, y: Float[Array, " state"], args: Any = None) -> Float[Array, " state"]:
        r = jax.nn.sigmoid(self.reset(y))
        z = jax.nn.sigmoid(self.update(y))
        g = jnp.tanh(self.target(r * y))
        return (1 - z) * (g - y)
