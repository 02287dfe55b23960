"""Lawson's methods: a Runge–Kutta method over a semilinear equation whose linear part is gone."""

from functools import partial
from typing import Any

import diffrax

from nde.solvers.lagrange import place_in
from nde.solvers.new_variables import NewVariables, points_of, PointsInterpolation
from nde.solvers.traits import SolverTraits, traits_of
from nde.types import Args, ScalarLike, SolverState, State, Terms


class Lawson(diffrax.AbstractWrappedSolver):
    r"""A solver taken over the equation $\mathrm dy = f(t(s), m y)\,\mathrm ds\;(+\,\mathrm dW_\tau)$ in the time $s$.

    With $y = x / m(t)$ the linear part is solved exactly, whatever the method. In the noise form of a diffusion model
    Runge–Kutta methods so taken are ρRK-DEIS, and Euler's is DDIM. Dense output is the polynomial in $t$ through six
    points of each step.

    **Arguments:** `solver`: any of diffrax's or nde's for one term (an ODE) or additive noise. The terms are one
    `nde.terms.SemilinearTerm`, as `nde.diffusion_model_term` makes it.

    **Raises:** `ValueError` for another term.

    **Limits:** the field is taken for a polynomial in $s$: where a step is long in $\log s$, as at few steps, an
    `nde.Exponential` in `"log_clock"` does better.

    **Source:** Lawson, *Generalized Runge–Kutta processes for stable systems with large Lipschitz constants*, 1967;
    Zhang & Chen, 2022, arXiv 2204.13902, section 4 (ρRK).
    """

    solver: diffrax.AbstractSolver

    @property
    def term_structure(self):
        """One term."""
        return diffrax.AbstractTerm

    @property
    def interpolation_cls(self):  # pyright: ignore[reportIncompatibleMethodOverride]
        """A polynomial through points of the step."""
        return PointsInterpolation

    @property
    def scan_kind(self) -> str:
        """Not `None`, which diffrax would replace: there is no scan over stages here."""
        return "none"

    def traits(self) -> SolverTraits:
        """Those of the solver, but for its dense output, which holds points, and what rests on its products alone."""
        inner = traits_of(self.solver)
        place = partial(place_in, "clock") if inner.only_products else None
        return inner._replace(stages=None, inverse=None, only_products=False, tableau=None, place=place)

    def order(self, terms: Terms):
        """The wrapped solver's order for ODEs."""
        return self.solver.order(terms)

    def strong_order(self, terms: Terms):
        """The wrapped solver's strong order for SDEs."""
        return self.solver.strong_order(terms)

    def error_order(self, terms: Terms):
        """The order of the wrapped solver's estimate of its error."""
        return self.solver.error_order(terms)

    def init(self, terms: Terms, t0: ScalarLike, t1: ScalarLike, y0: State, args: Args):
        """The wrapped solver's state, over the equation in the new variables."""
        new = NewVariables(terms, "Lawson")
        return self.solver.init(new.term, new.clock(t0), new.clock(t1), new.into(t0, y0), args)

    def step(
        self,
        terms: Terms,
        t0: ScalarLike,
        t1: ScalarLike,
        y0: State,
        args: Args,
        solver_state: SolverState,
        made_jump: Any,
    ):
        """One step."""
        new = NewVariables(terms, "Lawson")
        s0, s1, start = new.clock(t0), new.clock(t1), new.into(t0, y0)
        y1, error, dense, state, result = self.solver.step(new.term, s0, s1, start, args, solver_state, made_jump)
        error = None if error is None else new.lengthened(t1, error)
        points = {"points": points_of(new, self.solver, t0, t1, dense)}
        return new.out_of(t1, y1), error, points, state, result

    def func(self, terms: Terms, t0: ScalarLike, y0: State, args: Args):
        """The field."""
        return terms.vf(t0, y0, args)
