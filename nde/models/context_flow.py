"""A flow of many environments: one field, and a context of each environment."""

import dataclasses
from collections.abc import Callable
from typing import Any, Unpack

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from nde.dtypes import as_floats
from nde.fields import TaylorField
from nde.models.neural_ode import NeuralODE
from nde.models.numerics import Keywords, Numerics
from nde.objectives import ContextFit
from nde.train import gauss_newton_update


class ContextFlow(eqx.Module):
    r"""ODEs of one form in several environments, $\dot y = f_\theta(t, y, \xi_e)$, with learned contexts $\xi_e$.

    What differs between environments, a parameter that nobody measured, is a short vector each; the field is common.
    Solved about the context of another environment, $f$ gives way to its Taylor expansion there
    (`nde.fields.TaylorField`): trained so that these solutions fit too, the field changes evenly from one context to
    the next. A new environment is met by its context alone, the field held: `nde.models.adapt`.

    ```python
    >>> import jax, jax.numpy as jnp, nde
    >>> decay = lambda t, y, context: -context * y
    >>> model = nde.ContextFlow(decay, jnp.array([[0.5], [1.0]]), order=1)
    >>> [round(float(model(jnp.array([0.0, 1.0]), jnp.ones(1), e)[-1, 0]), 3) for e in (0, 1)]
    [0.607, 0.368]

    ```

    **Arguments of the constructor:**

    - `field`: any callable `f(t, y, context)`, such as `nde.fields.ContextField`.
    - `contexts`: the start of $\xi$, `(environments, context_size)`, learned. Small random ones, or all zero: then what
      breaks the tie is the data alone.
    - `order`: of the expansion, 1 or 2. Static.
    - `numerics`: how it is solved, a `nde.Numerics`; or its members by keyword.

    **Call:** `model(ts, y0, environment, about=None)` with `ts` of shape `(times,)`, `y0` the state at `ts[0]`,
    `(state,)`, and the number of an environment, which may be traced; `about` is another number, of the context to
    expand about. Returns the states `(times, state)`. `model.states(ts, y0, context, about=None)` takes contexts.

    **Raises:** `ValueError` for contexts of another shape, another order, and as `nde.NeuralODE`.

    **Limits:** contexts are known up to a smooth change of coordinates: they can be compared within a model only.

    **Source:** Nzoyem, Barton, Deakin, *Neural Context Flows for Meta-Learning of Dynamical Systems*, ICLR 2025, arXiv
    2405.02154.
    """

    ode: NeuralODE
    contexts: Float[Array, "environments context"]
    order: int = eqx.field(static=True)

    def __init__(
        self,
        field: Callable[..., Any],
        contexts: Float[ArrayLike, "environments context"],
        *,
        order: int = 2,
        numerics: Numerics | None = None,
        **keywords: Unpack[Keywords],
    ):
        TaylorField(field, order)  # refuses another order
        (self.contexts,) = as_floats(contexts)
        if self.contexts.ndim != 2 or 0 in self.contexts.shape:
            raise ValueError(
                f"ContextFlow needs contexts of shape (environments, context_size), but got {jnp.shape(contexts)}."
            )
        self.ode, self.order = NeuralODE(field, numerics=numerics, **keywords), order

    def __call__(
        self,
        ts: Float[ArrayLike, " times"],
        y0: Float[ArrayLike, " state"],
        environment: Int[ArrayLike, ""],
        about: Int[ArrayLike, ""] | None = None,
    ) -> Float[Array, "times state"]:
        other = None if about is None else self.contexts[about]
        return self.states(ts, y0, self.contexts[environment], other)

    def states(
        self,
        ts: Float[ArrayLike, " times"],
        y0: Float[ArrayLike, " state"],
        context: Float[Array, " context"],
        about: Float[Array, " context"] | None = None,
    ) -> Float[Array, "times state"]:
        """The states in the environment of a context; `about` another, by the field's expansion about that."""
        if about is None:
            return self.ode(ts, y0, context)
        return NeuralODE(TaylorField(self.ode.field, self.order), numerics=self.ode.numerics)(ts, y0, (context, about))


def adapt(
    model: ContextFlow,
    ts: Float[ArrayLike, " times"],
    ys: Float[ArrayLike, "series times state"],
    *,
    steps: int = 30,
) -> tuple[ContextFlow, Float[Array, ""]]:
    r"""The model of a new environment, from few series in it: $\min_\xi \sum_i |y_i - \hat y_i(\xi)|^2$, $\theta$ held.

    From whichever of the model's contexts fits best, by the Levenberg–Marquardt method
    (`nde.train.gauss_newton_update`): a context has few entries, and some tens of steps find the minimum.

    **Arguments:** `model`: trained; `ts`: `(times,)`, of all series; `ys`: `(series, times, state)`, or
    `(times, state)` of a single one; NaN was not observed, but the first row is the start; `steps`: of the method.

    **Returns:** the model with the new context as its only environment, number 0, and the mean square that is left.

    **Raises:** `ValueError` for shapes that do not fit, and where no context of the model gives a finite error.

    **Limits:** of several minima it finds one. What the series do not tell of the context stays near where it began.
    """
    (ts,) = as_floats(ts)
    (ys,) = as_floats(ys, like=ts)
    ys = ys[None] if ys.ndim == 2 else ys
    if ts.ndim != 1 or ys.ndim != 3 or ys.shape[1] != ts.shape[0]:
        raise ValueError(
            f"adapt needs ts of shape (times,) and ys of shape (series, times, state), but got {ts.shape}, {ys.shape}."
        )
    # A search must be able to try bad contexts: where the solve fails the states are infinite.
    safe = dataclasses.replace(model.ode.numerics, throw=False)
    series = (jnp.broadcast_to(ts, ys.shape[:2]), ys, jnp.zeros(len(ys), jnp.int32))

    def alone(context: Array) -> ContextFlow:
        return eqx.tree_at(lambda m: (m.contexts, m.ode.numerics), model, (context[None], safe))

    errors = jnp.stack([_error(alone(context), series) for context in model.contexts])
    if not bool(jnp.any(jnp.isfinite(errors))):
        raise ValueError("adapt: no context of the model gives a finite error on these series.")
    state, rows = UPDATE.init(alone(model.contexts[jnp.nanargmin(errors)])), np.arange(len(ys))
    for _ in range(steps):
        state, _ = UPDATE.compiled(state, series, rows, jax.random.key(0))
    return eqx.tree_at(lambda m: m.contexts, model, state.model.contexts), _error(state.model, series)


FIT = ContextFit(pool=0)  # which draws nothing
# One for all calls: what is compiled for one new environment serves the next.
UPDATE = gauss_newton_update(FIT.residuals, parameters=lambda model: model.contexts)


@eqx.filter_jit
def _error(model: ContextFlow, series: tuple[Array, Array, Array]) -> Float[Array, ""]:
    residuals = jax.vmap(lambda *each: FIT.residuals(model, *each, key=jax.random.key(0)))(*series)
    return jnp.mean(residuals**2)
