"""What is added to a training loss so that the equation becomes cheap to solve: `[regularise]`, for any task."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pydantic
from pydantic import Field, NonNegativeFloat, PositiveInt

from nde.config.sections import Section, TrainConfig
from nde.fields import in_precision
from nde.regularise import AbstractRegulariser, PENALTIES, RandomEndTime, Together, weight_schedule
from nde.train import batch_loss, LossFunction


class RegulariseConfig(Section):
    """`[regularise]`: penalties of `nde.regularise` in the training loss, and only there. Empty, there are none.

    - `penalties`: from a name to its weight: `error`, `error_squares`, `stiffness`, `local_error`,
      `local_error_biased`, `kinetic`, `jacobian`, `taylor`; of a flow `end_time`, which makes its end of time learned.
      Not every model and solver serves all of them.
    - `taylor_order`: of the derivative that `taylor` penalises.
    - `random_end_time`: the spread of a `nde.regularise.RandomEndTime`, in (0, 1/2].
    - `anneal`: the share of the weights that is left at the last step of training, to which they fall exponentially.
    """

    penalties: dict[str, NonNegativeFloat] = Field(default_factory=dict)
    taylor_order: PositiveInt = 2
    random_end_time: float | None = Field(default=None, gt=0, le=0.5)
    anneal: float | None = Field(default=None, gt=0, le=1)

    @pydantic.field_validator("penalties")
    @classmethod
    def _check_names(cls, penalties: dict[str, float]) -> dict[str, float]:
        for name in penalties:
            if name not in PENALTIES:
                raise ValueError(f"there is no penalty '{name}'; the penalties are {', '.join(PENALTIES)}")
        return penalties

    @property
    def is_empty(self) -> bool:
        """Whether it asks for nothing."""
        return not self.penalties and self.random_end_time is None

    def check(self, served: Sequence[str], why: str, *, moves_end: bool) -> None:
        """Refuse what a model can not serve with its solver.

        **Arguments:** `served`: the penalties that it can; `why`: it can no other, in words; `moves_end`: whether its
        end of time may move.

        **Raises:** `ValueError`.
        """
        for name in self.penalties:
            if name not in served:
                known = ", ".join(served) or "none"
                raise ValueError(f"regularise.penalties can not have '{name}' with {why}; it serves {known}")
        if self.random_end_time is not None and not moves_end:
            raise ValueError(f"regularise.random_end_time can not be had with {why}; leave it out")


def build_loss(config: RegulariseConfig, train: TrainConfig, objective: Callable[..., Any]) -> LossFunction:
    """The training loss of an objective, the penalties that a config asks for added to it."""
    penalised = partial(objective, regulariser=build_regulariser(config))
    if train.network_dtype is not None:
        return batch_loss(partial(_rounded, penalised, train.network_dtype), share=build_share(config, train))
    return batch_loss(penalised, share=build_share(config, train))


def _rounded(objective: Callable[..., Any], dtype: str, model: Any, *arrays: Any, **options: Any) -> Any:
    """The objective of a model whose networks compute in another precision."""
    return objective(in_precision(model, dtype), *arrays, **options)


def build_regulariser(config: RegulariseConfig) -> AbstractRegulariser | None:
    """The regulariser of a config, its penalties weighted; `None` if it is empty."""
    if config.is_empty:
        return None
    ends = [] if config.random_end_time is None else [RandomEndTime(config.random_end_time)]
    penalties = [PENALTIES[name](config.taylor_order) for name in config.penalties]
    return Together([*ends, *penalties], [*[1.0] * len(ends), *config.penalties.values()])


def build_share(config: RegulariseConfig, train: TrainConfig) -> Callable[[Any], Any]:
    """The share of the weights that counts at a step of training: `step -> share`."""
    return weight_schedule(1.0, config.anneal, max(train.steps - 1, 1))
