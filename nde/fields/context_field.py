"""Fields of many environments: a network that sees a context, and its Taylor expansion in the context."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from nde.fields.checks import check_sizes


class ContextField(eqx.Module):
    r"""A field of many environments, told apart by a context $\xi$: $f(y, \xi) = m\bigl(s(y), c(\xi)\bigr)$.

    Three networks: of the state, of the context, and one in which the two meet, so that a long context does not crowd
    out a short state. The same in each environment; only $\xi$ differs.

    **Arguments of the constructor:**

    - `state_size`, `context_size`: lengths of `y` and of $\xi$.
    - `width`, `depth`: of the hidden layers; `depth` of them in the last network, one in each of the first two.
    - `activation`: elementwise; a smooth one, for the expansion differentiates in $\xi$.
    - `key`: a JAX random key, for the initial weights.

    **Call:** `field(t, y, context)` with `y` of shape `(state_size,)` and `context` of shape `(context_size,)`; returns
    the shape of `y`. `t` is not used.

    **Raises:** `ValueError` for a size below one or a depth below zero.

    **Source:** Nzoyem, Barton, Deakin, *Neural Context Flows for Meta-Learning of Dynamical Systems*, ICLR 2025, arXiv
    2405.02154.
    """

    of_state: eqx.nn.MLP
    of_context: eqx.nn.MLP
    joint: eqx.nn.MLP

    def __init__(
        self,
        state_size: int,
        context_size: int,
        width: int,
        depth: int = 2,
        *,
        activation: Callable[[Array], Array] = jax.nn.silu,
        key: PRNGKeyArray,
    ):
        check_sizes("ContextField", state_size=state_size, context_size=context_size, width=width, depth=depth)
        keys = jax.random.split(key, 3)
        self.of_state = eqx.nn.MLP(state_size, width, width, 1, activation=activation, key=keys[0])
        self.of_context = eqx.nn.MLP(context_size, width, width, 1, activation=activation, key=keys[1])
        self.joint = eqx.nn.MLP(2 * width, state_size, width, depth, activation=activation, key=keys[2])

    def __call__(self, t: Any, y: Float[Array, " state"], args: Float[Array, " context"]) -> Float[Array, " state"]:
        return self.joint(jnp.concatenate([self.of_state(y), self.of_context(args)]))


class TaylorField(eqx.Module):
    r"""A field expanded in its context about that of another environment,

    $$T f(t, y; \xi, \xi_0) = f(t, y, \xi_0) + \partial_\xi f(t, y, \xi_0)\,(\xi - \xi_0)
    + \tfrac12\,\partial_\xi^2 f(t, y, \xi_0)\,[\xi - \xi_0, \xi - \xi_0],$$

    without the last term at order 1. The directional derivatives are taken forward, at a small multiple of the cost of
    $f$; no Jacobian is formed.

    ```python
    >>> import jax.numpy as jnp, nde
    >>> field = nde.fields.TaylorField(lambda t, y, context: context**2 * y, order=1)
    >>> [float(x) for x in field(0.0, jnp.ones(1), (jnp.array(3.0), jnp.array(2.0)))]  # 2² + 2 * 2 * (3 - 2)
    [8.0]

    ```

    **Arguments of the constructor:** `field`: any callable `f(t, y, context)`, the context a pytree of arrays that it
    depends on smoothly; `order`: 1 or 2. Static.

    **Call:** `field(t, y, (context, about))`, $\xi$ and $\xi_0$ of one structure; returns what `f` returns.

    **Raises:** `ValueError` for another order, and for `args` that are no such pair.

    **Source:** Nzoyem, Barton, Deakin, arXiv 2405.02154, section 3.
    """

    field: Callable[..., Any]
    order: int = eqx.field(static=True, default=2)

    def __check_init__(self) -> None:
        if self.order not in (1, 2):
            raise ValueError(f"TaylorField has the orders 1 and 2, but got {self.order}.")

    def __call__(self, t: Any, y: PyTree[Array], args: tuple[PyTree[Array], PyTree[Array]]) -> PyTree[Array]:
        if not (isinstance(args, tuple) and len(args) == 2):
            raise ValueError("TaylorField needs args = (context, about): the context, and that which it expands about.")
        context, about = args
        change = jax.tree.map(jnp.subtract, context, about)

        def value(xi):
            return self.field(t, y, xi)

        def with_slope(xi):
            return jax.jvp(value, (xi,), (change,))

        if self.order == 1:
            return jax.tree.map(jnp.add, *with_slope(about))
        (rate, slope), (_, bend) = jax.jvp(with_slope, (about,), (change,))
        return jax.tree.map(lambda a, b, c: a + b + c / 2, rate, slope, bend)
