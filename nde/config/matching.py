"""`[objective]` of diffusion models and flows: how they are matched, see `nde.objectives.Matching`."""

from typing import Literal

import pydantic
from pydantic import Field, PositiveFloat

from nde.config.run import RunConfig
from nde.config.sections import Section
from nde.objectives import AbstractTimes, LogitNormalTimes, LogSNRTimes, Matching, UniformTimes, UShapedTimes

TIMES: dict[str, AbstractTimes] = {
    "uniform": UniformTimes(),
    "logit_normal": LogitNormalTimes(),
    "u_shaped": UShapedTimes(),
    "log_snr": LogSNRTimes(),
}
"""The laws of the time of a training example."""


class MatchingConfig(Section):
    """`[objective]`: of models that are trained without a solve; others, as `flow`, have their likelihood.

    - `times`: at which times, by name of `TIMES`; `log_snr` for diffusion models alone.
    - `metric`: of the error; `huber`: where the pseudo-Huber one turns from squares to sizes.
    - `drop`: how often a class is hidden in training.
    """

    times: Literal["uniform", "logit_normal", "u_shaped", "log_snr"] = "uniform"
    metric: Literal["square", "pseudo_huber"] = "square"
    huber: PositiveFloat = 0.03
    drop: float = Field(default=0.0, ge=0, lt=1)

    def build(self) -> Matching:
        """The objective."""
        return Matching(TIMES[self.times], self.metric, self.huber, self.drop)


class MatchedRun(RunConfig):
    """A run whose models may be matched: it has such an `[objective]`."""

    objective: MatchingConfig = MatchingConfig()

    @pydantic.model_validator(mode="after")
    def _check_objective(self) -> "MatchedRun":
        for section in self.model:
            section.check_objective(self.objective)
        return self
