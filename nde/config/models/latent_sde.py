"""The latent SDE, with noise or without: `name = "latent_sde"`."""

from typing import ClassVar, Literal

import pydantic
from jaxtyping import PRNGKeyArray
from pydantic import Field, NonNegativeInt, PositiveInt

from nde.config.models.base import fixed_numerics, ModelSection, SeriesFacts
from nde.config.numerics import SolverConfig
from nde.models import LatentSDE
from nde.objectives import GaussianLikelihood, StudentTLikelihood

LIKELIHOODS = {"student_t": StudentTLikelihood, "gaussian": GaussianLikelihood}


class LatentSDEModel(ModelSection):
    """The arguments of `nde.models.LatentSDE`, whose defaults hold for what is left out.

    `diffusion_scale = 0` turns the noise off (for the latent ODE of Rubanova et al. see `latent_ode`).
    `posterior = "marginals"` can be trained without simulation, by `objective.name = "sde_matching"`. Its steps are
    fixed: `solver.dt0` is a hundredth of the longest series, if left out.
    """

    name: Literal["latent_sde"] = "latent_sde"
    state_size: PositiveInt = 10
    width: NonNegativeInt = 16
    depth: PositiveInt = 1
    posterior: Literal["control", "marginals"] = "control"
    control_width: PositiveInt = 32
    encoder_size: PositiveInt = 32
    diffusion_scale: float = Field(default=0.3, ge=0, lt=2)
    likelihood: Literal["student_t", "gaussian"] = "student_t"

    title: ClassVar[str] = "latent SDE"
    tasks: ClassVar[tuple[str, ...]] = ("forecast",)
    default_solver: ClassVar[SolverConfig] = SolverConfig(name="euler")
    moves_end: ClassVar[bool] = False

    def called(self) -> str:
        return self.label or ("latent SDE" if self.diffusion_scale else "latent SDE without noise")

    @pydantic.model_validator(mode="after")
    def _check_posterior(self) -> "LatentSDEModel":
        if self.has_marginals and not self.diffusion_scale:
            raise ValueError("posterior = 'marginals' needs noise: a diffusion_scale above 0")
        return self

    @property
    def has_marginals(self) -> bool:
        return self.posterior == "marginals"

    def build(self, facts: SeriesFacts, common: SolverConfig, *, key: PRNGKeyArray) -> LatentSDE:
        default = self.default_solver.model_copy(update={"dt0": facts.horizon / 100})
        solver = self.merged_solver(common, default)
        if not solver.is_fixed:
            raise ValueError("a latent_sde takes fixed steps: give solver.dt0, and neither solver.rtol nor solver.atol")
        if self.diffusion_scale and solver.name != "euler":
            raise ValueError(f"a latent_sde with noise is solved by solver.name = 'euler', not by '{solver.name}'")
        if self.diffusion_scale and solver.adjoint not in (None, "checkpoint"):
            raise ValueError(f"a latent_sde with noise takes solver.adjoint = 'checkpoint', not '{solver.adjoint}'")
        numerics = fixed_numerics(solver, facts.until, noise=bool(self.diffusion_scale))
        assert numerics.dt0 is not None
        return LatentSDE(
            facts.channels,
            self.state_size,
            width=self.width,
            depth=self.depth,
            posterior=self.posterior,
            control_width=self.control_width,
            encoder_size=self.encoder_size,
            diffusion_scale=self.diffusion_scale or None,
            likelihood=LIKELIHOODS[self.likelihood](facts.channels),
            horizon=max(facts.until, numerics.dt0),
            numerics=numerics,
            key=key,
        )
