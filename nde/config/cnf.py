"""A continuous normalising flow of points in the plane: `kind = "cnf"`."""

from typing import Literal

import diffrax
import jax.numpy as jnp
import pydantic
from jaxtyping import PRNGKeyArray
from pydantic import Field, PositiveFloat, PositiveInt

from nde.config.regularise import FIXED_STEPS, RegulariseConfig
from nde.config.sections import RunConfig, Section
from nde.fields import ConcatSquashField
from nde.models import ContinuousNormalizingFlow
from nde.regularise import LearnedEndTime


class PlaneDataConfig(Section):
    """`[data]`: a density of `nde.data.DENSITIES`, and how many of its points train, validate and test.

    `seed` of the points; left out, the run's own.
    """

    density: Literal["two_moons", "eight_gaussians", "checkerboard", "pinwheel"] = "two_moons"
    points: int = Field(default=5000, ge=10)
    validation_points: int = Field(default=1000, ge=10)
    test_points: int = Field(default=5000, ge=10)
    seed: int | None = Field(default=None, ge=0, lt=2**32)


class FlowModelConfig(Section):
    """`[model]`: the sizes of the concat-squash field, and the fixed steps of training, `dt0` over a time of one."""

    width: PositiveInt = 64
    depth: PositiveInt = 2
    dt0: float = Field(default=0.2, ge=1e-3, le=1)


class FlowEvaluateConfig(Section):
    """`[evaluate]`: held-out points are scored by adaptive solves at `tolerance`; the figure has `samples`."""

    tolerance: PositiveFloat = 1e-5
    samples: PositiveInt = 5000


class CNFConfig(RunConfig):
    """A whole run of a flow. What is left out has its default."""

    kind: Literal["cnf"] = "cnf"
    data: PlaneDataConfig = PlaneDataConfig()
    model: FlowModelConfig = FlowModelConfig()
    evaluate: FlowEvaluateConfig = FlowEvaluateConfig()
    regularise: RegulariseConfig = RegulariseConfig()

    @pydantic.model_validator(mode="after")
    def _check(self) -> "CNFConfig":
        served = (*FIXED_STEPS, "taylor", "stiffness", "end_time")
        self.regularise.check(served, "the fixed steps of a flow's training", moves_end=True)
        return self


def build_flow(config: FlowModelConfig, *, learned_end: bool = False, key: PRNGKeyArray) -> ContinuousNormalizingFlow:
    """The flow of a config: exact trace, tanh between the layers, Tsit5 at fixed steps.

    `learned_end`: whether its field is a `nde.regularise.LearnedEndTime`.
    """
    field = ConcatSquashField(2, config.width, config.depth, activation=jnp.tanh, key=key)
    return ContinuousNormalizingFlow(
        LearnedEndTime(field) if learned_end else field,
        2,
        controller=diffrax.ConstantStepSize(),
        dt0=config.dt0,
    )
