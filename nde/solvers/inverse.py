"""Whole solves taken back, without a gradient."""

from typing import Any

import jax
import jax.numpy as jnp

from nde.solvers.find import find_way_back
from nde.solvers.reversible import Reversible
from nde.solvers.rex import Rex


def undo(solver: Reversible | Rex, terms: Any, ts: Any, y1: Any, solver_state: Any, args: Any = None) -> Any:
    r"""The start of a solve from its end, by the inverse of each of its steps: equal to it up to rounding errors.

    A solve from the data to the noise encodes an example, and this decodes it exactly, whatever the steps' errors; or
    the other way about.

    **Arguments:** `solver`: a `nde.Reversible` or `nde.Rex`; `terms`, `args`: those of the solve; `ts`: the
    times of its steps, `(steps + 1,)`, from its start to its end, in either direction of time; `y1`, `solver_state`: at
    its end, as `diffrax.SaveAt(t1=True, solver_state=True)` keeps them (without them the solve can't be taken back).

    **Returns:** the state and the solver's state at `ts[0]`.

    **Raises:** `ValueError` for another solver.

    **Limits:** rounding errors grow on the way back as `nde.Reversible` says.
    """
    if type(solver) not in (Reversible, Rex):
        raise ValueError(f"undo takes back nde.Reversible and nde.Rex, but got {type(solver).__name__}.")
    way_back: Any = find_way_back(solver, terms, args)
    ts = jnp.asarray(ts)
    pieces = way_back.pieces(ts[0], ts[1], y1, solver_state)

    def call(name, t0, t1, *arguments):
        return pieces[name].function(t0, t1, *arguments), None

    def back(tail, times):
        return way_back.back(call, *times, tail, False).tail, None

    return jax.lax.scan(back, (y1, solver_state), (ts[:-1], ts[1:]), reverse=True)[0]
