"""The latent state-space model: `name = "ls4"`."""

from typing import ClassVar, Literal

from jaxtyping import PRNGKeyArray
from pydantic import PositiveFloat, PositiveInt

from nde.config.models.base import ModelSection, SeriesFacts
from nde.config.models.latent_sde import LIKELIHOODS
from nde.config.numerics import SolverConfig
from nde.models import LS4


class LS4Model(ModelSection):
    """The arguments of `nde.models.LS4`, whose defaults hold for what is left out.

    `cell` is how long a latent is held, in units of time: a twentieth of the longest series, if left out. It has no
    solver: `[solver]` and `[regularise]` say nothing to it.
    """

    name: Literal["ls4"] = "ls4"
    state_size: PositiveInt = 8
    width: PositiveInt = 16
    modes: PositiveInt = 8
    depth: PositiveInt = 1
    cell: PositiveFloat | None = None
    likelihood: Literal["student_t", "gaussian"] = "student_t"

    title: ClassVar[str] = "LS4"
    tasks: ClassVar[tuple[str, ...]] = ("forecast",)

    def build(self, facts: SeriesFacts, common: SolverConfig, *, key: PRNGKeyArray) -> LS4:
        cell = self.cell or facts.horizon / 20
        return LS4(
            facts.channels,
            self.state_size,
            width=self.width,
            modes=self.modes,
            depth=self.depth,
            likelihood=LIKELIHOODS[self.likelihood](facts.channels),
            horizon=max(facts.until, cell),
            dt0=cell,
            time_scale=facts.horizon,
            key=key,
        )
