"""Populations of animals and plants."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from nde.fields.known import KnownField
from nde.fields.systems.made import positive_system


def lotka_volterra(birth: float = 0.5, loss: float = 0.025, gain: float = 0.025, death: float = 0.8) -> KnownField:
    r"""Prey $x$ and predator $y$: $\dot x = b x - l x y$, $\dot y = g x y - d y$, all rates positive.

    **Arguments:** what the rates start from: `birth` and `death`, in 1 / time; `loss` and `gain`, in 1 / (time ×
    animals). States: `prey`, `predator`.

    **Source:** Lotka 1925; Volterra 1926.
    """
    per_animal = "1/(time*animals)"
    starts = {
        "birth": (birth, "1/time"), "loss": (loss, per_animal), "gain": (gain, per_animal), "death": (death, "1/time")
    }  # fmt: skip
    return positive_system(_predation, ("prey", "predator"), starts)


def _predation(t: Any, y: Float[Array, "2"], p: Any) -> Float[Array, "2"]:
    prey, predator = y
    return jnp.stack([(p.birth - p.loss * predator) * prey, (p.gain * prey - p.death) * predator])


def logistic(growth: float = 1.0, capacity: float = 1.0) -> KnownField:
    r"""A population $n$ that fills its room: $\dot n = r n (1 - n / K)$.

    **Arguments:** what the parameters start from: `growth`, $r$ in 1 / time; `capacity`, $K$ in the unit of the state.
    State: `size`.

    **Source:** Verhulst 1838.
    """
    return positive_system(_crowding, ("size",), {"growth": (growth, "1/time"), "capacity": (capacity, "size")})


def _crowding(t: Any, y: Float[Array, "1"], p: Any) -> Float[Array, "1"]:
    return p.growth * y * (1 - y / p.capacity)
