"""Known systems by name, each a `nde.fields.KnownField` with bounded parameters to be learned."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from nde.fields.known import KnownField
from nde.fields.parameter import Parameter

GRAVITY = 9.81


def lotka_volterra(birth: float = 0.5, loss: float = 0.025, gain: float = 0.025, death: float = 0.8) -> KnownField:
    r"""Prey $x$ and predator $y$: $\dot x = b x - l x y$, $\dot y = g x y - d y$, all rates positive.

    **Arguments:** what the rates start from: `birth` and `death`, in 1 / time; `loss` and `gain`, in 1 / (time ×
    animals). States: `prey`, `predator`.

    **Source:** Lotka 1925; Volterra 1926.
    """
    return _known(_predation, ("prey", "predator"), {"birth": birth, "loss": loss, "gain": gain, "death": death})


def _predation(t: Any, y: Float[Array, "2"], p: Any) -> Float[Array, "2"]:
    prey, predator = y
    return jnp.stack([(p.birth - p.loss * predator) * prey, (p.gain * prey - p.death) * predator])


def pendulum(length: float = 1.0) -> KnownField:
    r"""A pendulum without friction: $\dot\theta = \omega$, $\dot\omega = -(g / L) \sin\theta$, with $g = 9.81$ m/s².

    **Arguments:** `length`: what $L > 0$ starts from, in metres. States: `angle` from the vertical, in radians, and
    `velocity`, in radians a second.
    """
    return _known(_swing, ("angle", "velocity"), {"length": length})


def _swing(t: Any, y: Float[Array, "2"], p: Any) -> Float[Array, "2"]:
    angle, velocity = y
    return jnp.stack([velocity, -GRAVITY / p.length * jnp.sin(angle)])


SYSTEMS = {"lotka_volterra": lotka_volterra, "pendulum": pendulum}


def _known(function: Any, states: tuple[str, ...], starts: Mapping[str, float]) -> KnownField:
    parameters = {name: Parameter(start, lower=0.0, name=name) for name, start in starts.items()}
    return KnownField(function, parameters, states=states)
