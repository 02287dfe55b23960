"""What is odd about the channels of a table that was read, to be said before a model is fitted to them."""

import numpy as np

from nde.data.merge import Series

COUNTED_ROWS = 10  # fewer than this count up by chance


def remarks(series: Series, channels: tuple[str, ...]) -> list[str]:
    """A sentence for channels that never change within a series, and for channels that count rows."""
    inside = np.ones(len(series.rows), bool)
    inside[series.starts] = False  # rows that have one before them in their series
    columns = dict(zip(channels, series.values.T, strict=True))
    fixed = [name for name, column in columns.items() if _never_changes(column, series)]
    counting = [name for name, column in columns.items() if name not in fixed and _counts(column, inside)]
    said = []
    if fixed:
        said.append(
            f"warning: {_quoted(fixed)} never change{'s' if len(fixed) == 1 else ''} within a series, as a site or a "
            "dose would: to leave such columns out, name the others in data.channels."
        )
    if counting:
        said.append(
            f"warning: {_quoted(counting)} count{'s' if len(counting) == 1 else ''} rows: to leave such columns out, "
            "name the others in data.channels."
        )
    return said


def _never_changes(column: np.ndarray, series: Series) -> bool:
    """Whether each series has one value only, which came again twice at least: once is chance."""
    seen = np.flatnonzero(~np.isnan(column))
    of = np.repeat(np.arange(len(series.lengths)), series.lengths)[seen]
    again = of[1:] == of[:-1]
    return bool(again.sum() >= 2 and (column[seen][1:] == column[seen][:-1])[again].all())


def _counts(column: np.ndarray, inside: np.ndarray) -> bool:
    """Whether a column numbers the rows of the table, or those of each series."""
    if len(column) < COUNTED_ROWS or np.isnan(column).any():
        return False
    low = column.min()
    if np.array_equal(np.sort(column), low + np.arange(len(column))):
        return True
    firsts = column[~inside]
    steps = np.diff(column, prepend=np.nan)[inside]
    return bool((firsts == firsts[0]).all() and firsts[0] in (0, 1) and len(steps) and (steps == 1).all())


def _quoted(names: list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
