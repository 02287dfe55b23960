"""Read a table of irregular observations, long or wide, and say clearly what is wrong with it."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from nde.data.cells import plain, read_codes, read_values
from nde.data.files import check_columns, read_table, Table
from nde.data.layout import TableFormat
from nde.data.merge import Block, Cells, merge_rows, Series
from nde.data.panel import Panel, TableRows
from nde.data.remarks import remarks
from nde.data.times import read_times

# The columns that pandas and R write for row numbers: without a name, or by these.
INDEX = re.compile(r"Unnamed: \d+(\.\d+)?|__index_level_\d+__|")


def read_panel(path: Any, layout: TableFormat, *, require_values: bool = True) -> Panel:
    """Read a CSV or Parquet table of irregular observations into a `nde.data.Panel`.

    Rows may come in any order. A row that repeats another's (id, time) is merged with it where the two do not disagree;
    where they do, `layout.duplicates` says what becomes of them. In columns of values empty cells and NA, NaN, null,
    None or a lone dot are missing, and what `layout.missing` says; ids and names of channels may be spelt so. Dates and
    timestamps become times in `layout.unit_of_dates()`, days unless it says otherwise; those with a zone are taken to
    UTC. Of a long table the rows of channels that are not asked for are not read.

    **Memory:** a Parquet file may be longer than it, but the panel of the channels that are asked for must fit. That
    takes 8 bytes a time and, for each channel, 8 and 1 of the mask, or 4 and 1 where all its values are in single
    precision, times the series and the rows of the longest; and 24 bytes a row of the table for its id, its time and
    its place. While a wide file is read there are besides one column of it and, where it is not sorted by series and
    time, 24 bytes a row; of a long one some 60 bytes a value. Files of text are read whole.

    **Arguments:**

    - `path`: a `.csv`, `.tsv` or `.parquet` file, a folder or a pattern of Parquet files, or a frame of polars, lazy or
      not, or of pandas: `nde.data.read_table` says more.
    - `layout`: which column is what, a `nde.data.TableFormat`.
    - `require_values`: whether each channel needs at least one value. False for a table that asks for forecasts.

    **Returns:** a `Panel`, its series in the order of their first appearance in the table.

    **Raises:** `TableError` for a file or a column that is missing, a cell that is no number, a time that is missing or
    infinite, the same (id, time) with different values, a channel without any value.
    """
    return panel_of(read_table(path, layout), layout, require_values=require_values)


def panel_of(table: Table, layout: TableFormat, *, require_values: bool = True, beside: Sequence[str] = ()) -> Panel:
    """The panel of a table whose cells are read, as `nde.data.read_panel` makes it.

    **Arguments:** `table`: from `nde.data.read_table`, or `Table.of_frame` of a polars frame; `beside`: columns
    that are no channels where `layout.channels` is `None`, such as a label.
    """
    check_columns(table, layout)
    notes: list[str] = []
    if layout.channel:
        table, channels = _named_rows(table, layout, require_values, notes)
    else:
        channels = layout.channels or _channels(table, layout, beside, notes)
    if not len(table.frame):
        raise table.error("the table has no rows; it needs at least one.")
    blocks = (_LongBlocks if layout.channel else _WideBlocks)(table, layout, channels)
    cells = Cells(read_codes(table, layout.id), read_times(table, layout), blocks, channels)
    series = _long_enough(table, merge_rows(table, cells, layout), layout, notes)
    if require_values:
        empty = np.isnan(series.values).all(0)
        if empty.any():
            name = channels[int(empty.argmax())]
            raise table.error(f"channel '{name}' has no value at all; leave it out of the channels.")
        notes += remarks(series, channels)
    ids, times, index = table.frame[layout.id], cells.times, series.rows
    if 2 * len(index) < len(ids):  # of a long table only the rows that are the panel's are kept
        ids, times, index = ids.gather(index), times.gather(index), np.arange(len(index))
    series = replace(series, rows=index)
    return _panel(series, channels, TableRows(ids, times, series.padded(index)), layout, tuple(notes))


def _channels(table: Table, layout: TableFormat, beside: Sequence[str], notes: list[str]) -> tuple[str, ...]:
    """All columns that can be channels."""
    others = [name for name in table.columns if name not in (layout.id, layout.time, *beside)]
    channels = tuple(name for name in others if not INDEX.fullmatch(name))
    for name in others:
        if name not in channels:
            notes.append(f"column '{name}' is taken for row numbers, as pandas writes them, and left out.")
    if not channels:
        raise table.error(f"no column beside '{layout.id}' and '{layout.time}'; give one column a channel.")
    return channels


def _named_rows(
    table: Table, layout: TableFormat, require_values: bool, notes: list[str]
) -> tuple[Table, tuple[str, ...]]:
    """The rows of a long table whose channel is asked for, and the channels."""
    assert layout.channel is not None
    names = read_codes(table, layout.channel).names
    channels = layout.channels or tuple(names.to_list())
    known = set(names.to_list())
    absent = [name for name in channels if name not in known]
    if absent and require_values:
        known = table.distinct(layout.channel).cast(pl.String).to_list()
        raise table.error(f"column '{layout.channel}' never says '{absent[0]}'; its names are {', '.join(known)}.")
    kept = table
    if known - set(channels):
        kept = table.only(plain(table.cells(layout.channel)).cast(pl.String).is_in(list(channels)).to_numpy())
    lost = len(table.distinct(layout.id)) - kept.frame[layout.id].n_unique() if layout.channels else 0
    if lost:
        notes.append(f"{lost} series have no row of the channels {', '.join(channels)} and are left out.")
    return kept, channels


@dataclass(frozen=True)
class _WideBlocks:
    """The values of a wide table, a column after another."""

    table: Table
    layout: TableFormat
    channels: tuple[str, ...]

    def __iter__(self) -> Iterator[Block]:
        for number, name in enumerate(self.channels):
            yield Block(read_values(self.table, name, self.layout), number)


@dataclass(frozen=True)
class _LongBlocks:
    """The values of a long table, all as one."""

    table: Table
    layout: TableFormat
    channels: tuple[str, ...]

    def __iter__(self) -> Iterator[Block]:
        assert self.layout.channel is not None and self.layout.value is not None
        names = self.table.cells(self.layout.channel).cast(pl.String)
        numbers = names.cast(pl.Enum(self.channels)).to_physical().to_numpy()
        yield Block(read_values(self.table, self.layout.value, self.layout), numbers)


def _long_enough(table: Table, series: Series, layout: TableFormat, notes: list[str]) -> Series:
    """The series with `min_observations`, and a note on the others."""
    seen = (~np.isnan(series.values)).any(-1)
    counts = np.add.reduceat(seen, series.starts, dtype=int)
    few, count = counts < layout.min_observations, len(series.ids)
    if few.any():
        notes.append(
            f"{few.sum()} of {count} series have fewer than {layout.min_observations} observations and are left out."
        )
    elif (counts == 1).any():
        notes.append(f"{(counts == 1).sum()} of {count} series have a single observation and are kept.")
    if few.all():
        raise table.error(f"no series has {layout.min_observations} observations; at least one must.")
    return series.only(~few)


def _panel(
    series: Series, channels: tuple[str, ...], keys: TableRows, layout: TableFormat, notes: tuple[str, ...]
) -> Panel:
    times, scale = keys.times, layout.time_scale or 1.0
    ticks = times.ticks[series.rows]
    firsts = ticks[series.starts]
    # Differences of whole ticks, or of doubles, before anything is rounded to the model's precision.
    since = (ticks - np.repeat(firsts, series.lengths)) / times.per_unit / scale
    values = series.padded(series.values, fill=np.nan)
    mask = ~np.isnan(values)
    values[~mask] = 0.0
    return Panel(
        ids=series.ids,
        channels=channels,
        times=series.padded(since),
        values=values,
        mask=mask,
        lengths=series.lengths,
        origin=firsts / times.per_unit,
        time_scale=scale,
        time_unit=layout.time_unit or times.unit or layout.time,
        notes=notes,
        table=keys,
    )
