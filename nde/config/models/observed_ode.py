"""Observed ODEs, of a known system, the system and a network, or a network: `known`, `hybrid`, `neural_ode`."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
import numpy as np
import pydantic
from jaxtyping import PRNGKeyArray
from pydantic import Field, PositiveInt

from nde.config.models.base import ModelSection
from nde.config.models.equations import named_system, own_system, try_observation, try_rates
from nde.config.noise import build_likelihood
from nde.config.numerics import build_numerics, SolverConfig
from nde.config.observe import DynamicsFacts
from nde.config.own_code import is_code, OwnCode, resolved
from nde.config.parameters import ParameterConfig
from nde.fields import AffineField, Hybrid, LogField, MLPField, parameter_values, StandardField, state_names
from nde.models import NeuralODE, Observation, observed_states, ObservedODE
from nde.regularise import PENALTIES


class ObservedODEModel(ModelSection):
    """What the three have in common: a field of standardised states, and how they are observed (`[observe]`)."""

    tasks: ClassVar[tuple[str, ...]] = ("dynamics",)
    reads_rows: ClassVar[bool] = True
    default_solver: ClassVar[SolverConfig] = SolverConfig(name="tsit5", rtol=1e-4, atol=1e-6)
    learns_term: ClassVar[bool] = False
    """Whether a network makes rates, whole or added to known ones, of which a closed form can be had."""

    def named_states(self) -> tuple[str, ...] | None:
        """The states that the model itself has names for."""
        return None

    def field(self, facts: DynamicsFacts, key: PRNGKeyArray) -> Callable[..., Any]:
        """The field of what is solved for: states, or their logarithms where `positive`, standardised."""
        raise NotImplementedError

    def try_code(self, facts: DynamicsFacts) -> None:
        """Refuse code of the user's own that can not be called, with a `ValueError`."""
        if facts.observe is not None:
            try_observation(facts.observe, facts.channels, dict.fromkeys(facts.inputs, 1.0), len(facts.states))

    def penalties(self, common: SolverConfig) -> list[str]:
        return [name for name in PENALTIES if name != "end_time"]

    def build(self, facts: DynamicsFacts, common: SolverConfig, *, key: PRNGKeyArray) -> ObservedODE:
        self.try_code(facts)
        location, scale = np.array(facts.location), np.array(facts.scale)
        starts = None if facts.starts is None else (np.array(facts.starts) - location) / scale
        ode = NeuralODE(self.field(facts, key), numerics=build_numerics(self.merged_solver(common)))
        return ObservedODE(
            ode,
            None if starts is None else jnp.asarray(starts, jnp.result_type(float)),
            build_likelihood(facts.noise, facts.noise_scale, facts.noise_unit, facts.limits),
            () if facts.observed is None else observed_states(facts.observed, facts.states),
            positive=facts.positive,
            log_noise=facts.log_noise,
            location=facts.location,
            scale=facts.scale,
            observe=None if facts.observe is None else Observation(facts.observe.load(), facts.channels),
        )


class KnownModel(ObservedODEModel):
    """An equation alone: a system of `nde.fields.systems` by name, or one of your own.

    - `known`: the name of a system; or `"my_model.py:field"`, a Python function `f(t, y, p)` of the time, the states
      and the parameters, read as `p.name`, that returns the rates, an array or a number a state; or an Equinox module,
      such as a `nde.KnownField`. The file is found beside the config or in the working directory, and **is run**: see
      `nde.config.own_code`. From Python the function or the module itself may stand here.
    - `parameters`: of each what it starts from, a number or a table: `nde.config.parameters.ParameterConfig`. A file
      may have them in `PARAMETERS`.
    - `states`: the names of the states, for an equation of your own; else `STATES` of its file, else `observe.states`.

    `nde fit` writes `known_sha256`, by which the run knows its copy of the file.
    """

    name: Literal["known"] = "known"
    known: str
    known_sha256: str | None = None
    parameters: dict[str, ParameterConfig] = Field(default_factory=dict)
    states: tuple[str, ...] | None = None

    title: ClassVar[str] = "known system"

    @pydantic.model_validator(mode="before")
    @classmethod
    def _find_code(cls, given: Any, info: pydantic.ValidationInfo) -> Any:
        return resolved(given, "known", info)

    @pydantic.model_validator(mode="after")
    def _check_system(self) -> "KnownModel":
        if self.own_code() is None and self.states is not None:
            raise ValueError(f"states are for an equation of your own; those of {self.known} have names")
        self.system()  # refuses an unknown parameter and a value out of its bounds
        return self

    def own_code(self) -> OwnCode | None:
        """The code that `known` names, where it is no named system."""
        return OwnCode(self.known, self.known_sha256) if is_code(self.known) else None

    def system(self) -> Callable[..., Any]:
        """The field of the states in their own units, from its starting values."""
        code = self.own_code()
        return (
            named_system(self.known, self.parameters)
            if code is None
            else own_system(code, self.parameters, self.states)
        )

    def named_states(self) -> tuple[str, ...] | None:
        return state_names(self.system()) or self.states

    def try_code(self, facts: DynamicsFacts) -> None:
        field, code, count = self.system(), self.own_code(), len(facts.states)
        values = parameter_values(field)
        read = set(values) if code is None else try_rates(code, field, count, tuple(facts.inputs))
        if facts.observe is not None:
            given = {**values, **dict.fromkeys(facts.inputs, 1.0)}
            read |= try_observation(facts.observe, facts.channels, given, count)
        unread = sorted(set(values) - read)
        if unread and code is not None:
            read_by = " and ".join(each.title for each in (code, facts.observe) if each is not None)
            raise ValueError(
                f"{read_by} never reads the parameter '{unread[0]}'; what is read: {', '.join(sorted(read))}"
            )

    def field(self, facts: DynamicsFacts, key: PRNGKeyArray) -> Callable[..., Any]:
        return in_solved_units(self.system(), facts)


