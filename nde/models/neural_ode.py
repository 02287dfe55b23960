"""A neural ODE: a field, and the numerics that solve it."""

from collections.abc import Callable
from dataclasses import KW_ONLY
from typing import Any

import diffrax
import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, PyTree

from nde.adjoints import CheckpointAdjoint
from nde.fields import check_field
from nde.models.checks import check_times_and_state
from nde.models.numerics import solve
from nde.regularise import AbstractRegulariser


class NeuralODE(eqx.Module):
    r"""The solution of $dy/dt = f(t, y, \mathrm{args})$ at given times.

    It acts on one series; use `jax.vmap` (or `eqx.filter_vmap` over models) for batches. Its numerics are members:
    swap them by keyword here, or later by `eqx.tree_at(lambda m: m.solver, model, diffrax.Dopri8())`.

    ```python
    >>> import jax.numpy as jnp, nde
    >>> model = nde.NeuralODE(lambda t, y, args: -y)
    >>> [round(float(y), 2) for y in model(jnp.array([0, 1, 2]), jnp.ones(1))[:, 0]]
    [1.0, 0.37, 0.14]

    ```

    **Arguments of the constructor:**

    - `field`: any callable `f(t, y, args)` that returns what `y` is: the same structure, shapes and dtypes. A
      `nde.fields.Hybrid` makes this a hybrid model.
    - `solver`: a diffrax solver for ODEs.
    - `controller`: of the step size.
    - `adjoint`: how gradients are made.
    - `dt0`: the first step, or with `diffrax.ConstantStepSize()` every step; positive, whichever way time runs; `None`
      lets the controller choose.
    - `max_steps`: how many steps a solve may take, rejected ones included; more is an error. Static.
    - `throw`: whether a solve that fails is an error. If not, its states are NaN from where it failed on, or infinite:
      what a line search needs, which must be able to try a bad point. Static.

    **Call:** `model(ts, y0, args=None)` with `ts` of shape `(times,)`, sorted, upwards or downwards; repeated times are
    allowed. `y0` is the state at `ts[0]`, any pytree of arrays. Whole numbers are taken as floats, and times and state
    are brought to the widest of their own types and that of the field's parameters. Returns the states at `ts`, the
    first among them: `y0`'s structure with a leading axis of times. `key` is accepted, so that all models are called
    alike, and not used. `model.penalised(regulariser, ts, y0, args, key=key)` gives the states and a penalty, for which
    the regulariser may draw.

    **Raises:** `ValueError` if `ts` holds fewer than two times, or if the field's output is not what `y0` is; an error
    at run time if `ts` is not sorted or the solve fails.

    **Limits:** between steps the state is interpolated, to an order below the solver's own (Tsit5: four). Memory of the
    gradient is that of the adjoint's record.

    **Source:** Chen, Rubanova, Bettencourt, Duvenaud, *Neural Ordinary Differential Equations*, NeurIPS 2018,
    arXiv 1806.07366.
    """

    field: Callable[..., Any]
    _: KW_ONLY
    solver: diffrax.AbstractSolver = diffrax.Tsit5()
    controller: diffrax.AbstractStepSizeController = diffrax.PIDController(rtol=1e-3, atol=1e-6)
    adjoint: diffrax.AbstractAdjoint = CheckpointAdjoint()
    dt0: float | None = None
    max_steps: int = eqx.field(default=4096, static=True)
    throw: bool = eqx.field(default=True, static=True)

    def __call__(
        self, ts: ArrayLike, y0: PyTree[ArrayLike], args: PyTree[Any] = None, *, key: PRNGKeyArray | None = None
    ) -> PyTree[Array]:
        return self._solve(ts, y0, args)[0]

    def penalised(
        self,
        regulariser: AbstractRegulariser,
        ts: ArrayLike,
        y0: PyTree[ArrayLike],
        args: PyTree[Any] = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[PyTree[Array], Float[Array, ""]]:
        """The states at `ts`, and what the regulariser makes of the solve: see `nde.regularise`."""
        return self._solve(ts, y0, args, regulariser, key)

    def _solve(self, ts, y0, args, regulariser=None, key=None):
        ts, y0 = check_times_and_state("NeuralODE", ts, y0, self.field)
        check_field(self.field, ts[0], y0, args)
        dt0 = None if self.dt0 is None else jnp.where(ts[0] <= ts[-1], self.dt0, -self.dt0)
        term = diffrax.ODETerm(self.field)
        saveat = diffrax.SaveAt(ts=ts)
        return solve(
            self, term, y0, args, t0=ts[0], t1=ts[-1], dt0=dt0, saveat=saveat, regulariser=regulariser, key=key
        )
