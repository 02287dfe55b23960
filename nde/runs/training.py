"""Train a run, of whatever task."""

from collections.abc import Collection, Sequence
from contextlib import suppress
from functools import partial
from itertools import takewhile

from jaxtyping import PyTree
from rich.console import Console

from nde import config as configs
from nde.runs.arrays import training_data
from nde.runs.failure import explain_failure
from nde.runs.folder import Run
from nde.runs.reproduction import keep_failure
from nde.tasks import member_key, RunFailed
from nde.train import (
    any_says,
    best_start,
    Callback,
    CheckpointNotWritten,
    first_says,
    fit,
    Interrupt,
    is_first_process,
    is_one_of_several,
    MetricsFile,
    ProgressPrinter,
    Schedule,
    StepReport,
    TensorBoardFile,
    TrainingFailed,
    TrainState,
    Tried,
    with_setbacks,
)


def train(run: Run, console: Console, *, watch: Sequence[Callback] = (), only: Collection[int] | None = None) -> bool:
    """Train what is not yet trained of a run, from its last checkpoints on; `False` if a signal ended it early.

    **Arguments:** `only`: the members to train, by their index; all if `None`. `watch`: more callbacks, of each member
    in turn, in the first of several processes. They come after the run's own: when `on_validation` is called the score
    is written and its checkpoint is too, so that a callback may end the training by an error of its own, which is
    raised here, and lose nothing.

    **Raises:** `RunFailed` if a step or a validation could not be computed.
    """
    config, task = run.config, run.task
    update = task.update(config, run.problem)
    score = task.validation(config, run.problem)

    def validate(model: PyTree) -> float:
        return first_says(float(score(model)))

    with Interrupt() as interrupt:

        def stop() -> bool:
            return any_says(interrupt.asked)

        for member in config.members():
            if only is not None and member.index not in only:
                continue
            reason = _train_member(run, member, update, validate, console, stop, watch)
            if reason == "interrupted":
                return False
    if is_first_process() and only is None:
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


def _train_member(run, member: configs.Member, update, validate, console, stop, watch) -> str:
    config = run.config.train
    examples = run.task.examples(run.config, run.problem, member)
    checkpoints = run.checkpoints(member.index)
    state = update.init(run.new_model(member))
    remembers = config.failed == "leave_out"
    restored = checkpoints.restore(with_setbacks(state, len(examples.names)) if remembers else state)
    for note in checkpoints.notes:
        console.print(f"note: {note}", soft_wrap=True, highlight=False, markup=False)
    start = 0 if restored is None else int(restored.step)
    log = _log(run, member, start)
    data, batches = training_data(config, examples, run.config.seed + member.index)
    kept = None
    train_on = partial(
        fit,
        update,
        data=data,
        batches=batches,
        validate=validate,
        key=member_key(run.config, member.index, "training"),
        names=examples.names,
        stop=stop,
        failed=config.failed,
    )
    try:
        if restored is None and config.starts > 1:
            state = update.init(_best_start(run, member, update, train_on, log, console))
            if stop():  # between the starts; they are tried anew
                return "interrupted"
        outcome = train_on(
            state=state if restored is None else restored,
            schedule=configs.build_schedule(config),
            callbacks=_callbacks(run, member, checkpoints, log, start, console, watch),
        )
    except TrainingFailed as error:
        if stop():
            return "interrupted"
        with suppress(OSError, CheckpointNotWritten):  # for want of space; the failure is told all the same
            kept = None if is_one_of_several() else keep_failure(run, member, error, examples)
        raise RunFailed(explain_failure(run, member, error, examples, checkpoints.step, kept)) from None
    finally:
        checkpoints.close()
    if outcome.reason != "finished":
        console.print(f"{member.title} stopped at step {int(outcome.state.step)}: {outcome.reason}.".strip())
    return outcome.reason


def _best_start(
    run: Run, member: configs.Member, update, train_on, log: MetricsFile | None, console: Console
) -> PyTree:
    """The model that the best of several starts has become; which that is, is said and written."""
    config = run.config.train
    steps = config.steps_of_a_start

    def short(model: PyTree) -> TrainState:
        return train_on(state=update.init(model), schedule=Schedule(steps, every=steps)).state

    def told(number: int, tried: Tried) -> None:
        if train_on.keywords["stop"]() or log is None:
            return  # it was cut short, or is told by the first process
        log.on_start(number, tried)
        said = f"validation {tried.score:.4f}" if tried.failure is None else f"failed: {tried.failure}"
        text = f"{member.title} start {number + 1}/{config.starts} {said}"
        console.print(text, soft_wrap=True, highlight=False, markup=False)

    # After a signal no further start is made; the first is, for there must be a model.
    numbers = takewhile(lambda i: i == 0 or not train_on.keywords["stop"](), range(config.starts))
    return best_start((run.new_model(member, start=i) for i in numbers), short, told)[0]


def _log(run: Run, member: configs.Member, start: int) -> MetricsFile | None:
    """What writes the metrics, in the first of several processes."""
    every = run.config.train.log_every
    return MetricsFile(run.metrics_path, member=member.index, every=every, start=start) if is_first_process() else None


def _callbacks(
    run: Run, member: configs.Member, checkpoints, log: MetricsFile | None, start: int, console, watch
) -> tuple:
    """What is in a checkpoint is in the log. A checkpoint is written once, but by all processes together."""
    if log is None:
        return (checkpoints,)
    train = run.config.train
    progress = ProgressPrinter(
        train.all_steps, start=start, title=member.title, validate_every=train.validate_every, console=console
    )
    board = TensorBoardFile(run.folder / "tensorboard" / str(member.index), every=train.log_every, start=start)
    keepers = [_ConfigKeeper(run, start)] if run.part in ("", ".0") else []  # one process writes it
    return (log, board, checkpoints, *keepers, progress, *watch)
