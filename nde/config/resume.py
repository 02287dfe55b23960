"""What of a run's config may change while it is resumed."""

from collections.abc import Iterator
from typing import Any

from nde.config.run import RunConfig

CHANGEABLE = (
    "train.*", "objective.*", "regularise.*", "solver.*", "model.NAME.solver.*", "evaluate.samples", "evaluate.stack",
)  # fmt: skip
"""How it is trained and how its equations are solved, and neither what is trained nor on what."""

# Members are models; an average began with the training, or there is none; the scores of other validations would be
# compared with those of before; a flow whose end of time is penalised has it as a parameter; and segments have starts
# of their own, which are learned.
FIXED = (
    "regularise.penalties.end_time", "train.ema", "train.members", "train.validation_samples",
    "train.validation_series", "objective.name", "objective.shooting", "objective.segments", "objective.bootstrap",
)  # fmt: skip


def changed_keys(old: RunConfig, new: RunConfig) -> list[str]:
    """The keys whose values differ, such as `train.learning_rate`, in the order of the config."""
    before, after = dict(_flat(old.model_dump())), dict(_flat(new.model_dump()))
    return [key for key in [*after, *(before.keys() - after.keys())] if before.get(key) != after.get(key)]


def may_change(key: str) -> bool:
    """Whether a run may be resumed with another value of a key."""
    parts = key.split(".")
    if parts[0] == "model":
        return len(parts) > 3 and parts[-2] == "solver"
    return key not in FIXED and (key in CHANGEABLE or f"{parts[0]}.*" in CHANGEABLE)


def _flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, tuple | list) and value and isinstance(value[0], dict):  # the [[model]]s, by what they are
            value = {one.get("label") or one["name"]: one for one in value}
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
