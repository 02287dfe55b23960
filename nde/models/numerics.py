"""How the plain models are solved: with the numerics that are their members."""

from typing import Any, Protocol

import diffrax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from nde import regularise
from nde.engine import diffeqsolve


class HasNumerics(Protocol):
    """A model whose solver, controller and adjoint are members, to be swapped by keyword or `equinox.tree_at`."""

    @property
    def solver(self) -> diffrax.AbstractSolver:
        """The solver."""
        ...

    @property
    def controller(self) -> diffrax.AbstractStepSizeController:
        """What chooses the step size."""
        ...

    @property
    def adjoint(self) -> diffrax.AbstractAdjoint:
        """How gradients are made."""
        ...

    @property
    def max_steps(self) -> int:
        """How many steps a solve may take."""
        ...


def solve(
    model: HasNumerics,
    terms: PyTree[diffrax.AbstractTerm],
    y0: PyTree[Array],
    args: PyTree[Any] = None,
    *,
    t0: Array,
    t1: Array,
    dt0: Any,
    saveat: diffrax.SaveAt,
    regulariser: regularise.AbstractRegulariser | None = None,
    key: PRNGKeyArray | None = None,
) -> tuple[Any, Float[Array, ""]]:
    """The states that `saveat` asks for, of terms solved from `t0` to `t1` with a model's own numerics; and a penalty.

    **Raises:** an error at run time if the solve fails.
    """
    options = {
        "saveat": saveat,
        "stepsize_controller": model.controller,
        "adjoint": model.adjoint,
        "max_steps": model.max_steps,
    }
    where = (terms, model.solver, t0, t1, dt0, y0, args)
    if regulariser is None:
        solution, penalty = diffeqsolve(*where, **options), jnp.zeros((), t1.dtype)
    else:
        solution, penalty = regularise.solve(regulariser, *where, key=key, **options)
    assert solution.ys is not None
    return solution.ys, penalty
