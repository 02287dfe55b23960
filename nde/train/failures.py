"""Computations that fail while they run, such as a solve that takes too many steps: why, and for which examples."""

import sys
from collections.abc import Callable, Sequence
from typing import Any, Self, TypeVar

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PyTree

from nde.train.state import StepReport, TrainState

Result = TypeVar("Result")
MOST_NAMED = 3


class FailedExamples(RuntimeError):
    """A computation over examples that failed at run time.

    - `cause`: what the failed check said, as part of a sentence.
    - `indices`, `names`: the first few of the examples that fail; empty if none fails by itself.
    """

    def __init__(self, cause: str, indices: Sequence[int] = (), names: Sequence[Any] = ()):
        self.cause, self.indices, self.names = cause, list(indices), [str(name) for name in names]
        super().__init__(f"{', '.join(self.names) or 'an example'}: {cause}.")


class TrainingFailed(Exception):
    """Training came to a step or a validation from which it can not go on.

    - `state`: the `nde.train.TrainState` before the step that failed, and `rows`, the indices of its examples: with
      them it fails again. `rows` are `None` of a validation.
    """

    state: TrainState | None = None
    rows: np.ndarray | None = None

    def at(self, state: TrainState, rows: np.ndarray | None) -> Self:
        """The same error, with what leads to it."""
        self.state, self.rows = state, rows
        return self


class NonFiniteLoss(TrainingFailed, FloatingPointError):
    """Training met a loss or a gradient that is not finite, and left the state as it was before that step."""


class FailedStep(TrainingFailed, RuntimeError):
    """A step of training that failed at run time, or the validation after it.

    - `step`: counted from one.
    - `failure`: the `nde.train.FailedExamples`.
    - `model`: with which it failed.
    - `validating`: whether it was the validation.
    """

    def __init__(self, step: int, failure: FailedExamples, model: Any, *, validating: bool = False):
        self.step, self.failure, self.model, self.validating = step, failure, model, validating
        super().__init__(f"step {step}{', validation' if validating else ''}: {failure}")


def blame(function: Callable[[np.ndarray], Result], rows: np.ndarray, names: Sequence[Any]) -> Result:
    """`function(rows)`; if that fails at run time, an error that names the rows at fault.

    An error that is raised from within compiled code can not say which example of a batch it is about, so the rows are
    tried again in halves, filled up to as many as there were by repetition: nothing is compiled anew.

    **Arguments:** `function`: of an array of indices of examples, whose result is thrown away in the search; `rows`:
    the indices; `names`: the name of each example, by index.

    **Raises:** `nde.train.FailedExamples`.

    ```python
    blame(lambda rows: jax.block_until_ready(solve(model, times[rows])), np.arange(len(times)), ids)
    ```
    """
    try:
        return function(rows)
    except eqx.EquinoxRuntimeError as error:
        cause = cause_of(error)
    found = failing(lambda part: _fails(function, np.resize(part, rows.shape)), np.unique(rows), most=MOST_NAMED)
    raise FailedExamples(cause, found, [names[i] for i in found])


def surviving(
    function: Callable[[np.ndarray], Result], rows: np.ndarray, names: Sequence[Any]
) -> tuple[Result, list[int]]:
    """`function(rows)` with a row that can be had in the place of each that fails; and which those are.

    **Raises:** `nde.train.FailedExamples` if every row fails, or none by itself.
    """
    try:
        return function(rows), []
    except eqx.EquinoxRuntimeError as error:
        cause = cause_of(error)
    found = failing(lambda part: _fails(function, np.resize(part, rows.shape)), np.unique(rows))
    good = np.setdiff1d(rows, found)
    if not found or not len(good):
        raise FailedExamples(cause, found[:MOST_NAMED], [names[i] for i in found[:MOST_NAMED]])
    return function(np.where(np.isin(rows, found), good[0], rows)), found


def failing(fails: Callable[[np.ndarray], bool], rows: np.ndarray, *, most: int = sys.maxsize) -> list[int]:
    """The first `most` of the rows that fail by themselves, by halving: `fails(part)` says whether a part does."""
    found, parts = [], [rows]
    while parts and len(found) < most:
        part = parts.pop()
        if not fails(part):
            continue
        if len(part) == 1:
            found.append(int(part[0]))
        else:
            parts += reversed(np.array_split(part, 2))
    return found


def _fails(function: Callable[[np.ndarray], Any], rows: np.ndarray) -> bool:
    try:
        function(rows)
    except eqx.EquinoxRuntimeError:
        return True
    return False


def cause_of(error: Exception) -> str:
    """What a failed check of compiled code said, without the stacks around it and without its full stop.

    The message of Equinox's own error is two stacks with the check's sentence in their midst; diffrax's sentence goes
    on with advice for code (`Try increasing ...`), which is left out.
    """
    text = str(error)
    marker = "EquinoxRuntimeError: "
    if marker in text:
        text = text.rsplit(marker, 1)[1]
    sentence = next((line for line in text.splitlines() if line.strip()), "the computation failed")
    sentence = sentence.split(". ")[0].strip().rstrip(".")
    return sentence[:1].lower() + sentence[1:]


def not_finite(step: int, report: StepReport, model: PyTree, names: Sequence[Any]) -> "NonFiniteLoss":
    """The error of an update that was not made, with what of it was not finite: see `nonfinite_sources`."""
    found = nonfinite_sources(report, model, names)
    return NonFiniteLoss(f"step {step}: the loss or its gradient is not finite ({found}).")


def nonfinite_sources(report: StepReport, model: PyTree, names: Sequence[Any]) -> str:
    """What of an update was not finite: parts of the loss, examples by name, parameters by path."""
    loss = report.batch
    parts = [name for name, value in loss.parts.items() if not np.isfinite(value)]
    bad = [str(name) for name, value in zip(names, np.asarray(loss.per_example), strict=True) if not np.isfinite(value)]
    finite = np.asarray(report.finite)
    arrays = [path for path, is_finite in zip(parameter_names(model), finite, strict=True) if not is_finite]
    found = {"parts of the loss": parts, "series": bad, "gradients of": arrays}
    return "; ".join(f"{what}: {', '.join(some[:8])}" for what, some in found.items() if some) or "the loss itself"


def parameter_names(model: PyTree) -> list[str]:
    """The path of each array of parameters within the model, such as `.drift.matrix`."""
    leaves = jax.tree_util.tree_leaves_with_path(eqx.filter(model, eqx.is_inexact_array))
    return [jax.tree_util.keystr(path) for path, _ in leaves]
