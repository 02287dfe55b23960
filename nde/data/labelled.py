"""A panel whose series belong to classes."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Int

from nde.data.panel import Panel
from nde.data.split import Split


@dataclass(frozen=True)
class LabelledPanel:
    """Series, the class of each, and which of them were published as the test part.

    - `panel`: the series.
    - `labels`: `(series,)`; the number of each series' class in `classes`.
    - `classes`: the names of the classes, sorted.
    - `tested`: `(series,)`; true where a series belongs to the published test part.
    """

    panel: Panel
    labels: Int[np.ndarray, " series"]
    classes: tuple[str, ...]
    tested: Bool[np.ndarray, " series"]

    def __len__(self) -> int:
        return len(self.labels)


def remove_at_random(panel: Panel, share: float, *, seed: int) -> Panel:
    """The panel with each observed value removed with probability `share`, whatever the others.

    **Arguments:** `share`: in [0, 1); `seed`: of the draws. The same panel, share and seed remove the same values.

    **Returns:** a panel with the same rows: those that lost all their values keep their times.

    **Raises:** `ValueError` if `share` is not in [0, 1).

    **Source:** Kidger, Morrill, Foster, Lyons 2020, arXiv 2005.08926, section 4.1, which removes whole rows; single
    values here, so that the channels are out of step.
    """
    if not 0 <= share < 1:
        raise ValueError(f"the share of values to remove must be in [0, 1), but is {share}.")
    kept = np.random.default_rng(seed).random(panel.mask.shape) >= share
    mask = panel.mask & kept
    return replace(panel, mask=mask, values=np.where(mask, panel.values, 0.0))


def split_published(data: LabelledPanel, *, validation: float, seed: int = 0) -> Split:
    """The published test part, and of the published training part a share of each class for validation.

    **Arguments:** `validation`: in (0, 1), rounded to whole series, at least one a class; `seed` of the choice.

    **Raises:** `ValueError` if a class would be without a training or a validation series, or nothing is tested.
    """
    if not 0 < validation < 1:
        raise ValueError(f"validation must be a share in (0, 1), but is {validation}.")
    if not data.tested.any():
        raise ValueError("no series is in the test part, and nothing could be scored.")
    generator = np.random.default_rng(seed)
    train, held = [], []
    for label, name in enumerate(data.classes):
        series = generator.permutation(np.flatnonzero((data.labels == label) & ~data.tested))
        count = max(1, round(validation * len(series)))
        if len(series) - count < 1:
            raise ValueError(
                f"class '{name}' has {len(series)} series outside of the test part, too few for training and "
                f"validation={validation}."
            )
        held.append(series[:count])
        train.append(series[count:])
    return Split(np.sort(np.concatenate(train)), np.sort(np.concatenate(held)), np.flatnonzero(data.tested))
