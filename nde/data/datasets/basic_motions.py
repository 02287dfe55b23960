"""BasicMotions: four activities, seen by the accelerometer and the gyroscope of a watch."""

import importlib

import numpy as np
from jaxtyping import Float

from nde.data.datasets.base import Dataset
from nde.data.labelled import LabelledPanel
from nde.data.layout import TableError
from nde.data.panel import Panel

MOTION_CHANNELS = ("accelerometer x", "accelerometer y", "accelerometer z", "gyroscope x", "gyroscope y", "gyroscope z")
"""The six channels, in the order and the (unstated) units of the published files."""

SAMPLING_INTERVAL = 0.1
"""Seconds between two rows."""


def load_basic_motions() -> LabelledPanel:
    """BasicMotions: 80 series of 10 s at 10 Hz, 40 of them published for training and 40 for testing.

    Four students wore a watch while badminton, running, standing or walking, ten series of each in either part. The
    values come with the package aeon (1.0 or later), which is read and never asked to download anything.

    **Returns:** a `nde.data.LabelledPanel` with times in seconds from 0 to 9.9 and complete values; series
    `train 1` … `train 40` stand before `test 1` … `test 40`.

    **Raises:** `TableError` that says what to install if aeon is absent.

    **Source:** Bagnall et al., *The UEA multivariate time series classification archive, 2018*, arXiv 1811.00075.
    """
    try:
        datasets = importlib.import_module("aeon.datasets")
    except ImportError:
        raise TableError("BasicMotions comes with the package aeon; install it by `pip install 'aeon>=1.0'`.") from None
    parts = [datasets.load_basic_motions(split=part) for part in ("train", "test")]
    return labelled_panel(*(part for values, names in parts for part in (np.swapaxes(values, 1, 2), names)))


def labelled_panel(
    train: Float[np.ndarray, "train rows channels"],
    train_names: np.ndarray,
    test: Float[np.ndarray, "test rows channels"],
    test_names: np.ndarray,
) -> LabelledPanel:
    """Two parts of complete series, of `MOTION_CHANNELS`, and the class names of each.

    **Arguments:** values of shape `(series, rows, channels)` with a row each 0.1 s, and for each series the name of its
    class.
    """
    values = np.concatenate([train, test]).astype(np.float64)
    series, rows, _ = values.shape
    classes, labels = np.unique(np.concatenate([train_names, test_names]), return_inverse=True)
    tested = np.arange(series) >= len(train)
    ids = [f"train {i + 1}" for i in range(len(train))] + [f"test {i + 1}" for i in range(len(test))]
    panel = Panel(
        ids=tuple(ids),
        channels=MOTION_CHANNELS,
        times=np.tile(SAMPLING_INTERVAL * np.arange(rows), (series, 1)),
        values=values,
        mask=np.ones(values.shape, bool),
        lengths=np.full(series, rows),
        origin=np.zeros(series),
        time_unit="s",
    )
    return LabelledPanel(panel, labels.astype(np.int32), tuple(str(name) for name in classes), tested)


BASIC_MOTIONS = Dataset(load_basic_motions, "labelled")
