"""`[observe]`: what of an ODE's states is seen, and with what noise; the same for every model of a run."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pydantic
from pydantic import Field, PositiveFloat

from nde.config.noise import DISCRETE, NOISES
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
    noise: Mapping[str, str]
    log_noise: bool
    limits: tuple[Mapping[str, float], Mapping[str, float]]
    positive: bool
    starts: tuple[tuple[tuple[float, ...], ...], ...] | None
    inputs: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    known_start: Mapping[str, float] | None = None
    until: float = 0.0


class ObserveConfig(Section):
    """`[observe]`: what of the states is seen, and with what noise.

    `states` are those of the known system, if there is one, else what stands here, else the channels. `observed` maps a
    channel to the state that it observes; by default that of its own name. Or it names a function of your own,
    `"my_model.py:observe"`, that returns a value for each channel: see `nde.models.Observation`; its file is found and
    run as that of `known` (`nde.config.own_code`). `positive` solves for logarithms.

    `noise` is the law of the values around what is expected, one name for all channels or a table, channel = name:

    - `normal` (`additive`), `proportional`, `combined` (sd² = a² + (b f)²), `log_normal`: with learned scales that
      start at `noise_scale`, in units of `noise_unit`. If all are `log_normal`, scores are those of logarithms.
    - `poisson`: counts, of which the mean is expected; `bernoulli`: 0 or 1, of which the probability is, not its logit.

    `below` and `above` are limits of quantification, `{ conc = 0.1 }`: a value on its limit or beyond counts by the
    probability of lying there, wherever the table puts it, and so it is forecast and scored
    (`nde.objectives.CensoredLikelihood`).

    `start` says where a series starts: `learned`; `first_row` for its first row, which must observe every state; or
    `known`, at `known_start`, a number for each state in its own unit, as `{ gut = 0.0, central = 0.0 }` before a dose.
    `channels` are those of the data. `starts`, `location`, `scale`, `noise_unit` and `time_scale`, the units of what is
    solved and of what networks see, come from the data where not given: mean and standard deviation of each state's
    fitted values, and a tenth of the fitted time; of a state that is not observed and is given doses, their mean size.
    `input_units` are mean and standard deviation of each constant and covariate, over the series that are trained on;
    `until` is how far a population is solved.
    """

    states: tuple[str, ...] | None = None
    observed: dict[str, str] | str | None = None
    observed_sha256: str | None = None
    channels: tuple[str, ...] | None = None
    positive: bool = False
    noise: str | dict[str, str] = "normal"
    below: dict[str, float] = Field(default_factory=dict)
    above: dict[str, float] = Field(default_factory=dict)
    noise_scale: PositiveFloat = 0.2
    start: Literal["learned", "first_row", "known"] = "learned"
    known_start: dict[str, float] | None = None
    starts: tuple[tuple[tuple[float, ...], ...], ...] | None = None
    location: tuple[float, ...] | None = None
    scale: tuple[float, ...] | None = None
    noise_unit: tuple[float, ...] | None = None
    time_scale: float | None = Field(default=None, gt=0)
    input_units: dict[str, tuple[float, float]] | None = None
    until: float | None = None

    @pydantic.model_validator(mode="before")
    @classmethod
    def _find_code(cls, given: Any, info: pydantic.ValidationInfo) -> Any:
        return resolved(given, "observed", info)

    @pydantic.model_validator(mode="after")
    def _check_start(self) -> "ObserveConfig":
        if (self.start == "known") != (self.known_start is not None):
            raise ValueError("start = 'known' and known_start = { STATE = NUMBER, … } go together: give both or none")
        return self

    @pydantic.model_validator(mode="after")
    def _check_noise(self) -> "ObserveConfig":
        for name in [self.noise] if isinstance(self.noise, str) else self.noise.values():
            if name not in NOISES:
                raise ValueError(f"there is no noise '{name}'; there are {', '.join(NOISES)}")
        if self.noise == "log_normal" and not self.positive:
            raise ValueError("noise = 'log_normal' needs positive = true, or a table, { CHANNEL = 'log_normal' }")
        for channel in set(self.below) & set(self.above):
            if not self.below[channel] < self.above[channel]:
                raise ValueError(
                    f"below must lie under above, but '{channel}' has {self.below[channel]:g} and "
                    f"{self.above[channel]:g}"
                )
        for option, limits in (("below", self.below), ("above", self.above)):
            for channel, limit in limits.items():
                noise = self.noise if isinstance(self.noise, str) else self.noise.get(channel, "normal")
                if noise in DISCRETE:
                    raise ValueError(f"{option}: '{channel}' is {noise}, and only a continuous value has a limit")
                if noise == "log_normal" and limit <= 0:
                    raise ValueError(f"{option}: '{channel}' is log_normal, so its limit is positive, not {limit:g}")
        return self

    @property
    def log_noise(self) -> bool:
        """Whether all channels are scored and drawn as logarithms: where the noise of all is log-normal."""
        return self.noise == "log_normal"

    def noise_of(self, channels: Sequence[str]) -> dict[str, str]:
        """The law of each channel.

        **Raises:** `ValueError` for a law or a limit of a channel that the data do not have.
        """
        for option in ("noise", "below", "above"):
            named = getattr(self, option)
            for channel in named if isinstance(named, dict) else ():
                if channel not in channels:
                    raise ValueError(f"{option} names the channel '{channel}', but the data have {', '.join(channels)}")
        whole = self.noise
        return {each: whole if isinstance(whole, str) else whole.get(each, "normal") for each in channels}

    def own_code(self) -> OwnCode | None:
        """The code that `observed` names, where it is no table."""
        return OwnCode(self.observed, self.observed_sha256) if isinstance(self.observed, str) else None

    def limits(self) -> tuple[dict[str, float], dict[str, float]]:
        """The limits of quantification below and above, as the values are scored: logarithms for log-normal noise."""
        below, above = self.below, self.above
        if self.log_noise:
            below, above = ({name: math.log(limit) for name, limit in each.items()} for each in (below, above))
        return below, above

    def facts(self, until: float = 0.0) -> DynamicsFacts:
        """What the models take from a resolved section; `until`: how far a population is solved at its fixed steps."""
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
            noise=dict.fromkeys(channels, "normal") if self.log_noise else self.noise_of(channels),
            log_noise=self.log_noise,
            limits=self.limits(),
            positive=self.positive,
            starts=self.starts,
            inputs=self.input_units or {},
            known_start=self.known_start,
            until=max(until, self.until or 0.0),
        )
