"""BasicMotions: four activities, seen by the accelerometer and the gyroscope of a watch."""

import numpy as np
from jaxtyping import Float

from nde.data.datasets.aeon import labelled_parts, load_aeon
from nde.data.datasets.base import Dataset
from nde.data.labelled import LabelledPanel

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
    return load_aeon(
        "BasicMotions", "load_basic_motions", interval=SAMPLING_INTERVAL, channels=MOTION_CHANNELS, time_unit="s"
    )


def labelled_panel(
    train: Float[np.ndarray, "train rows channels"],
    train_names: np.ndarray,
    test: Float[np.ndarray, "test rows channels"],
    test_names: np.ndarray,
) -> LabelledPanel:
    """Two parts of complete series of `MOTION_CHANNELS`, a row each 0.1 s, and the name of each series' class."""
    parts = {"train": (train, train_names), "test": (test, test_names)}
    return labelled_parts(parts, interval=SAMPLING_INTERVAL, channels=MOTION_CHANNELS, time_unit="s")


BASIC_MOTIONS = Dataset(load_basic_motions, "labelled")
