"""Diffusion models: `name = "diffusion"`."""

from collections.abc import Callable
from typing import Any, ClassVar, Literal

from jaxtyping import PRNGKeyArray
from pydantic import PositiveFloat, PositiveInt

from nde.config.models.base import fixed_numerics, ModelSection, PointFacts
from nde.config.numerics import SolverConfig
from nde.diffusion import (
    AbstractSchedule,
    CosineSchedule,
    EDMSchedule,
    LinearFlow,
    SAMPLERS,
    SubVariancePreserving,
    VarianceExploding,
    VariancePreserving,
)
from nde.fields import MixerField, ResidualField
from nde.models import DiffusionModel

SCHEDULES: dict[str, Callable[[], AbstractSchedule]] = {
    "vp": VariancePreserving,
    "sub_vp": SubVariancePreserving,
    "cosine": CosineSchedule,
    "ve": VarianceExploding,
    "edm": EDMSchedule,
    "linear": LinearFlow,
}
"""By the name that a config gives."""


class PointNetwork(ModelSection):
    """What a model of points takes for its network: `width`, `depth`, and of images the side of a `patch`.

    `solver` samples, and scores; it has no part in the training.
    """

    width: PositiveInt = 128
    depth: PositiveInt = 3
    patch: PositiveInt = 2

    tasks: ClassVar[tuple[str, ...]] = ("generate", "density")
    default_solver: ClassVar[SolverConfig] = SolverConfig(name="tsit5", rtol=1e-4, atol=1e-4)

    def network(self, facts: PointFacts, key: PRNGKeyArray) -> Any:
        """A network from a point to its shape: of images an MLP-mixer, else residual."""
        if facts.image is not None:
            return MixerField(facts.image, self.width, self.depth, patch=self.patch, classes=facts.classes, key=key)
        return ResidualField(facts.size, self.width, self.depth, classes=facts.classes, key=key)


class DiffusionSection(PointNetwork):
    """A `nde.DiffusionModel`.

    - `schedule`: by name of `SCHEDULES`; `predicts`: what its network does; `error`: in which unit the training
      measures its error, as `predicts` if left out.
    - `scale`: the standard deviation of the data, about.
    - `probes`: of the log-density; left out, it is exact.
    """

    name: Literal["diffusion"] = "diffusion"
    schedule: Literal["vp", "sub_vp", "cosine", "ve", "edm", "linear"] = "vp"
    predicts: Literal["data", "noise", "score", "velocity"] = "noise"
    error: Literal["data", "noise", "score", "velocity"] | None = None
    scale: PositiveFloat = 1.0
    probes: PositiveInt | None = None

    title: ClassVar[str] = "diffusion model"

    def drawing(self, evaluate: Any) -> dict[str, Any]:
        if evaluate.sampler is not None:
            return {"sampler": SAMPLERS[evaluate.sampler], "steps": evaluate.steps}
        return {"noise": evaluate.noise, "steps": evaluate.steps}

    def build(self, facts: PointFacts, common: SolverConfig, *, key: PRNGKeyArray) -> DiffusionModel:
        if facts.has_source:
            raise ValueError("a diffusion model begins in noise: leave data.source out, or take name = 'flow_matching'")
        return DiffusionModel(
            self.network(facts, key),
            facts.size,
            SCHEDULES[self.schedule](),
            predicts=self.predicts,
            error=self.error,
            scale=self.scale,
            probes=self.probes,
            numerics=fixed_numerics(self.merged_solver(common), 1.0),
        )
