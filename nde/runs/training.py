"""Train a run, of whatever task."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from nde import config as configs
from nde.data import index_batches
from nde.runs.failure import explain_failure
from nde.runs.folder import Run
from nde.tasks import member_key, RunFailed
from nde.train import fit, Interrupt, MetricsFile, ProgressPrinter, StepReport, TrainingFailed, TrainState


def train(run: Run, console: Console) -> bool:
    """Train what is not yet trained of a run, from its last checkpoints on; `False` if a signal ended it early.

    **Raises:** `RunFailed` if a step or a validation could not be computed.
    """
    config, task = run.config, run.task
    update = configs.build_update(config.train, task.loss(config, run.problem))
    validate = task.validation(config, run.problem)
    with Interrupt() as interrupt:
        for member in config.members():
            reason = _train_member(run, member, update, validate, console, interrupt)
            if reason == "interrupted":
                return False
    run.keep_config()
    return True


class _ConfigKeeper:
    """A callback that keeps a resumed run's config with the first checkpoint of what was trained by it."""

    def __init__(self, run: Run, start: int):
        self.run, self.start = run, start

    def on_step(self, step: int, report: StepReport) -> None:
        """Nothing."""

    def on_validation(self, state: TrainState, score: float) -> None:
        """Keep it: the checkpoint has just been written."""
        self.run.keep_config()

    def on_end(self, state: TrainState) -> None:
        """Keep it if there were steps."""
        if int(state.step) > self.start:
            self.run.keep_config()

    def on_failure(self, state: TrainState) -> None:
        """Nothing."""


def _train_member(run, member: configs.Member, update, validate, console, interrupt) -> str:
    config = run.config
    examples = run.task.examples(config, run.problem, member)
    count = len(examples.names)
    checkpoints = run.checkpoints(member.index)
    state = update.init(run.new_model(member))
    state = checkpoints.restore(state) or state
    for note in checkpoints.notes:
        console.print(f"note: {note}", soft_wrap=True, highlight=False, markup=False)
    start = int(state.step)
    every = config.train.validate_every
    progress = ProgressPrinter(
        config.train.all_steps, start=start, title=member.title, validate_every=every, console=console
    )
    log = MetricsFile(run.metrics_path, member=member.index, every=config.train.log_every, start=start)
    size = min(config.train.batch_size, count)
    train_on = partial(
        fit,
        update,
        state,
        jax.tree.map(_to_device, examples.arrays),
        index_batches(count, size, config.train.all_steps, seed=config.seed + member.index),
        validate,
        configs.build_schedule(config.train),
        key=member_key(config, member.index, "training"),
        names=examples.names,
        callbacks=(log, checkpoints, _ConfigKeeper(run, start), progress),  # what is in a checkpoint is in the log
        stop=lambda: interrupt.asked,
        failed=config.train.failed,
    )
    try:
        outcome = train_on()
    except TrainingFailed as error:
        raise RunFailed(explain_failure(run, member, error, examples, checkpoints.step)) from None
    finally:
        checkpoints.close()
    if outcome.reason != "finished":
        console.print(f"{member.title} stopped at step {int(outcome.state.step)}: {outcome.reason}.".strip())
    return outcome.reason


def _to_device(x: np.ndarray) -> jax.Array:
    return jnp.asarray(x, {"f": jnp.result_type(float), "i": jnp.result_type(int)}.get(x.dtype.kind, x.dtype))
