"""What a solver can, in one table."""

from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax

from nde.solvers.explicit import EulerTableau
from nde.solvers.inverse_step import AbstractInverseStep
from nde.solvers.reversible_heun import ReversibleHeunInverse
from nde.terms import Interpretation, NoiseKind
from nde.types import Args, Terms

ANY_NOISE = frozenset(NoiseKind)
COMMUTATIVE_NOISE = ANY_NOISE - {NoiseKind.GENERAL}


class Stages(NamedTuple):
    """The stages in a solver's dense output: of which `tableau`, and `of_dense(dense)` takes them out, stacked."""

    tableau: Any
    of_dense: Callable[[Any], Any]


class SolverTraits(NamedTuple):
    """What a solver can, beside what diffrax's interface says of it.

    A solver of your own says so by a method `traits()` that returns one of these; what it does not say is as the
    defaults are. Subclasses of `diffrax.AbstractERK` and `diffrax.AbstractSRK` have said all by their tableau.

    - `evaluations`: of the field, of an SDE its drift, in a step; `None` where the method does not fix it, and for
      Runge–Kutta methods that the engine unrolls, which counts them itself. `first_evaluations`: more, once a solve.
    - `interpretations`: of an SDE, to whose solution it converges, beside what it inherits from
      `diffrax.AbstractItoSolver` or `diffrax.AbstractStratonovichSolver`.
    - `noise`: the kinds of noise that it is made for.
    - `only_products`: whether it takes of a term no more than its product with the control, and keeps no state: such
      a one solves the costate's equation of `nde.ContinuousAdjoint`.
    - `place`: of a solver of a `nde.terms.SemilinearTerm`, which solves the costate's equation too: the time at a share
      of a step, from `(terms, t0, t1, share)`, even in what the solver takes the field for a polynomial of.
    - `tableau`: of an explicit Runge–Kutta method, as `nde.Reversible` wraps it.
    - `stages`: the `nde.solvers.Stages` in its dense output, from which stiffness is estimated.
    - `inverse`: of a reversible method, how its steps are taken back, from `(terms, args)` to a
      `nde.solvers.AbstractInverseStep`. A method `inverse_step(terms, args)` says the same.
    """

    evaluations: int | None = None
    first_evaluations: int = 0
    interpretations: frozenset[Interpretation] = frozenset()
    noise: frozenset[NoiseKind] = ANY_NOISE
    only_products: bool = False
    place: Callable[[Any, Any, Any, Any], Any] | None = None
    tableau: Any = None
    stages: Stages | None = None
    inverse: Callable[[Any, Any], AbstractInverseStep] | None = None


def _explicit(solver: Any) -> SolverTraits:
    if not isinstance(solver.tableau, diffrax.ButcherTableau):
        return SolverTraits(only_products=True)
    stages = Stages(solver.tableau, lambda dense: dense["k"])
    return SolverTraits(only_products=True, tableau=solver.tableau, stages=stages)


def _stochastic(solver: Any) -> SolverTraits:
    additive = solver.tableau.is_additive_noise()
    return SolverTraits(only_products=True, noise=frozenset({NoiseKind.ADDITIVE}) if additive else ANY_NOISE)


def _reversible_heun(solver: Any) -> SolverTraits:
    exact = type(solver) is diffrax.ReversibleHeun  # the steps of a subclass may be others
    return SolverTraits(1, 1, inverse=ReversibleHeunInverse if exact else None)


def _wrapped(solver: Any) -> SolverTraits:
    """A wrapped method's steps are not those of the method, but lead to the same solution."""
    inner = traits_of(solver.solver)
    return SolverTraits(noise=inner.noise, only_products=inner.only_products)


def _halved(solver: Any) -> SolverTraits:
    """A step whole and in two halves."""
    inner = traits_of(solver.solver)
    evaluations = None if inner.evaluations is None else 3 * inner.evaluations
    return _wrapped(solver)._replace(evaluations=evaluations, first_evaluations=inner.first_evaluations)


# diffrax's solvers; the row of a solver is that of the first of its classes that has one.
DIFFRAX: dict[type, Callable[[Any], SolverTraits]] = {
    diffrax.AbstractERK: _explicit,
    diffrax.AbstractSRK: _stochastic,
    diffrax.AbstractFosterLangevinSRK: lambda _: SolverTraits(noise=frozenset()),
    diffrax.Euler: lambda _: SolverTraits(1, only_products=True, tableau=EulerTableau()),
    diffrax.EulerHeun: lambda _: SolverTraits(1, only_products=True),
    diffrax.ItoMilstein: lambda _: SolverTraits(1, noise=COMMUTATIVE_NOISE),
    diffrax.StratonovichMilstein: lambda _: SolverTraits(1, noise=COMMUTATIVE_NOISE),
    diffrax.ReversibleHeun: _reversible_heun,
    diffrax.HalfSolver: _halved,
    diffrax.AbstractWrappedSolver: _wrapped,
    object: lambda _: SolverTraits(),
}


def traits_of(solver: Any) -> SolverTraits:
    """What a solver can: as its own method `traits()` says, or diffrax's table."""
    row = next(DIFFRAX[each] for each in type(solver).__mro__ if each in DIFFRAX)
    found = solver.traits() if hasattr(solver, "traits") else row(solver)
    if found.inverse is None and hasattr(solver, "inverse_step"):
        found = found._replace(inverse=solver.inverse_step)
    return found._replace(interpretations=found.interpretations | _inherited(solver))


def _inherited(solver: Any) -> frozenset[Interpretation]:
    classes = {
        Interpretation.ITO: diffrax.AbstractItoSolver,
        Interpretation.STRATONOVICH: diffrax.AbstractStratonovichSolver,
    }
    return frozenset(name for name, kind in classes.items() if isinstance(solver, kind))


def inverse_step_of(solver: diffrax.AbstractSolver, terms: Terms, args: Args) -> AbstractInverseStep | None:
    """How a solver's steps are taken back; `None` if they can't be."""
    inverse = traits_of(solver).inverse
    return None if inverse is None else inverse(terms, args)
