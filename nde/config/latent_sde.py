"""A latent SDE of a table of irregular series: `kind = "latent_sde"`, and of a config that names none."""

from pathlib import Path
from typing import Literal

import jax
import pydantic
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from nde.config.regularise import FIXED_STEPS, RegulariseConfig
from nde.config.sections import RunConfig, Section, TrainConfig
from nde.config.table import TableData
from nde.data import pbc_path
from nde.models import LatentSDE
from nde.objectives import ELBO, GaussianLikelihood, StudentTLikelihood
from nde.report import AbstractTask, Landmark, SecondHalf


class DataConfig(TableData):
    """`[data]`: a table, as of `nde.config.table.TableData`, and how its series are divided.

    `log` names channels that are put on a log scale, `units` are for figures. Without a `time_scale` the longest series
    is made ten units of time long, which suits the rates that a model starts from; figures then count in the table's
    own unit. Written by `nde fit`: `span`, the last time of the series that are learned from; and `table_unit`, what
    the time column counts in, where figures are drawn in it.
    """

    dataset: Literal["pbc"] | None = None
    # Needed here, where the section that this one narrows has `None`: the checker would have both alike.
    id: str  # pyright: ignore[reportGeneralTypeIssues]
    time: str  # pyright: ignore[reportGeneralTypeIssues]
    log: tuple[str, ...] = ()
    units: dict[str, str] = Field(default_factory=dict)
    split_seed: int = Field(default=0, ge=0, lt=2**32)
    span: NonNegativeFloat | None = None
    table_unit: str | None = None

    def table_path(self) -> Path:
        return pbc_path() if self.path is None else Path(self.path)


class ModelConfig(Section):
    """`[model]`: the arguments of `nde.models.LatentSDE`, whose defaults hold for what is left out.

    `diffusion_scale = 0` turns the noise off. `horizon` defaults to the longest series, `dt0` to a hundredth of it.
    """

    # Read, for runs of before the kind stood at the top, and no longer written.
    kind: Literal["latent_sde"] = Field(default="latent_sde", exclude=True)
    state_size: PositiveInt = 10
    width: NonNegativeInt = 16
    depth: PositiveInt = 1
    control_width: PositiveInt = 32
    encoder_size: PositiveInt = 32
    diffusion_scale: float = Field(default=0.3, ge=0, lt=2)
    likelihood: Literal["student_t", "gaussian"] = "student_t"
    horizon: PositiveFloat | None = None
    dt0: PositiveFloat | None = None


class ObjectiveConfig(Section):
    """`[objective]`: the ELBO of `nde.objectives.ELBO`, its contexts and the annealing of its KL terms."""

    samples: PositiveInt = 4
    predictive: float = Field(default=0.0, ge=0, le=1)
    whole: float = Field(default=0.3, ge=0, le=1)
    kl_weight: NonNegativeFloat = 1.0
    anneal_steps: NonNegativeInt = 300


class LatentSDETrainConfig(TrainConfig):
    """`[train]`: the loop, the optimiser, and the samples that validation takes.

    `validation_series`: on how many of the validation series, chosen by `data.split_seed`; 0 for all of them.
    """

    validation_samples: int = Field(default=100, ge=2)
    validation_series: NonNegativeInt = 200


class EvaluateConfig(Section):
    """`[evaluate]`: the task that held-out series are scored on, and with how many samples.

    A landmark forecasts from `at` up to `until`, counted from each series' first row in the unit of the table's time
    column. `landmark_at` and `landmark_until` say the same in the model's unit of time (`data.time_unit`), and hold
    where `at` or `until` is left out. `series`: on how many of the test series, chosen by `data.split_seed`; 0 for all
    of them. `stack`: whether forecasts are those of a pool of the model and the baselines, weighted by how each did on
    the validation series, rather than the model's alone; the table of results shows both.
    """

    task: Literal["second_half", "landmark"] = "second_half"
    series: NonNegativeInt = 1000
    stack: bool = True
    at: NonNegativeFloat | None = None
    until: PositiveFloat | None = None
    landmark_at: NonNegativeFloat = 2.0
    landmark_until: PositiveFloat = 5.0
    samples: int = Field(default=200, ge=2)

    def landmark(self, time_scale: float | None) -> tuple[float, float]:
        """From when and up to when a landmark forecasts, in the model's unit of time.

        `time_scale`: units of the table's time column in one of the model's.
        """
        scale = time_scale or 1.0
        at = self.landmark_at if self.at is None else self.at / scale
        until = self.landmark_until if self.until is None else self.until / scale
        if not at < until:
            raise ValueError(
                f"evaluate.at must lie before evaluate.until, but they are {at * scale:g} and {until * scale:g} in the "
                "table's unit of time; give both."
            )
        return at, until


class LatentSDEConfig(RunConfig):
    """A whole run of a latent SDE. What is left out has its default."""

    kind: Literal["latent_sde"] = "latent_sde"
    data: DataConfig
    model: ModelConfig = ModelConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    train: LatentSDETrainConfig = LatentSDETrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    regularise: RegulariseConfig = RegulariseConfig()

    @pydantic.model_validator(mode="after")
    def _check(self) -> "LatentSDEConfig":
        if self.evaluate.samples < self.train.members:
            members, samples = self.train.members, self.evaluate.samples
            raise ValueError(f"evaluate.samples must be at least train.members = {members}, but is {samples}")
        self.regularise.check(FIXED_STEPS, "the fixed steps of a latent SDE", moves_end=False)
        return self


# Names to objects.

LIKELIHOODS = {"student_t": StudentTLikelihood, "gaussian": GaussianLikelihood}


def build_model(config: ModelConfig, channels: int, *, horizon: float, key: jax.Array) -> LatentSDE:
    """The model of a config, for so many channels, solved at least up to `horizon` after a series' first row."""
    planned = horizon if config.horizon is None else config.horizon
    return LatentSDE(
        channels,
        config.state_size,
        width=config.width,
        depth=config.depth,
        control_width=config.control_width,
        encoder_size=config.encoder_size,
        diffusion_scale=config.diffusion_scale or None,
        likelihood=LIKELIHOODS[config.likelihood](channels),
        horizon=max(horizon, planned),
        dt0=planned / 100 if config.dt0 is None else config.dt0,
        key=key,
    )


def build_objective(config: ObjectiveConfig) -> ELBO:
    """The objective of a config."""
    return ELBO(samples=config.samples, predictive=config.predictive)


def build_task(config: EvaluateConfig, time_scale: float | None = None) -> AbstractTask:
    """The task of a config; `time_scale`: units of the table's time column in one of the model's."""
    if config.task == "landmark":
        at, until = config.landmark(time_scale)
        return Landmark(at=at, until=until)
    return SecondHalf()
