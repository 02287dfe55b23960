"""How a table is laid out and written, and what is said of one that can not be read."""

import codecs
from dataclasses import dataclass
from typing import Literal

MISSING = ("", "NA", "NaN", "nan", "null", "NULL", "None", ".")
"""What stands for a missing value, in columns of values. An id or the name of a channel may be spelt so."""

DATE_UNITS = {"seconds": 1, "minutes": 60, "hours": 3600, "days": 86_400, "weeks": 604_800, "years": 31_557_600}
"""The units that dates can be counted in, in seconds; a year has 365.25 days."""


class TableError(ValueError):
    """A table that can not be read: one line naming the file, the row or the column, and what would be right."""


@dataclass(frozen=True)
class TableFormat:
    """How a table is laid out and written. The same names are keys of `[data]` in a run's config.

    **What is what:**

    - `id`: the column that names the series a row belongs to.
    - `time`: the column of times: numbers in any unit, ISO dates or timestamps, or what `time_format` reads.
    - `channels`: the columns of values of a wide table, or the names to take from a long one. `None` for all, but the
      index columns that pandas writes.
    - `channel`, `value`: the columns of a long table (one row a value). Both `None` for a wide table (one row a time).

    **Time:**

    - `time_scale`: units of the time column in one unit of the model's time: 365.25 turns days into years. One if
      `None`.
    - `time_unit`: what the model's unit of time is called; if `None` the unit of dates, or the name of the time column.
    - `date_unit`: the unit in which dates are counted, one of `DATE_UNITS`: a column of dates is read as if it were
      one of numbers of this unit. If `None`, `time_unit` where it names one and there is no `time_scale`, else days.
    - `time_format`: how dates are written where not as ISO 8601, such as `"%d.%m.%Y"` or `"%m/%d/%Y %H:%M"` (the
      codes of `strptime`). Where it names no day, the first is meant.

    **Values:**

    - `missing`: what else stands for a missing value: numbers, such as -999, or words.
    - `duplicates`: what becomes of several different values of one channel of one series at one time: `"error"`,
      their `"mean"`, or the `"first"` or `"last"` in the order of the rows.
    - `min_observations`: series with fewer rows of observations are left out, and a note says so.

    **The text of a CSV file:**

    - `separator`: what stands between two cells, such as `";"` or `"\\t"`; a comma, or the tab of a `.tsv` file, if
      `None`.
    - `decimal`: `"."` or `","`. Digits in groups, such as 1,234.5, are refused in either.
    - `encoding`: such as `"latin-1"` or `"utf-16"`.
    """

    id: str
    time: str
    channels: tuple[str, ...] | None = None
    channel: str | None = None
    value: str | None = None
    time_scale: float | None = None
    time_unit: str | None = None
    min_observations: int = 1
    date_unit: str | None = None
    time_format: str | None = None
    missing: tuple[float | str, ...] = ()
    duplicates: Literal["error", "mean", "first", "last"] = "error"
    separator: str | None = None
    decimal: str = "."
    encoding: str = "utf-8"

    def __post_init__(self):
        if (self.channel is None) != (self.value is None):
            raise ValueError("A long table needs both `channel` and `value`; a wide table neither.")
        if self.time_scale is not None and not self.time_scale > 0:
            raise ValueError(f"time_scale must be positive, but is {self.time_scale}.")
        if self.date_unit is not None and self.date_unit not in DATE_UNITS:
            raise ValueError(f"date_unit must be one of {', '.join(DATE_UNITS)}, but is '{self.date_unit}'.")
        if self.duplicates not in ("error", "mean", "first", "last"):
            raise ValueError(f"duplicates must be 'error', 'mean', 'first' or 'last', but is '{self.duplicates}'.")
        _check_text(self.separator, self.decimal, self.encoding)

    def columns(self) -> tuple[str, ...] | None:
        """The columns of channels and values; `None` for all but those of the series and the times."""
        return self.channels if self.channel is None or self.value is None else (self.channel, self.value)

    def unit_of_dates(self) -> str:
        """The unit in which a column of dates is counted.

        **Raises:** `TableError` for a `time_unit` that names no unit of dates, where no `time_scale` defines it.
        """
        if self.date_unit is not None:
            return self.date_unit
        if self.time_scale is not None or self.time_unit is None:
            return "days"
        if self.time_unit not in DATE_UNITS:
            raise TableError(
                f"data.time_unit = '{self.time_unit}' is no unit of dates; give one of {', '.join(DATE_UNITS)}, or set "
                f"data.time_scale to the number of days in one '{self.time_unit}'."
            )
        return self.time_unit


def _check_text(separator: str | None, decimal: str, encoding: str) -> None:
    if separator is not None and (len(separator) != 1 or not separator.isascii() or separator in '"\n\r'):
        raise ValueError(f"separator must be one ASCII character, such as ';' or a tab, but is {separator!r}.")
    if decimal not in (".", ","):
        raise ValueError(f"decimal must be '.' or ',', but is {decimal!r}.")
    try:
        codecs.lookup(encoding)
    except LookupError:
        raise ValueError(f"encoding '{encoding}' is not known; try 'utf-8', 'latin-1', 'cp1252' or 'utf-16'.") from None
