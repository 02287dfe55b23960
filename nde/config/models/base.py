"""What `[[model]]` has in common: a section of its own for each model, which says what it serves and builds it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import PRNGKeyArray, PyTree

from nde.config.numerics import build_numerics, MAX_STEPS, merged, RTOL, SolverConfig
from nde.config.own_code import OwnCode
from nde.config.sections import Section
from nde.models import Numerics
from nde.regularise import FIXED_STEPS

MOST_STEPS = 100_000
"""More fixed steps than this are a mistake in the unit of time."""


@dataclass(frozen=True)
class SeriesFacts:
    """What a model of irregular series takes from its data.

    - `channels`: how many there are.
    - `horizon`: the longest training time since a first row; models take scales from it, so it does not change.
    - `until`: how far to solve: the horizon, or a later time that a forecast asks for.
    - `observations`: how often a channel is observed until the horizon, in the mean.
    - `classes`: how many, of a classifier.
    """

    channels: int
    horizon: float
    until: float
    observations: float = 1.0
    classes: int = 0


@dataclass(frozen=True)
class PointFacts:
    """What a model of points takes from its data.

    - `size`: of a point; `image`: `(height, width)` of one that is an image.
    - `classes`: how many, zero for points without.
    - `has_source`: whether the points come from data of their own, not from noise.
    - `learned_end`: whether a flow's end of time is learned.
    - `kinetic_path`: the spread and the speeds of a `nde.diffusion.KineticInterpolant`, where one was fitted.
    """

    size: int
    learned_end: bool = False
    classes: int = 0
    image: tuple[int, int] | None = None
    has_source: bool = False
    kinetic_path: tuple[float, ...] | None = None


class ModelSection(Section):
    """One `[[model]]`. `label` names it in tables and overrides; `solver` holds its own keys over those of `[solver]`.

    **To add a model** `x`: a file beside this one with a `class XModel(ModelSection)`: `name: Literal["x"] = "x"` and
    its keys, `title` and `tasks`, `build`, and, if it solves an equation, `default_solver` and `penalties`; enter it in
    `MODELS`. What `facts` holds is the task's to say: `SeriesFacts`, `PointFacts` or
    `nde.config.dynamics.DynamicsFacts`.
    """

    name: str
    label: str | None = None
    solver: SolverConfig = SolverConfig()

    title: ClassVar[str] = ""
    tasks: ClassVar[tuple[str, ...]] = ()
    default_solver: ClassVar[SolverConfig | None] = None
    """What `[solver]` leaves out; `None` for a model without an equation."""
    reads_rows: ClassVar[bool] = False
    """Whether its equation is driven by the rows of a series, and can step from one to the next."""
    moves_end: ClassVar[bool] = True
    """Whether a regulariser may move the end of time."""

    def called(self) -> str:
        """What it is called in tables, where `label` does not say."""
        return self.label or self.title

    def own_code(self) -> OwnCode | None:
        """Code of the user's own that it names, if any."""
        return None

    @property
    def has_marginals(self) -> bool:
        """Whether its posterior is given by its marginals, as `objective.name = "sde_matching"` needs it."""
        return False

    def build(self, facts: Any, common: SolverConfig, *, key: PRNGKeyArray) -> PyTree:
        """The untrained model, from what the data say and the common `[solver]`."""
        raise NotImplementedError

    def check_objective(self, objective: Any) -> None:
        """Refuse an `[objective]` that it can not be trained by, with a `ValueError`; nothing, unless overridden."""
        del objective

    def drawing(self, evaluate: Any) -> dict[str, Any]:
        """What of `[evaluate]` its `draw` takes by keyword; nothing, unless overridden."""
        del evaluate
        return {}

    def merged_solver(self, common: SolverConfig, default: SolverConfig | None = None) -> SolverConfig:
        """Its own keys over the common ones over its defaults."""
        return merged(self.solver, common, default or self.default_solver or SolverConfig())

    def penalties(self, common: SolverConfig) -> Sequence[str] | None:
        """The names of the penalties of `[regularise]` that it serves; `None` without an equation to be penalised."""
        return None if self.default_solver is None else FIXED_STEPS

    def remedies(self, common: SolverConfig) -> list[str]:
        """What to change, beside the learning rate, where its equation could not be solved."""
        if self.default_solver is None:
            return []
        solver = self.merged_solver(common)
        if solver.steps_per_row is not None:
            return [f"raise solver.steps_per_row (now {solver.steps_per_row})"]
        if solver.rtol is not None or solver.atol is not None:
            rtol = RTOL if solver.rtol is None else solver.rtol
            return [f"raise solver.max_steps (now {solver.max_steps or MAX_STEPS}) or solver.rtol (now {rtol:g})"]
        return ["lower solver.dt0" + ("" if solver.dt0 is None else f" (now {solver.dt0:g})")]


def fixed_numerics(solver: SolverConfig, until: float, *, noise: bool = False) -> Numerics:
    """The numerics of a section over times up to `until`, with room for all of its steps where they are fixed.

    **Raises:** `ValueError` for more than `MOST_STEPS` fixed steps.
    """
    if solver.is_fixed and solver.dt0 is not None:
        steps = until / solver.dt0
        if steps > MOST_STEPS:
            raise ValueError(
                f"solver.dt0 = {solver.dt0:g} makes {steps:.3g} steps of a time of {until:g}, above {MOST_STEPS}; "
                "raise solver.dt0, or take a larger unit of time"
            )
        if solver.max_steps is None:
            solver = solver.model_copy(update={"max_steps": int(steps) + 3})  # a few to spare for rounding
    return build_numerics(solver, noise=noise)
