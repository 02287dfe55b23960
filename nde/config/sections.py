"""What all kinds of runs share: the base of a section, the base of a run, and how it is trained."""

import optax
import pydantic
from pydantic import ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from nde.train import adam_with_warmup, Schedule


class Section(pydantic.BaseModel):
    """A part of a config: unknown keys are errors, and it does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class TrainConfig(Section):
    """`[train]`: the loop and the optimiser. `members` models are trained one after another and forecast together."""

    steps: PositiveInt = 500
    batch_size: PositiveInt = 64
    learning_rate: PositiveFloat = 3e-3
    warmup: NonNegativeInt = 50
    weight_decay: NonNegativeFloat = 1e-4
    clip: PositiveFloat = 1.0
    members: PositiveInt = 1
    validate_every: PositiveInt = 50
    patience: NonNegativeInt = 0
    log_every: PositiveInt = 10


class RunConfig(Section):
    """What every run has, of whatever `kind`. Each kind's own config adds its sections; `seed` decides the rest."""

    kind: str
    seed: int = Field(default=0, ge=0, lt=2**32)
    train: TrainConfig = TrainConfig()


def build_optimiser(config: TrainConfig) -> optax.GradientTransformation:
    """The optimiser of a config."""
    return adam_with_warmup(
        learning_rate=config.learning_rate,
        steps=config.steps,
        warmup=config.warmup,
        weight_decay=config.weight_decay,
        clip=config.clip,
    )


def build_schedule(config: TrainConfig) -> Schedule:
    """When the loop of a config validates and ends."""
    return Schedule(steps=config.steps, every=config.validate_every, patience=config.patience)
