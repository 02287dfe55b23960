r"""Regularisers: what makes a learned differential equation cheap to solve, as one number beside a solution.

    solution, penalty = nde.regularise.solve(regulariser, terms, solver, t0, t1, dt0, y0, args, key=key, ...)

is `nde.diffeqsolve` with a regulariser in front; a model's own `solve(..., regulariser=regulariser)` gives its outputs
and the penalty. A loss adds `weight * penalty`, with a weight that is constant or falls
(`nde.regularise.weight_schedule`).

heuristic.py   the solver's own estimates of error and stiffness, summed over its steps (ERNODE, SRNODE)
local.py       the same at one random step
rate.py        integrals along the solution: kinetic energy and Jacobian (RNODE), Taylor derivatives (TayNODE)
end_time.py    a random end of time (STEER), a learned one (TO-FLOW)
base.py        what a regulariser is; sums of several; solving.py the one solve that serves them
"""

from collections.abc import Callable

from nde.regularise.base import (
    AbstractRegulariser as AbstractRegulariser,
    Call as Call,
    need_key as need_key,
    Plan as Plan,
    Seen as Seen,
    Together as Together,
    weight_schedule as weight_schedule,
)
from nde.regularise.end_time import (
    EndTime as EndTime,
    LearnedEndTime as LearnedEndTime,
    RandomEndTime as RandomEndTime,
)
from nde.regularise.heuristic import ErrorEstimate as ErrorEstimate, StiffnessEstimate as StiffnessEstimate
from nde.regularise.local import LocalErrorEstimate as LocalErrorEstimate
from nde.regularise.rate import (
    JacobianNorm as JacobianNorm,
    KineticEnergy as KineticEnergy,
    TaylorDerivative as TaylorDerivative,
)
from nde.regularise.solving import solve as solve

PENALTIES: dict[str, Callable[[int], AbstractRegulariser]] = {
    "error": lambda order: ErrorEstimate(),
    "error_squares": lambda order: ErrorEstimate("squares"),
    "stiffness": lambda order: StiffnessEstimate(),
    "local_error": lambda order: LocalErrorEstimate(),
    "local_error_biased": lambda order: LocalErrorEstimate(biased=True),
    "kinetic": lambda order: KineticEnergy(),
    "jacobian": lambda order: JacobianNorm(),
    "taylor": TaylorDerivative,
    "end_time": lambda order: EndTime(),
}
"""By the name that a config gives, from the order of a Taylor derivative. To add a regulariser: its class, and its row
here."""

STEP_ESTIMATES = ("error", "error_squares", "stiffness")
"""Those made of the solver's own estimates at its steps, which `nde.CheckpointAdjoint` alone differentiates."""

FIXED_STEPS = ("kinetic", "jacobian")
"""Those that any solver and any field serves. (Taylor derivatives ask for a field without a search in a path.)"""
