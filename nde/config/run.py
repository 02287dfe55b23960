"""What every run's config has, of whatever task; and its members, the models that are trained."""

from dataclasses import dataclass
from typing import Any, ClassVar

import pydantic
from pydantic import Field, SerializeAsAny

from nde.config.models import MODELS, models_of, ModelSection
from nde.config.numerics import SolverConfig
from nde.config.own_code import OwnCode
from nde.config.regularise import RegulariseConfig
from nde.config.sections import Section, TrainConfig
from nde.regularise import STEP_ESTIMATES


@dataclass(frozen=True)
class Member:
    """A model that is trained: the `seed`-th, from zero, of one `[[model]]`; `index` counts all members of the run."""

    index: int
    seed: int
    section: ModelSection
    title: str

    @property
    def label(self) -> str:
        """What its `[[model]]` is called."""
        return self.section.called()


class RunConfig(Section):
    """What every run has. Each task's own config adds its sections; `seed` decides all that is random.

    `model`: one section or more of `MODELS`, trained one after another, `train.members` of each.
    """

    task: str
    seed: int = Field(default=0, ge=0, lt=2**32)
    data: Any
    model: tuple[SerializeAsAny[ModelSection], ...]
    solver: SolverConfig = SolverConfig()
    train: TrainConfig = TrainConfig()
    evaluate: Any = None
    regularise: RegulariseConfig = RegulariseConfig()

    default_model: ClassVar[str] = ""
    """The model of a config without any `[[model]]`."""

    @pydantic.model_validator(mode="after")
    def _check_models(self) -> "RunConfig":
        labels = [section.called() for section in self.model]
        for label in labels:
            if labels.count(label) > 1:
                raise ValueError(f'two [[model]]s are called "{label}": give each a label of its own')
        for section in self.model:
            by_rows = section.default_solver is not None and section.merged_solver(self.solver).steps_per_row
            if by_rows and not section.reads_rows:
                raise ValueError(f"solver.steps_per_row: no series drives a model '{section.name}'; give it a step dt0")
            served = section.penalties(self.solver)
            if served is not None:
                why = f"a model '{section.name}' and this solver"
                adjoint = section.merged_solver(self.solver).adjoint
                if adjoint in ("reversible", "continuous"):
                    served = [name for name in served if name not in STEP_ESTIMATES]
                    why = f"solver.adjoint = '{adjoint}'"
                self.regularise.check(served, why, moves_end=section.moves_end)
        return self

    def own_code(self) -> list[OwnCode]:
        """The code of the user's own that it names, of which a run's folder keeps a copy."""
        named = [section.own_code() for section in (*self.model, getattr(self, "observe", None)) if section is not None]
        return list(dict.fromkeys(code for code in named if code is not None))

    def members(self) -> list[Member]:
        """All that are trained, in order: the members of the first `[[model]]`, then those of the next."""
        count = self.train.members
        number = [f", member {seed + 1}/{count}" if count > 1 else "" for seed in range(count)]
        pairs = [(section, seed) for section in self.model for seed in range(count)]
        return [
            Member(index, seed, section, section.called() + number[seed]) for index, (section, seed) in enumerate(pairs)
        ]


def section_of(task: str, name: Any) -> type[ModelSection]:
    """The section of a `[[model]]` of this name.

    **Raises:** `ValueError` for a name that is unknown or does not serve the task.
    """
    section = MODELS.get(name) if isinstance(name, str) else None
    able = ", ".join(models_of(task))
    if section is None:
        raise ValueError(f"there is no model {name!r}; the models of task = '{task}' are {able}")
    if task not in section.tasks:
        raise ValueError(f"the model '{name}' does not serve task = '{task}'; these do: {able}")
    return section