class HybridModel(KnownModel):
    """The system, in its own units, plus a network of standardised states.

    The network sees `residual_inputs` and adds to the rates of `residual_states`: names of states, all if left out. The
    inputs may also name constants and covariates of `[data]`, which are standardised by `observe.input_units`.
    """

    name: Literal["hybrid"] = "hybrid"  # pyright: ignore[reportIncompatibleVariableOverride]  (each has its own name)
    residual_states: tuple[str, ...] | None = None
    residual_inputs: tuple[str, ...] | None = None
    width: PositiveInt = 32
    depth: PositiveInt = 1

    title: ClassVar[str] = "known system + network"
    learns_term: ClassVar[bool] = True

    @pydantic.model_validator(mode="after")
    def _check_residual(self) -> "HybridModel":
        states = self.named_states()
        if states is None:
            return self  # `field` knows them
        for name in self.residual_states or ():
            if name not in states:
                raise ValueError(f"residual_states names the state '{name}', but the states are {', '.join(states)}")
        return self

    def field(self, facts: DynamicsFacts, key: PRNGKeyArray) -> Callable[..., Any]:
        given = {name: facts.inputs[name] for name in self.residual_inputs or () if name in facts.inputs}
        sees = [name for name in self.residual_inputs or facts.states if name not in given]
        acts = self.residual_states or facts.states
        for name in (*acts, *sees):
            if name not in facts.states:
                raise ValueError(f"residual: there is no state '{name}'; the states are {', '.join(facts.states)}")
        network = _network(facts, len(acts), len(sees) + len(given), self.width, self.depth, key)
        acts, sees = ([facts.states.index(name) for name in chosen] for chosen in (acts, sees))
        return Hybrid(super().field(facts, key), network, states=acts, inputs=sees, given=given)


class NeuralODEModel(ObservedODEModel):
    """A network alone, of `width` and `depth`, of standardised states."""

    name: Literal["neural_ode"] = "neural_ode"
    width: PositiveInt = 32
    depth: PositiveInt = 1

    title: ClassVar[str] = "neural ODE"
    learns_term: ClassVar[bool] = True

    def field(self, facts: DynamicsFacts, key: PRNGKeyArray) -> Callable[..., Any]:
        count = len(facts.states)
        return _network(facts, count, count, self.width, self.depth, key)


def in_solved_units(known: Callable[..., Any], facts: DynamicsFacts) -> AffineField:
    """A field of states in their own units as one of what is solved for."""
    return AffineField(LogField(known) if facts.positive else known, location=facts.location, scale=facts.scale)


def _network(facts: DynamicsFacts, acts: int, sees: int, width: int, depth: int, key: PRNGKeyArray) -> StandardField:
    """A network on standardised states, whose rates are of order one in the data's unit of time."""
    network = MLPField(sees, width, depth, out_size=acts, activation=jnp.tanh, scale=0.3, key=key)
    return StandardField(network, location=[0.0] * sees, scale=[1.0] * sees, rate=[1 / facts.time_scale] * acts)


def system_states(models: Sequence[ModelSection]) -> tuple[str, ...] | None:
    """The states that the models of a run have names for; `None` if none has.

    **Raises:** `ValueError` if two disagree.
    """
    named = {model.called(): model.named_states() for model in models if isinstance(model, ObservedODEModel)}
    known = {label: states for label, states in named.items() if states is not None}
    if len(set(known.values())) > 1:
        said = "; ".join(f"{label}: {', '.join(states)}" for label, states in known.items())
        raise ValueError(f"the [[model]]s have different states ({said}), but one [observe] says what is seen of them")
    return next(iter(known.values()), None)
