"""How the plain models are solved: with the numerics that are their members."""

from typing import Any, Protocol

import diffrax
import jax
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

    @property
    def throw(self) -> bool:
        """Whether a failed solve is an error."""
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

    **Raises:** an error at run time if the solve fails, unless the model's `throw` is false: then the penalty is
    infinite, and so are the states that the solve did not get to.
    """
    options = {
        "saveat": saveat,
        "stepsize_controller": model.controller,
        "adjoint": model.adjoint,
        "max_steps": model.max_steps,
        "throw": model.throw,
    }
    where = (terms, model.solver, t0, t1, dt0, y0, args)
    if regulariser is None:
        solution, penalty = diffeqsolve(*where, **options), jnp.zeros((), t1.dtype)
    else:
        solution, penalty = regularise.solve(regulariser, *where, key=key, **options)
    assert solution.ys is not None
    if model.throw:
        return solution.ys, penalty
    return mark_failed(saveat, solution), jnp.where(succeeded(solution), penalty, jnp.inf)


def succeeded(solution: diffrax.Solution) -> Array:
    """Whether a solve went all the way, or to its event."""
    result = solution.result
    return (result == diffrax.RESULTS.successful) | (result == diffrax.RESULTS.event_occurred)


def mark_failed(saveat: diffrax.SaveAt, solution: diffrax.Solution) -> PyTree[Array]:
    """The states of a solve that may have failed; infinite where it did not get to.

    Rows at times `ts` past the failure are so already; a state at the end is where the solve stopped, which looks as
    good as any other.
    """
    if not saveat.subs.t1:
        return solution.ys
    good = succeeded(solution)
    return jax.tree.map(lambda y: jnp.where(good, y, jnp.inf), solution.ys)
