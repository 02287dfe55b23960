"""Observed ODEs, of a known system, the system and a network, or a network: `known`, `hybrid`, `neural_ode`."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
import numpy as np
import pydantic
from jaxtyping import PRNGKeyArray
from pydantic import Field, PositiveInt

from nde.config.models.base import ModelSection
from nde.config.numerics import build_numerics, SolverConfig
from nde.config.observe import DynamicsFacts
from nde.fields import AffineField, Hybrid, KnownField, LogField, MLPField, StandardField, SYSTEMS
from nde.models import NeuralODE, observed_states, ObservedODE
from nde.objectives import GaussianLikelihood, ScaledLikelihood
from nde.regularise import PENALTIES


class ObservedODEModel(ModelSection):
    """What the three have in common: a field of standardised states, and how they are observed (`[observe]`)."""

    tasks: ClassVar[tuple[str, ...]] = ("dynamics",)
    default_solver: ClassVar[SolverConfig] = SolverConfig(name="tsit5", rtol=1e-4, atol=1e-6)

    def states(self) -> tuple[str, ...] | None:
        """The states that the model itself has names for."""
        return None

    def field(self, facts: DynamicsFacts, key: PRNGKeyArray) -> Callable[..., Any]:
        """The field of what is solved for: states, or their logarithms where `positive`, standardised."""
        raise NotImplementedError

    def penalties(self, common: SolverConfig) -> list[str]:
        return [name for name in PENALTIES if name != "end_time"]

    def build(self, facts: DynamicsFacts, common: SolverConfig, *, key: PRNGKeyArray) -> ObservedODE:
        location, scale = np.array(facts.location), np.array(facts.scale)
        starts = None if facts.starts is None else (np.array(facts.starts) - location) / scale
        ode = NeuralODE(self.field(facts, key), numerics=build_numerics(self.merged_solver(common)))
        return ObservedODE(
            ode,
            None if starts is None else jnp.asarray(starts, jnp.result_type(float)),
            ScaledLikelihood(GaussianLikelihood(len(facts.observed), scale=facts.noise_scale), unit=facts.noise_unit),
            observed_states(facts.observed, facts.states),
            positive=facts.positive,
            log_noise=facts.noise == "log_normal",
            location=facts.location,
            scale=facts.scale,
        )


class KnownModel(ObservedODEModel):
    """A system of `nde.fields.systems` alone: `known` names it, `parameters` are what its parameters start from."""

    name: Literal["known"] = "known"
    known: str
    parameters: dict[str, float] = Field(default_factory=dict)

    title: ClassVar[str] = "known system"

    @pydantic.model_validator(mode="after")
    def _check_system(self) -> "KnownModel":
        if self.known not in SYSTEMS:
            raise ValueError(f"there is no system known = '{self.known}'; the systems are {', '.join(SYSTEMS)}")
        names = SYSTEMS[self.known]().parameters
        unknown = sorted(set(self.parameters) - set(names))
        if unknown:
            raise ValueError(f"{self.known} has no parameter '{unknown[0]}'; its parameters are {', '.join(names)}")
        self.system()  # refuses a value out of its bounds
        return self

    def system(self) -> KnownField:
        """The named system, from its starting values."""
        return SYSTEMS[self.known](**self.parameters)

    def states(self) -> tuple[str, ...] | None:
        return self.system().states

    def field(self, facts: DynamicsFacts, key: PRNGKeyArray) -> Callable[..., Any]:
        known = self.system()
        return AffineField(LogField(known) if facts.positive else known, location=facts.location, scale=facts.scale)


class HybridModel(KnownModel):
    """The system, in its own units, plus a network of standardised states.

    The network sees `residual_inputs` and adds to the rates of `residual_states`: names of states, all if left out.
    """

    name: Literal["hybrid"] = "hybrid"  # pyright: ignore[reportIncompatibleVariableOverride]  (each has its own name)
    residual_states: tuple[str, ...] | None = None
    residual_inputs: tuple[str, ...] | None = None
    width: PositiveInt = 32
    depth: PositiveInt = 1

    title: ClassVar[str] = "known system + network"

    @pydantic.model_validator(mode="after")
    def _check_residual(self) -> "HybridModel":
        states = self.states() or ()
        for option in ("residual_states", "residual_inputs"):
            for name in getattr(self, option) or ():
                if name not in states:
                    raise ValueError(f"{option} names the state '{name}', but the states are {', '.join(states)}")
        return self

    def field(self, facts: DynamicsFacts, key: PRNGKeyArray) -> Callable[..., Any]:
        acts, sees = (
            [facts.states.index(name) for name in chosen or facts.states]
            for chosen in (self.residual_states, self.residual_inputs)
        )
        network = _network(facts, len(acts), len(sees), self.width, self.depth, key)
        return Hybrid(super().field(facts, key), network, states=acts, inputs=sees)


class NeuralODEModel(ObservedODEModel):
    """A network alone, of `width` and `depth`, of standardised states."""

    name: Literal["neural_ode"] = "neural_ode"
    width: PositiveInt = 32
    depth: PositiveInt = 1

    title: ClassVar[str] = "neural ODE"

    def field(self, facts: DynamicsFacts, key: PRNGKeyArray) -> Callable[..., Any]:
        count = len(facts.states)
        return _network(facts, count, count, self.width, self.depth, key)


def _network(facts: DynamicsFacts, acts: int, sees: int, width: int, depth: int, key: PRNGKeyArray) -> StandardField:
    """A network on standardised states, whose rates are of order one in the data's unit of time."""
    network = MLPField(sees, width, depth, out_size=acts, activation=jnp.tanh, scale=0.3, key=key)
    return StandardField(network, location=[0.0] * sees, scale=[1.0] * sees, rate=[1 / facts.time_scale] * acts)


def system_states(models: Sequence[ModelSection]) -> tuple[str, ...] | None:
    """The states that the models of a run have names for; `None` if none has.

    **Raises:** `ValueError` if two disagree.
    """
    named = {model.called(): model.states() for model in models if isinstance(model, ObservedODEModel)}
    known = {label: states for label, states in named.items() if states is not None}
    if len(set(known.values())) > 1:
        said = "; ".join(f"{label}: {', '.join(states)}" for label, states in known.items())
        raise ValueError(f"the [[model]]s have different states ({said}), but one [observe] says what is seen of them")
    return next(iter(known.values()), None)
