"""A panel whose series belong to classes."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool, Int

from nde.data.cells import read_names
from nde.data.files import read_table
from nde.data.layout import TableError, TableFormat
from nde.data.panel import Panel
from nde.data.split import Split
from nde.data.table import panel_of


@dataclass(frozen=True)
class LabelledPanel:
    """Series, the class of each, and which of them were published as a test part.

    - `panel`: the series.
    - `labels`: `(series,)`; the number of each series' class in `classes`.
    - `classes`: the names of the classes, sorted.
    - `tested`: `(series,)`; true where a series belongs to a published test part; nowhere where there is none.

    **Raises:** `TableError` where the four do not fit each other.
    """

    panel: Panel
    labels: Int[np.ndarray, " series"]
    classes: tuple[str, ...]
    tested: Bool[np.ndarray, " series"]

    def __post_init__(self):
        if not len(self.panel) == len(self.labels) == len(self.tested):
            raise TableError(
                f"a panel of {len(self.panel)} series needs as many labels, and as many flags of what is tested, but "
                f"there are {len(self.labels)} and {len(self.tested)}."
            )
        outside = (self.labels < 0) | (self.labels >= len(self.classes))
        if outside.any():
            where = int(outside.argmax())
            raise TableError(
                f"series '{self.panel.ids[where]}': its label is {self.labels[where]}, but must be in 0 … "
                f"{len(self.classes) - 1}, the numbers of the {len(self.classes)} classes."
            )

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


def read_labelled_panel(path: Any, layout: TableFormat, label: str) -> LabelledPanel:
    """Read a table of series of classes, laid out as for `nde.data.read_panel`, with the class in a column of its own.

    **Arguments:** `path`: a file, or a frame of polars or pandas; `layout`: which column is what; `label`: the column
    that holds the class of a row's series, the same in each of them, text or whatever has one. It is no channel.

    **Returns:** a `nde.data.LabelledPanel` without a published test part; its classes are the sorted texts of the
    labels.

    **Raises:** `TableError` for what `read_panel` refuses, a label that is missing, a series with two, and a single
    class.
    """
    table = read_table(path, layout, beside=(label,))
    if label not in table.columns:
        raise table.error(f"no column '{label}' of labels; the columns are {', '.join(table.columns)}.")
    used = (layout.id, layout.time, layout.channel, layout.value, *(layout.channels or ()))
    if label in used:
        raise table.error(f"the label '{label}' is also asked for as a column of the series; name another.")
    panel = panel_of(table, layout, beside=(label,))
    names = read_names(table, label).str.strip_chars()  # "rest " is "rest"
    rows = pl.DataFrame({"series": read_names(table, layout.id), "label": names}).unique(maintain_order=True)
    double = rows.filter(pl.col("series").is_duplicated())
    if len(double):
        series = double["series"][0]
        first, other = double.filter(pl.col("series") == series)["label"][:2]
        raise table.error(f"series '{series}' has the labels '{first}' and '{other}'; give each series one.")
    found = dict(rows.iter_rows())
    own = [found[name] for name in panel.ids]
    classes, labels = np.unique(own, return_inverse=True)
    if len(classes) < 2:
        raise table.error(f"all series have the label '{classes[0]}'; a classifier needs two classes or more.")
    return LabelledPanel(panel, labels.astype(np.int32), tuple(map(str, classes)), np.zeros(len(panel), bool))


def split_labelled(
    data: LabelledPanel, *, fold: int = 0, folds: int = 5, validation: float = 0.2, seed: int = 0
) -> Split:
    """Divide labelled series, class by class.

    **Arguments:** `fold`, `folds`: which part of each class is tested, so that over all folds each series is tested
    once; a published test part, where there is one, is tested instead. `validation`: a share of the others of each
    class, in (0, 1), rounded to whole series, at least one a class. `seed`: of the choice.

    **Raises:** `ValueError` if a class would be without a training or a validation series, or nothing is tested.
    """
    if not 0 < validation < 1:
        raise ValueError(f"validation must be a share in (0, 1), but is {validation}.")
    if not 0 <= fold < folds:
        raise ValueError(f"fold must be in 0 … {folds - 1} for {folds} folds, but is {fold}.")
    tested = data.tested if data.tested.any() else _fold_of(data, fold, folds, seed)
    generator = np.random.default_rng(seed)
    train, held = [], []
    for label, name in enumerate(data.classes):
        series = generator.permutation(np.flatnonzero((data.labels == label) & ~tested))
        count = max(1, round(validation * len(series)))
        if len(series) - count < 1:
            raise ValueError(
                f"class '{name}' has {len(series)} series outside of the test part, too few for training and "
                f"validation={validation}."
            )
        held.append(series[:count])
        train.append(series[count:])
    return Split(np.sort(np.concatenate(train)), np.sort(np.concatenate(held)), np.flatnonzero(tested))


def _fold_of(data: LabelledPanel, fold: int, folds: int, seed: int) -> np.ndarray:
    """Which series a fold tests: of all, in a random order within the classes, each so manieth."""
    generator = np.random.default_rng([seed, 1])
    order = np.concatenate([generator.permutation(np.flatnonzero(data.labels == k)) for k in range(len(data.classes))])
    tested = np.zeros(len(data), bool)
    tested[order[fold::folds]] = True
    if not tested.any():
        raise ValueError(f"{len(data)} series in {folds} folds leave the test part empty; use fewer folds.")
    return tested
