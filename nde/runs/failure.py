"""What a run says when its training, or anything else of it, could not be computed."""

from pathlib import Path
from typing import Any

import jax

from nde.config import Member
from nde.runs.folder import Run
from nde.tasks import Examples
from nde.train import FailedExamples, FailedStep, TrainingFailed


def explain_failure(
    run: Run, member: Member, error: TrainingFailed, examples: Examples, kept: int | None, folder: Path | None
) -> str:
    """One line: member, step, series, cause and time; what to lower or raise; and which checkpoint there is.

    **Arguments:** `examples`: what it is trained on; `kept`: the step of its last checkpoint; `folder`: where what
    leads to it is kept.
    """
    told, first = str(error), False
    if isinstance(error, FailedStep):
        told = f"step {error.step}, {'validation' if error.validating else 'training'}: "
        told += explain_solve(error.failure, _time(run, error, examples))
        first = error.step == 1 and not error.validating
    told = told.rstrip(".")
    again = "" if folder is None else f" It is made again by: python {folder / 'reproduce.py'}"
    return f"{member.title}, {told}; {_remedy(run, member, first)}. {_checkpoint(run, kept)}{again}"


def explain_solve(failure: FailedExamples, time: float | None = None) -> str:
    """Which series could not be solved, why, and how far the first of them gets."""
    names = ", ".join(failure.names)
    which = f"series {names}" if names else "a series"
    reached = "" if time is None else f" at t = {time:.4g} after its first row"
    return f"{which} could not be solved ({failure.cause}{reached})"


def _remedy(run: Run, member: Member, first: bool) -> str:
    config = run.config
    ways = member.section.remedies(config.solver)
    if not first or not ways:  # before the first update no rate is at fault
        ways.insert(0, f"lower train.learning_rate (now {config.train.learning_rate:g})")
    return ", ".join(ways[:-1]) + (" or " if ways[1:] else "") + ways[-1]


def _checkpoint(run: Run, kept: int | None) -> str:
    resume = f"nde fit --resume {run.folder} SECTION.KEY=VALUE"
    if kept is None:
        return f"There is no checkpoint yet; begin again with: {resume}"
    return f"The checkpoint of step {kept} is kept; go on from it with: {resume}"


def _time(run: Run, error: FailedStep, examples: Examples) -> float | None:
    if error.validating or not error.failure.indices:
        return None
    example: Any = jax.tree.map(lambda x: x[error.failure.indices[0]], examples.arrays)
    return run.task.failure_time(run.config, error.model, example)
