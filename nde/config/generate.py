"""Samples like the data: `task = "generate"`."""

from typing import ClassVar, Literal

import pydantic
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from nde.config.matching import MatchedRun
from nde.config.points import PointsData
from nde.config.sections import Section
from nde.config.table import check_dataset
from nde.diffusion import SAMPLERS


class GenerateData(PointsData):
    """`[data]`: as of `nde.config.points.PointsData`, and perhaps where it comes from.

    - `source`: a data set of points from which a flow begins, instead of noise: as many as of the data are drawn.
    - `pairs`: how many pairs of source and target a flow is trained on whose source is data, or whose pairs are coupled
      by transport: they are made once, before the training.
    """

    default_dataset: ClassVar[str] = "two_moons"

    source: str | None = None
    pairs: PositiveInt = 100_000

    @pydantic.field_validator("source")
    @classmethod
    def _check_source(cls, name: str | None) -> str | None:
        return name if name is None else check_dataset(name, ("points",))


class GenerateEvaluate(Section):
    """`[evaluate]`: as many `samples` as there are test points are compared, at most so many.

    - `noise`: the amount in the equation that samples, of models that have a choice; 0 for an ODE.
    - `steps`: how many; left out, an ODE's are chosen by `[solver]`, and an SDE's are 100.
    - `sampler`: of diffusion models, a row of `nde.diffusion.SAMPLERS`, with its own solver and noise.
    - `tolerance`: of the solves for log-densities, of at most `likelihood_points` test points; 0 for none.
    - `repeats`: of the halves of the test points that show a distance's floor.
    """

    samples: int = Field(default=2000, ge=10)
    noise: NonNegativeFloat = 0.0
    steps: PositiveInt | None = None
    sampler: str | None = None
    tolerance: PositiveFloat = 1e-5
    likelihood_points: NonNegativeInt = 1000
    repeats: int = Field(default=5, ge=2)

    @pydantic.field_validator("sampler")
    @classmethod
    def _check_sampler(cls, name: str | None) -> str | None:
        if name is not None and name not in SAMPLERS:
            raise ValueError(f"there is no sampler '{name}'; the samplers are {', '.join(SAMPLERS)}")
        return name

    @pydantic.model_validator(mode="after")
    def _check_steps(self) -> "GenerateEvaluate":
        if self.sampler is not None and self.steps is None:
            raise ValueError("a sampler takes a number of `steps`; give one, such as 20")
        if self.sampler is not None and self.noise:
            raise ValueError("a sampler has its own amount of noise; leave `noise` or `sampler` out")
        return self


class GenerateConfig(MatchedRun):
    """A whole run of generative models. What is left out has its default."""

    task: Literal["generate"] = "generate"
    data: GenerateData = GenerateData(dataset="two_moons")
    evaluate: GenerateEvaluate = GenerateEvaluate()

    default_model: ClassVar[str] = "flow_matching"
