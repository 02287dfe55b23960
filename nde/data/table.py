"""Read a table of irregular observations, long or wide, and say clearly what is wrong with it."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from nde.data.cells import read_names, read_numbers
from nde.data.files import check_columns, read_table, Table
from nde.data.layout import TableFormat
from nde.data.merge import Cells, merge_rows, Series
from nde.data.panel import Panel, TableRows
from nde.data.remarks import remarks
from nde.data.times import read_times, TimeColumn

# The columns that pandas and R write for row numbers: without a name, or by these.
INDEX = re.compile(r"Unnamed: \d+(\.\d+)?|__index_level_\d+__|")


def read_panel(path: Any, layout: TableFormat, *, require_values: bool = True) -> Panel:
    """Read a CSV or Parquet table of irregular observations into a `nde.data.Panel`.

    Rows may come in any order. A row that repeats another's (id, time) is merged with it where the two do not disagree.
    In columns of values empty cells and NA, NaN, null, None or a lone dot are missing, and what `layout.missing` says;
    ids and names of channels may be spelt so. Dates and timestamps become times in `layout.unit_of_dates()`, days
    unless it says otherwise; those with a zone are taken to UTC. Of a long table the rows of channels that are not
    asked for are not read.

    **Arguments:**

    - `path`: a `.csv`, `.tsv` or `.parquet` file, or a frame of polars or pandas.
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
    names = read_names(table, layout.id)
    times = read_times(table, layout)
    row, channel, value = (_long_cells if layout.channel else _wide_cells)(table, layout, channels)
    seen = ~np.isnan(value)
    cells = Cells(names, times, row[seen], channel[seen], value[seen], channels)
    series = _long_enough(table, merge_rows(table, cells, layout), layout, notes)
    if require_values:
        empty = np.isnan(series.values).all(0)
        if empty.any():
            name = channels[int(empty.argmax())]
            raise table.error(f"channel '{name}' has no value at all; leave it out of the channels.")
        notes += remarks(series, channels)
    keys = TableRows(table.frame[layout.id], times, series.padded(series.rows, last=True))
    return _panel(series, channels, times, keys, layout, tuple(notes))


def _channels(table: Table, layout: TableFormat, beside: Sequence[str], notes: list[str]) -> tuple[str, ...]:
    """All columns that can be channels."""
    others = [name for name in table.frame.columns if name not in (layout.id, layout.time, *beside)]
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
    names = read_names(table, layout.channel)
    known = tuple(names.unique(maintain_order=True).to_list())
    channels = layout.channels or known
    absent = [name for name in channels if name not in known]
    if absent and require_values:
        raise table.error(f"column '{layout.channel}' never says '{absent[0]}'; its names are {', '.join(known)}.")
    kept = table.only(names.is_in(list(channels)).to_numpy())
    lost = table.frame[layout.id].n_unique() - kept.frame[layout.id].n_unique()
    if lost:
        notes.append(f"{lost} series have no row of the channels {', '.join(channels)} and are left out.")
    return kept, channels


def _wide_cells(table: Table, layout: TableFormat, channels: tuple[str, ...]) -> tuple[np.ndarray, ...]:
    values = np.stack([read_numbers(table, name, layout) for name in channels], axis=1)
    rows, columns = np.indices(values.shape)
    return rows.ravel(), columns.ravel(), values.ravel()


def _long_cells(table: Table, layout: TableFormat, channels: tuple[str, ...]) -> tuple[np.ndarray, ...]:
    assert layout.channel is not None and layout.value is not None
    names = read_names(table, layout.channel)
    numbers = names.replace_strict(list(channels), np.arange(len(channels)), return_dtype=pl.Int64).to_numpy()
    return np.arange(len(names)), numbers, read_numbers(table, layout.value, layout)


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
    series: Series,
    channels: tuple[str, ...],
    times: TimeColumn,
    keys: TableRows,
    layout: TableFormat,
    notes: tuple[str, ...],
) -> Panel:
    ticks, scale = times.ticks[series.rows], layout.time_scale or 1.0
    # Differences of whole ticks, or of doubles, before anything is rounded to the model's precision.
    since = (ticks - np.repeat(ticks[series.starts], series.lengths)) / times.per_unit
    values = series.padded(series.values)
    mask = series.padded(~np.isnan(series.values))
    return Panel(
        ids=series.ids,
        channels=channels,
        times=series.padded(since / scale, last=True),
        values=np.where(mask, values, 0.0),
        mask=mask,
        lengths=series.lengths,
        origin=times.numbers()[series.rows][series.starts],
        time_scale=scale,
        time_unit=layout.time_unit or times.unit or layout.time,
        notes=notes,
        table=keys,
    )
