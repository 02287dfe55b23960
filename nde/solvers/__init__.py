"""Solvers: the methods that diffrax lacks, and what the engine makes of a method.

diffrax's own solvers are used as they are; explicit Runge-Kutta methods are unrolled (`nde.solvers.run_stages`).

**Reversible methods.** A step can be undone exactly, up to rounding, so that a gradient needs no states but the last
(`nde.ReversibleAdjoint`). `nde.Reversible` makes one of any explicit method; `diffrax.ReversibleHeun` is one
already, and gets its inverse step here; `nde.Rex` is one for semilinear equations, as those of diffusion models
(`nde.diffusion_model_term`), whose linear part it solves exactly. The price is stability: see the limits of each.

**Exponential methods** solve the linear part of a `nde.terms.SemilinearTerm` exactly, and the rest by polynomials:
`nde.Exponential` of its stages, `nde.ExponentialAdams` of past evaluations, `nde.Lawson` by any Runge–Kutta method in
the new variables. They are the samplers of diffusion models.

**What a solver can** beside what diffrax's interface says of it stands in `nde.solvers.SolverTraits`: its evaluations
of the field, the noise that it is made for, whether it can be taken back. Of diffrax's solvers it is one table, of
others their own method `traits()`. An explicit Runge–Kutta method is a class with a tableau (`diffrax.AbstractERK`),
and needs nothing else.

The equations that Rex solves are those of `nde.terms`, and go by these names too.
"""

from collections.abc import Callable

import diffrax

from nde.solvers.explicit import (
    add as add,
    combine as combine,
    increment as increment,
    run_stages as run_stages,
    stage_time as stage_time,
)
from nde.solvers.exponential import Exponential as Exponential, ExponentialTableau as ExponentialTableau
from nde.solvers.exponential_adams import AdamsState as AdamsState, ExponentialAdams as ExponentialAdams
from nde.solvers.inverse_solve import undo as undo
from nde.solvers.inverse_step import (
    AbstractInverseStep as AbstractInverseStep,
    EvaluateWithVJP as EvaluateWithVJP,
    InverseStepResult as InverseStepResult,
    SubFunction as SubFunction,
)
from nde.solvers.lagrange import lagrange_weights as lagrange_weights
from nde.solvers.lawson import Lawson as Lawson
from nde.solvers.noise import check_noise as check_noise
from nde.solvers.reversible import Reversible as Reversible
from nde.solvers.rex import Rex as Rex
from nde.solvers.traits import (
    inverse_step_of as inverse_step_of,
    SolverTraits as SolverTraits,
    Stages as Stages,
    traits_of as traits_of,
)
from nde.terms import AbstractVariables as AbstractVariables, SemilinearTerm as SemilinearTerm

SOLVERS: dict[str, Callable[[], diffrax.AbstractSolver]] = {
    "euler": diffrax.Euler,  # of SDEs Euler–Maruyama, Itô
    "heun": diffrax.Heun,  # of SDEs Stratonovich
    "midpoint": diffrax.Midpoint,
    "ralston": diffrax.Ralston,
    "bosh3": diffrax.Bosh3,
    "tsit5": diffrax.Tsit5,
    "dopri5": diffrax.Dopri5,
    "dopri8": diffrax.Dopri8,
    "reversible_heun": diffrax.ReversibleHeun,
    # of SDEs alone
    "euler_heun": diffrax.EulerHeun,
    "ito_milstein": diffrax.ItoMilstein,
    "stratonovich_milstein": diffrax.StratonovichMilstein,
    "sea": diffrax.SEA,
    "shark": diffrax.ShARK,
    "sra1": diffrax.SRA1,
    "spark": diffrax.SPaRK,
    "general_shark": diffrax.GeneralShARK,
    "slow_rk": diffrax.SlowRK,
    # implicit, of stiff ODEs
    "implicit_euler": diffrax.ImplicitEuler,
    "kvaerno3": diffrax.Kvaerno3,
    "kvaerno4": diffrax.Kvaerno4,
    "kvaerno5": diffrax.Kvaerno5,
}
"""By the name that a config gives. To add a solver: its class, and its row here."""
