"""Read a table of irregular observations, long or wide, and say clearly what is wrong with it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from nde.data.panel import Panel

MISSING = ("", "NA", "NaN", "nan", "null", "NULL", "None", ".")


class TableError(ValueError):
    """A table that can not be read: one line naming the file, the row or the column, and what would be right."""


@dataclass(frozen=True)
class TableFormat:
    """How a table is laid out.

    - `id`: the column that names the series a row belongs to.
    - `time`: the column of times, numbers in any unit.
    - `channels`: the columns of values of a wide table, or the names to take from a long one; `None` for all.
    - `channel`, `value`: the columns of a long table (one row a value). Both `None` for a wide table (one row a time).
    - `time_scale`: units of the time column in one unit of the model's time: 365.25 turns days into years.
    - `time_unit`: what the model's unit of time is called.
    - `min_observations`: series with fewer rows of observations are left out, and a note says so.
    """

    id: str
    time: str
    channels: tuple[str, ...] | None = None
    channel: str | None = None
    value: str | None = None
    time_scale: float = 1.0
    time_unit: str = "time"
    min_observations: int = 1

    def __post_init__(self):
        if (self.channel is None) != (self.value is None):
            raise ValueError("A long table needs both `channel` and `value`; a wide table neither.")
        if not self.time_scale > 0:
            raise ValueError(f"time_scale must be positive, but is {self.time_scale}.")


def read_panel(path: str | Path, layout: TableFormat, *, require_values: bool = True) -> Panel:
    """Read a CSV or Parquet table of irregular observations into a [`nde.data.Panel`][].

    Rows may come in any order. A row that repeats another's (id, time) is merged with it where the two do not disagree.
    Empty cells and NA, NaN, null, None or a lone dot are missing values.

    **Arguments:**

    - `path`: a `.csv` or `.parquet` file.
    - `layout`: which column is what, a [`nde.data.TableFormat`][].
    - `require_values`: whether each channel needs at least one value. False for a table that asks for forecasts.

    **Returns:** a `Panel`, its series in the order of their first appearance in the table.

    **Raises:** `TableError` for a file or a column that is missing, a cell that is no number, a time that is missing or
    infinite, the same (id, time) with different values, a channel without any value.
    """
    path = Path(path)
    table = _read_cells(path)
    _check_columns(path, table, layout)
    cells = _long_cells(path, table, layout, require_values) if layout.channel else _wide_cells(path, table, layout)
    if len(cells.ids) == 0:
        raise TableError(f"{path}: the table has no rows; it needs at least one.")
    return _pack(path, cells, layout, require_values)


@dataclass(frozen=True)
class _Cells:
    """Rows of a table, in its order: `ids (rows,)`, `times (rows,)`, `values (rows, channels)`, nan where missing."""

    ids: np.ndarray
    times: np.ndarray
    values: np.ndarray
    channels: tuple[str, ...]


def _read_cells(path: Path) -> pl.DataFrame:
    if not path.is_file():
        raise TableError(f"{path}: no such file; give the path of a .csv or .parquet table.")
    try:
        if path.suffix == ".csv":
            return pl.read_csv(path, infer_schema=False, null_values=list(MISSING))
        if path.suffix == ".parquet":
            return pl.read_parquet(path)
    except pl.exceptions.PolarsError as error:
        raise TableError(f"{path}: not a readable {path.suffix} table ({str(error).splitlines()[0]}).") from None
    raise TableError(f"{path}: unknown kind of table '{path.suffix}'; use .csv or .parquet.")


def _check_columns(path: Path, table: pl.DataFrame, layout: TableFormat) -> None:
    wanted = [layout.id, layout.time]
    wanted += [layout.channel, layout.value] if layout.channel and layout.value else list(layout.channels or ())
    missing = [name for name in wanted if name not in table.columns]
    if len(set(wanted)) < len(wanted):
        raise TableError(f"{path}: a column is asked for twice among {', '.join(wanted)}; name each once.")
    doubled = [name for name in table.columns if "_duplicated_" in name]
    if doubled:
        raise TableError(f"{path}: two columns have the name '{doubled[0].partition('_duplicated_')[0]}'; rename one.")
    if missing:
        raise TableError(f"{path}: no column '{missing[0]}'; the columns are {', '.join(table.columns)}.")


def _wide_cells(path: Path, table: pl.DataFrame, layout: TableFormat) -> _Cells:
    channels = layout.channels or tuple(c for c in table.columns if c not in (layout.id, layout.time))
    if not channels:
        raise TableError(f"{path}: no column beside '{layout.id}' and '{layout.time}'; give one column a channel.")
    values = np.stack([_numbers(path, table, name) for name in channels], axis=1)
    return _Cells(_names(path, table, layout.id), _times(path, table, layout.time), values, tuple(channels))


def _long_cells(path: Path, table: pl.DataFrame, layout: TableFormat, require_values: bool) -> _Cells:
    assert layout.channel is not None and layout.value is not None
    names = _names(path, table, layout.channel)
    known = tuple(dict.fromkeys(names.tolist()))
    channels = layout.channels or known
    absent = [name for name in channels if name not in known]
    if absent and require_values:
        raise TableError(
            f"{path}: column '{layout.channel}' never says '{absent[0]}'; its names are {', '.join(known)}."
        )
    numbers = _numbers(path, table, layout.value)
    values = np.where(names[:, None] == np.asarray(channels)[None, :], numbers[:, None], np.nan)
    return _Cells(_names(path, table, layout.id), _times(path, table, layout.time), values, channels)


def _names(path: Path, table: pl.DataFrame, column: str) -> np.ndarray:
    try:
        names = table[column].cast(pl.String)
    except pl.exceptions.PolarsError:
        raise TableError(f"{path}: column '{column}' holds {table[column].dtype}; it must hold names.") from None
    if names.null_count():
        row = names.is_null().arg_true()[0]
        raise TableError(f"{path}: row {_row(path, row)}, column '{column}' is empty; every row needs one.")
    return names.to_numpy().astype(str)


def _numbers(path: Path, table: pl.DataFrame, column: str) -> np.ndarray:
    cells = table[column]
    if cells.dtype.is_temporal():
        raise TableError(
            f"{path}: column '{column}' holds {cells.dtype}; turn it into numbers, such as days since a date."
        )
    try:
        numbers = cells.cast(pl.Float64, strict=False) if cells.dtype == pl.String else cells.cast(pl.Float64)
    except pl.exceptions.PolarsError:
        raise TableError(f"{path}: column '{column}' holds {cells.dtype}; it must hold numbers.") from None
    bad = (numbers.is_null() & cells.is_not_null()) | numbers.is_infinite().fill_null(False)
    if bad.any():
        row = bad.arg_true()[0]
        raise TableError(
            f"{path}: row {_row(path, row)}, column '{column}': '{cells[row]}' is no finite number; "
            "write a number, or leave the cell empty where nothing was observed."
        )
    return numbers.fill_null(float("nan")).to_numpy().astype(np.float64)


def _times(path: Path, table: pl.DataFrame, column: str) -> np.ndarray:
    times = _numbers(path, table, column)
    if np.isnan(times).any():
        row = int(np.isnan(times).argmax())
        raise TableError(f"{path}: row {_row(path, row)}, column '{column}': no time; every row needs one.")
    return times


def _row(path: Path, index: int) -> int:
    """The row as an editor numbers it: a CSV file's header is its line 1."""
    return int(index) + (2 if path.suffix == ".csv" else 1)


