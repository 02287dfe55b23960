"""Machines without friction; what drives them reaches the field by its `args`, and is zero without."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from nde.fields.known import KnownField
from nde.fields.systems.made import control, positive_system

GRAVITY = 9.81


def pendulum(length: float = 1.0) -> KnownField:
    r"""A pendulum without friction: $\dot\theta = \omega$, $\dot\omega = -(g / L) \sin\theta$, with $g = 9.81$ m/s².

    **Arguments:** `length`: what $L > 0$ starts from, in metres. States: `angle` from the vertical, in radians, and
    `velocity`, in radians a second.
    """
    return positive_system(_swing, ("angle", "velocity"), {"length": (length, "m")})


def _swing(t: Any, y: Float[Array, "2"], p: Any) -> Float[Array, "2"]:
    angle, velocity = y
    return jnp.stack([velocity, -GRAVITY / p.length * jnp.sin(angle)])


def cart_pole(cart: float = 1.0, pole: float = 0.1, length: float = 0.5) -> KnownField:
    r"""A mass $m$ at the end of a light pole, on a cart of mass $M$ that a force $F$ pushes along a rail:

    $$(M + m \sin^2\theta)\,\ddot x = F + m \sin\theta\,(L \dot\theta^2 + g \cos\theta),$$
    $$(M + m \sin^2\theta)\,L \ddot\theta = -F \cos\theta - m L \dot\theta^2 \cos\theta \sin\theta
    - (M + m) g \sin\theta.$$

    **Arguments:** what the parameters start from: `cart`, $M$, and `pole`, $m$, in kg; `length`, $L$ in m. States:
    `position` in m, `angle` in radians, zero where the pole hangs down, `speed` and `velocity`, their rates. Reads
    `force`, in N, positive to the right.

    **Source:** Tedrake, *Underactuated Robotics*, the chapter on cart-poles.
    """
    starts = {"cart": (cart, "kg"), "pole": (pole, "kg"), "length": (length, "m")}
    return positive_system(_cart_pole, ("position", "angle", "speed", "velocity"), starts)


def _cart_pole(t: Any, y: Float[Array, "4"], p: Any) -> Float[Array, "4"]:
    _, angle, speed, velocity = y
    sin, cos, force = jnp.sin(angle), jnp.cos(angle), control(p, "force")
    inertia, pull = p.cart + p.pole * sin**2, p.length * velocity**2
    pushed = (force + p.pole * sin * (pull + GRAVITY * cos)) / inertia
    swung = (-force * cos - p.pole * pull * cos * sin - (p.cart + p.pole) * GRAVITY * sin) / (inertia * p.length)
    return jnp.stack([speed, velocity, pushed, swung])


def planar_quadrotor(mass: float = 0.5, inertia: float = 0.003) -> KnownField:
    r"""A quadrotor that flies in a vertical plane: $m \ddot x = -T \sin\theta$, $m \ddot z = T \cos\theta - m g$,
    $I \ddot\theta = \tau$.

    **Arguments:** what the parameters start from: `mass`, $m$ in kg; `inertia`, $I$ in kg m². States: `x` and `z`, in
    m, `angle` in radians, `x_speed`, `z_speed` and `velocity`, their rates. Reads `thrust`, $T$ in N, of both rotors
    together, and `torque`, $\tau$ in N m; without thrust it falls.

    **Source:** Tedrake, *Underactuated Robotics*, the section on planar quadrotors.
    """
    states = ("x", "z", "angle", "x_speed", "z_speed", "velocity")
    return positive_system(_quadrotor, states, {"mass": (mass, "kg"), "inertia": (inertia, "kg*m^2")})


def _quadrotor(t: Any, y: Float[Array, "6"], p: Any) -> Float[Array, "6"]:
    angle, lift = y[2], control(p, "thrust") / p.mass
    turned = control(p, "torque") / p.inertia
    return jnp.stack([y[3], y[4], y[5], -lift * jnp.sin(angle), lift * jnp.cos(angle) - GRAVITY, turned])
