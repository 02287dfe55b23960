"""A plain training loop with optax: steps, evaluation, early stopping, checkpoints. It knows no differential equations.

`nde.train.make_step` compiles one update, `nde.train.fit` repeats it from a `nde.train.TrainState`, and
`nde.train.Checkpoints` keeps the last and the best of it on disk.
"""

from nde.train.checkpoint import (
    CheckpointError as CheckpointError,
    CheckpointNotWritten as CheckpointNotWritten,
    Checkpoints as Checkpoints,
)
from nde.train.failures import (
    blame as blame,
    cause_of as cause_of,
    FailedExamples as FailedExamples,
    FailedStep as FailedStep,
    TrainingFailed as TrainingFailed,
)
from nde.train.interrupt import Interrupt as Interrupt, terminated_as_interrupted as terminated_as_interrupted
from nde.train.log import MetricsFile as MetricsFile, ProgressPrinter as ProgressPrinter, read_metrics as read_metrics
from nde.train.loop import fit as fit, Outcome as Outcome, Schedule as Schedule
from nde.train.optimiser import adam_with_warmup as adam_with_warmup
from nde.train.step import (
    BatchLoss as BatchLoss,
    LossFunction as LossFunction,
    make_step as make_step,
    NonFiniteLoss as NonFiniteLoss,
    StepReport as StepReport,
    TrainState as TrainState,
)
