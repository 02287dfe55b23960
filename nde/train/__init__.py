"""A plain training loop with optax: steps, evaluation, early stopping, checkpoints. It knows no differential equations.

A `nde.train.Update` says what one step does: `nde.train.gradient_update` of a loss, `nde.train.adversarial_update` of
two players, `nde.train.gauss_newton_update` of residuals, `nde.train.in_turn` of several updates by turns, each with an
average of its parameters by `nde.train.with_ema`. `nde.train.fit` repeats it from a `nde.train.TrainState`, and
`nde.train.Checkpoints` keeps the last and the best of it on disk.
"""

from nde.train.alternating import in_turn as in_turn, proximal as proximal
from nde.train.averages import Average as Average, Averages as Averages
from nde.train.batch import batch_loss as batch_loss, ObjectiveLoss as ObjectiveLoss
from nde.train.checkpoint import (
    CheckpointError as CheckpointError,
    CheckpointNotWritten as CheckpointNotWritten,
    Checkpoints as Checkpoints,
)
from nde.train.checks import checks_as_nan as checks_as_nan
from nde.train.compilation_cache import compiled_folder as compiled_folder, keep_compiled as keep_compiled
from nde.train.devices import Sharing as Sharing
from nde.train.failures import (
    blame as blame,
    cause_of as cause_of,
    FailedExamples as FailedExamples,
    FailedStep as FailedStep,
    NonFiniteLoss as NonFiniteLoss,
    surviving as surviving,
    TrainingFailed as TrainingFailed,
)
from nde.train.files import in_one_piece as in_one_piece
from nde.train.gauss_newton import gauss_newton_update as gauss_newton_update
from nde.train.interrupt import Interrupt as Interrupt, terminated_as_interrupted as terminated_as_interrupted
from nde.train.least_squares import then_least_squares as then_least_squares
from nde.train.log import (
    MetricsFile as MetricsFile,
    ProgressPrinter as ProgressPrinter,
    read_metrics as read_metrics,
    starts_tried as starts_tried,
    TensorBoardFile as TensorBoardFile,
    times_left_out as times_left_out,
)
from nde.train.loop import Callback as Callback, fit as fit, Outcome as Outcome, Schedule as Schedule
from nde.train.optimiser import adam_with_warmup as adam_with_warmup
from nde.train.player import Player as Player
from nde.train.polish import then_lbfgs as then_lbfgs
from nde.train.processes import (
    any_says as any_says,
    first_says as first_says,
    is_first_process as is_first_process,
    is_one_of_several as is_one_of_several,
    join_processes as join_processes,
)
from nde.train.starts import best_start as best_start, Tried as Tried
from nde.train.state import (
    BatchLoss as BatchLoss,
    LossFunction as LossFunction,
    Setbacks as Setbacks,
    StepReport as StepReport,
    TrainState as TrainState,
)
from nde.train.survival import Survival as Survival, with_setbacks as with_setbacks
from nde.train.tally import AbstractTallied as AbstractTallied, tallied as tallied, Tally as Tally
from nde.train.update import (
    adversarial_update as adversarial_update,
    gradient_update as gradient_update,
    Update as Update,
    with_ema as with_ema,
)
