"""Classifiers of irregular series, a neural CDE and a GRU with time gaps: `kind = "cde_classifier"`."""

from typing import Literal

import diffrax
import equinox as eqx
import jax
import pydantic
from jaxtyping import PRNGKeyArray
from pydantic import Field, PositiveFloat, PositiveInt

from nde.config.regularise import FIXED_STEPS, RegulariseConfig
from nde.config.sections import RunConfig, Section
from nde.fields import CDEField, PathScaledField
from nde.models import GRUDeltaT, NeuralCDE


class MotionsDataConfig(Section):
    """`[data]`: which series, how much of them is removed, and what part of the training series is for validation.

    `missing` is the probability with which each value is removed, by `missing_seed`: the same values for every model
    and member. `validation` is a share of each class of the published training part, chosen by `split_seed`. `sha256`
    is written by `nde fit` and, where present, must be that of the complete values; so are `channels` and `classes`,
    their names. `id` and `time` are the columns of a table that `nde predict` is given, beside one of each channel.
    """

    dataset: Literal["basic_motions"] = "basic_motions"
    missing: float = Field(default=0.5, ge=0, lt=1)
    missing_seed: int = Field(default=0, ge=0, lt=2**32)
    validation: float = Field(default=0.2, gt=0, lt=1)
    split_seed: int = Field(default=0, ge=0, lt=2**32)
    id: str = "id"
    time: str = "time"
    channels: tuple[str, ...] | None = None
    classes: tuple[str, ...] | None = None
    sha256: str | None = None


class ClassifierModelConfig(Section):
    """`[model]`: the sizes of both classifiers, and how the CDE is solved.

    - `state_size`, `width`, `depth`: of the neural CDE's state and of the hidden layers of its field.
    - `solver`, `dt0`: fixed steps of `dt0`, in the unit of time of the data.
    - `hidden_size`: of the GRU.
    - `horizon`, `observations`: the longest time, and how often a channel is observed until then. Written by `nde fit`:
      the models take their scales from them.
    """

    state_size: PositiveInt = 16
    width: PositiveInt = 32
    depth: PositiveInt = 1
    solver: Literal["euler", "heun", "tsit5"] = "heun"
    dt0: PositiveFloat = 0.1
    hidden_size: PositiveInt = 32
    horizon: PositiveFloat | None = None
    observations: PositiveFloat | None = None


class CDEClassifierConfig(RunConfig):
    """A whole run of the classifiers: `train.members` of each sort. What is left out has its default.

    `[regularise]` is for the neural CDE alone.
    """

    kind: Literal["cde_classifier"] = "cde_classifier"
    data: MotionsDataConfig = MotionsDataConfig()
    model: ClassifierModelConfig = ClassifierModelConfig()
    regularise: RegulariseConfig = RegulariseConfig()

    @pydantic.model_validator(mode="after")
    def _check(self) -> "CDEClassifierConfig":
        solver = self.model.solver
        served = (*FIXED_STEPS, "stiffness") if solver == "tsit5" else FIXED_STEPS
        self.regularise.check(served, f"fixed steps of model.solver = '{solver}'", moves_end=True)
        return self


SOLVERS = {"euler": diffrax.Euler, "heun": diffrax.Heun, "tsit5": diffrax.Tsit5}


def build_cde_classifier(
    config: ClassifierModelConfig, channels: int, classes: int, *, horizon: float = 0.0, key: PRNGKeyArray
) -> NeuralCDE:
    """The neural CDE of a resolved config: logits of the classes from a series of so many channels.

    Over the longest series the clock and each count of observations run to about one, and the values stay as they are.
    It is solved up to the config's horizon, or the one given if that is later.
    """
    assert config.horizon is not None and config.observations is not None
    initial_key, field_key, readout_key = jax.random.split(key, 3)
    path_size = 1 + 2 * channels
    scales = [1 / config.horizon, *[1.0] * channels, *[1 / config.observations] * channels]
    return NeuralCDE(
        eqx.nn.MLP(path_size, config.state_size, config.width, 1, key=initial_key),
        PathScaledField(CDEField(config.state_size, path_size, config.width, config.depth, key=field_key), scales),
        eqx.nn.Linear(config.state_size, classes, key=readout_key),
        solver=SOLVERS[config.solver](),
        controller=diffrax.ConstantStepSize(),
        dt0=config.dt0,
        max_steps=steps_needed(config, horizon),
        scaled=False,  # the field is
    )


def steps_needed(config: ClassifierModelConfig, horizon: float = 0.0) -> int:
    """Fixed steps over the horizon of a resolved config or a later one, with a few to spare for rounding."""
    assert config.horizon is not None
    return int(max(config.horizon, horizon) / config.dt0) + 3


def build_gru_classifier(
    config: ClassifierModelConfig, channels: int, classes: int, *, horizon: float = 0.0, key: PRNGKeyArray
) -> GRUDeltaT:
    """The GRU of a resolved config; its gaps are in units of the mean wait between two observations of a channel.

    It reads series of any length: the horizon says nothing to it.
    """
    del horizon
    assert config.horizon is not None and config.observations is not None
    gap = config.horizon / config.observations
    return GRUDeltaT(channels, config.hidden_size, classes, gap_scale=gap, key=key)
