"""Which stepper a solver gets. To add one: its class, and its row here."""

from typing import Any

import diffrax
import equinox as eqx

from nde.steppers.base import AbstractStepper, SolverStepper
from nde.steppers.explicit_rk import ExplicitRKStepper
from nde.steppers.fusion_barrier import count_operations
from nde.steppers.stochastic_rk import StochasticRKStepper
from nde.types import Args, State, Terms, Time


def make_stepper(
    solver: diffrax.AbstractSolver, terms: Terms, args: Args, t0: Time, t1: Time, y0: State
) -> AbstractStepper:
    """The stepper of a solver: unrolled where it is an explicit Runge–Kutta method, stochastic or not.

    `t0`, `t1`, `y0`: of any step, to see what the field is made of.
    """
    if isinstance(solver, diffrax.AbstractWrappedSolver):  # which passes for an instance of what it wraps
        return SolverStepper(solver, terms, args)
    if isinstance(solver, diffrax.AbstractERK) and isinstance(terms, diffrax.AbstractTerm):
        tableau: Any = solver.tableau
        fsal = tableau.fsal and not terms.is_vf_expensive(t0, t1, y0, args)
        operations = count_operations(
            lambda t, y: eqx.filter(terms.vf(t, y, args), eqx.is_array), t0, y0
        )  # may be an operator
        return ExplicitRKStepper(tableau, terms, args, fsal, operations)
    if isinstance(solver, diffrax.AbstractSRK):
        return StochasticRKStepper(solver, terms, args)
    return SolverStepper(solver, terms, args)
