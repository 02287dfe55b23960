"""The GRU whose inputs and state decay: `name = "gru_d"`."""

from typing import ClassVar, Literal

from jaxtyping import PRNGKeyArray
from pydantic import PositiveInt

from nde.config.models.base import ModelSection, SeriesFacts
from nde.config.numerics import SolverConfig
from nde.models import GRUD


class GRUDModel(ModelSection):
    """A `nde.models.GRUD` of `hidden_size` states, in which missing values decay to the mean and the state to zero.

    Its gaps are in units of the mean wait between two observations of a channel. It has no equation: `[solver]` and
    `[regularise]` say nothing to it.
    """

    name: Literal["gru_d"] = "gru_d"
    hidden_size: PositiveInt = 32

    title: ClassVar[str] = "GRU-D"
    tasks: ClassVar[tuple[str, ...]] = ("classify",)

    def build(self, facts: SeriesFacts, common: SolverConfig, *, key: PRNGKeyArray) -> GRUD:
        gap = facts.horizon / facts.observations
        return GRUD(facts.channels, self.hidden_size, facts.classes, gap_scale=gap, key=key)
