"""Train a run, of whatever task."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree
from rich.console import Console

from nde import config as configs
from nde.data import index_batches
from nde.runs.failure import explain_failure
from nde.runs.folder import Run
from nde.tasks import member_key, RunFailed
from nde.train import (
    best_start,
    fit,
    Interrupt,
    MetricsFile,
    ProgressPrinter,
    Schedule,
    StepReport,
    TrainingFailed,
    TrainState,
    Tried,
)


def train(run: Run, console: Console) -> bool:
    """Train what is not yet trained of a run, from its last checkpoints on; `False` if a signal ended it early.

    **Raises:** `RunFailed` if a step or a validation could not be computed.
    """
    config, task = run.config, run.task
    update = task.update(config, run.problem)
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
    config = run.config.train
    examples = run.task.examples(run.config, run.problem, member)
    checkpoints = run.checkpoints(member.index)
    state = update.init(run.new_model(member))
    restored = checkpoints.restore(state)
    for note in checkpoints.notes:
        console.print(f"note: {note}", soft_wrap=True, highlight=False, markup=False)
    start = 0 if restored is None else int(restored.step)
    progress = ProgressPrinter(
        config.all_steps, start=start, title=member.title, validate_every=config.validate_every, console=console
    )
    log = MetricsFile(run.metrics_path, member=member.index, every=config.log_every, start=start)
    count = len(examples.names)
    train_on = partial(
        fit,
        update,
        data=jax.tree.map(_to_device, examples.arrays),
        batches=index_batches(
            count, min(config.batch_size, count), config.all_steps, seed=run.config.seed + member.index
        ),
        validate=validate,
        key=member_key(run.config, member.index, "training"),
        names=examples.names,
        stop=lambda: interrupt.asked,
        failed=config.failed,
    )
    try:
        if restored is None and config.starts > 1:
            state = update.init(_best_start(run, member, update, train_on, log, console))
            if interrupt.asked:  # between the starts; they are tried anew
                return "interrupted"
        outcome = train_on(
            state=state if restored is None else restored,
            schedule=configs.build_schedule(config),
            callbacks=(log, checkpoints, _ConfigKeeper(run, start), progress),  # what is in a checkpoint is in the log
        )
    except TrainingFailed as error:
        if interrupt.asked:
            return "interrupted"
        raise RunFailed(explain_failure(run, member, error, examples, checkpoints.step)) from None
    finally:
        checkpoints.close()
    if outcome.reason != "finished":
        console.print(f"{member.title} stopped at step {int(outcome.state.step)}: {outcome.reason}.".strip())
    return outcome.reason


def _best_start(run: Run, member: configs.Member, update, train_on, log: MetricsFile, console: Console) -> PyTree:
    """The model that the best of several starts has become; which that is, is said and written."""
    config = run.config.train
    steps = config.steps_of_a_start

    def short(model: PyTree) -> TrainState:
        return train_on(state=update.init(model), schedule=Schedule(steps, every=steps)).state

    def told(number: int, tried: Tried) -> None:
        if train_on.keywords["stop"]():
            return  # it was cut short
        log.on_start(number, tried)
        said = f"validation {tried.score:.4f}" if tried.failure is None else f"failed: {tried.failure}"
        text = f"{member.title} start {number + 1}/{config.starts} {said}"
        console.print(text, soft_wrap=True, highlight=False, markup=False)

    return best_start((run.new_model(member, start=i) for i in range(config.starts)), short, told)[0]


def _to_device(x: np.ndarray) -> jax.Array:
    return jnp.asarray(x, {"f": jnp.result_type(float), "i": jnp.result_type(int)}.get(x.dtype.kind, x.dtype))
