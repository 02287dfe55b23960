"""A run: the folder that `nde fit` leaves, and what `nde evaluate`, `nde predict` and `nde plot` read from it.

config.toml        the resolved config, defaults spelled out
normaliser.json    what the training series were standardised with
metrics.jsonl      loss, its parts and validation scores, a line each
checkpoints/N/     the last and the best state of ensemble member N
results.csv        the held-out scores of the model and of the baselines
results.json       the same, with the path KL and the coverage of the bands
figures/           training.png, forecasts.png, calibration.png
"""

from nde.runs.drawing import draw as draw
from nde.runs.evaluation import evaluate as evaluate, Evaluation as Evaluation
from nde.runs.folder import new_folder as new_folder, Run as Run
from nde.runs.prediction import predict as predict
from nde.runs.problem import (
    load_problem as load_problem,
    Problem as Problem,
    resolve as resolve,
    RunError as RunError,
)
from nde.runs.training import (
    batch_loss as batch_loss,
    check_targets as check_targets,
    train as train,
    validation_score as validation_score,
)
