"""Known systems by name, each a `nde.fields.KnownField` with bounded parameters to be learned.

A config names them, `known = "sir"`; in Python each is a function of what its parameters start from, which returns the
field. Their docstrings have equation, units and source.

| name | states | parameters | reads from `args` |
|---|---|---|---|
| `lotka_volterra` | prey, predator | birth, loss, gain, death | |
| `logistic` | size | growth, capacity | |
| `sir` | susceptible, infectious, recovered | infection, recovery | |
| `seir` | susceptible, exposed, infectious, recovered | infection, onset, recovery | |
| `one_compartment` | gut, central | ka, cl, v | |
| `two_compartment` | gut, central, peripheral | ka, cl, v, q, v2 | |
| `pendulum` | angle, velocity | length | |
| `cart_pole` | position, angle, speed, velocity | cart, pole, length | force |
| `planar_quadrotor` | x, z, angle, x_speed, z_speed, velocity | mass, inertia | thrust, torque |
| `van_der_pol` | x, v | mu | |
| `fitzhugh_nagumo` | v, w | a, b, tau, current | |
| `lorenz` | x, y, z | sigma, rho, beta | |
| `robertson` | a, b, c | k1, k2, k3 | |
| `ignition` | temperature, fuel | e, q, a | |
| `glycolysis` | s1, s2, s3, s4, s5, s6, s7 | j0, k1, …, k6, ki, q, n, a, kappa, psi, k | |
| `white_dwarf` | phi, slope | c | |
"""

from collections.abc import Callable

from nde.fields.known import KnownField
from nde.fields.systems.chemistry import glycolysis as glycolysis, ignition as ignition, robertson as robertson
from nde.fields.systems.ecology import logistic as logistic, lotka_volterra as lotka_volterra
from nde.fields.systems.epidemics import seir as seir, sir as sir
from nde.fields.systems.mechanics import (
    cart_pole as cart_pole,
    pendulum as pendulum,
    planar_quadrotor as planar_quadrotor,
)
from nde.fields.systems.oscillators import (
    fitzhugh_nagumo as fitzhugh_nagumo,
    lorenz as lorenz,
    van_der_pol as van_der_pol,
)
from nde.fields.systems.pharmacokinetics import (
    one_compartment as one_compartment,
    two_compartment as two_compartment,
)
from nde.fields.systems.stars import white_dwarf as white_dwarf

SYSTEMS: dict[str, Callable[..., KnownField]] = {
    "lotka_volterra": lotka_volterra,
    "logistic": logistic,
    "sir": sir,
    "seir": seir,
    "one_compartment": one_compartment,
    "two_compartment": two_compartment,
    "pendulum": pendulum,
    "cart_pole": cart_pole,
    "planar_quadrotor": planar_quadrotor,
    "van_der_pol": van_der_pol,
    "fitzhugh_nagumo": fitzhugh_nagumo,
    "lorenz": lorenz,
    "robertson": robertson,
    "ignition": ignition,
    "glycolysis": glycolysis,
    "white_dwarf": white_dwarf,
}
