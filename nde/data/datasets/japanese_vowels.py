"""JapaneseVowels: which of nine men speaks, from twelve coefficients of a spoken /ae/."""

from nde.data.datasets.aeon import load_aeon
from nde.data.datasets.base import Dataset
from nde.data.labelled import LabelledPanel

FRAME_SHIFT = 6.4
"""Milliseconds from one frame of the analysis to the next."""

VOWEL_CHANNELS = tuple(f"cepstrum {i}" for i in range(1, 13))
"""LPC cepstrum coefficients, which have no unit, in increasing order."""


def load_japanese_vowels() -> LabelledPanel:
    """JapaneseVowels: 640 series of 7 to 29 rows, 270 of them published for training and 370 for testing.

    Nine men said the vowels /a/ and /e/ in succession, 30 times each in the training part and 24 to 88 times in the
    test part. The recording, at 10 kHz, was cut into frames of 25.6 ms, one each 6.4 ms; a row holds the twelve
    cepstrum coefficients of a linear prediction of degree 12 in one frame. The values come with the package aeon (1.0
    or later), which is read and never asked to download anything.

    **Returns:** a `nde.data.LabelledPanel` with times in milliseconds, complete values, rows past a series' end that
    repeat its last time and hold nothing, and the classes `1` … `9`; series `train 1` … `train 270` stand before
    `test 1` … `test 370`.

    **Raises:** `TableError` that says what to install if aeon is absent.

    **Source:** Kudo, Toyama, Shimbo, *Multidimensional curve classification using passing-through regions*, Pattern
    Recognition Letters 20, 1999; UCI Machine Learning Repository, "Japanese Vowels", whose data sets are licensed under
    CC BY 4.0.
    """
    return load_aeon(
        "JapaneseVowels", "load_japanese_vowels", interval=FRAME_SHIFT, channels=VOWEL_CHANNELS, time_unit="ms"
    )


JAPANESE_VOWELS = Dataset(load_japanese_vowels, "labelled")
