"""A neural ODE: a field, and the numerics that solve it."""

from collections.abc import Callable
from typing import Any, Unpack

import diffrax
from jaxtyping import Array, ArrayLike, PRNGKeyArray, PyTree

from nde.fields import check_field
from nde.models.checks import check_times_and_state
from nde.models.numerics import AbstractSolvingModel, Keywords, Numerics, numerics_of, Solved
from nde.models.with_inputs import solve_with_inputs
from nde.paths import Inputs
from nde.regularise import AbstractRegulariser


class NeuralODE(AbstractSolvingModel):
    r"""The solution of $dy/dt = f(t, y, \mathrm{args})$ at given times.

    It acts on one series; use `jax.vmap` (or `eqx.filter_vmap` over models) for batches. Its numerics are a
    member: give them here, or swap them later by `eqx.tree_at(lambda m: m.solver, model, diffrax.Dopri8())`.

    ```python
    >>> import jax.numpy as jnp, nde
    >>> model = nde.NeuralODE(lambda t, y, args: -y)
    >>> [round(float(y), 2) for y in model(jnp.array([0, 1, 2]), jnp.ones(1))[:, 0]]
    [1.0, 0.37, 0.14]

    ```

    **Arguments of the constructor:**

    - `field`: any callable `f(t, y, args)` that returns what `y` is: the same structure, shapes and dtypes. A
      `nde.fields.Hybrid` makes this a hybrid model.
    - `numerics`: how it is solved, a `nde.Numerics`; or its members by keyword, `solver`, `controller`, `adjoint`,
      `dt0`, `max_steps` and `throw`, explained there.

    **Call:** `model(ts, y0, args=None)` with `ts` of shape `(times,)`, sorted, upwards or downwards; repeated times are
    allowed. `y0` is the state at `ts[0]`, any pytree of arrays. Whole numbers are taken as floats, and times and state
    are brought to the widest of their own types and that of the field's parameters. Returns the states at `ts`, the
    first among them: `y0`'s structure with a leading axis of times. `key` is accepted, so that all models are called
    alike, and not used. `model.solve(ts, y0, args, regulariser=regulariser, key=key)` gives the states, the penalty of
    a regulariser, which may draw, and the solver's statistics.

    `args` is what the field gets, but for `nde.paths.Inputs`, constants, covariates and doses: the field gets their
    values at `t` as a mapping of names, and steps end where they jump. With `steps_per_row` an ODE with inputs takes so
    many steps between any two times of rows and inputs, with `diffrax.ConstantStepSize()` steps of `dt0`, cut there.

    **Raises:** `ValueError` if `ts` holds fewer than two times, or if the field's output is not what `y0` is; an error
    at run time if `ts` is not sorted or the solve fails.

    **Limits:** between steps the state is interpolated, to an order below the solver's own (Tsit5: four). Memory of the
    gradient is that of the adjoint's record.

    **Source:** Chen, Rubanova, Bettencourt, Duvenaud, *Neural Ordinary Differential Equations*, NeurIPS 2018,
    arXiv 1806.07366.
    """

    field: Callable[..., Any]
    numerics: Numerics

    def __init__(self, field: Callable[..., Any], *, numerics: Numerics | None = None, **keywords: Unpack[Keywords]):
        self.field, self.numerics = field, numerics_of("NeuralODE", Numerics(), numerics, **keywords)

    def __call__(
        self, ts: ArrayLike, y0: PyTree[ArrayLike], args: PyTree[Any] = None, *, key: PRNGKeyArray | None = None
    ) -> PyTree[Array]:
        return self.solve(ts, y0, args).ys

    def solve(
        self,
        ts: ArrayLike,
        y0: PyTree[ArrayLike],
        args: PyTree[Any] = None,
        *,
        regulariser: AbstractRegulariser | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Solved:
        """The states at `ts`, and what the regulariser makes of the solve: see `nde.regularise`."""
        ts, y0 = check_times_and_state("NeuralODE", ts, y0, self.field)
        if isinstance(args, Inputs):
            check_field(self.field, ts[0], y0, args.at(ts[0]))
            return solve_with_inputs(self.numerics, self.field, ts, y0, args, regulariser=regulariser, key=key)
        check_field(self.field, ts[0], y0, args)
        term, saveat = diffrax.ODETerm(self.field), diffrax.SaveAt(ts=ts)
        backward = ts[-1] < ts[0]
        return self.numerics.solve(
            term, ts[0], ts[-1], y0, args, saveat=saveat, backward=backward, regulariser=regulariser, key=key
        )
