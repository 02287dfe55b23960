"""A table's column of times: kept as it was read, and counted as numbers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

import numpy as np
import polars as pl

from nde.data.cells import advice_on_marks, as_floats, plain
from nde.data.files import Table
from nde.data.iso import parse_iso, write_iso
from nde.data.layout import DATE_UNITS, MISSING, TableFormat

TICKS = {"ms": 10**3, "us": 10**6, "ns": 10**9}
END_OF_DATES = 253_402_300_800
"""The year 10000, in seconds since 1970."""

DAY_CODES = ("%d", "%e", "%j", "%D", "%F", "%x", "%c", "%s", "%v", "%+")
CLOCK_CODES = ("%H", "%I", "%k", "%l", "%M", "%S", "%T", "%R", "%X", "%r", "%c", "%s", "%f", "%.f", "%p", "%P", "%+")


@dataclass(frozen=True)
class TimeColumn:
    """The times of a table's rows, bit for bit, in their own type.

    - `cells`: the times: numbers as they were read, or dates and timestamps.
    - `text`: how they were written, where dates come from text; else `None`.
    - `unit`: in which dates are counted; `None` for numbers.
    - `format`: of dates that are not written as ISO 8601.
    """

    cells: pl.Series
    text: pl.Series | None = None
    unit: str | None = None
    format: str | None = None

    @property
    def ticks(self) -> np.ndarray:
        """The times as numbers whose differences are exact: 64-bit integers, or floats where they are floats."""
        physical = self.cells.to_physical() if self.unit else self.cells
        if physical.dtype.is_integer() and physical.dtype not in (pl.UInt64, pl.Int128):
            return physical.cast(pl.Int64).to_numpy()
        return physical.cast(pl.Float64).to_numpy()

    @property
    def per_unit(self) -> float:
        """Ticks in one unit of the table's time."""
        if self.unit is None:
            return 1
        seconds = DATE_UNITS[self.unit]
        return seconds / 86_400 if self.cells.dtype == pl.Date else seconds * TICKS[_resolution(self.cells.dtype)]

    def _latest(self) -> float:
        """Ticks that no time of this type comes to; of dates the year 10000, as text has four digits for a year."""
        if self.unit is not None:
            return min(END_OF_DATES / DATE_UNITS[self.unit] * self.per_unit, 2.0**63)
        kind = self.cells.dtype
        return 2.0**63 if kind.is_integer() else float(np.finfo(np.float32 if kind == pl.Float32 else np.float64).max)

    def numbers(self) -> np.ndarray:
        """The times in the unit of the table, dates since 1970, rounded to 64 bits."""
        return self.ticks / self.per_unit

    def gather(self, rows: np.ndarray) -> "TimeColumn":
        """The column of some rows alone."""
        return replace(self, cells=self.cells.gather(rows), text=None if self.text is None else self.text.gather(rows))

    def shown(self, rows: np.ndarray, *, as_text: bool) -> pl.Series:
        """The times of some rows as they were read; of dates that were text, the text if `as_text`."""
        kept = self.text if as_text and self.text is not None else self.cells
        return kept.gather(rows)

    def name(self, row: int) -> str:
        """One time as a message shows it."""
        cell = (self.cells if self.text is None else self.text)[int(row)]
        return f"{cell:.15g}" if isinstance(cell, float) else str(cell)

    def extended(self, rows: np.ndarray, steps: Sequence[float]) -> "TimeColumn":
        """The column with a time for each row and step appended: those of the first row first, then of the next.

        They are of the same type: dates move by whole days, timestamps to their own resolution. Only a column of
        integers becomes one of floats where a step is not whole, if that keeps every digit.

        **Raises:** `ValueError` for a step that is less than the resolution of dates, or goes beyond what the type
        holds, or two that are one time in it.
        """
        moves = np.asarray(steps, np.float64) * self.per_unit
        last = moves.max(initial=0.0) + float(self.ticks[rows].max())
        if last >= self._latest():
            raise ValueError(f"a step of {max(steps):g} goes beyond what its times, {self.cells.dtype}, can hold")
        if self.unit is not None:
            whole = np.rint(moves)
            if (whole < 1).any():
                raise ValueError(
                    f"a step of {min(steps):g} {self.unit} is less than what its times, {self.cells.dtype}, tell apart"
                )
            if len(set(whole)) < len(whole):
                raise ValueError(
                    f"two of the steps {', '.join(f'{step:g}' for step in steps)} {self.unit} are one time to the "
                    f"resolution of its times, {self.cells.dtype}; ask for one of them"
                )
            added = (self.ticks[rows][:, None] + whole.astype(np.int64)).ravel()
            cells = pl.concat([self.cells, pl.Series(added).cast(self.cells.dtype).alias(self.cells.name)])
            return replace(self, cells=cells, text=self._texts(cells, rows, len(moves)))
        return replace(self, cells=self._more_numbers(rows, moves))

    def _more_numbers(self, rows: np.ndarray, moves: np.ndarray) -> pl.Series:
        cells, ticks = self.cells, self.ticks
        if ticks.dtype == np.int64:
            whole = (moves == np.rint(moves)).all()
            if whole or np.abs(ticks).max() + moves.max() > 2**53:
                added = (ticks[rows][:, None] + np.rint(moves).astype(np.int64)).ravel()
                return pl.concat([cells.cast(pl.Int64), pl.Series(cells.name, added)])
            cells = cells.cast(pl.Float64)
        # In decimal, so that 0.1 and 0.2 ahead is 0.3, as a person would write it.
        starts, steps = ([Decimal(str(x)) for x in xs] for xs in (cells.gather(rows).to_list(), moves.tolist()))
        added = [float(start + step) for start in starts for step in steps]
        return pl.concat([cells, pl.Series(cells.name, added, pl.Float64).cast(cells.dtype, strict=False)])

    def _texts(self, cells: pl.Series, rows: np.ndarray, count: int) -> pl.Series | None:
        """The text of a longer column: new times are written as those that they follow."""
        if self.text is None:
            return None
        new = cells[len(self.cells) :]
        if self.format is not None:
            return pl.concat([self.text, new.dt.strftime(_for_chrono(self.format))])
        like = self.text.gather(np.repeat(rows, count)).to_list()
        utc = new.cast(pl.Datetime("ns") if _resolution(new.dtype) == "ns" else pl.Datetime("us"))
        fine = utc.to_physical() % 1000 if _resolution(new.dtype) == "ns" else [0] * len(new)
        moments = utc.cast(pl.Datetime("us")).to_list()
        texts = [write_iso(moment, int(ns), old) for moment, ns, old in zip(moments, fine, like, strict=True)]
        return pl.concat([self.text, pl.Series(self.text.name, texts, pl.String)])


