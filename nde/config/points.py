"""`[data]` of points: a data set by name or a table of one's own, the same keys for every task."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import pydantic
from pydantic import Field, PositiveFloat, PositiveInt

from nde.config.sections import Section
from nde.config.table import check_dataset
from nde.data import Dataset, DATASETS, TableFormat


class PointsData(Section):
    """`[data]`: points of a data set of `nde.data.DATASETS` or of a table, and which train, validate and test.

    - `dataset`, or `path`, a `.csv`, `.tsv` or `.parquet` file with a row a point.
    - `points`, `validation_points`, `test_points`: how many of a data set. Of a table the shares `validation` and
      `test` of the rows, at random, and the others train.
    - `seed` of the points, and of that choice; left out, the run's own.
    - `columns`: the coordinates, of a table; all but `label` if left out. `label`: the column of classes.
    - `standardise`: whether each coordinate is brought to mean zero and variance one by the training points; a table's
      is, unless told otherwise. Log-densities and samples are told in the data's own units.
    - `separator`, `decimal`, `encoding`, `missing`: how a table's text is written, see `nde.data.TableFormat`.

    `nde fit` writes what it found: `size`, how long a point is; `columns`; `classes`; `cell` and `image`, see
    `nde.data.PointSet`; `kinetic_path`, the spread and the speeds of a `nde.diffusion.KineticInterpolant`, for a model
    with one; of a table `sha256`, which where present must be that of the file.
    """

    default_dataset: ClassVar[str | None] = None

    dataset: str | None = None
    path: str | None = None
    points: int = Field(default=5000, ge=10)
    validation_points: int = Field(default=1000, ge=10)
    test_points: int = Field(default=5000, ge=10)
    validation: float = Field(default=0.15, gt=0, lt=1)
    test: float = Field(default=0.2, gt=0, lt=1)
    seed: int | None = Field(default=None, ge=0, lt=2**32)
    columns: tuple[str, ...] | None = None
    label: str | None = None
    standardise: bool | None = None
    separator: str | None = None
    decimal: Literal[".", ","] = "."
    encoding: str = "utf-8"
    missing: tuple[float | str, ...] = ()
    size: PositiveInt | None = None
    classes: tuple[str, ...] | None = None
    cell: PositiveFloat | None = None
    image: tuple[PositiveInt, PositiveInt] | None = None
    kinetic_path: tuple[PositiveFloat, ...] | None = None
    sha256: str | None = None

    @pydantic.model_validator(mode="before")
    @classmethod
    def _take_defaults(cls, given: Any) -> Any:
        """What goes with a data set, where the config does not say otherwise."""
        if not isinstance(given, Mapping):
            return given
        if given.get("dataset") is None and given.get("path") is None and cls.default_dataset is not None:
            given = {**given, "dataset": cls.default_dataset}
        name = given.get("dataset")
        defaults = DATASETS[name].defaults if isinstance(name, str) and name in DATASETS else {}
        return {**{key: value for key, value in defaults.items() if key in cls.model_fields}, **given}

    @pydantic.field_validator("dataset")
    @classmethod
    def _check_dataset(cls, name: str | None) -> str | None:
        return name if name is None else check_dataset(name, ("points",))

    @pydantic.model_validator(mode="after")
    def _check_one(self) -> "PointsData":
        if (self.dataset is None) == (self.path is None):
            raise ValueError("give either `dataset` or `path`, and not both")
        if self.path is None and (self.label is not None or self.columns is not None):
            raise ValueError("`columns` and `label` are of a table of your own, with a `path`")
        if self.validation + self.test >= 1:
            raise ValueError(
                f"validation = {self.validation:g} and test = {self.test:g} leave nothing to train on; lower them"
            )
        self.table_format()
        return self

    def made(self) -> Dataset | None:
        """The data set; `None` for a table."""
        return None if self.dataset is None else DATASETS[self.dataset]

    def source_name(self) -> str:
        """What messages call the data."""
        return str(self.dataset or Path(str(self.path)).name)

    def is_standardised(self) -> bool:
        """Whether each coordinate is brought to one scale."""
        return self.path is not None if self.standardise is None else self.standardise

    def table_format(self) -> TableFormat:
        """How the file is written."""
        return TableFormat(
            id="", time="", separator=self.separator, decimal=self.decimal, encoding=self.encoding, missing=self.missing
        )
