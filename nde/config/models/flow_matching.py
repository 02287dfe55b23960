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
    LinearInterpolant,
    TrigonometricInterpolant,
)
from nde.models import InterpolantModel

INTERPOLANTS: dict[str, Callable[[float], AbstractInterpolant]] = {
    "linear": lambda scale: LinearInterpolant(),
    "trigonometric": lambda scale: TrigonometricInterpolant(),
    "bridge": BridgeInterpolant,
    "encoding_decoding": EncodingDecodingInterpolant,
}
"""By the name that a config gives, of the noise's scale."""


class FlowMatchingSection(PointNetwork):
    """A `nde.InterpolantModel`: of a linear interpolant flow matching, of one with noise a stochastic interpolant.

    - `interpolant`: by name of `INTERPOLANTS`; one with noise has a denoiser, too; `noise_scale`: of its noise.
    - `coupling`: of source and target: `independent`, or `transport` within random batches of `coupling_batch`, each
      class apart.
    - `probes`: of the log-density; left out, it is exact.
    """

    name: Literal["flow_matching"] = "flow_matching"
    interpolant: Literal["linear", "trigonometric", "bridge", "encoding_decoding"] = "linear"
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
        interpolant = INTERPOLANTS[self.interpolant](self.noise_scale)
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
