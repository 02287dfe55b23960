"""The continuous normalising flow: `name = "flow"`."""

from typing import ClassVar, Literal

import jax.numpy as jnp
from jaxtyping import PRNGKeyArray
from pydantic import PositiveInt

from nde.config.models.base import fixed_numerics, ModelSection, PointFacts
from nde.config.numerics import SolverConfig
from nde.fields import ConcatSquashField
from nde.models import ContinuousNormalizingFlow
from nde.regularise import FIXED_STEPS, LearnedEndTime


class FlowModel(ModelSection):
    """A `nde.models.ContinuousNormalizingFlow` with the exact trace, of a concat-squash field of `width` and `depth`.

    It is trained with fixed steps of `solver.dt0`, over a time of one.
    """

    name: Literal["flow"] = "flow"
    width: PositiveInt = 64
    depth: PositiveInt = 2

    title: ClassVar[str] = "flow"
    tasks: ClassVar[tuple[str, ...]] = ("density", "generate")
    default_solver: ClassVar[SolverConfig] = SolverConfig(name="tsit5", dt0=0.2)

    def penalties(self, common: SolverConfig) -> list[str]:
        served = [*FIXED_STEPS, "taylor", "end_time"]
        return [*served, "stiffness"] if self.merged_solver(common).name == "tsit5" else served

    def build(self, facts: PointFacts, common: SolverConfig, *, key: PRNGKeyArray) -> ContinuousNormalizingFlow:
        if facts.has_source or facts.classes:
            raise ValueError("a flow begins in noise, and knows no classes: leave data.source and data.label out")
        field = ConcatSquashField(facts.size, self.width, self.depth, activation=jnp.tanh, key=key)
        return ContinuousNormalizingFlow(
            LearnedEndTime(field) if facts.learned_end else field,
            facts.size,
            numerics=fixed_numerics(self.merged_solver(common), 1.0),
        )