def read_times(table: Table, layout: TableFormat) -> TimeColumn:
    """The column of times of a table: numbers, or dates, counted in `layout.unit_of_dates()`.

    **Raises:** `TableError` for a time that is missing, infinite, or neither a number nor a date that can be read.
    """
    name, cells = layout.time, plain(table.cells(layout.time))
    empty = cells.is_null()
    if cells.dtype == pl.String:
        cells = cells.str.strip_chars()
        empty |= cells.is_in([*MISSING, "NaT"]).fill_null(False)
    elif cells.dtype.is_float():
        empty |= cells.is_nan().fill_null(False)
    if empty.any():
        raise table.row_error(_first(empty), name, ": no time; every row needs one.")
    if cells.dtype in (pl.Date, pl.Datetime, pl.Duration):
        return TimeColumn(cells, unit=_unit(table, layout))
    if layout.time_format is not None:
        return _formatted(table, cells.cast(pl.String), layout)
    if cells.dtype == pl.Time:
        raise table.error(f"column '{name}' holds times of day without a date; give dates, or numbers.")
    numbers = as_floats(table, cells, name, layout)
    marked = _advice_on_marks(str(cells[_first(numbers.is_null())]), layout) if numbers.null_count() else None
    if cells.dtype == pl.String and numbers.is_null().all() and len(cells) and marked is None:
        return _dates(table, cells, parse_iso(cells), layout, "neither a number nor a date as ISO 8601 writes it")
    bad = numbers.is_null() | numbers.is_infinite().fill_null(True)
    if bad.any():
        row = _first(bad)
        # A time with a decimal comma is no date that lacks its format.
        advice = marked or "set data.time_format for dates."
        others = "" if numbers.is_null().all() else ", as the other times are"
        raise table.row_error(row, name, f": '{cells[row]}' is no finite number{others}; {advice}")
    return TimeColumn(_typed(cells, numbers))