def _pack(path: Path, cells: _Cells, layout: TableFormat, require_values: bool) -> Panel:
    ids = tuple(dict.fromkeys(cells.ids.tolist()))
    rows = [_merge(path, cells, np.flatnonzero(cells.ids == name), layout) for name in ids]
    counts = np.array([(~np.isnan(values)).any(-1).sum() for _, values in rows])
    notes = []
    few = counts < layout.min_observations
    if few.any():
        notes.append(
            f"{few.sum()} of {len(ids)} series have fewer than {layout.min_observations} observations and are left out."
        )
    elif (counts == 1).any():
        notes.append(f"{(counts == 1).sum()} of {len(ids)} series have a single observation and are kept.")
    kept = np.flatnonzero(~few)
    if len(kept) == 0:
        raise TableError(f"{path}: no series has {layout.min_observations} observations; at least one must.")
    panel = _pad(tuple(ids[i] for i in kept), [rows[i] for i in kept], cells.channels, layout, tuple(notes))
    empty = ~panel.mask.any((0, 1))
    if require_values and empty.any():
        name = cells.channels[int(empty.argmax())]
        raise TableError(f"{path}: channel '{name}' has no value at all; leave it out of the channels.")
    return panel


def _merge(path: Path, cells: _Cells, rows: np.ndarray, layout: TableFormat) -> tuple[np.ndarray, np.ndarray]:
    """One series sorted by time, rows of equal time made one: times `(rows,)`, values `(rows, channels)`."""
    times, first = np.unique(cells.times[rows], return_inverse=True)
    merged = np.full((len(times), len(cells.channels)), np.nan)
    source = np.zeros_like(merged, dtype=int)
    for row, place in zip(rows, first, strict=True):
        new, old = cells.values[row], merged[place]
        clash = (new != old) & ~np.isnan(new) & ~np.isnan(old)
        if clash.any():
            channel = int(clash.argmax())
            raise TableError(
                f"{path}: rows {_row(path, source[place, channel])} and {_row(path, row)} both give "
                f"'{cells.channels[channel]}' of {layout.id} {cells.ids[row]} at {layout.time} {cells.times[row]:g}, "
                f"as {old[channel]:g} and {new[channel]:g}; keep one."
            )
        source[place] = np.where(np.isnan(new), source[place], row)
        merged[place] = np.where(np.isnan(new), old, new)
    return times, merged


def _pad(ids, rows, channels, layout: TableFormat, notes: tuple[str, ...]) -> Panel:
    lengths = np.array([len(times) for times, _ in rows])
    shape = len(ids), int(lengths.max())
    times = np.zeros(shape)
    values = np.full((*shape, len(channels)), np.nan)
    for i, (t, x) in enumerate(rows):
        times[i] = t[-1]
        times[i, : len(t)] = t
        values[i, : len(t)] = x
    mask = ~np.isnan(values)
    origin = times[:, 0].copy()
    return Panel(
        ids=ids,
        channels=tuple(channels),
        times=(times - origin[:, None]) / layout.time_scale,
        values=np.where(mask, values, 0.0),
        mask=mask,
        lengths=lengths,
        origin=origin,
        time_scale=layout.time_scale,
        time_unit=layout.time_unit,
        notes=notes,
    )
