"""How the plain models are solved: with the numerics that are their members."""

from typing import Any, Protocol

import diffrax
from jaxtyping import Array, PyTree

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
) -> Any:
    """The states that `saveat` asks for, of terms solved from `t0` to `t1` with a model's own numerics.

    **Raises:** an error at run time if the solve fails.
    """
    solution = diffeqsolve(
        terms,
        model.solver,
        t0=t0,
        t1=t1,
        dt0=dt0,
        y0=y0,
        args=args,
        saveat=saveat,
        stepsize_controller=model.controller,
        adjoint=model.adjoint,
        max_steps=model.max_steps,
    )
    assert solution.ys is not None
    return solution.ys
