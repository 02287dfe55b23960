"""Which class an irregular series belongs to: `task = "classify"`."""

from typing import ClassVar, Literal

import pydantic
from pydantic import Field, PositiveFloat, PositiveInt

from nde.config.run import RunConfig
from nde.config.sections import Section
from nde.config.table import TableData


class ClassifyData(TableData):
    """`[data]`: series, as of `nde.config.table.TableData`, each of a class.

    - `label`: the column that holds a series' class, the same in each of its rows; needed for a table of your own.
    - `removed`: the probability with which each value is removed, by `removed_seed`: the same values for every model
      and member.
    - `validation`: a share of each class, chosen by `split_seed`. A data set that was published with a test part keeps
      it; of others `fold` of `folds` is held out, class by class.
    - `horizon`, `observations`: the longest time, and how often a channel is observed until then. Written by `nde fit`,
      as are `classes`, their names: the models take their scales from them.
    """

    shapes: ClassVar[tuple[str, ...]] = ("labelled",)

    label: str | None = None
    removed: float = Field(default=0.0, ge=0, lt=1)
    removed_seed: int = Field(default=0, ge=0, lt=2**32)
    validation: float = Field(default=0.2, gt=0, lt=1)
    classes: tuple[str, ...] | None = None
    horizon: PositiveFloat | None = None
    observations: PositiveFloat | None = None

    @pydantic.model_validator(mode="after")
    def _check_label(self) -> "ClassifyData":
        if self.path is not None and self.label is None:
            raise ValueError("a table of your own needs the name of its column `label`, the class of each series")
        return self


class ClassifyEvaluate(Section):
    r"""`[evaluate]`: of how many `samples` a probability is the mean, in validation too, of a model that draws noise.

    The draws of a series are keyed by its id. They leave a standard error of at most $0.5 / \sqrt{\mathtt{samples}}$.
    """

    samples: PositiveInt = 32


class ClassifyConfig(RunConfig):
    """A whole run of classifiers. What is left out has its default."""

    task: Literal["classify"] = "classify"
    data: ClassifyData
    evaluate: ClassifyEvaluate = ClassifyEvaluate()

    default_model: ClassVar[str] = "neural_cde"
