"""The density of points: `task = "density"`."""

from typing import ClassVar, Literal

from pydantic import PositiveFloat, PositiveInt

from nde.config.matching import MatchedRun
from nde.config.points import PointsData
from nde.config.sections import Section


class DensityData(PointsData):
    """`[data]`: as of `nde.config.points.PointsData`; two moons unless given."""

    default_dataset: ClassVar[str] = "two_moons"


class DensityEvaluate(Section):
    """`[evaluate]`: held-out points are scored by adaptive solves at `tolerance`; the figure has `samples`."""

    tolerance: PositiveFloat = 1e-5
    samples: PositiveInt = 5000


class DensityConfig(MatchedRun):
    """A whole run of density models. What is left out has its default."""

    task: Literal["density"] = "density"
    data: DensityData = DensityData()
    evaluate: DensityEvaluate = DensityEvaluate()

    default_model: ClassVar[str] = "flow"
