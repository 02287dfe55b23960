"""The cells of a column as names or as numbers."""

from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from nde.data.files import Table
from nde.data.layout import MISSING, TableFormat


def read_names(table: Table, column: str) -> pl.Series:
    """A column of names as text. A name may be spelt like a missing value.

    **Raises:** `TableError` for a cell without one, or a column that can not hold names.
    """
    cells = table.cells(column)
    names, empty = _names(table, column, cells)
    if empty.any():
        raise table.row_error(_first(empty), column, " is empty; every row needs one.")
    return names


def _names(table: Table, column: str, cells: pl.Series) -> tuple[pl.Series, pl.Series]:
    """Cells as text, and which of them hold no name."""
    try:
        names = cells.cast(pl.String)
    except pl.exceptions.PolarsError:
        raise table.error(f"column '{column}' holds {cells.dtype}; it must hold names.") from None
    empty = names.is_null() | (names == "").fill_null(True)
    return names, empty | cells.is_nan().fill_null(True) if cells.dtype.is_float() else empty


@dataclass(frozen=True)
class Coded:
    """A column of names as numbers.

    - `names`: each once, in the order of their first appearance.
    - `codes`: `(rows,)`; the place of each row's name in `names`.
    """

    names: pl.Series
    codes: Int[np.ndarray, " rows"]


def read_codes(table: Table, column: str) -> Coded:
    """A column of names, as `read_names`, in numbers.

    Mostly a series' rows stand together, so names are made and looked up once for each run of equal cells.
    """
    cells = table.cells(column)
    if cells.dtype.is_nested():  # of which equality is no matter of course
        cells = read_names(table, column)
    run = cells.rle_id().to_numpy()
    firsts = np.flatnonzero(np.diff(run, prepend=-1))
    names, empty = _names(table, column, cells.gather(firsts))
    if empty.any():
        raise table.row_error(int(firsts[_first(empty)]), column, " is empty; every row needs one.")
    each = names.unique(maintain_order=True)
    codes = names.replace_strict(each, np.arange(len(each)), return_dtype=pl.Int32).to_numpy()
    return Coded(each, codes[run])


def read_numbers(table: Table, column: str, layout: TableFormat) -> Float[np.ndarray, " rows"]:
    """A column of values, `(rows,)`, nan where one is missing, in double precision; raises what `read_values` does."""
    return read_values(table, column, layout).astype(np.float64, copy=False)


def read_values(table: Table, column: str, layout: TableFormat) -> Float[np.ndarray, " rows"]:
    """A column of values, `(rows,)`, nan where one is missing, in single precision where the table has it so.

    **Raises:** `TableError` for a cell that is neither a finite number nor a mark of a missing value.
    """
    cells = plain(table.cells(column))
    if cells.dtype.is_temporal():
        raise table.error(
            f"column '{column}' holds {cells.dtype}, but values must be numbers; name the columns of values in "
            "data.channels."
        )
    words = [mark for mark in layout.missing if isinstance(mark, str)]
    if cells.dtype == pl.String:
        cells = cells.str.strip_chars()
        cells = pl.select(
            pl.when(cells.is_in([*MISSING, *words])).then(None).otherwise(cells).alias(column)
        ).to_series()
    numbers = as_floats(table, cells, column, layout)
    bad = (numbers.is_null() & cells.is_not_null()) | numbers.is_infinite().fill_null(False)
    if bad.any():
        row = _first(bad)
        raise table.row_error(row, column, f": '{cells[row]}' is no finite number; {_advice(str(cells[row]), layout)}")
    values = numbers.fill_null(float("nan")).to_numpy()
    marks = [float(mark) for mark in layout.missing if not isinstance(mark, str)]
    return np.where(np.isin(values, np.array(marks, values.dtype)), np.nan, values) if marks else values


def as_floats(table: Table, cells: pl.Series, column: str, layout: TableFormat) -> pl.Series:
    """A column as 64-bit numbers, or 32-bit ones where it holds those, null where a cell of text is none."""
    if cells.dtype == pl.String:
        if layout.decimal == ",":
            # A point beside decimal commas would part thousands: 1.234 is not 1.234.
            cells = pl.select(
                pl.when(cells.str.contains(".", literal=True)).then(pl.lit("?")).otherwise(cells)
            ).to_series()
            cells = cells.str.replace(",", ".", literal=True)
        return cells.cast(pl.Float64, strict=False)
    try:
        if not cells.dtype.is_nested():
            return cells if cells.dtype == pl.Float32 else cells.cast(pl.Float64)
    except pl.exceptions.PolarsError:
        pass
    raise table.error(f"column '{column}' holds {cells.dtype}; it must hold numbers.")


def plain(cells: pl.Series) -> pl.Series:
    """Categories as the text that they stand for: their codes would pass for numbers."""
    categories = cells.dtype == pl.Categorical or isinstance(cells.dtype, pl.Enum)
    return cells.cast(pl.String) if categories else cells


def advice_on_marks(cell: str, layout: TableFormat) -> str | None:
    """What to do about a number with a decimal comma, or with marks between thousands; `None` for what is neither."""
    digits = cell.replace(",", "").replace(".", "").removeprefix("-").isdigit()
    if digits and "," in cell and "." in cell:
        return "write it without marks between thousands."
    if digits and "," in cell:
        return "set data.decimal = ',' if it is a decimal comma."
    if digits and "." in cell and layout.decimal == ",":
        return "a point beside data.decimal = ',' would part thousands: write it without, or set data.decimal = '.'."
    return None


def _advice(cell: str, layout: TableFormat) -> str:
    return advice_on_marks(cell, layout) or (
        "write a number, leave the cell empty where nothing was observed, add the mark to data.missing, or name the "
        "columns of values in data.channels."
    )


def _first(flags: pl.Series) -> int:
    return int(flags.arg_true()[0])
