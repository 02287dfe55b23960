"""Labelled series that the package aeon holds in its own files."""

import importlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from nde.data.arrays import panel_of_arrays
from nde.data.labelled import LabelledPanel
from nde.data.layout import TableError


def load_aeon(name: str, loader: str, *, interval: float, channels: Sequence[str], time_unit: str) -> LabelledPanel:
    """A data set that lies in aeon's wheel: aeon's loader reads it, and is never asked to download anything.

    **Arguments:** `name`: of the data set, for the message; `loader`: of `aeon.datasets`; `interval`: between two rows,
    in `time_unit`; `channels`: their names.

    **Returns:** as `labelled_parts`.

    **Raises:** `TableError` that says what to install if aeon is absent.
    """
    try:
        load = getattr(importlib.import_module("aeon.datasets"), loader)
    except ImportError:
        raise TableError(f"{name} comes with the package aeon; install it by `pip install 'aeon>=1.0'`.") from None
    parts = {part: load(split=part) for part in ("train", "test")}
    return labelled_parts(
        {part: ([np.swapaxes(x, 0, 1) for x in values], names) for part, (values, names) in parts.items()},
        interval=interval,
        channels=channels,
        time_unit=time_unit,
    )


def labelled_parts(
    parts: Mapping[str, tuple[Iterable[np.ndarray], Any]], *, interval: float, channels: Sequence[str], time_unit: str
) -> LabelledPanel:
    """The parts `train` and `test` of complete series, `(rows, channels)` each, and the class names of each.

    **Returns:** a `nde.data.LabelledPanel` with a row each `interval` from time zero; series `train 1`, `train 2`, …
    stand before `test 1`, …, and the classes are sorted, by number where all are numbers.
    """
    ids = [f"{part} {i + 1}" for part, (_, names) in parts.items() for i in range(len(names))]
    series = [values for part in parts.values() for values in part[0]]
    own = np.concatenate([np.asarray(names, str) for _, names in parts.values()])
    classes = sorted(set(own.tolist()), key=lambda name: (int(name), "") if name.isdigit() else (0, name))
    panel = panel_of_arrays(
        [interval * np.arange(len(x)) for x in series], series, ids=ids, channels=channels, time_unit=time_unit
    )
    labels = np.array([classes.index(name) for name in own], np.int32)
    tested = np.array([name.startswith("test ") for name in ids])
    return LabelledPanel(panel, labels, tuple(classes), tested)
