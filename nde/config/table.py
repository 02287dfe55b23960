"""`[data]` of a run that reads a table: the same keys for every kind of run."""

from pathlib import Path
from typing import Literal

import pydantic
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from nde.config.sections import Section
from nde.data import TableFormat

DateUnit = Literal["seconds", "minutes", "hours", "days", "weeks", "years"]


class TableData(Section):
    """`[data]`: the table, how it is laid out and written, and which fold of its series is held out.

    Give either `dataset`, data that ship with nde or are made, or `path`, a `.csv`, `.tsv` or `.parquet` file. The
    other keys are those of `nde.data.TableFormat`, where they are explained. `nde fit` writes what it found in
    place of what was left out: `channels`, `time_scale`, `time_unit`, for times that are dates `date_unit`, and
    `sha256`, which where present must be that of the file.
    """

    dataset: str | None = None
    path: str | None = None
    id: str | None = None
    time: str | None = None
    channels: tuple[str, ...] | None = None
    channel: str | None = None
    value: str | None = None
    time_scale: PositiveFloat | None = None
    time_unit: str | None = None
    date_unit: DateUnit | None = None
    time_format: str | None = None
    missing: tuple[float | str, ...] = ()
    duplicates: Literal["error", "mean", "last"] = "error"
    min_observations: PositiveInt = 1
    separator: str | None = None
    decimal: Literal[".", ","] = "."
    encoding: str = "utf-8"
    fold: NonNegativeInt = 0
    folds: int = Field(default=5, ge=2)
    validation: float = Field(default=0.15, gt=0, lt=1)
    sha256: str | None = None

    @pydantic.model_validator(mode="after")
    def _check_table(self) -> "TableData":
        if (self.dataset is None) == (self.path is None):
            raise ValueError("give either `dataset` or `path`, and not both")
        if (self.channel is None) != (self.value is None):
            raise ValueError("a long table needs both `channel` and `value`, a wide one neither")
        if self.path is not None and (self.id is None or self.time is None):
            raise ValueError("a table of your own needs the names of its columns `id` and `time`")
        if self.fold >= self.folds:
            raise ValueError(f"fold must be below folds = {self.folds}, but is {self.fold}")
        if self.id is not None and self.time is not None:
            self.table_format()
        return self

    def table_path(self) -> Path | None:
        """The file that is read, `None` for data that are made."""
        return None if self.path is None else Path(self.path)

    def table_format(self) -> TableFormat:
        """How the file is laid out and written."""
        assert self.id is not None and self.time is not None
        return TableFormat(
            id=self.id,
            time=self.time,
            channels=self.channels,
            channel=self.channel,
            value=self.value,
            time_scale=self.time_scale,
            time_unit=self.time_unit,
            date_unit=self.date_unit,
            time_format=self.time_format,
            missing=self.missing,
            duplicates=self.duplicates,
            min_observations=self.min_observations,
            separator=self.separator,
            decimal=self.decimal,
            encoding=self.encoding,
        )
