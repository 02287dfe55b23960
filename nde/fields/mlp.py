"""A network as a vector field."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from nde.fields.checks import check_sizes


class MLPField(eqx.Module):
    r"""A network: $f(t, y) = s\,\phi\bigl(\mathrm{MLP}(y)\bigr)$, or of $(t, y)$ with `time=True`.

    The scale `s` is one learnable number. A small start (0.1, say) gives slow dynamics, which an untrained field
    needs where the horizon is long: $|f|$ sets how far a state gets before training begins.

    **Arguments of the constructor:**

    - `state_size`: length of `y`.
    - `width`, `depth`: of the hidden layers; `depth=0` is a linear field.
    - `time`: whether the network sees the time too. Measure time so that the horizon is of order one then.
    - `out_size`: length of the output, `state_size` if `None`; another one for a field that feeds
      `nde.fields.Hybrid`, not a solver.
    - `activation`: elementwise; a smooth one lets a solver keep its order.
    - `final_activation`: $\phi$, elementwise; `jnp.tanh` bounds the field by `s`. Identity if left out.
    - `scale`: what `s` starts from.
    - `key`: a JAX random key, for the initial weights.

    **Call:** `field(t, y, args)` with `y` of shape `(state_size,)`; returns `(out_size,)`. `args` is not used, nor `t`
    unless `time`.

    **Raises:** `ValueError` for a size below one or a depth below zero.

    **Source:** Chen, Rubanova, Bettencourt, Duvenaud, *Neural Ordinary Differential Equations*, NeurIPS 2018.
    """

    network: eqx.nn.MLP
    scale: Float[Array, ""]
    time: bool = eqx.field(static=True)

    def __init__(
        self,
        state_size: int,
        width: int,
        depth: int,
        *,
        time: bool = False,
        out_size: int | None = None,
        activation: Callable[[Array], Array] = jax.nn.softplus,
        final_activation: Callable[[Array], Array] = lambda x: x,
        scale: float = 1.0,
        key: PRNGKeyArray,
    ):
        out_size = state_size if out_size is None else out_size
        check_sizes("MLPField", state_size=state_size, width=width, depth=depth, out_size=out_size)
        self.network = eqx.nn.MLP(
            state_size + time, out_size, width, depth, activation=activation, final_activation=final_activation, key=key
        )
        self.scale = jnp.asarray(scale, jnp.result_type(float))
        self.time = time

    def __call__(self, t: Any, y: Float[Array, " state"], args: Any = None) -> Float[Array, " out"]:
        return self.scale * self.network(append_time(t, y) if self.time else y)


def append_time(t: Any, y: Float[Array, " state"]) -> Float[Array, " state+1"]:
    """`y` with the time as a further entry, in the dtype of `y`."""
    return jnp.append(y, jnp.asarray(t, y.dtype))
