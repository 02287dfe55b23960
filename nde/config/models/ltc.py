"""The liquid time-constant network: `name = "ltc"`."""

from typing import ClassVar, Literal

from jaxtyping import PRNGKeyArray
from pydantic import PositiveInt

from nde.config.models.base import ModelSection, SeriesFacts
from nde.config.numerics import SolverConfig
from nde.models import LTC
from nde.paths import Interpolation


class LTCModel(ModelSection):
    """A `nde.models.LTC` of `hidden_size` states, which crosses a gap in `substeps` fused steps.

    Its time constants start between the mean wait between two observations of a channel and the longest series. Its
    steps are its own: `[solver]` and `[regularise]` say nothing to it.
    """

    name: Literal["ltc"] = "ltc"
    hidden_size: PositiveInt = 32
    substeps: PositiveInt = 2
    interpolation: Interpolation = "rectilinear"

    title: ClassVar[str] = "LTC"
    tasks: ClassVar[tuple[str, ...]] = ("classify",)

    def build(self, facts: SeriesFacts, common: SolverConfig, *, key: PRNGKeyArray) -> LTC:
        return LTC(
            facts.channels,
            self.hidden_size,
            facts.classes,
            time_scale=facts.horizon,
            time_constants=(1 / max(facts.observations, 1.0), 1.0),
            substeps=self.substeps,
            interpolation=self.interpolation,
            key=key,
        )
