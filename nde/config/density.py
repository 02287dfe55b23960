"""The density of points: `task = "density"`."""

from typing import ClassVar, Literal

import pydantic
from pydantic import Field, PositiveFloat, PositiveInt

from nde.config.run import RunConfig
from nde.config.sections import Section
from nde.config.table import check_dataset


class DensityData(Section):
    """`[data]`: points of a data set of `nde.data.DATASETS`, and how many of them train, validate and test.

    `seed` of the points; left out, the run's own. `size`, how long a point is, is written by `nde fit`.
    """

    dataset: str = "two_moons"
    points: int = Field(default=5000, ge=10)
    validation_points: int = Field(default=1000, ge=10)
    test_points: int = Field(default=5000, ge=10)
    seed: int | None = Field(default=None, ge=0, lt=2**32)
    size: PositiveInt | None = None

    @pydantic.field_validator("dataset")
    @classmethod
    def _check_dataset(cls, name: str) -> str:
        return check_dataset(name, ("points",))


class DensityEvaluate(Section):
    """`[evaluate]`: held-out points are scored by adaptive solves at `tolerance`; the figure has `samples`."""

    tolerance: PositiveFloat = 1e-5
    samples: PositiveInt = 5000


class DensityConfig(RunConfig):
    """A whole run of density models. What is left out has its default."""

    task: Literal["density"] = "density"
    data: DensityData = DensityData()
    evaluate: DensityEvaluate = DensityEvaluate()

    default_model: ClassVar[str] = "flow"
