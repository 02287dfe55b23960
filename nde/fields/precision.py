"""Networks that compute in another precision than the equation in which they stand."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, PyTree

NETWORKS = (eqx.nn.MLP, eqx.nn.Linear)


class InPrecision(eqx.Module):
    """A network that computes in a precision of its own: its input and parameters are rounded to it, its output comes
    back in the input's.

    The parameters themselves stay as they are, and gradients come to them in their own precision, through the rounding
    as if it were not there. What else is asked for is the network's.

    **Arguments of the constructor:** `network`; `dtype`, such as `jnp.bfloat16`, eight bits of fraction: a value is
    rounded by up to 0.4 %.
    """

    network: eqx.Module
    dtype: Any = eqx.field(static=True)

    def __call__(self, x: Array, **options: Any) -> Array:
        rounded = jax.tree.map(lambda p: p.astype(self.dtype) if eqx.is_inexact_array(p) else p, self.network)
        return rounded(x.astype(self.dtype), **options).astype(x.dtype)

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "network"), name)


def in_precision(model: PyTree, dtype: DTypeLike) -> PyTree:
    """The model with each of its networks (`equinox.nn.MLP` and `Linear`, the outermost) as `InPrecision`.

    States, times, errors and their control keep their precision, and so does all that is no such network: matrices of
    linear fields, recurrent cells, known equations.

    **Limits:** an error estimate below the rounding, 0.4 % of the field times a step for bfloat16, is rounding, and a
    tolerance that asks for less makes the steps small in vain: take `rtol` from 1e-2 on. On a CPU it saves nothing.
    """

    def is_network(x: Any) -> bool:
        return isinstance(x, NETWORKS)

    return jax.tree.map(lambda x: InPrecision(x, jnp.dtype(dtype)) if is_network(x) else x, model, is_leaf=is_network)
