"""What a run is for: for each value of `task` in a config, its data, scores, figures and predictions.

A task joins a data set, models, an objective and scores. It knows models by a Protocol and data by their shape.

**To add a task** `x`: a config class in `nde/config/x.py`, entered in `CONFIGS` of `nde/config/parse.py`, and a module
or folder here with a `class XTask(AbstractTask)`, entered in `TASKS`.
"""

from nde.tasks.base import (
    AbstractTask as AbstractTask,
    Examples as Examples,
    member_key as member_key,
    new_model as new_model,
    OpenedRun as OpenedRun,
    predicting as predicting,
    Prediction as Prediction,
    RunError as RunError,
    RunFailed as RunFailed,
)
from nde.tasks.classify import ClassifyTask as ClassifyTask
from nde.tasks.density import DensityTask as DensityTask
from nde.tasks.dynamics import DynamicsTask as DynamicsTask
from nde.tasks.forecast import ForecastTask as ForecastTask
from nde.tasks.generate import GenerateTask as GenerateTask
from nde.tasks.population import PopulationTask as PopulationTask
from nde.tasks.portable import (
    ArrayFunction as ArrayFunction,
    LoweredFunction as LoweredFunction,
    Portable as Portable,
    Ported as Ported,
    Rung as Rung,
    Words as Words,
)
from nde.tasks.scores import AbstractEvaluation as AbstractEvaluation, TableEvaluation as TableEvaluation

TASKS: dict[str, AbstractTask] = {
    "forecast": ForecastTask(),
    "classify": ClassifyTask(),
    "dynamics": DynamicsTask(),
    "population": PopulationTask(),
    "density": DensityTask(),
    "generate": GenerateTask(),
}
