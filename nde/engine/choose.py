"""Which kernel a solver gets."""

from typing import Any

import diffrax
import equinox as eqx

from nde.engine.apart import is_cheap
from nde.engine.kernel import AbstractKernel, ExplicitKernel, SolverKernel
from nde.engine.srk import StochasticKernel


def make_kernel(solver, terms, args, t0, t1, y0) -> AbstractKernel:
    """The kernel of a solver: unrolled where it is an explicit Runge–Kutta method, stochastic or not."""
    if isinstance(solver, diffrax.AbstractWrappedSolver):  # which passes for an instance of what it wraps
        return SolverKernel(solver, terms, args)
    if isinstance(solver, diffrax.AbstractERK) and isinstance(terms, diffrax.AbstractTerm):
        tableau: Any = solver.tableau
        fsal = tableau.fsal and not terms.is_vf_expensive(t0, t1, y0, args)
        cheap = is_cheap(lambda t, y: eqx.filter(terms.vf(t, y, args), eqx.is_array), t0, y0)  # it may be an operator
        return ExplicitKernel(tableau, terms, args, fsal, cheap)
    if isinstance(solver, diffrax.AbstractSRK):
        return StochasticKernel(solver, terms, args)
    return SolverKernel(solver, terms, args)
