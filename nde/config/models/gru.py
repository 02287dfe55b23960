"""The recurrent network beside which neural CDEs are judged: `name = "gru"`."""

from typing import ClassVar, Literal

from jaxtyping import PRNGKeyArray
from pydantic import PositiveInt

from nde.config.models.base import ModelSection, SeriesFacts
from nde.config.numerics import SolverConfig
from nde.models import GRUDeltaT


class GRUModel(ModelSection):
    """A `nde.models.GRUDeltaT` of `hidden_size` states, a GRU that is told the time since each channel's last value.

    Its gaps are in units of the mean wait between two observations of a channel. It has no equation: `[solver]` and
    `[regularise]` say nothing to it.
    """

    name: Literal["gru"] = "gru"
    hidden_size: PositiveInt = 32

    title: ClassVar[str] = "GRU-Δt"
    tasks: ClassVar[tuple[str, ...]] = ("classify",)

    def build(self, facts: SeriesFacts, common: SolverConfig, *, key: PRNGKeyArray) -> GRUDeltaT:
        gap = facts.horizon / facts.observations
        return GRUDeltaT(facts.channels, self.hidden_size, facts.classes, gap_scale=gap, key=key)
