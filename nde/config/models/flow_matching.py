"""Flows between laws: `name = "flow_matching"`."""

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import jax
from jaxtyping import PRNGKeyArray
from pydantic import PositiveFloat, PositiveInt

from nde.config.models.base import fixed_numerics, PointFacts
from nde.config.models.diffusion import PointNetwork
from nde.config.numerics import SolverConfig
from nde.diffusion import (
    AbstractInterpolant,
    BridgeInterpolant,
    EncodingDecodingInterpolant,
    KineticInterpolant,
    LinearInterpolant,
    TrigonometricInterpolant,
)
from nde.models import InterpolantModel


def _kinetic(scale: float, facts: PointFacts) -> AbstractInterpolant:
    del scale
    if facts.has_source or facts.kinetic_path is None:
        raise ValueError("interpolant = 'kinetic' is of a path from noise to the data: leave data.source out")
    return KineticInterpolant(facts.kinetic_path[1:], facts.kinetic_path[0])


INTERPOLANTS: dict[str, Callable[[float, PointFacts], AbstractInterpolant]] = {
    "linear": lambda scale, facts: LinearInterpolant(),
    "trigonometric": lambda scale, facts: TrigonometricInterpolant(),
    "kinetic": _kinetic,
    "bridge": lambda scale, facts: BridgeInterpolant(scale),
    "encoding_decoding": lambda scale, facts: EncodingDecodingInterpolant(scale),
}
"""By the name that a config gives, of the noise's scale and of what is known of the data."""


class FlowMatchingSection(PointNetwork):
    """A `nde.InterpolantModel`: of a linear interpolant flow matching, of one with noise a stochastic interpolant.

    - `interpolant`: by name of `INTERPOLANTS`; one with noise has a denoiser, too; `noise_scale`: of its noise.
      `kinetic` is fitted to the data before the training, see `nde.diffusion.KineticInterpolant`.
    - `coupling`: of source and target: `independent`, or `transport` within random batches of `coupling_batch`, each
      class apart.
    - `probes`: of the log-density; left out, it is exact.
    """

    name: Literal["flow_matching"] = "flow_matching"
    interpolant: Literal["linear", "trigonometric", "kinetic", "bridge", "encoding_decoding"] = "linear"
    noise_scale: PositiveFloat = 1.0
    coupling: Literal["independent", "transport"] = "independent"
    coupling_batch: PositiveInt = 256
    probes: PositiveInt | None = None

    title: ClassVar[str] = "flow matching"

    def check_objective(self, objective: Any) -> None:
        if objective.times == "log_snr":
            raise ValueError(
                "objective.times = 'log_snr' is of diffusion models, but this is a flow; take 'logit_normal', say"
            )

    def drawing(self, evaluate: Any) -> dict[str, Any]:
        return {"noise": evaluate.noise, "steps": evaluate.steps}

    def build(self, facts: PointFacts, common: SolverConfig, *, key: PRNGKeyArray) -> InterpolantModel:
        interpolant = INTERPOLANTS[self.interpolant](self.noise_scale, facts)
        keys = jax.random.split(key)
        return InterpolantModel(
            self.network(facts, keys[0]),
            facts.size,
            interpolant,
            denoiser=self.network(facts, keys[1]) if interpolant.is_noisy else None,
            normal=not facts.has_source,
            probes=self.probes,
            numerics=fixed_numerics(self.merged_solver(common), 1.0),
        )
