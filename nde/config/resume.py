"""What of a run's config may change while it is resumed."""

from collections.abc import Iterator
from typing import Any

from nde.config.run import RunConfig

CHANGEABLE = (
    "train.*", "objective.*", "regularise.*", "solver.*", "model.NAME.solver.*", "evaluate.samples", "evaluate.stack",
)  # fmt: skip
"""How it is trained and how its equations are solved, and neither what is trained nor on what."""

# Members are models; an average began with the training, or there is none; the scores of other validations would be
# compared with those of before; what L-BFGS remembers is in the optimiser's state from the start, or is not; a flow
# whose end of time is penalised has it as a parameter; and segments have starts
# of their own, which are learned.
FIXED = (
    "regularise.penalties.end_time", "train.ema", "train.members", "train.polish", "train.polish_method",
    "train.validation_samples",
    "train.validation_series", "objective.name", "objective.shooting", "objective.segments", "objective.bootstrap",
    "objective.curvature", "objective.iterations",
)  # fmt: skip


def changed_keys(old: RunConfig, new: RunConfig) -> list[str]:
    """The keys whose values differ, such as `train.learning_rate`, in the order of the config."""
    before, after = (dict(_flat(_by_label(config))) for config in (old, new))
    return [key for key in [*after, *(before.keys() - after.keys())] if before.get(key) != after.get(key)]


def may_change(key: str) -> bool:
    """Whether a run may be resumed with another value of a key."""
    parts = key.split(".")
    if parts[0] == "model":
        return len(parts) > 3 and parts[-2] == "solver"
    return key not in FIXED and (key in CHANGEABLE or f"{parts[0]}.*" in CHANGEABLE)


def _by_label(config: RunConfig) -> dict[str, Any]:
    """A config as nested dictionaries, its models by what they are called, which no two have in common."""
    tree, labels = config.model_dump(), [section.called() for section in config.model]
    models = dict(zip(labels, tree["model"], strict=True))
    # The order counts: a member's checkpoints lie under its place.
    return {**tree, "model": {"order": tuple(labels), **models}}


def _flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
