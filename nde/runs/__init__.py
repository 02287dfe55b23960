"""A run: the folder that `nde fit` leaves, and what `nde evaluate`, `nde predict` and `nde plot` read from it.

config.toml        the resolved config, defaults spelled out
metrics.jsonl      loss, its parts and validation scores, a line each
tensorboard/N/     the same for TensorBoard, of member N
checkpoints/N/     the last and the best state of member N
results.csv        the held-out scores of the models and of the baselines
results.json       the same, with what else the task has to say
figures/           training.png, and the task's own
normaliser.json    of tasks that standardise their data: with what
stack.json         of a forecast: the baselines, and what each weighs in the pool that forecasts
data.parquet       the table, where it was a frame of polars or pandas
failure-N/         of a training that could not go on: what leads to it, and a script that makes the step again
my_model.py        of equations of one's own: a copy of their file

Training, checkpoints, resume, the folder and the command line know no task, model or data set: they ask
`nde.tasks.TASKS`.
"""

from nde.runs.export import export_run as export_run
from nde.runs.exported import ExportedModel as ExportedModel, load_exported as load_exported
from nde.runs.failure import explain_solve as explain_solve
from nde.runs.folder import (
    free_folder as free_folder,
    new_folder as new_folder,
    open_run as open_run,
    prepare as prepare,
    Run as Run,
)
from nde.runs.make import fit as fit, made_once as made_once
from nde.runs.processes import as_a_process as as_a_process, in_processes as in_processes
from nde.runs.profiling import profile as profile
from nde.runs.reproduction import reproduce as reproduce
from nde.runs.side_by_side import train_side_by_side as train_side_by_side
from nde.runs.training import train as train
from nde.tasks import RunError as RunError, RunFailed as RunFailed
