"""A known system whose coefficients are networks of what is given of a series: `design`."""

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
import pydantic
from jaxtyping import PRNGKeyArray
from pydantic import PositiveInt

from nde.config.models.observed_ode import in_solved_units, KnownModel
from nde.config.observe import DynamicsFacts
from nde.fields import DesignField, KnownField, MLPField


class DesignModel(KnownModel):
    """The system, with coefficients by a network of `width` and `depth` from a design: `nde.fields.DesignField`.

    - `coefficients`: names of parameters, all that are free if left out. They start from the same for all series.
    - `design`: names of constants and covariates of `[data]`, all if left out; standardised by `observe.input_units`.
    """

    name: Literal["design"] = "design"  # pyright: ignore[reportIncompatibleVariableOverride]  (each has its own name)
    coefficients: tuple[str, ...] | None = None
    design: tuple[str, ...] | None = None
    width: PositiveInt = 16
    depth: PositiveInt = 1

    title: ClassVar[str] = "known system, coefficients by a network"

    @pydantic.model_validator(mode="after")
    def _check_coefficients(self) -> "DesignModel":
        self._wrapped(dict.fromkeys(self.design or ("design",), (0.0, 1.0)), None)
        return self

    def _wrapped(self, given: dict[str, tuple[float, float]], key: PRNGKeyArray | None) -> DesignField:
        """The field in own units; without a `key` only to have it checked."""
        known = self.system()
        if not isinstance(known, KnownField):
            raise ValueError("model 'design' needs a function with parameters, or a nde.KnownField")
        free = [name for name, each in known.parameters.items() if not each.fixed]
        names = free if self.coefficients is None else self.coefficients
        if key is None:
            return DesignField(known, lambda t, z, args: z, coefficients=names, given=given)
        network = MLPField(
            len(given), self.width, self.depth, out_size=len(names), activation=jnp.tanh, scale=0.1, key=key
        )
        return DesignField(known, network, coefficients=names, given=given)

    def field(self, facts: DynamicsFacts, key: PRNGKeyArray) -> Callable[..., Any]:
        names = self.design or tuple(facts.inputs)
        for name in names or ("design",):
            if name not in facts.inputs:
                has = f"there are {', '.join(facts.inputs)}" if facts.inputs else "[data] has none: give data.constants"
                raise ValueError(f"design: there is no constant or covariate '{name}'; {has}")
        return in_solved_units(self._wrapped({name: facts.inputs[name] for name in names}, key), facts)
