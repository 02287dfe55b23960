"""Whether the arrays of a panel are series at all, before a model makes something of them."""

from collections.abc import Sequence

import numpy as np

from nde.data.layout import TableError


def check_series(
    times: np.ndarray,
    values: np.ndarray,
    mask: np.ndarray,
    lengths: np.ndarray,
    *,
    ids: Sequence[object],
    channels: Sequence[str],
) -> None:
    """Refuse arrays that are no series of increasing times with finite observed values.

    **Arguments:** those of `nde.data.Panel`, whose invariants these are.

    **Raises:** `TableError`, one line that names the series, the row and, of a value, its time and channel. Rows are
    counted from 0, as arrays are.
    """
    _check_shapes(times, values, mask, lengths, ids, channels)
    rows = np.arange(times.shape[1])
    past = rows >= lengths[:, None]
    _check_times(times, past, lengths, ids)
    bad = past & ((times != times[np.arange(len(ids)), lengths - 1][:, None]) | mask.any(-1))
    if bad.any():
        series, row = _first(bad)
        raise TableError(
            f"{_row(ids, lengths, series, row)} lies past the series' end, where rows must repeat its last time and "
            "hold no observation; correct lengths, times or mask."
        )
    bad = mask & ~np.isfinite(values)
    if bad.any():
        series, row, channel = _first(bad)
        raise TableError(
            f"{_row(ids, lengths, series, row)}, time {times[series, row]:g}, channel '{channels[channel]}': the value "
            f"is {values[series, row, channel]:g}, but marked as observed; where a value is missing the mask must be "
            "False."
        )


def _check_shapes(times, values, mask, lengths, ids, channels) -> None:
    series, count = len(ids), len(channels)
    if times.ndim != 2 or values.shape != (*times.shape, count) or mask.shape != values.shape or len(times) != series:
        raise TableError(
            f"{series} series of {count} channels need times of shape (series, rows), values and mask of shape "
            f"(series, rows, channels), but times have shape {times.shape}, values {values.shape} and the mask "
            f"{mask.shape}."
        )
    if mask.dtype != bool:
        raise TableError(f"a mask is of truth values, True where a value was observed, but its type is {mask.dtype}.")
    bad = (lengths < 1) | (lengths > times.shape[1]) if lengths.shape == (series,) else None
    if bad is None:
        raise TableError(f"{series} series need lengths of shape ({series},), but they have shape {lengths.shape}.")
    if bad.any():
        where = int(bad.argmax())
        raise TableError(
            f"series '{ids[where]}': its length is {lengths[where]}, but must be in 1 … {times.shape[1]}, the "
            "rows that there are."
        )


def _check_times(times, past, lengths, ids) -> None:
    bad = ~np.isfinite(times)
    if bad.any():
        series, row = _first(bad)
        raise TableError(f"{_row(ids, lengths, series, row)}: the time is {times[series, row]:g}; give it a number.")
    bad = (np.diff(times, axis=1) <= 0) & ~past[:, 1:]
    if bad.any():
        series, row = _first(bad)
        before, time = times[series, row : row + 2]
        what = (
            f"repeats that of row {row}; merge the two rows, or leave one out."
            if time == before
            else f"lies before that of row {row}, {before:g}; sort the rows by time."
        )
        raise TableError(f"{_row(ids, lengths, series, row + 1)}: its time, {time:g}, {what}")


def _first(bad: np.ndarray) -> list[int]:
    return [int(i) for i in np.unravel_index(int(bad.argmax()), bad.shape)]


def _row(ids, lengths, series: int, row: int) -> str:
    return f"series '{ids[series]}', row {row} (its rows are 0 … {lengths[series] - 1})"
