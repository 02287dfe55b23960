"""The base of every section of a config, and `[train]`, the same for every task."""

from typing import Any, Literal

import jax
import optax
import pydantic
from pydantic import ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from nde.train import adam_with_warmup, gradient_update, LossFunction, Schedule, Sharing, Update, with_ema


class Section(pydantic.BaseModel):
    """A part of a config: unknown keys are errors, and it does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @pydantic.field_validator("*", mode="before")
    @classmethod
    def _refuse_truths(cls, value: Any, info: pydantic.ValidationInfo) -> Any:
        """No number is `true`, which Python counts as 1."""
        wanted = cls.model_fields[info.field_name or ""].annotation
        if isinstance(value, bool) and wanted not in (bool, bool | None, Any):
            raise ValueError("true and false are no value of this key")
        return value


class TrainConfig(Section):
    """`[train]`: the loop and the optimiser. `members` of each `[[model]]` are trained, and forecast together.

    With `ema`, such as 0.999, the model that is validated and kept is a running average of the parameters, which
    reaches back over some 1 / (1 - ema) steps: see `nde.train.with_ema`.

    `failed`: what becomes of an example, mostly a series, whose solve fails or whose loss or gradient is not finite.
    `leave_out` makes the update without it, names it on the screen and in `metrics.jsonl`, and counts it beside the
    scores (`nde.train.Survival`); `stop` ends the run.

    With `starts` above one each member is trained for `start_steps`, a tenth of the steps if left out, from so many
    starts: the config's own, and others with networks by other keys and parameters drawn over their priors or bounds
    (`nde.fields.draw_parameters`). It goes on from what validates best (`nde.train.best_start`).

    `devices` share each batch, "all" for all that there are, those of all processes together; and each goes through its
    part in `accumulate` turns, which divides the memory of a step by that. Neither changes the update, but by rounding:
    see `nde.train.Sharing`.

    With `by_length`, of forecasts and classes, series of like lengths make up a batch, which is padded to their longest
    and not to that of all series, at most to 1.2 times its rows in the mean; each epoch then has every series once
    (`nde.data.BatchesByLength`). Left out it is so where an epoch has a hundred batches.

    With a `network_dtype` the networks of a model compute in it while they are trained; their parameters, the states of
    equations and the control of errors keep single precision (`nde.fields.in_precision`).
    """

    steps: PositiveInt = 500
    batch_size: PositiveInt = 64
    learning_rate: PositiveFloat = 3e-3
    warmup: NonNegativeInt = 50
    weight_decay: NonNegativeFloat = 1e-4
    clip: PositiveFloat = 1.0
    ema: float | None = Field(default=None, ge=0, lt=1)
    members: PositiveInt = 1
    validate_every: PositiveInt = 50
    patience: NonNegativeInt = 0
    log_every: PositiveInt = 10
    failed: Literal["leave_out", "stop"] = "leave_out"
    starts: PositiveInt = 1
    start_steps: PositiveInt | None = None
    devices: PositiveInt | Literal["all"] = 1
    accumulate: PositiveInt = 1
    by_length: bool | None = None
    network_dtype: Literal["bfloat16"] | None = None

    @property
    def all_steps(self) -> int:
        """The steps of the whole training."""
        return self.steps

    @property
    def steps_of_a_start(self) -> int:
        """How long each of several starts is tried."""
        return self.start_steps or max(1, self.steps // 10)

    @pydantic.model_validator(mode="after")
    def _check_starts(self) -> "TrainConfig":
        if self.start_steps is not None and (self.starts == 1 or self.start_steps > self.steps):
            raise ValueError(
                f"start_steps = {self.start_steps} is of several starts, and at most steps = {self.steps}; "
                f"starts = {self.starts}"
            )
        return self

    def optimiser(self) -> optax.GradientTransformation:
        """What moves the parameters."""
        return adam_with_warmup(
            learning_rate=self.learning_rate,
            steps=self.steps,
            warmup=self.warmup,
            weight_decay=self.weight_decay,
            clip=self.clip,
        )


def build_update(config: TrainConfig, loss: LossFunction, *, counted: bool = True) -> Update:
    """What a step of a config does to lower a loss; `counted`: whether its solves are, see `nde.train.gradient_update`.

    **Raises:** `ValueError` for more devices than there are.
    """
    whole = config.accumulate == 1 and config.devices == 1 and jax.process_count() == 1
    sharing = None if whole else Sharing.among(config.devices, turns=config.accumulate)
    update = gradient_update(loss, config.optimiser(), sharing=sharing, counted=counted)
    return update if config.ema is None else with_ema(update, config.ema)


def build_schedule(config: TrainConfig) -> Schedule:
    """When the loop of a config validates and ends."""
    return Schedule(steps=config.all_steps, every=config.validate_every, patience=config.patience)
