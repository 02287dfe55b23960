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
    - `steps_per_row`: instead of these, so many steps from each row of a series to the next; of models that a series
      drives, as `neural_cde`.
    - `max_steps`: how many steps a solve may take; more is a failed fit.
    - `adjoint`: how gradients are made: `checkpoint`, exact, in the memory of some hundred steps; `reversible`, exact,
      in that of one, by solvers that can be undone; `continuous`, by the adjoint equation, to the solver's tolerance.
    """

    name: str | None = None
    rtol: PositiveFloat | None = None
    atol: PositiveFloat | None = None
    dt0: PositiveFloat | None = None
    steps_per_row: PositiveInt | None = None
    max_steps: PositiveInt | None = None
    adjoint: Literal["checkpoint", "reversible", "continuous"] | None = None

    @pydantic.field_validator("name")
    @classmethod
    def _check_name(cls, name: str | None) -> str | None:
        if name is not None and name not in SOLVERS:
            raise ValueError(f"there is no solver '{name}'; the solvers are {', '.join(SOLVERS)}")
        return name

    @pydantic.model_validator(mode="after")
    def _check_one_choice(self) -> "SolverConfig":
        others = [name for name in _INSTEAD_OF["steps_per_row"] if getattr(self, name) is not None]
        if self.steps_per_row is not None and others:
            raise ValueError(f"steps_per_row says all about the steps: leave out {' and '.join(others)}")
        return self

    @property
    def is_fixed(self) -> bool:
        """Whether steps are chosen beforehand: all of the size `dt0`, or so many a row."""
        return self.steps_per_row is not None or (self.rtol is None and self.atol is None and self.dt0 is not None)


def merged(*sections: SolverConfig) -> SolverConfig:
    """Key by key what the first of the sections says that says anything.

    Tolerances, a fixed step and steps a row are one choice: a section that makes one hides the others of those behind
    it.
    """
    found: dict[str, object] = {}
    for section in sections:
        given = section.model_dump(exclude_none=True)
        hidden = {other for key in found for other in _INSTEAD_OF.get(key, ())}
        found = {**{key: value for key, value in given.items() if key not in hidden}, **found}
    return SolverConfig.model_validate(found)


_INSTEAD_OF = {
    "rtol": ("dt0", "steps_per_row"),
    "atol": ("dt0", "steps_per_row"),
    "dt0": ("rtol", "atol", "steps_per_row"),
    "steps_per_row": ("rtol", "atol", "dt0", "max_steps"),
}


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
        else diffrax.ConstantStepSize()  # which steps_per_row does not ask
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
        steps_per_row=config.steps_per_row,
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
    if config.steps_per_row is not None and (config.adjoint == "continuous" or not traits.only_products):
        raise ValueError(
            f"solver.steps_per_row does not go with solver.name = '{name}' and solver.adjoint = "
            f"'{config.adjoint or 'checkpoint'}'; take name = 'midpoint' or 'heun', and adjoint = 'checkpoint'"
        )
    served = traits.only_products and (not noise or Interpretation.STRATONOVICH in traits.interpretations)
    if config.adjoint == "continuous" and not served:
        take = "'heun' or 'spark'" if noise else "'heun' or 'tsit5'"
        why = " an SDE by" if noise else ""
        raise ValueError(f"solver.adjoint = 'continuous' does not serve{why} solver.name = '{name}'; take {take}, say")


_STOCHASTIC = (diffrax.AbstractItoSolver, diffrax.AbstractStratonovichSolver)
