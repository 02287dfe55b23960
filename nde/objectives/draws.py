"""Random numbers of many series, each by a generator of its own: what one gets does not depend on the others."""

from collections.abc import Callable, Sequence
from zlib import crc32

import jax
import numpy as np
from jaxtyping import Float, PRNGKeyArray, UInt32

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def series_codes(series: Sequence[object]) -> UInt32[np.ndarray, " series"]:
    """A number for each id, the CRC-32 of its text: the same in every table and process.

    **Limits:** of n series some two have the same number with a probability of n² / 2³³ (a third of a per cent for
    5000). They then share their random numbers, which leaves the law of each as it is.
    """
    return np.array([crc32(str(name).encode()) for name in series], np.uint32)


def draw_by_series(
    draw: Draw, shape: tuple[int, int, int, int], dtype: np.dtype, *, series: Sequence[object], key: PRNGKeyArray
) -> Float[np.ndarray, "samples series rows channels"]:
    """Independent draws, those of a series from a generator seeded by the key and the series' id.

    They are drawn row by row, so that further rows, and other series or another order of them, change none of them;
    another number of samples changes them all.

    **Arguments:** `draw`: `(generator, shape) -> draws`, for a shape that ends in the channels; `shape`: `(samples,
    series, rows, channels)`; `series`: the ids.

    **Raises:** `ValueError` if there is not one id for each series.
    """
    samples, count, rows, channels = shape
    check_ids(series, count)
    words = np.asarray(jax.random.key_data(key)).tolist()
    draws = np.empty(shape, dtype)
    for place, code in enumerate(series_codes(series).tolist()):
        generator = np.random.default_rng([*words, code])
        draws[:, place] = draw(generator, (rows, samples, channels)).swapaxes(0, 1)
    return draws


def check_ids(series: Sequence[object], count: int) -> None:
    """Refuse ids that are not as many as the series."""
    if len(series) != count:
        raise ValueError(f"series must hold one id for each of the {count} series, but has {len(series)}.")
