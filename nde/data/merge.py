"""Rows of a table in any order to series sorted by time, in time that grows as the rows do."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from nde.data.cells import Coded
from nde.data.files import Table
from nde.data.layout import TableError, TableFormat
from nde.data.times import TimeColumn

SHOWN_CLASHES = 3


class Block(NamedTuple):
    """Values of a table, in the order of its rows; nan where one is missing.

    - `value`: one of each row.
    - `channel`: the number of the channel of all, or that of each.
    """

    value: Float[np.ndarray, " rows"]
    channel: int | Int[np.ndarray, " rows"]


@dataclass(frozen=True)
class Cells:
    """The values of a table.

    - `ids`, `times`: of each row of the table.
    - `blocks`: the values in pieces that share no channel, each made when it is come to; it can be gone through again.
    - `channels`: their names.
    """

    ids: Coded
    times: TimeColumn
    blocks: Iterable[Block]
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
        if chosen.all():
            return self
        kept = np.repeat(chosen, self.lengths)
        ids = tuple(name for name, keep in zip(self.ids, chosen, strict=True) if keep)
        return Series(ids, self.lengths[chosen], self.rows[kept], self.values[kept])

    def padded(self, x: np.ndarray, *, fill: float | None = None) -> np.ndarray:
        """Numbers of each row as `(series, longest, …)`; past the end of a series `fill`, or its last number if `None`.

        Of series of one length it is `x` itself in another shape.
        """
        longest = int(self.lengths.max())
        if (self.lengths == longest).all():
            return x.reshape(len(self.lengths), longest, *x.shape[1:])
        inside = np.arange(longest)[None, :] < self.lengths[:, None]
        out = np.empty((*inside.shape, *x.shape[1:]), x.dtype)
        if fill is None:
            out[:] = x[self.starts + self.lengths - 1][:, None]
        else:
            out[:] = fill
        out[inside] = x
        return out


def merge_rows(table: Table, cells: Cells, layout: TableFormat) -> Series:
    """Sort the rows by series and time, and make those of equal id and time one.

    The values are written where they belong, a block at a time: nothing else of their number is made, and nothing is
    sorted where the table is.

    **Raises:** `TableError` where one channel has different values at one time of one series, unless
    `layout.duplicates` says what becomes of them.
    """
    codes, ticks = cells.ids.codes, cells.times.ticks
    order = _order(codes, ticks)
    new = _differs(codes, ticks, order)
    if order is None and new.all():
        place, rows = None, np.arange(len(codes))
    elif order is None:
        place, rows = np.cumsum(new) - 1, np.flatnonzero(new)
    else:
        place = np.empty(len(order), np.int64)
        place[order] = np.cumsum(new) - 1
        rows = order[new]
    del order
    values = _placed(table, cells, layout, place, len(rows))
    lengths = np.bincount(codes[rows], minlength=len(cells.ids.names))
    return Series(tuple(cells.ids.names.to_list()), lengths, rows, values)


def _order(codes: np.ndarray, ticks: np.ndarray) -> np.ndarray | None:
    """The rows sorted by series and time, those of equal ones as they stand in the table; `None` if all do."""
    later = (codes[1:] > codes[:-1]) | ((codes[1:] == codes[:-1]) & (ticks[1:] >= ticks[:-1]))
    if later.all():
        return None
    keys = pl.select(pl.Series(codes).alias("code"), pl.Series(ticks).alias("tick"))
    return keys.select(pl.arg_sort_by("code", "tick", maintain_order=True)).to_series().to_numpy().astype(np.int64)


def _differs(codes: np.ndarray, ticks: np.ndarray, order: np.ndarray | None) -> np.ndarray:
    """Which rows, sorted, have another series or time than the one before."""
    new = np.zeros(len(codes), bool)
    new[:1] = True
    for x in (codes, ticks):
        x = x if order is None else x[order]
        new[1:] |= x[1:] != x[:-1]
    return new


def _placed(table: Table, cells: Cells, layout: TableFormat, place: np.ndarray | None, count: int) -> np.ndarray:
    """The values at their rows `(count, channels)`; `place`: of each row of the table, `None` if as it stands."""
    values: np.ndarray | None = None
    width, clashes = len(cells.channels), []
    for block in cells.blocks:
        value = block.value
        if values is None:  # of the first block's precision, and of the others' if one has more
            values = np.full((count, width), np.nan, value.dtype)
        elif value.dtype != values.dtype:
            values = values.astype(np.result_type(values, value), copy=False)
        if isinstance(block.channel, int) and len(value) == count:  # no two rows are one
            values[slice(None) if place is None else place, block.channel] = value
            continue
        seen = np.flatnonzero(~np.isnan(value))
        key = (seen if place is None else place[seen]) * width
        key += block.channel if isinstance(block.channel, int) else block.channel[seen]
        clashes.append(_write(values.reshape(-1), key, value[seen], layout.duplicates))
    assert values is not None
    several = np.unique(np.concatenate(clashes)) if clashes else np.array([], int)
    if layout.duplicates == "error" and len(several):
        raise _clashes(table, cells, layout, place, several)
    return values


def _write(values: np.ndarray, key: np.ndarray, value: np.ndarray, duplicates: str) -> np.ndarray:
    """Write values at their places, of which some may be the same, and return those that have different ones."""
    values[key] = value  # of several at one place the last remains
    clash = np.unique(key[values[key] != value])
    if len(clash) and duplicates == "first":
        values[key[::-1]] = value[::-1]
    if len(clash) and duplicates == "mean":
        among = np.flatnonzero(np.isin(key, clash))
        among = among[np.argsort(key[among], kind="stable")]
        starts = np.flatnonzero(np.diff(key[among], prepend=-1))
        values[clash] = np.add.reduceat(value[among], starts) / np.diff(starts, append=len(among))
    return clash


def _clashes(
    table: Table, cells: Cells, layout: TableFormat, place: np.ndarray | None, several: np.ndarray
) -> TableError:
    shown, width = several[:SHOWN_CLASHES], len(cells.channels)
    found: dict[int, list[tuple[int, float]]] = {int(key): [] for key in shown}
    where = np.arange(len(cells.ids.codes)) if place is None else place
    for block in cells.blocks:
        key = where * width + block.channel
        for row in np.flatnonzero(np.isin(key, shown) & ~np.isnan(block.value)):
            found[int(key[row])].append((int(row), float(block.value[row])))
    said = []
    for key, given in found.items():
        first, one = given[0]
        second, two = next((row, value) for row, value in given if value != one)
        said.append(
            f"rows {table.numbers[first]} and {table.numbers[second]} both give '{cells.channels[key % width]}' of "
            f"{layout.id} {cells.ids.names[int(cells.ids.codes[first])]} at {layout.time} {cells.times.name(first)}, "
            f"as {one:.15g} and {two:.15g}"
        )
    more = f"; and so {len(several) - len(said)} more" if len(several) > len(said) else ""
    return table.error(f"{'; '.join(said)}{more}; keep one each, or set data.duplicates = 'mean', 'first' or 'last'.")
