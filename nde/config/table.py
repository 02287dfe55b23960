"""`[data]` of series: a data set by name or a table of one's own, the same keys for every task."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import pydantic
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from nde.config.sections import Section
from nde.data import Dataset, DATASETS, TableFormat

DateUnit = Literal["seconds", "minutes", "hours", "days", "weeks", "years"]


class TableData(Section):
    """`[data]`: series, how their table is laid out and written, and which fold of them is held out.

    Give either `dataset`, a name of `nde.data.DATASETS`, or `path`, a `.csv`, `.tsv` or `.parquet` file, or a folder or
    a pattern of Parquet files, such as `tables/*.parquet`, of which only what is asked for is read. A data set brings
    keys of its own, which hold where they are left out; one that is made, not shipped, is made from `seed`. The other
    keys are those of `nde.data.TableFormat`, where they are explained. Fold `fold` of `folds` is held out, by
    `split_seed`, and of the others a share `validation` chooses the best model. `nde fit` writes what it found in place
    of what was left out: `channels`, `time_scale`, `time_unit`, for times that are dates `date_unit`, and `sha256`,
    which where present must be that of the data.
    """

    shapes: ClassVar[tuple[str, ...]] = ("series", "labelled")
    """Which data sets serve."""

    dataset: str | None = None
    seed: int = Field(default=0, ge=0, lt=2**32)
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
    duplicates: Literal["error", "mean", "first", "last"] = "error"
    min_observations: PositiveInt = 1
    separator: str | None = None
    decimal: Literal[".", ","] = "."
    encoding: str = "utf-8"
    fold: NonNegativeInt = 0
    folds: int = Field(default=5, ge=2)
    validation: float = Field(default=0.15, gt=0, lt=1)
    split_seed: int = Field(default=0, ge=0, lt=2**32)
    sha256: str | None = None

    @pydantic.model_validator(mode="before")
    @classmethod
    def _take_defaults(cls, given: Any) -> Any:
        """What goes with a data set, where the config does not say otherwise."""
        name = given.get("dataset") if isinstance(given, Mapping) else None
        if not isinstance(name, str) or name not in DATASETS:
            return given  # which is checked later
        defaults = DATASETS[name].defaults
        return {**{key: value for key, value in defaults.items() if key in cls.model_fields}, **given}

    @pydantic.field_validator("dataset")
    @classmethod
    def _check_dataset(cls, name: str | None) -> str | None:
        return name if name is None else check_dataset(name, cls.shapes)

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

    def made(self) -> Dataset | None:
        """The data set that is no table; `None` for a table."""
        dataset = None if self.dataset is None else DATASETS[self.dataset]
        return dataset if dataset is not None and dataset.path is None else None

    def table_path(self) -> Path | None:
        """The file that is read, `None` for data that are none."""
        if self.path is not None:
            return Path(self.path)
        shipped = None if self.dataset is None else DATASETS[self.dataset].path
        return None if shipped is None else shipped()

    def source(self) -> str:
        """What messages call the data."""
        return str(self.dataset or self.path)

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


def check_dataset(name: str, shapes: tuple[str, ...]) -> str:
    """The name of a data set of one of the shapes.

    **Raises:** `ValueError` for another.
    """
    able = ", ".join(known for known, dataset in DATASETS.items() if dataset.shape in shapes)
    if name not in DATASETS:
        raise ValueError(f"there is no data set '{name}'; those of this task are {able}")
    if DATASETS[name].shape not in shapes:
        raise ValueError(f"the data set '{name}' holds {DATASETS[name].shape}; those of this task are {able}")
    return name
