"""What of a run's config may change while it is resumed."""

from collections.abc import Iterator
from typing import Any

from nde.config.sections import RunConfig

CHANGEABLE = (
    "train.*", "objective.*", "regularise.*", "fit.continuity", "fit.continuity_end", "fit.residual_weight",
    "evaluate.samples", "evaluate.stack", "model.max_steps", "model.rtol", "model.atol", "model.dt0", "model.solver",
)  # fmt: skip
"""How it is trained and how its equations are solved, and neither what is trained nor on what."""

# Members are models; an average began with the training, or there is none; the scores of other validations would be
# compared with those of before; and a flow whose end of time is penalised has it as a parameter.
FIXED = (
    "regularise.penalties.end_time",
    "train.ema",
    "train.members",
    "train.validation_samples",
    "train.validation_series",
)


def changed_keys(old: RunConfig, new: RunConfig) -> list[str]:
    """The keys whose values differ, such as `train.learning_rate`, in the order of the config."""
    before, after = dict(_flat(old.model_dump())), dict(_flat(new.model_dump()))
    return [key for key in [*after, *(before.keys() - after.keys())] if before.get(key) != after.get(key)]


def may_change(key: str) -> bool:
    """Whether a run may be resumed with another value of a key."""
    section = key.split(".")[0]
    return key not in FIXED and (key in CHANGEABLE or f"{section}.*" in CHANGEABLE)


def _flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
