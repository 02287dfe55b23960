"""`[solver]`: how equations are solved, for every model of a run or, within a `[[model]]`, for one."""

import dataclasses
from typing import Literal

import diffrax
import pydantic
from pydantic import PositiveFloat, PositiveInt

from nde.adjoints import CheckpointAdjoint, ContinuousAdjoint, ReversibleAdjoint
from nde.config.sections import Section
from nde.models import Numerics
from nde.solvers import Reversible, SOLVERS, traits_of
from nde.terms import Interpretation

RTOL, ATOL, MAX_STEPS = 1e-3, 1e-6, 4096
"""The tolerances of a controller, and how many steps it may take, where a section does not say."""

ROOT_TOLERANCE = 1e-5
"""To which the equations of an implicit solver are solved at fixed steps; single precision can just do so."""


class SolverConfig(Section):
    """`[solver]`, or the `solver` of a `[[model]]`, whose keys come first. What both leave out is the model's own.

    - `name`: one of `SOLVERS`.
    - `rtol`, `atol`: the tolerances of a step-size controller, relative and absolute. Without them steps are fixed.
    - `dt0`: every step, where steps are fixed, else the first one; in the data's unit of time.
    - `max_steps`: how many steps a solve may take; more is a failed fit.
    - `adjoint`: how gradients are made: `checkpoint`, exact, in the memory of some hundred steps; `reversible`, exact,
      in that of one, by solvers that can be undone; `continuous`, by the adjoint equation, to the solver's tolerance.
    """

    name: str | None = None
    rtol: PositiveFloat | None = None
    atol: PositiveFloat | None = None
    dt0: PositiveFloat | None = None
    max_steps: PositiveInt | None = None
    adjoint: Literal["checkpoint", "reversible", "continuous"] | None = None

    @pydantic.field_validator("name")
    @classmethod
    def _check_name(cls, name: str | None) -> str | None:
        if name is not None and name not in SOLVERS:
            raise ValueError(f"there is no solver '{name}'; the solvers are {', '.join(SOLVERS)}")
        return name

    @property
    def is_fixed(self) -> bool:
        """Whether every step has the size `dt0`."""
        return self.rtol is None and self.atol is None and self.dt0 is not None


def merged(*sections: SolverConfig) -> SolverConfig:
    """Key by key what the first of the sections says that says anything.

    Tolerances and a fixed step are one choice: a section with a tolerance hides the step of those behind it, and one
    with a step their tolerances.
    """
    found: dict[str, object] = {}
    for section in sections:
        given = section.model_dump(exclude_none=True)
        adaptive, fixed = {"rtol", "atol"} & found.keys(), "dt0" in found
        if adaptive:
            given.pop("dt0", None)
        elif fixed:
            given = {key: value for key, value in given.items() if key not in ("rtol", "atol")}
        found = {**given, **found}
    return SolverConfig.model_validate(found)


def build_numerics(config: SolverConfig, *, noise: bool = False) -> Numerics:
    """The numerics of a section; `noise`: whether the equation is an SDE.

    **Raises:** `ValueError` for a solver that does not go with the equation, the tolerances or the adjoint.
    """
    name = config.name or "tsit5"
    solver = SOLVERS[name]()
    _check(name, solver, config, noise)
    adaptive = not config.is_fixed
    controller = (
        diffrax.PIDController(rtol=config.rtol or RTOL, atol=config.atol or ATOL)
        if adaptive
        else diffrax.ConstantStepSize()
    )
    if config.adjoint == "reversible" and not isinstance(solver, diffrax.ReversibleHeun):
        solver = Reversible(solver)
    if isinstance(solver, diffrax.AbstractImplicitSolver) and not adaptive:
        # its equations are solved to the controller's tolerances, of which fixed steps have none
        solver = dataclasses.replace(solver, root_finder=diffrax.VeryChord(rtol=ROOT_TOLERANCE, atol=ROOT_TOLERANCE))
    adjoints = {"reversible": ReversibleAdjoint, "continuous": ContinuousAdjoint}
    return Numerics(
        solver=solver,
        controller=controller,
        adjoint=adjoints.get(config.adjoint or "", CheckpointAdjoint)(),
        dt0=config.dt0,
        max_steps=config.max_steps or MAX_STEPS,
    )


def _check(name: str, solver: diffrax.AbstractSolver, config: SolverConfig, noise: bool) -> None:
    stochastic = isinstance(solver, diffrax.AbstractItoSolver | diffrax.AbstractStratonovichSolver)
    only_noise = stochastic and isinstance(solver, diffrax.AbstractSRK | diffrax.EulerHeun | diffrax.ItoMilstein)
    only_noise |= isinstance(solver, diffrax.StratonovichMilstein)
    if noise and not stochastic:
        able = [one for one, make in SOLVERS.items() if isinstance(make(), _STOCHASTIC)]
        raise ValueError(f"solver.name = '{name}' solves no SDEs; these do: {', '.join(able)}")
    if only_noise and not noise:
        raise ValueError(f"solver.name = '{name}' solves SDEs alone, but this model has no noise; take 'tsit5', say")
    if not config.is_fixed and not isinstance(solver, diffrax.AbstractAdaptiveSolver):
        raise ValueError(f"solver.name = '{name}' has no estimate of its error: give solver.dt0, and no rtol and atol")
    if isinstance(solver, diffrax.AbstractImplicitSolver) and config.adjoint in ("reversible", "continuous"):
        raise ValueError(
            f"solver.adjoint = '{config.adjoint}' serves no implicit solver such as '{name}'; leave it out"
        )
    if config.adjoint == "reversible" and noise and not isinstance(solver, diffrax.ReversibleHeun):
        raise ValueError("solver.adjoint = 'reversible' of an SDE needs solver.name = 'reversible_heun'")
    traits = traits_of(solver)
    served = traits.only_products and (not noise or Interpretation.STRATONOVICH in traits.interpretations)
    if config.adjoint == "continuous" and not served:
        take = "'heun' or 'spark'" if noise else "'heun' or 'tsit5'"
        why = " an SDE by" if noise else ""
        raise ValueError(f"solver.adjoint = 'continuous' does not serve{why} solver.name = '{name}'; take {take}, say")


_STOCHASTIC = (diffrax.AbstractItoSolver, diffrax.AbstractStratonovichSolver)
