"""Points: rows of numbers without a time or an order, each perhaps of a class."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from nde.data.cells import read_names, read_numbers
from nde.data.files import no_column, read_cells, Table
from nde.data.layout import TableFormat


@dataclass(frozen=True)
class PointSet:
    """Points, and what is known of them.

    - `points`: `(points, size)`.
    - `labels`: `(points,)`, the number of each one's class in `classes`; `None` without classes.
    - `classes`: their names, sorted.
    - `columns`: what each coordinate is called; empty for coordinates without names.
    - `cell`: the width of the cell in which a rounded value was spread evenly, in the points' units, `None` for values
      that were not rounded: so that a log-density can be told in bits per dimension.
    - `image`: `(height, width)` of points that are images, row by row.
    """

    points: Float[np.ndarray, "points size"]
    labels: Int[np.ndarray, " points"] | None = None
    classes: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    cell: float | None = None
    image: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self.points)


def as_point_set(points: Any) -> PointSet:
    """Points, or an array of them, as a `nde.data.PointSet`."""
    return points if isinstance(points, PointSet) else PointSet(np.asarray(points))


def read_points(path: Any, *, columns: tuple[str, ...] | None, label: str | None, layout: TableFormat) -> PointSet:
    """The points of a `.csv`, `.tsv` or `.parquet` file, or of a frame of polars or pandas: a row each.

    **Arguments:** `columns`: the coordinates; `None` for all columns but the label; `label`: the column of classes, if
    there is one; `layout`: how the file is written, of which `separator`, `decimal`, `encoding` and `missing` count.

    **Raises:** `TableError` for a file that can not be read, a column that is missing or double, and a cell that is no
    finite number or empty: a point has all its coordinates.
    """
    table = read_cells(path, layout)
    names = [name for name in table.frame.columns if name != label] if columns is None else list(columns)
    _check_columns(table, names, label)
    if not names:
        raise table.error("there is no column of coordinates; name them in data.columns.")
    points = _coordinates(table, names, layout)
    if label is None:
        return PointSet(points, columns=tuple(names))
    own = read_names(table, label)
    classes = tuple(sorted(set(own.to_list()), key=lambda name: (int(name), "") if name.isdigit() else (0, name)))
    if len(classes) > MOST_CLASSES:
        raise table.error(
            f"column '{label}' holds {len(classes)} different values, too many for classes; is it a coordinate?"
        )
    labels = np.array([classes.index(name) for name in own], np.int32)
    return PointSet(points, labels, classes, tuple(names))


@dataclass(frozen=True)
class PointRows:
    """A table whose rows are predicted of, and what of it a model of points is given.

    - `table`: all its cells.
    - `points`: `(rows, columns)`; `labels`: `(rows,)`, the numbers of the rows' classes, `None` where none are asked.
    """

    table: Table
    points: Float[np.ndarray, "rows columns"]
    labels: Int[np.ndarray, " rows"] | None

    def __len__(self) -> int:
        return len(self.table.frame)


def read_point_rows(
    path: Any, *, columns: tuple[str, ...], label: str | None, classes: tuple[str, ...], layout: TableFormat
) -> PointRows:
    """A table with a row for each prediction, of which some columns are a point or a class of those that are known.

    **Arguments:** those of `nde.data.read_points`; `columns`: the coordinates that are read, which may be none;
    `classes`: the names that the column `label` may hold.

    **Raises:** `TableError`, as `nde.data.read_points`, and for a table without rows, and another class.
    """
    table = read_cells(path, layout)
    _check_columns(table, list(columns), label)
    if not len(table.frame):
        raise table.error("has no rows; give one for each point.")
    points = _coordinates(table, list(columns), layout) if columns else np.zeros((len(table.frame), 0))
    if label is None:
        return PointRows(table, points, None)
    places = {name: i for i, name in enumerate(classes)}
    names = read_names(table, label).to_list()
    for row, name in enumerate(names):
        if name not in places:
            known = ", ".join(classes[:SHOWN_CLASSES]) + (", …" if len(classes) > SHOWN_CLASSES else "")
            raise table.row_error(row, label, f": '{name}' is no class of the run; its classes are {known}.")
    return PointRows(table, points, np.array([places[name] for name in names], np.int32))


def _check_columns(table: Table, names: list[str], label: str | None) -> None:
    wanted = [*names, *([] if label is None else [label])]
    if len(set(wanted)) < len(wanted):
        raise table.error(f"a column is asked for twice among {', '.join(wanted)}; name each once.")
    for name in wanted:
        if name not in table.frame.columns:
            raise no_column(table, name, wanted)


def _coordinates(table: Table, names: list[str], layout: TableFormat) -> Float[np.ndarray, "rows columns"]:
    points = np.stack([read_numbers(table, name, layout) for name in names], axis=1)
    gone = np.isnan(points)
    if gone.any():
        row, column = (int(i[0]) for i in np.nonzero(gone))
        raise table.row_error(row, names[column], " is empty; a point needs all its coordinates: leave the row out.")
    return points


SHOWN_CLASSES = 20
MOST_CLASSES = 1000
"""More are numbers, or names of rows."""
