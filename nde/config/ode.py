"""ODE models of one or several series: `kind = "ode"`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import diffrax
import jax.numpy as jnp
import numpy as np
import pydantic
from jaxtyping import PRNGKeyArray
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from nde.config.regularise import PENALTIES, RegulariseConfig
from nde.config.sections import RunConfig, Section, TrainConfig
from nde.config.table import TableData
from nde.data import lynx_hare_path
from nde.fields import AffineField, Hybrid, KnownField, LogField, MLPField, StandardField, SYSTEMS
from nde.models import NeuralODE, observed_states, ObservedODE
from nde.objectives import GaussianLikelihood, ScaledLikelihood

Method = Literal["known", "hybrid", "neural_ode"]


class ODEDataConfig(TableData):
    """`[data]`: where the series come from, and what of them is held out.

    Either `dataset`, made from `seed` or shipped, or a table, as of `nde.config.table.TableData`. With `test_after`
    all series are trained on up to that time, since their first row, and forecast after it; what lies in
    (`validate_after`, `test_after`] chooses the best model. Without it, whole series are held out, a fold of them, and
    `validation` is the share of the others that chooses.
    """

    dataset: Literal["lynx_hare", "pendulum", "spirals"] | None = None
    seed: int = Field(default=0, ge=0, lt=2**32)
    test_after: PositiveFloat | None = None
    validate_after: PositiveFloat | None = None

    @pydantic.model_validator(mode="after")
    def _check(self) -> "ODEDataConfig":
        if self.validate_after is not None and not self.validate_after < (self.test_after or 0.0):
            raise ValueError(f"validate_after = {self.validate_after:g} must lie before test_after = {self.test_after}")
        return self

    def table_path(self) -> Path | None:
        return lynx_hare_path() if self.dataset == "lynx_hare" else super().table_path()


class ODEModelConfig(Section):
    """`[model]`: what is known, what is learned, and what is observed.

    `methods` are trained one after another and stand side by side in the table: `known`, the system alone; `hybrid`,
    the system plus a network on `residual_states` that sees `residual_inputs`; `neural_ode`, a network alone. `known`
    names a system of `nde.fields.systems`, whose states are then the model's; else they are `states`, or the
    channels. `parameters` are what the system's parameters start from. `observed` maps a channel to the state that it
    observes; by default that of its own name. `positive` solves for logarithms. `noise` is normal, or log-normal for
    errors in proportion, with a learned scale that starts at `noise_scale`.

    `start` says where a series starts: `learned`, or `first_row` for its first row, which must observe every state.
    `starts`, `location`, `scale` and `time_scale`, the units of what is solved and of what networks see, come from the
    data where not given: mean and standard deviation of each state's fitted values, and a tenth of the fitted time.
    """

    methods: tuple[Method, ...] = ("neural_ode",)
    known: str | None = None
    parameters: dict[str, float] = Field(default_factory=dict)
    states: tuple[str, ...] | None = None
    residual_states: tuple[str, ...] | None = None
    residual_inputs: tuple[str, ...] | None = None
    width: PositiveInt = 32
    depth: PositiveInt = 1
    observed: dict[str, str] | None = None
    positive: bool = False
    noise: Literal["normal", "log_normal"] = "normal"
    noise_scale: PositiveFloat = 0.2
    start: Literal["learned", "first_row"] = "learned"
    starts: tuple[tuple[tuple[float, ...], ...], ...] | None = None
    location: tuple[float, ...] | None = None
    scale: tuple[float, ...] | None = None
    noise_unit: tuple[float, ...] | None = None
    time_scale: PositiveFloat | None = None
    rtol: PositiveFloat = 1e-4
    atol: PositiveFloat = 1e-6
    max_steps: PositiveInt = 4096

    @pydantic.model_validator(mode="after")
    def _check(self) -> "ODEModelConfig":
        if not self.methods or len(set(self.methods)) != len(self.methods):
            raise ValueError(f"methods must name one or more of known, hybrid, neural_ode, but is {self.methods}")
        if self.known is None and set(self.methods) - {"neural_ode"}:
            raise ValueError(f"methods = {self.methods} need `known`, one of {', '.join(SYSTEMS)}")
        if self.known is not None and self.known not in SYSTEMS:
            raise ValueError(f"there is no system known = '{self.known}'; the systems are {', '.join(SYSTEMS)}")
        if self.noise == "log_normal" and not self.positive:
            raise ValueError("noise = 'log_normal' needs positive = true")
        if self.known is not None:
            self._check_known()
        return self

    def _check_known(self) -> None:
        system = known_field(self)
        if self.states not in (None, system.states):
            raise ValueError(f"the states of {self.known} are {system.states}, but states = {self.states}")
        states = system.states or ()
        for option in ("residual_states", "residual_inputs"):
            for name in getattr(self, option) or ():
                if name not in states:
                    raise ValueError(f"{option} names the state '{name}', but the states are {', '.join(states)}")

    def state_names(self, channels: Sequence[str]) -> tuple[str, ...]:
        """The states: the system's, the config's, or one for each channel."""
        return (known_field(self).states if self.known else self.states) or tuple(channels)


class FitConfig(Section):
    """`[fit]`: how a solution is fitted to a long series (`nde.objectives.shooting`).

    - `shooting`: `single`; `multiple`, in `segments` that must meet: a continuity penalty in standard units of the
      state, whose weight grows from `continuity` to `continuity_end` over the training; or `growing`: the first share
      `first` of the span first, all of it after the share `grow` of the steps.
    - `residual_weight`: of the mean square of a hybrid's residual, in standard units.
    - `bootstrap`: whether each member weighs the rows by exponential weights of its own, so that the members differ by
      what the data leave open (Rubin, *The Bayesian bootstrap*, 1981).
    """

    shooting: Literal["single", "multiple", "growing"] = "single"
    segments: PositiveInt = 4
    continuity: PositiveFloat = 1.0
    continuity_end: PositiveFloat = 100.0
    first: float = Field(default=0.2, gt=0, le=1)
    grow: float = Field(default=0.5, gt=0, le=1)
    residual_weight: NonNegativeFloat = 0.0
    bootstrap: bool = False


class ODETrainConfig(TrainConfig):
    """`[train]`: the loop and the optimiser; `members` of each method are trained."""

    learning_rate: PositiveFloat = 1e-2
    weight_decay: NonNegativeFloat = 0.0


class ODEEvaluateConfig(Section):
    """`[evaluate]`: draws of a forecast, for its intervals, over all members."""

    samples: int = Field(default=2000, ge=20)


class ODEConfig(RunConfig):
    """A whole run of ODE models. What is left out has its default."""

    kind: Literal["ode"] = "ode"
    data: ODEDataConfig
    model: ODEModelConfig = ODEModelConfig()
    fit: FitConfig = FitConfig()
    train: ODETrainConfig = ODETrainConfig()
    evaluate: ODEEvaluateConfig = ODEEvaluateConfig()
    regularise: RegulariseConfig = RegulariseConfig()

    @pydantic.model_validator(mode="after")
    def _check(self) -> "ODEConfig":
        if self.fit.shooting == "multiple" and self.model.start != "learned":
            raise ValueError("fit.shooting = 'multiple' learns starts, but model.start is 'first_row'")
        if self.model.start == "learned" and self.data.test_after is None:
            raise ValueError("model.start = 'learned' forecasts the series that it is fitted to: set data.test_after")
        served = [name for name in PENALTIES if name != "end_time"]
        self.regularise.check(served, "an ODE of data", moves_end=True)
        if self.fit.shooting != "single" and not self.regularise.is_empty:
            raise ValueError(f"[regularise] needs fit.shooting = 'single', but it is '{self.fit.shooting}'")
        return self


def known_field(config: ODEModelConfig) -> KnownField:
    """The named system of a config, from its starting values.

    **Raises:** `ValueError` for a parameter that the system does not have, or a value out of its bounds.
    """
    system = SYSTEMS[config.known or ""]
    names = system().parameters
    unknown = sorted(set(config.parameters) - set(names))
    if unknown:
        raise ValueError(f"{config.known} has no parameter '{unknown[0]}'; its parameters are {', '.join(names)}")
    return system(**config.parameters)


def build_field(config: ODEModelConfig, method: str, states: Sequence[str], *, key: PRNGKeyArray) -> Callable[..., Any]:
    """The field of a method for what is solved: states, or their logarithms where `positive`, standardised.

    Networks see and act on standardised states, known systems see states in their own units.
    """
    assert config.location is not None and config.scale is not None and config.time_scale is not None
    if method == "neural_ode":
        return _network(config, len(states), len(states), key)
    known = known_field(config)
    field = AffineField(LogField(known) if config.positive else known, location=config.location, scale=config.scale)
    if method == "known":
        return field
    acts, sees = (
        [list(states).index(name) for name in chosen or states]
        for chosen in (config.residual_states, config.residual_inputs)
    )
    return Hybrid(field, _network(config, len(acts), len(sees), key), states=acts, inputs=sees)


def _network(config: ODEModelConfig, acts: int, sees: int, key: PRNGKeyArray) -> StandardField:
    """A network on standardised states, whose rates are of order one in the config's unit of time."""
    assert config.time_scale is not None
    network = MLPField(sees, config.width, config.depth, out_size=acts, activation=jnp.tanh, scale=0.3, key=key)
    return StandardField(network, location=[0.0] * sees, scale=[1.0] * sees, rate=[1 / config.time_scale] * acts)


def build_observed_ode(
    config: ODEModelConfig, method: str, channels: Sequence[str], *, key: PRNGKeyArray
) -> ObservedODE:
    """The untrained model of a method, from a resolved config."""
    states = config.state_names(channels)
    observed = config.observed or {channel: channel for channel in channels}
    ode = NeuralODE(
        build_field(config, method, states, key=key),
        controller=diffrax.PIDController(rtol=config.rtol, atol=config.atol),
        max_steps=config.max_steps,
    )
    if config.noise_unit is None:
        raise ValueError(
            "the run has no model.noise_unit: an earlier nde made it, in other units of the states; fit it again."
        )
    assert config.location is not None and config.scale is not None
    starts = None
    if config.starts is not None:
        starts = (np.array(config.starts) - np.array(config.location)) / np.array(config.scale)
    return ObservedODE(
        ode,
        None if starts is None else jnp.asarray(starts, jnp.result_type(float)),
        ScaledLikelihood(GaussianLikelihood(len(channels), scale=config.noise_scale), unit=config.noise_unit),
        observed_states({channel: observed[channel] for channel in channels}, states),
        positive=config.positive,
        log_noise=config.noise == "log_normal",
        location=config.location,
        scale=config.scale,
    )
