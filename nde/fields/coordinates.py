"""A field in other coordinates than those it is written in."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from nde.fields.described import parameter_units, parameter_values, residual_rates, state_names


class LogField(eqx.Module):
    r"""A field of positive states, for their logarithms: with $y = e^u$, $\dot u_i = f_i(t, e^u)\,e^{-u_i}$.

    Solve it, and the states are positive by construction, however steep they fall. A residual on it
    (`nde.fields.Hybrid`) sees logarithms and adds to rates of growth.

    **Arguments of the constructor:** `field`: a field of the states themselves, on one array.

    **Call:** `field(t, u, args)` with `u` of shape `(state,)`; returns that shape. It forwards what its field says of
    itself (`nde.fields.described`).

    **Limits:** a state cannot reach zero, and `exp` overflows above 88 in single precision.
    """

    field: Callable[..., Any]

    @property
    def state_names(self) -> tuple[str, ...] | None:
        """The names of the states, if the field names them."""
        return state_names(self.field)

    def parameter_values(self) -> dict[str, Array]:
        """The current value of each named parameter of the field within."""
        return parameter_values(self.field)

    def parameter_units(self) -> dict[str, str]:
        """The units of the parameters of the field within."""
        return parameter_units(self.field)

    def residual_rates(self, t: Any, u: Float[Array, " state"], args: Any = None) -> Float[Array, " state"]:
        """What a network adds within, as rates of the logarithms."""
        y = jnp.exp(u)
        return residual_rates(self.field, t, y, args) / y

    def __call__(self, t: Any, u: Float[Array, " state"], args: Any = None) -> Float[Array, " state"]:
        y = jnp.exp(u)
        return self.field(t, y, args) / y


class AffineField(eqx.Module):
    r"""A field of states in their own units, for standardised ones: with $y = m + s z$, $\dot z = f(t, m + s z) / s$.

    Solve it, and tolerances, learned starts and penalties mean the same in whatever unit the states are given: the
    error of a step is measured in units of `s`. The field within still sees $y$.

    **Arguments of the constructor:** `field`: $f$, on one array; `location`, `scale`: $m$ and $s > 0$, of the shape of
    the state. They are constants, not learned.

    **Call:** `field(t, z, args)` with `z` of shape `(state,)`; returns that shape. It forwards what its field says of
    itself (`nde.fields.described`).

    **Raises:** `ValueError` if a scale is not positive, or there is not one for each location.
    """

    field: Callable[..., Any]
    location: tuple[float, ...] = eqx.field(static=True)
    scale: tuple[float, ...] = eqx.field(static=True)

    def __init__(self, field: Callable[..., Any], *, location: Sequence[float], scale: Sequence[float]):
        if len(location) != len(scale) or not all(number > 0 for number in scale):
            raise ValueError(f"AffineField needs a positive scale for each location, but got {location=} and {scale=}.")
        self.field = field
        self.location, self.scale = tuple(map(float, location)), tuple(map(float, scale))

    @property
    def state_names(self) -> tuple[str, ...] | None:
        """The names of the states, if the field names them."""
        return state_names(self.field)

    def parameter_values(self) -> dict[str, Array]:
        """The current value of each named parameter of the field within."""
        return parameter_values(self.field)

    def parameter_units(self) -> dict[str, str]:
        """The units of the parameters of the field within."""
        return parameter_units(self.field)

    def residual_rates(self, t: Any, z: Float[Array, " state"], args: Any = None) -> Float[Array, " state"]:
        """What a network adds within, as rates of the standardised states."""
        y, scale = self._own_units(z)
        return residual_rates(self.field, t, y, args) / scale

    def __call__(self, t: Any, z: Float[Array, " state"], args: Any = None) -> Float[Array, " state"]:
        y, scale = self._own_units(z)
        return self.field(t, y, args) / scale

    def _own_units(self, z: Float[Array, " state"]) -> tuple[Array, Array]:
        """The state in its own units, and their scale."""
        scale = jnp.asarray(self.scale, z.dtype)
        return jnp.asarray(self.location, z.dtype) + scale * z, scale


class StandardField(eqx.Module):
    r"""A field written in standard units: $f(t, y) = c \cdot g\bigl(t, (y - m) / s\bigr)$, elementwise.

    Networks learn best where their inputs and outputs are of order one; $m$, $s$ and $c$ bring data there and back.

    **Arguments of the constructor:** `field`: $g$; `location`, `scale`: $m$ and $s > 0$, of the shape of the state;
    `rate`: $c > 0$, of the shape of the output. They are constants, not learned.

    **Call:** `field(t, y, args)` with `y` of shape `(state,)`; returns the output's shape.

    **Raises:** `ValueError` if a scale or a rate is not positive.
    """

    field: Callable[..., Any]
    location: tuple[float, ...] = eqx.field(static=True)
    scale: tuple[float, ...] = eqx.field(static=True)
    rate: tuple[float, ...] = eqx.field(static=True)

    def __init__(
        self,
        field: Callable[..., Any],
        *,
        location: Sequence[float],
        scale: Sequence[float],
        rate: Sequence[float],
    ):
        if len(location) != len(scale) or not all(number > 0 for number in (*scale, *rate)):
            raise ValueError(
                f"StandardField needs a positive scale for each location and positive rates, but got {location=}, "
                f"{scale=} and {rate=}."
            )
        self.field = field
        self.location, self.scale, self.rate = tuple(location), tuple(scale), tuple(rate)

    @property
    def state_names(self) -> tuple[str, ...] | None:
        """The names of the states, if the field names them."""
        return state_names(self.field)

    def parameter_values(self) -> dict[str, Array]:
        """The current value of each named parameter of the field within."""
        return parameter_values(self.field)

    def parameter_units(self) -> dict[str, str]:
        """The units of the parameters of the field within."""
        return parameter_units(self.field)

    def residual_rates(self, t: Any, y: Float[Array, " state"], args: Any = None) -> Float[Array, " state"]:
        """What a network adds within to the rates of the states."""
        seen, rate = self._standard(y)
        return rate * residual_rates(self.field, t, seen, args)

    def __call__(self, t: Any, y: Float[Array, " state"], args: Any = None) -> Float[Array, " out"]:
        seen, rate = self._standard(y)
        return rate * self.field(t, seen, args)

    def _standard(self, y: Float[Array, " state"]) -> tuple[Array, Array]:
        """The state in standard units, and the unit of the output."""
        location, scale, rate = (jnp.asarray(x, y.dtype) for x in (self.location, self.scale, self.rate))
        return (y - location) / scale, rate
