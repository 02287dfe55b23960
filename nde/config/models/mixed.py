"""A population of one equation, with parameters that vary between individuals: `mixed`."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar, Literal

import equinox as eqx
import numpy as np
import pydantic
from jaxtyping import Array, PRNGKeyArray
from pydantic import Field, PositiveFloat

from nde.config.models.base import MOST_STEPS
from nde.config.models.observed_ode import HybridModel, KnownModel
from nde.config.noise import build_likelihood
from nde.config.numerics import build_numerics, SolverConfig
from nde.config.observe import DynamicsFacts
from nde.models import NeuralODE, Observation, observed_states, Population

STEPS = 100
"""How many steps the time that is fitted is crossed in, where the config does not say."""


class MixedModel(HybridModel):
    """A nonlinear mixed-effects model: `nde.models.Population`, of an equation and, if asked for, a network beside it.

    `known`, `parameters` and `states` are those of the model `known`; a parameter with `random` varies between
    individuals.

    - `correlated`: whether the random effects have a full covariance, and not a diagonal one.
    - `residual_states`: the states to whose rates a network adds, as of the model `hybrid`; no network without. It sees
      `residual_inputs`: states, constants and covariates, and the `random_inputs`.
    - `random_inputs`: names of inputs that vary between individuals, each with the standard deviation that it starts
      from: so a network differs between them.

    It is solved at fixed steps, of `solver.dt0`, by default a hundredth of the fitted time, cut at rows and doses; or
    of `solver.steps_per_row` between these.
    """

    name: Literal["mixed"] = "mixed"  # pyright: ignore[reportIncompatibleVariableOverride]  (each has its own name)
    correlated: bool = False
    random_inputs: dict[str, PositiveFloat] = Field(default_factory=dict)

    title: ClassVar[str] = "population"
    tasks: ClassVar[tuple[str, ...]] = ("population",)
    default_solver: ClassVar[SolverConfig] = SolverConfig(name="dopri5")

    @pydantic.model_validator(mode="after")
    def _check_effects(self) -> "MixedModel":
        if not self.effects():
            raise ValueError(
                "no parameter varies between individuals: write random = 0.3 in the table of one that does"
            )
        for name in self.random_inputs:
            if self.residual_states is None or name not in (self.residual_inputs or ()):
                raise ValueError(
                    f"random_inputs: nothing reads '{name}'; name it in residual_inputs, of residual_states"
                )
        return self

    def effects(self) -> dict[str, float]:
        """What varies, and the standard deviation that it starts from."""
        random = {name: each.random for name, each in self.parameters.items() if each.random is not None}
        return {**random, **self.random_inputs}

    def penalties(self, common: SolverConfig) -> list[str]:
        return []

    def field(self, facts: DynamicsFacts, key: PRNGKeyArray) -> Callable[..., Any]:
        return KnownModel.field(self, facts, key) if self.residual_states is None else super().field(facts, key)

    def steps(self, facts: DynamicsFacts, common: SolverConfig) -> SolverConfig:
        """The solver, with a step and as many of them as reach the end.

        **Raises:** `ValueError` for more than 100 000 steps.
        """
        solver = self.merged_solver(common)
        if solver.steps_per_row is not None:
            return solver
        fitted = 10 * facts.time_scale
        dt0 = solver.dt0 or fitted / STEPS
        count = math.ceil(max(facts.until, fitted) / dt0) + 1
        if count > MOST_STEPS:
            raise ValueError(f"solver.dt0 = {dt0:g} makes {count} steps, above {MOST_STEPS}; raise it")
        return solver.model_copy(update={"dt0": dt0, "max_steps": max(count, solver.max_steps or 0)})

    def build(  # pyright: ignore[reportIncompatibleMethodOverride]  (a model of another task)
        self, facts: DynamicsFacts, common: SolverConfig, *, key: PRNGKeyArray
    ) -> Population:
        facts = replace(facts, inputs={**facts.inputs, **dict.fromkeys(self.random_inputs, (0.0, 1.0))})
        self.try_code(facts)
        effects = self.effects()
        seen: Any = _States(observed_states(facts.observed or {}, facts.states))
        if facts.observe is not None:
            seen = Observation(facts.observe.load(), facts.channels)
        return Population(
            NeuralODE(self.field(facts, key), numerics=build_numerics(self.steps(facts, common))),
            build_likelihood(facts.noise, facts.noise_scale, facts.noise_unit, facts.limits),
            list(effects),
            observe=seen,
            start=np.array([(facts.known_start or {})[state] for state in facts.states]),
            spread=np.array(list(effects.values())),
            correlated=self.correlated,
            location=facts.location,
            scale=facts.scale,
        )


class _States(eqx.Module):
    """Channels that are states."""

    chosen: tuple[int, ...] = eqx.field(static=True)

    def __call__(self, t: Any, y: Array, p: Any) -> Array:
        return y[np.array(self.chosen, int)]
