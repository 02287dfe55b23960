"""From a file to a table of cells, with the numbers of its rows as an editor shows them."""

import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from nde.data.layout import TableError, TableFormat


@dataclass(frozen=True)
class Scan:
    """A table of which a column is read when it is asked for, and only then.

    - `frame`: the query; `columns`: the names of all its columns.
    - `rows`: which rows are read, an expression of its columns; `None` for all.
    """

    frame: pl.LazyFrame
    columns: tuple[str, ...]
    rows: pl.Expr | None = None

    def read(self, names: Sequence[str], *, numbered: str | None = None) -> pl.DataFrame:
        """Some of the columns, and of the rows those that are asked for; `numbered`: a column of the rows' numbers.

        polars' streaming engine holds a piece of the file at a time, beside what is kept.
        """
        query = self.frame if numbered is None else self.frame.with_row_index(numbered, offset=1)
        query = query if self.rows is None else query.filter(self.rows)
        chosen = [*names] if numbered is None else [*names, numbered]
        return query.select(chosen).collect(engine="streaming")

    def distinct(self, name: str) -> pl.Series:
        """What a column holds in all rows, each once, in the order of the rows."""
        return self.frame.select(pl.col(name).unique(maintain_order=True)).collect(engine="streaming").to_series()


@dataclass(frozen=True)
class Table:
    """The cells of a table.

    - `source`: what messages call it, its path.
    - `frame`: the cells: text from a CSV file, empty where a cell is, of any type from elsewhere.
    - `numbers`: `(rows,)`, what messages call each row: the line of a CSV file, whose header is line 1.
    - `scan`: where the columns lie that are not in `frame`, and the rows that were left out; `None` if there are none.
    """

    source: str
    frame: pl.DataFrame
    numbers: np.ndarray
    scan: Scan | None = None

    @classmethod
    def of_frame(cls, frame: pl.DataFrame, source: str = "frame") -> "Table":
        """A table that is in memory already. Its rows are counted from 1."""
        return cls(source, frame, _count(len(frame)))

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of all columns, read or not."""
        return tuple(self.frame.columns) if self.scan is None else self.scan.columns

    def cells(self, column: str) -> pl.Series:
        """A column; one that is not held is read from the file, and not kept."""
        if column in self.frame.columns or self.scan is None:
            return self.frame[column]
        try:
            return self.scan.read([column]).to_series()
        except (pl.exceptions.PolarsError, OSError) as error:
            raise _unreadable(self.source, error) from None

    def distinct(self, column: str) -> pl.Series:
        """What a column holds, each once, in the rows that were left out too."""
        return self.frame[column].unique(maintain_order=True) if self.scan is None else self.scan.distinct(column)

    def only(self, rows: np.ndarray) -> "Table":
        """The rows for which a boolean array is true, of the columns that are held."""
        return Table(self.source, self.frame.filter(pl.Series(rows)), self.numbers[rows])

    def error(self, text: str) -> TableError:
        """What is wrong with this table."""
        return TableError(f"{self.source}: {text}")

    def row_error(self, row: int, column: str, text: str) -> TableError:
        """What is wrong with one of its rows, by its index."""
        return self.error(f"row {self.numbers[row]}, column '{column}'{text}")


def as_frame(data: Any) -> pl.DataFrame:
    """A polars frame of a polars or pandas frame; the index of the latter is no column.

    What polars has no type for, such as periods or text between numbers, becomes text.

    **Raises:** `TableError` for anything else, and for two columns of one name.
    """
    if isinstance(data, pl.LazyFrame):
        data = data.collect()
    if isinstance(data, pl.DataFrame):
        objects = [name for name, dtype in data.schema.items() if dtype == pl.Object]
        return data.with_columns(_as_text(name, data[name].to_list()) for name in objects)
    if type(data).__module__.split(".")[0] == "pandas" and hasattr(data, "to_dict") and hasattr(data, "columns"):
        names = [str(name) for name in data.columns]
        doubled = [name for name, count in Counter(names).items() if count > 1]
        if doubled:
            raise TableError(f"data: two columns have the name '{doubled[0]}'; rename one.")
        # By columns, since polars' own way asks for the package pyarrow.
        return pl.DataFrame([_of_pandas(name, data.iloc[:, i]) for i, name in enumerate(names)])
    raise TableError(f"a table is a path or a frame of polars or pandas, but this is a {type(data).__name__}.")


def write_frame(data: Any, path: Path) -> None:
    """Write a frame of polars or pandas as Parquet; a lazy one in pieces, so that it may be longer than memory.

    **Raises:** `TableError` for what is no frame, and for a query that fails.
    """
    if not isinstance(data, pl.LazyFrame):
        as_frame(data).write_parquet(path)
        return
    try:
        data.sink_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise _unreadable("data", error) from None


def _of_pandas(name: str, column: Any) -> pl.Series:
    values = column.to_numpy()
    if values.dtype.kind in "mM":  # with a zone, the zone's instants
        return pl.Series(name, values)
    if values.dtype.kind in "iufb":
        return pl.Series(name, values)
    missing = column.isna().to_numpy()
    cells = [None if gone else value for value, gone in zip(values.tolist(), missing, strict=True)]
    try:
        series = pl.Series(name, cells)
    except (TypeError, OverflowError, pl.exceptions.PolarsError):
        return _as_text(name, cells)
    return _as_text(name, cells) if series.dtype == pl.Object else series


def _as_text(name: str, cells: list[Any]) -> pl.Series:
    return pl.Series(name, [None if cell is None else str(cell) for cell in cells], pl.String)


def read_table(path: Any, layout: TableFormat, beside: Sequence[str] | None = ()) -> Table:
    """Read the cells of a table, and check that the columns of a layout are there.

    Of Parquet files and lazy frames no other columns are read than those of the layout and of `beside`, and no rows of
    a long table whose channels are not asked for. The values of wide Parquet files are read a column at a time, when
    they are asked for. Rows of a CSV file without any content are skipped.

    **Arguments:**

    - `path`: a `.csv`, `.tsv` or `.parquet` file, a folder or a pattern of Parquet files, such as `"tables/*.parquet"`,
      whose rows follow each other in the order of their names; or a frame of polars, lazy or not, or of pandas.
    - `layout`: which column is what.
    - `beside`: other columns to hold, where they are there; `None` for all.

    **Raises:** `TableError` for a file that is missing or can not be read, and for a column that is missing or double.
    """
    files = None if isinstance(path, pl.LazyFrame) else _parquet_files(path)
    if files is None and not isinstance(path, pl.LazyFrame):
        table = read_cells(path, layout)
        check_columns(table, layout)
        return table
    source = "data" if files is None else str(path)
    try:
        frame = path if files is None else pl.scan_parquet(files)
        schema = frame.collect_schema()
        scan = Scan(frame, tuple(schema.names()))
        table = Table(source, pl.DataFrame(schema=schema), _count(0), scan)
        check_columns(table, layout)
        held = [layout.id, layout.time]
        held += (layout.columns() or ()) if files is None or layout.channel else ()
        held += scan.columns if beside is None or (files is None and layout.columns() is None) else beside
        return _collected(table, layout, [name for name in dict.fromkeys(held) if name in scan.columns])
    except (pl.exceptions.PolarsError, OSError) as error:
        raise _unreadable(source, error) from None


def _collected(table: Table, layout: TableFormat, held: list[str]) -> Table:
    """The columns of a table that are to be held, of the rows of the channels that are asked for."""
    scan = table.scan
    assert scan is not None
    names = None if layout.channel is None else table.frame.schema[layout.channel]
    if layout.channels is None or names is None or names.is_nested():
        frame = scan.read(held)
        return Table(table.source, frame, _count(len(frame)), scan)
    # Rows without the name of a channel are read too, to be refused.
    name = pl.col(layout.channel or "")
    text = name if names == pl.String else name.cast(pl.String)
    rows = text.is_in(list(layout.channels)) | text.is_null() | (text == "")
    number = "row"
    while number in scan.columns:
        number += "_"
    scan = replace(scan, rows=rows | name.is_nan() if names.is_float() else rows)
    frame = scan.read(held, numbered=number)
    return Table(table.source, frame.drop(number), frame[number].to_numpy(), scan)


def _parquet_files(path: Any) -> list[Path] | None:
    """The files of a path, a folder or a pattern of Parquet files; `None` for other tables.

    **Raises:** `TableError` for a folder or a pattern without such a file.
    """
    if not isinstance(path, str | Path):
        return None
    path = Path(path)
    if path.is_file():
        return [path] if path.suffix.lower() == ".parquet" else None
    found = table_files(path)
    if not found and (path.is_dir() or any(mark in str(path) for mark in "*?[")):
        raise TableError(f"{path}: no .parquet file is there; give the path of a .csv or .parquet table.")
    return found or None


def table_files(path: str | Path) -> list[Path]:
    """The files that a table consists of, by name: a file itself, the Parquet files of a folder or a pattern."""
    path = Path(path)
    if path.is_file():
        return [path]
    if path.is_dir():
        return sorted(path.glob("*.parquet"))
    return [Path(each) for each in sorted(glob(str(path), recursive=True)) if each.lower().endswith(".parquet")]


def read_cells(path: Any, layout: TableFormat) -> Table:
    """Read all cells of a table as `read_table`, whatever its columns are called."""
    if not isinstance(path, str | Path):
        return Table.of_frame(as_frame(path), "data")
    path = Path(path)
    if not path.is_file():
        raise TableError(f"{path}: no such file; give the path of a .csv or .parquet table.")
    kind = path.suffix.lower()
    if kind not in (".csv", ".tsv", ".parquet"):
        raise TableError(f"{path}: unknown kind of table '{path.suffix}'; use .csv or .parquet.")
    return _read_parquet(path) if kind == ".parquet" else _read_text(path, layout)


def check_columns(table: Table, layout: TableFormat) -> None:
    """Refuse a table that lacks a column of a layout, or from which one is asked for twice."""
    wanted = [layout.id, layout.time, *(layout.columns() or ())]
    if len(set(wanted)) < len(wanted):
        raise table.error(f"a column is asked for twice among {', '.join(wanted)}; name each once.")
    if len(set(layout.channels or ())) < len(layout.channels or ()):
        raise table.error(f"a channel is asked for twice among {', '.join(layout.channels or ())}; name each once.")
    columns = table.columns
    missing = [name for name in wanted if name not in columns]
    if missing:
        raise no_column(table, missing[0], wanted)


def no_column(table: Table, name: str, wanted: list[str]) -> TableError:
    """What is wrong with a table that lacks a column, of those that are `wanted`."""
    columns = table.columns
    text = f"no column '{name}'; the columns are {', '.join(columns)}."
    return table.error(text + _separator_hint(columns, wanted))


SEPARATORS = ((";", "';'"), ("\t", r"'\t'"), ("|", "'|'"), (",", "','"))


def _separator_hint(columns: Sequence[str], wanted: list[str]) -> str:
    """What to do where the header would name the columns if it were split elsewhere."""
    for separator, shown in SEPARATORS:
        header = [cell.strip().strip('"') for name in columns for cell in name.split(separator)]
        if len(header) > len(columns) and set(wanted) <= set(header):
            return f" Its cells seem to be separated by {shown}: set data.separator = {shown}."
    return ""


def _read_parquet(path: Path) -> Table:
    try:
        return Table.of_frame(pl.read_parquet(path), str(path))
    except pl.exceptions.PolarsError as error:
        raise _unreadable(str(path), error) from None


def _unreadable(source: str, error: Exception) -> TableError:
    kind = ".parquet" if source.endswith(".parquet") else "lazy" if source == "data" else "Parquet"
    return TableError(f"{source}: not a readable {kind} table ({str(error).splitlines()[0]}).")


def _count(rows: int) -> np.ndarray:
    return np.arange(1, rows + 1, dtype=np.uint32 if rows < 2**32 - 1 else np.uint64)


def _read_text(path: Path, layout: TableFormat) -> Table:
    text = _decode(path, layout.encoding)
    separator = layout.separator or ("\t" if path.suffix.lower() == ".tsv" else ",")
    if not text.strip():
        raise TableError(f"{path}: not a readable {path.suffix} table (empty); it needs a header and rows.")
    # Empty lines above the header would be taken for a table of one column.
    above = re.match(rf"[\s{re.escape(separator)}]*\n", text)
    skipped = text[: above.end()].count("\n") if above else 0
    text = text[above.end() :] if above else text
    try:
        cells = pl.read_csv(text.encode(), has_header=False, infer_schema=False, separator=separator)
    except pl.exceptions.PolarsError as error:
        reason = _ragged(text, separator, skipped) or f"({str(error).splitlines()[0]})"
        raise TableError(f"{path}: not a readable {path.suffix} table {reason}.") from None
    cells = cells.with_columns(pl.all().fill_null(""))
    numbers = skipped + np.arange(1, len(cells) + 1)
    filled = cells.select(pl.any_horizontal(pl.all().str.strip_chars() != "")).to_series().to_numpy()
    first = int(filled.argmax())
    header = [str(name).strip() for name in cells.row(first)]
    doubled = [name for name, count in Counter(header).items() if count > 1 and name]
    if doubled:
        raise TableError(f"{path}: two columns have the name '{doubled[0]}'; rename one.")
    # Columns without a name are told apart as pandas does it.
    cells.columns = [name or _unnamed(i, header) for i, name in enumerate(header)]
    filled[first] = False
    return Table(str(path), cells, numbers).only(filled)


def _unnamed(column: int, header: list[str]) -> str:
    name = f"Unnamed: {column}"
    return name if name not in header else f"Unnamed: {column}.1"


def _decode(path: Path, encoding: str) -> str:
    """The text of a file, without a byte order mark."""
    data = path.read_bytes()
    if encoding.lower().replace("_", "-") in ("utf-8", "utf8") and data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise TableError(f"{path}: its text is in UTF-16, as Excel writes it; set data.encoding = 'utf-16'.")
    try:
        return data.decode(encoding).removeprefix("\ufeff")
    except UnicodeError as error:
        start = error.start if isinstance(error, UnicodeDecodeError) else 0
        line = data.count(b"\n", 0, start) + 1
        raise TableError(
            f"{path}: row {line} is not text in {encoding}; set data.encoding, such as 'latin-1' or 'cp1252'."
        ) from None


def _ragged(text: str, separator: str, skipped: int) -> str:
    """Where a row has more cells than the header, if one has; `skipped` lines stand above the text."""
    rows = csv.reader(io.StringIO(text), delimiter=separator)
    try:
        header = next(rows)
        width = len(header)
        long = next(((i, len(row)) for i, row in enumerate(rows, start=2 + skipped) if len(row) > width), None)
    except csv.Error:
        return ""
    if long is None:
        return ""
    for other, shown in SEPARATORS:
        if other != separator and len(separator.join(header).split(other)) > width:
            decimal = " and, for numbers with a decimal comma, data.decimal = ','" if separator == "," else ""
            return (
                f"(row {long[0]} has {long[1]} cells, the header {width}); its cells seem to be separated by {shown}: "
                f"set data.separator = {shown}{decimal}"
            )
    return (
        f"(row {long[0]} has {long[1]} cells, the header {width}); numbers with a decimal comma need quotes or another "
        "separator, with data.decimal = ',' and data.separator"
    )
