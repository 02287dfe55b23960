"""What is observed of an ODE's states, as a function of them."""

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float


class Observation(eqx.Module):
    r"""What is expected of each channel at a time: $h(t, y; p)$, such as a concentration, an amount over a volume.

    **Arguments of the constructor:**

    - `function`: `function(t, y, p)` of the time, the states `(state,)` in their own units and the parameters, read as
      `p.name`; returns a number a channel, in an array, a list, or a dictionary by channel.
    - `channels`: their names, in order.

    **Call:** `observation(t, y, p)`; returns `(channels,)`.

    **Raises:** when called, `ValueError` for another number of values than channels, or other names.
    """

    function: Callable[[Any, Any, Any], Any]
    channels: tuple[str, ...] = eqx.field(static=True)

    def __call__(self, t: Any, y: Float[Array, " state"], p: Any) -> Float[Array, " channels"]:
        found = self.function(t, y, p)
        names = ", ".join(self.channels)
        if isinstance(found, Mapping):
            if set(found) != set(self.channels):
                raise ValueError(f"returned {', '.join(map(str, found))}, but the channels are {names}")
            found = [found[name] for name in self.channels]
        if isinstance(found, list | tuple):
            found = jnp.stack([jnp.asarray(each, y.dtype) for each in found])
        if jnp.shape(found) != (len(self.channels),):
            raise ValueError(f"returned the shape {jnp.shape(found)}, but must return a number for each of {names}")
        return found
