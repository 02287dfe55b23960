"""Rows of a table in any order to series sorted by time, in time that grows as the rows do."""

from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from nde.data.files import Table
from nde.data.layout import TableError, TableFormat
from nde.data.times import TimeColumn

SHOWN_CLASHES = 3


@dataclass(frozen=True)
class Cells:
    """The observed values of a table, in the order of its rows.

    - `ids`, `times`: of each row of the table.
    - `row`, `channel`, `value`: `(values,)`; the row and the number of the channel of each.
    - `channels`: their names.
    """

    ids: pl.Series
    times: TimeColumn
    row: Int[np.ndarray, " values"]
    channel: Int[np.ndarray, " values"]
    value: Float[np.ndarray, " values"]
    channels: tuple[str, ...]


@dataclass(frozen=True)
class Series:
    """All series one after another, each sorted by time, a row for each of its times.

    - `ids`: of each series, in the order of their first appearance.
    - `lengths`: `(series,)`; how many rows each has.
    - `rows`: `(rows,)`; the first row of the table that has this id and time.
    - `values`: `(rows, channels)`; nan where nothing was observed.
    """

    ids: tuple[str, ...]
    lengths: Int[np.ndarray, " series"]
    rows: Int[np.ndarray, " rows"]
    values: Float[np.ndarray, "rows channels"]

    @property
    def starts(self) -> np.ndarray:
        """Where each series starts, `(series,)`."""
        return np.cumsum(self.lengths) - self.lengths

    def only(self, chosen: np.ndarray) -> "Series":
        """The series for which a boolean array is true."""
        kept = np.repeat(chosen, self.lengths)
        ids = tuple(name for name, keep in zip(self.ids, chosen, strict=True) if keep)
        return Series(ids, self.lengths[chosen], self.rows[kept], self.values[kept])

    def padded(self, x: np.ndarray, *, last: bool = False) -> np.ndarray:
        """Numbers of each row as `(series, longest, …)`; zero past the end of a series, or its last number."""
        inside = np.arange(self.lengths.max())[None, :] < self.lengths[:, None]
        out = np.zeros((*inside.shape, *x.shape[1:]), x.dtype)
        out[inside] = x
        if last:
            ends = np.repeat(x[self.starts + self.lengths - 1][:, None], inside.shape[1], axis=1)
            out[~inside] = ends[~inside]
        return out


def merge_rows(table: Table, cells: Cells, layout: TableFormat) -> Series:
    """Sort the rows by series and time, and make those of equal id and time one.

    **Raises:** `TableError` where one channel has different values at one time of one series, unless
    `layout.duplicates` says what becomes of them.
    """
    ids = cells.ids.unique(maintain_order=True)
    codes = cells.ids.replace_strict(ids, np.arange(len(ids)), return_dtype=pl.Int64).to_numpy()
    ticks = cells.times.ticks
    order = np.lexsort((ticks, codes))  # stable: rows of equal id and time stay in the order of the table
    new = np.ones(len(order), bool)
    new[1:] = (codes[order][1:] != codes[order][:-1]) | (ticks[order][1:] != ticks[order][:-1])
    place = np.empty(len(order), int)
    place[order] = np.cumsum(new) - 1
    rows = order[new]
    count = len(cells.channels)
    key = place[cells.row] * count + cells.channel
    values = np.full(len(rows) * count, np.nan)
    if len(key):
        sort = np.lexsort((cells.row, key))
        starts = np.flatnonzero(np.diff(key[sort], prepend=-1))
        values[key[sort][starts]] = _one_each(table, cells, layout, sort, starts)
    lengths = np.bincount(codes[rows], minlength=len(ids))
    return Series(tuple(ids.to_list()), lengths, rows, values.reshape(len(rows), count))


def _one_each(table: Table, cells: Cells, layout: TableFormat, sort: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """One value for each run of `sort` that begins at `starts`: values of the same series, time and channel."""
    values = cells.value[sort]
    clash = np.flatnonzero(np.minimum.reduceat(values, starts) != np.maximum.reduceat(values, starts))
    if layout.duplicates == "error" and len(clash):
        ends = np.append(starts, len(sort))
        raise _clashes(table, cells, layout, [sort[ends[i] : ends[i + 1]] for i in clash[:SHOWN_CLASHES]], len(clash))
    if layout.duplicates == "mean":
        ends = np.append(starts[1:], len(sort))
        means = np.add.reduceat(values, starts) / (ends - starts)
        # Equal values stay what they are, to the last bit.
        one = values[starts]
        one[clash] = means[clash]
        return one
    return values[np.append(starts[1:], len(sort)) - 1]


def _clashes(table: Table, cells: Cells, layout: TableFormat, runs: list[np.ndarray], count: int) -> TableError:
    said = []
    for run in runs:
        other = int(np.flatnonzero(cells.value[run] != cells.value[run[0]])[0])
        one, two = run[0], run[other]
        first, second = cells.row[one], cells.row[two]
        said.append(
            f"rows {table.numbers[first]} and {table.numbers[second]} both give "
            f"'{cells.channels[cells.channel[one]]}' of {layout.id} {cells.ids[int(first)]} at {layout.time} "
            f"{cells.times.name(int(first))}, as {cells.value[one]:.15g} and {cells.value[two]:.15g}"
        )
    more = f"; and so {count - len(said)} more" if count > len(said) else ""
    return table.error(f"{'; '.join(said)}{more}; keep one each, or set data.duplicates = 'mean' or 'last'.")