def _advice_on_marks(cell: str, layout: TableFormat) -> str | None:
    """What to do about a time with a decimal comma; `None` for what may be a date, such as 1.3.2024."""
    if max(cell.count("."), cell.count(",")) > 1:
        return None
    advice = advice_on_marks(cell, layout)
    return f"{advice.removesuffix('.')}; set data.time_format for dates." if advice and "," not in cell else advice


def _typed(cells: pl.Series, numbers: pl.Series) -> pl.Series:
    """Numbers of text as integers where all are."""
    if cells.dtype != pl.String:
        return cells
    if cells.str.contains(r"^[+-]?\d+$").all():
        whole = cells.str.strip_prefix("+").cast(pl.Int64, strict=False)
        return numbers if whole.null_count() else whole
    return numbers


def _formatted(table: Table, cells: pl.Series, layout: TableFormat) -> TimeColumn:
    """Dates of text in the format that the layout names."""
    assert layout.time_format is not None
    code, text = _for_chrono(layout.time_format), cells
    if not any(part in code for part in DAY_CODES):
        code, text = code + " %d", cells + " 01"
    months = ("%m", "%b", "%B", "%h", *DAY_CODES[2:])
    if not any(part in code for part in months):
        code, text = code + " %m", text + " 01"
    clock = any(part in code for part in CLOCK_CODES)
    to_time = text.str.to_datetime if clock else text.str.to_date
    try:
        read = to_time(code, strict=False)
    except pl.exceptions.PolarsError as error:
        why = str(error).splitlines()[0]
        raise table.error(f"data.time_format = '{layout.time_format}' is no format ({why}).") from None
    return _dates(table, cells, read, layout, f"no date of data.time_format = '{layout.time_format}'")


def _dates(table: Table, cells: pl.Series, read: pl.Series, layout: TableFormat, why: str) -> TimeColumn:
    bad = read.is_null()
    if bad.any():
        row = _first(bad)
        advice = "" if layout.time_format else "; set data.time_format, such as '%d.%m.%Y', or write numbers"
        if not layout.time_format and parse_iso(cells.slice(row, 1)).null_count() == 0:
            why = "written with a time zone where others have none, or without one where others have one"
            advice = "; write all alike"
        raise table.row_error(row, layout.time, f": '{cells[row]}' is {why}{advice}.")
    text = table.cells(layout.time).cast(pl.String)
    return TimeColumn(read.alias(layout.time), text, _unit(table, layout), layout.time_format)


def _unit(table: Table, layout: TableFormat) -> str:
    try:
        return layout.unit_of_dates()
    except ValueError as error:
        raise table.error(str(error)) from None


def _for_chrono(code: str) -> str:
    """Python's fraction of a second in the words of polars, which drops it otherwise."""
    return code.replace(".%f", "%.f")


def _resolution(dtype: pl.DataType) -> str:
    return "us" if dtype == pl.Date else dtype.time_unit  # pyright: ignore[reportAttributeAccessIssue]


def _first(flags: pl.Series) -> int:
    return int(flags.arg_true()[0])
