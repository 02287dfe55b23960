"""`[observe]`: what of an ODE's states is seen, and with what noise; the same for every model of a run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pydantic
from pydantic import Field, PositiveFloat

from nde.config.own_code import OwnCode, resolved
from nde.config.sections import Section


@dataclass(frozen=True)
class DynamicsFacts:
    """What a model of dynamics takes from its data and from `[observe]`, where the fields are explained."""

    states: tuple[str, ...]
    channels: tuple[str, ...]
    observed: Mapping[str, str] | None
    observe: OwnCode | None
    location: tuple[float, ...]
    scale: tuple[float, ...]
    noise_unit: tuple[float, ...]
    time_scale: float
    noise_scale: float
    noise: str
    positive: bool
    starts: tuple[tuple[tuple[float, ...], ...], ...] | None


class ObserveConfig(Section):
    """`[observe]`: what of the states is seen, and with what noise.

    `states` are those of the known system, if there is one, else what stands here, else the channels. `observed` maps a
    channel to the state that it observes; by default that of its own name. Or it names a function of your own,
    `"my_model.py:observe"`, that returns a value for each channel: see `nde.models.Observation`; its file is found and
    run as that of `known` (`nde.config.own_code`). `positive` solves for logarithms. `noise` is
    normal, or log-normal for errors in proportion, with a learned scale that starts at `noise_scale`.

    `start` says where a series starts: `learned`, or `first_row` for its first row, which must observe every state.
    `channels` are those of the data. `starts`, `location`, `scale`, `noise_unit` and `time_scale`, the units of what is
    solved and of what networks see, come from the data where not given: mean and standard deviation of each state's
    fitted values, and a tenth of the fitted time.
    """

    states: tuple[str, ...] | None = None
    observed: dict[str, str] | str | None = None
    observed_sha256: str | None = None
    channels: tuple[str, ...] | None = None
    positive: bool = False
    noise: Literal["normal", "log_normal"] = "normal"
    noise_scale: PositiveFloat = 0.2
    start: Literal["learned", "first_row"] = "learned"
    starts: tuple[tuple[tuple[float, ...], ...], ...] | None = None
    location: tuple[float, ...] | None = None
    scale: tuple[float, ...] | None = None
    noise_unit: tuple[float, ...] | None = None
    time_scale: float | None = Field(default=None, gt=0)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _find_code(cls, given: Any, info: pydantic.ValidationInfo) -> Any:
        return resolved(given, "observed", info)

    @pydantic.model_validator(mode="after")
    def _check_noise(self) -> "ObserveConfig":
        if self.noise == "log_normal" and not self.positive:
            raise ValueError("noise = 'log_normal' needs positive = true")
        return self

    def own_code(self) -> OwnCode | None:
        """The code that `observed` names, where it is no table."""
        return OwnCode(self.observed, self.observed_sha256) if isinstance(self.observed, str) else None

    def facts(self) -> DynamicsFacts:
        """What the models take from a resolved section."""
        channels = self.channels or tuple(self.observed or ())
        assert self.states is not None and channels and self.noise_unit is not None
        assert self.location is not None and self.scale is not None and self.time_scale is not None
        return DynamicsFacts(
            states=self.states,
            channels=channels,
            observed=self.observed if isinstance(self.observed, dict) else None,
            observe=self.own_code(),
            location=self.location,
            scale=self.scale,
            noise_unit=self.noise_unit,
            time_scale=self.time_scale,
            noise_scale=self.noise_scale,
            noise=self.noise,
            positive=self.positive,
            starts=self.starts,
        )
