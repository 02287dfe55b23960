"""Whole solves taken back, without a gradient."""

from typing import Any

import diffrax
import jax
from jaxtyping import ArrayLike

from nde.dtypes import as_floats
from nde.solvers.traits import inverse_step_of
from nde.types import Args, ScalarLike, SolverState, State, Terms


def undo(
    solver: diffrax.AbstractSolver, terms: Terms, ts: ArrayLike, y1: State, solver_state: SolverState, args: Args = None
) -> tuple[State, SolverState]:
    r"""The start of a solve from its end, by the inverse of each of its steps: equal to it up to rounding errors.

    A solve from the data to the noise encodes an example, and this decodes it exactly, whatever the steps' errors; or
    the other way about.

    **Arguments:** `solver`: a reversible one, as `nde.Reversible`, `nde.Rex` or `diffrax.ReversibleHeun`; `terms`,
    `args`: those of the solve; `ts`: the times of its steps, `(steps + 1,)`, from its start to its end, in either
    direction of time; `y1`, `solver_state`: at its end, as `diffrax.SaveAt(t1=True, solver_state=True)` keeps them
    (without them the solve can't be taken back).

    **Returns:** the state and the solver's state at `ts[0]`.

    **Raises:** `ValueError` for a solver whose steps can't be taken back.

    **Limits:** rounding errors grow backward as `nde.Reversible` says.
    """
    inverse_step = inverse_step_of(solver, terms, args)
    if inverse_step is None:
        raise ValueError(
            "undo takes back the steps of reversible methods, as nde.Reversible, nde.Rex and diffrax.ReversibleHeun, "
            f"but got {type(solver).__name__}."
        )
    (ts,) = as_floats(ts)
    sub_functions = inverse_step.sub_functions(ts[0], ts[1], y1, solver_state)

    def call(name, t0: ScalarLike, t1: ScalarLike, *arguments):
        return sub_functions[name].function(t0, t1, *arguments), lambda _: ()  # no cotangent is asked for

    def back(carry: Any, times):
        reverse_state, _ = carry
        step = inverse_step.step_back(call, times[0], times[1], reverse_state, False)
        return (step.reverse_state, step.start), None

    end = inverse_step.init_reverse(call, ts[-2], ts[-1], y1, solver_state)
    (_, start), _ = jax.lax.scan(back, (end, (y1, solver_state)), (ts[:-1], ts[1:]), reverse=True)
    return start
