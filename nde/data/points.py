"""Points: rows of numbers without a time or an order, each perhaps of a class."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from nde.data.cells import read_names, read_numbers
from nde.data.files import no_column, read_cells
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
    wanted = [*names, *([] if label is None else [label])]
    if len(set(wanted)) < len(wanted):
        raise table.error(f"a column is asked for twice among {', '.join(wanted)}; name each once.")
    for name in wanted:
        if name not in table.frame.columns:
            raise no_column(table, name, wanted)
    if not names:
        raise table.error("there is no column of coordinates; name them in data.columns.")
    points = np.stack([read_numbers(table, name, layout) for name in names], axis=1)
    gone = np.isnan(points)
    if gone.any():
        row, column = (int(i[0]) for i in np.nonzero(gone))
        raise table.row_error(row, names[column], " is empty; a point needs all its coordinates: leave the row out.")
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


MOST_CLASSES = 1000
"""More are numbers, or names of rows."""
