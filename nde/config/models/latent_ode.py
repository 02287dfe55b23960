"""The latent ODE with an ODE-RNN as its encoder: `name = "latent_ode"`."""

from typing import ClassVar, Literal

from jaxtyping import PRNGKeyArray
from pydantic import NonNegativeInt, PositiveInt

from nde.config.models.base import fixed_numerics, ModelSection, SeriesFacts
from nde.config.models.latent_sde import LIKELIHOODS
from nde.config.numerics import SolverConfig
from nde.models import LatentODE


class LatentODEModel(ModelSection):
    """The arguments of `nde.models.LatentODE`, whose defaults hold for what is left out.

    `[solver]` is that of the latent state. Its steps are fixed: `solver.dt0` is a hundredth of the longest series, if
    left out.
    """

    name: Literal["latent_ode"] = "latent_ode"
    state_size: PositiveInt = 10
    width: NonNegativeInt = 16
    depth: PositiveInt = 1
    encoder_size: PositiveInt = 32
    encoder_width: PositiveInt = 32
    likelihood: Literal["student_t", "gaussian"] = "student_t"

    title: ClassVar[str] = "latent ODE"
    tasks: ClassVar[tuple[str, ...]] = ("forecast",)
    default_solver: ClassVar[SolverConfig] = SolverConfig(name="heun")
    moves_end: ClassVar[bool] = False

    def build(self, facts: SeriesFacts, common: SolverConfig, *, key: PRNGKeyArray) -> LatentODE:
        default = self.default_solver.model_copy(update={"dt0": facts.horizon / 100})
        return LatentODE(
            facts.channels,
            self.state_size,
            width=self.width,
            depth=self.depth,
            encoder_size=self.encoder_size,
            encoder_width=self.encoder_width,
            likelihood=LIKELIHOODS[self.likelihood](facts.channels),
            horizon=facts.until,
            numerics=fixed_numerics(self.merged_solver(common, default), facts.until),
            key=key,
        )
