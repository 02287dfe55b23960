"""How well a flow of many environments fits a series, by its own context and expanded about those of others."""

from typing import Any, Literal, Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray

from nde.objectives.terms import Terms
from nde.regularise import AbstractRegulariser


class ContextModel(Protocol):
    """What the fit asks of a model; `nde.ContextFlow` is one."""

    @property
    def contexts(self) -> Array:
        """A row for each environment."""
        ...

    def __call__(self, ts: Array, y0: Array, environment: Any, about: Any = None, /) -> Array: ...


class ContextFit(eqx.Module):
    r"""The loss of a flow of many environments on a series $y$ in environment $e$, from its first row,

    $$\frac{1}{1 + p} \Bigl(|y - \hat y(\xi_e)|^2 + \sum_{j \in P} |y - \hat y(\xi_e; \xi_j)|^2\Bigr) + \mu |\xi_e|_1$$

    as means over rows and states, with $\hat y(\xi_e; \xi_j)$ the solution of the field expanded about the context of
    environment $j$, and $P$ a pool of $p$ other environments.

    **Arguments of the constructor:**

    - `pool`: $p$, less than the environments. With 0 it is a plain fit of weights and contexts. Static.
    - `neighbours`: `"random"`, drawn anew at each step, or `"nearest"`, by the distance of contexts. Static.
    - `context_weight`: $\mu$, of the mean absolute entry. Static.

    **Call:** `fit(model, ts, ys, environment, step=step, key=key)` with `ts` of shape `(times,)`, `ys` of shape
    `(times, state)`, NaN where nothing was observed, and the number of the environment; returns
    `nde.objectives.Terms`. `fit.residuals(model, ts, ys, environment, key=key)` are those of which the loss, without
    the last term, is the mean square: for `nde.train.gauss_newton_update`.

    **Raises:** `ValueError` for a pool that there are not enough environments for, a negative number, other
    neighbours, and a regulariser.

    **Limits:** the first row is the start, and is not learned: take it whole and nearly without noise. Series of two
    rows, by `nde.objectives.row_windows`, are the quick way to begin.

    **Source:** Nzoyem, Barton, Deakin, arXiv 2405.02154, section 3; here the environment itself is always fitted.
    """

    pool: int = eqx.field(static=True, default=1)
    neighbours: Literal["random", "nearest"] = eqx.field(static=True, default="random")
    context_weight: float = eqx.field(static=True, default=0.0)

    def __check_init__(self) -> None:
        if self.pool < 0 or self.context_weight < 0 or self.neighbours not in ("random", "nearest"):
            raise ValueError(
                'ContextFit needs pool >= 0, context_weight >= 0 and neighbours "random" or "nearest", but got '
                f"{self.pool=}, {self.context_weight=}, {self.neighbours=}."
            )

    def __call__(
        self,
        model: ContextModel,
        ts: Float[Array, " times"],
        ys: Float[Array, "times state"],
        environment: Int[Array, ""],
        *,
        step: Array | int = 0,
        key: PRNGKeyArray,
        regulariser: AbstractRegulariser | None = None,
    ) -> Terms:
        del step
        if regulariser is not None:
            raise ValueError("ContextFit takes no regulariser.")
        residuals = self.residuals(model, ts, ys, environment, key=key)
        size = jnp.mean(jnp.abs(model.contexts[environment]))
        own = jnp.mean(residuals.reshape(1 + self.pool, -1)[0] ** 2)
        loss = jnp.mean(residuals**2) + self.context_weight * size
        return Terms(loss=loss, reported={"own": own, "context": size})

    def residuals(
        self,
        model: ContextModel,
        ts: Float[Array, " times"],
        ys: Float[Array, "times state"],
        environment: Int[Array, ""],
        *,
        key: PRNGKeyArray,
    ) -> Float[Array, " residuals"]:
        """Those by the own context, and then those about each other one: `(1 + p) (times - 1) states` of them."""
        found = [model(ts, ys[0], environment)]
        if self.pool:
            others = self._pool(model.contexts, environment, key)
            found.extend(model(ts, ys[0], environment, other) for other in others)
        seen = ~jnp.isnan(ys[1:])
        return jnp.stack([jnp.where(seen, y[1:] - jnp.where(seen, ys[1:], 0.0), 0.0) for y in found]).reshape(-1)

    def _pool(self, contexts: Array, environment: Any, key: PRNGKeyArray) -> Array:
        environments = contexts.shape[0]
        if self.pool >= environments:
            raise ValueError(
                f"ContextFit: a pool of {self.pool} needs more than {environments} environments, the own one not "
                "counted; give a smaller pool."
            )
        if self.neighbours == "random":
            return (environment + 1 + jax.random.permutation(key, environments - 1)[: self.pool]) % environments
        away = jnp.sum((contexts - contexts[environment][None]) ** 2, axis=1).at[environment].set(jnp.inf)
        return jnp.argsort(jax.lax.stop_gradient(away))[: self.pool]


def row_windows(
    ts: Float[ArrayLike, "series times"], ys: Float[ArrayLike, "series times state"], rows: int, *labels: ArrayLike
) -> tuple[np.ndarray, ...]:
    """All windows of so many rows that follow each other, of several series: short problems to begin a fit with.

    A solution over many periods is a stiff function of the field's parameters; over two rows it is nearly linear in the
    field, as a difference quotient is, but without the quotient's error. It takes rows that are nearly without noise.

    **Arguments:** `ts`: `(series, times)`; `ys`: `(series, times, state)`; `rows`: of a window; `labels`: `(series,)`
    each, such as environments, repeated for the windows.

    **Returns:** times `(windows, rows)`, values `(windows, rows, state)` and the labels.

    **Raises:** `ValueError` for fewer than two rows, or more than there are, and shapes that do not fit.
    """
    ts, ys = np.asarray(ts), np.asarray(ys)
    if ts.ndim != 2 or ys.ndim != 3 or ys.shape[:2] != ts.shape or not 2 <= rows <= ts.shape[1]:
        raise ValueError(
            "row_windows needs ts of shape (series, times), ys of shape (series, times, state) and 2 to times rows, "
            f"but got {ts.shape}, {ys.shape} and {rows=}."
        )
    starts = range(ts.shape[1] - rows + 1)
    cut = [np.stack([x[:, i : i + rows] for i in starts], axis=1).reshape(-1, rows, *x.shape[2:]) for x in (ts, ys)]
    return (*cut, *(np.repeat(np.asarray(label), len(starts)) for label in labels))
