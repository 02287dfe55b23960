"""A field with further states that nobody observes."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from nde.fields.checks import check_sizes
from nde.fields.described import parameter_units, parameter_values, residual_rates

State = tuple[Float[Array, " state"], Float[Array, " extra"]]


class AugmentedField(eqx.Module):
    r"""A field on a state with `extra_size` more entries: $(\dot y, \dot a) = f(t, [y, a])$, with $a(0) = 0$.

    Trajectories of an ODE cannot cross, so that some maps are out of a field's reach; with room beside the state they
    pass each other, and what is learned is often simpler to solve.

    **Arguments of the constructor:**

    - `field`: a field on arrays of length state plus extra, as `MLPField(state_size + extra_size, ...)`.
    - `extra_size`: length of `a`.

    **Call:** `field(t, (y, a), args)`; returns the pair of rates. A solve starts at `field.augment(y0)`, and its
    observed part is `solution.ys[0]`.

    **Raises:** `ValueError` for a size below one; when called, for an `a` of another length, and if the inner field
    does not return the length that it was given.

    **Source:** Dupont, Doucet, Teh, *Augmented Neural ODEs*, NeurIPS 2019.
    """

    field: Callable[..., Float[Array, " joint"]]
    extra_size: int = eqx.field(static=True)

    def __init__(self, field: Callable[..., Float[Array, " joint"]], extra_size: int):
        check_sizes("AugmentedField", extra_size=extra_size)
        self.field = field
        self.extra_size = extra_size

    def augment(self, y0: Float[Array, " state"]) -> State:
        """The state to start from: `y0` and zeros."""
        return y0, jnp.zeros(self.extra_size, y0.dtype)

    def parameter_values(self) -> dict[str, Array]:
        """The current value of each named parameter of the field within."""
        return parameter_values(self.field)

    def parameter_units(self) -> dict[str, str]:
        """The units of the parameters of the field within."""
        return parameter_units(self.field)

    def residual_rates(self, t: Any, y: State, args: Any = None) -> State:
        """What a network adds within, as a pair of rates."""
        return self._split(residual_rates(self.field, t, jnp.concatenate(y), args), y)

    def __call__(self, t: Any, y: State, args: Any = None) -> State:
        observed, extra = y
        if extra.shape != (self.extra_size,):
            raise ValueError(
                f"AugmentedField has extra_size={self.extra_size}, but the state's extra part has shape {extra.shape}. "
                "Start from field.augment(y0)."
            )
        joint = jnp.concatenate([observed, extra])
        rates = self.field(t, joint, args)
        if jnp.shape(rates) != joint.shape:
            raise ValueError(
                f"AugmentedField gave its field a state of shape {joint.shape}, which returned {jnp.shape(rates)}. Its "
                "field acts on the state and the extra entries together."
            )
        return self._split(rates, y)

    def _split(self, joint: Array, y: State) -> State:
        size = y[0].size
        return joint[:size], joint[size:]
