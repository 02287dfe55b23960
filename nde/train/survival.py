"""Go on with training past examples and updates that fail: what is left out, what is skipped, and when to stop."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray, PyTree

from nde.train.failures import (
    cause_of,
    FailedExamples,
    FailedStep,
    failing,
    MOST_NAMED,
    not_finite,
    TrainingFailed,
)
from nde.train.state import BatchLoss, StepReport, TrainState
from nde.train.update import Update

SKIPS_BEFORE_RETURN, MOST_RETURNS = 3, 3
NOT_FINITE = "its loss or gradient is not finite"


@dataclass
class Survival:
    """The steps of a training that leaves out what fails, `failed="leave_out"` of `nde.train.fit`.

    An example whose loss or gradient can not be had, by an error at run time or a number that is not finite, is left
    out: the update is that of the batch without it. It stays out until the next validation, after which it is tried
    again. An update of which nothing can be made is skipped. After three in a row, or one of a batch of all examples,
    training goes on from the state of the last validation; when that does not help, or has happened three times
    before, it stops with what failed.

    What was left out is forgotten at each validation: a run that is resumed from one goes the same way, unless updates
    were skipped or undone before it. Stopped between two, a resumed run tries again what was left out.

    **Limits:** the search for the culprits halves the batch, and costs up to two steps for each of its examples; a
    batch of another size is compiled once; and the update must take a batch of any size.
    """

    update: Update
    data: PyTree
    key: PRNGKeyArray
    names: Sequence[Any]
    good: TrainState
    out: dict[int, str] = field(default_factory=dict)
    skipped: int = 0
    returns: int = 0
    _causes: dict[int, str] = field(default_factory=dict)

    def step(self, state: TrainState, indices: Any) -> tuple[TrainState, StepReport]:
        """The state after a step, which is one further, whatever came of the update.

        **Raises:** `nde.train.FailedStep`, `nde.train.NonFiniteLoss` if there is no going on.
        """
        rows = np.asarray(indices)
        left = rows[~np.isin(rows, list(self.out))]
        made = error = None
        if len(left):
            made, error = self._attempt(state, left)
        if made is None and error is not None:
            culprits = failing(lambda part: self._fails(state, np.resize(part, left.shape)), np.unique(left))
            if len(culprits) < len(np.unique(left)):
                self.out |= {row: self._causes.get(row, _cause(error)) for row in culprits}
                left = left[~np.isin(left, culprits)]
                made, again = self._attempt(state, left) if culprits else (None, error)
                error = again or error
        if made is None:
            return self._skip(state, rows, error)
        self.skipped = 0
        return made[0], self._told(made[1], rows)

    def validated(self, state: TrainState, score: float) -> None:
        """Take note of a validation: all examples are tried again, and this state, if it has a score, is the one to go
        back to."""
        self.out = {}
        if self.skipped == 0 and np.isfinite(score):
            self.good = state

    def _attempt(self, state: TrainState, rows: np.ndarray):
        """The state and report of an update, or `None`; and the error in its way, or `None`."""
        step = int(state.step) + 1
        try:
            new, report = self.update.compiled(state, self.data, rows, self.key)
        except eqx.EquinoxRuntimeError as error:
            return None, FailedStep(step, FailedExamples(cause_of(error)), state.model)
        if int(new.step) == step:
            return (new, report), None
        return None, not_finite(step, report, state.model, [self.names[i] for i in rows])

    def _fails(self, state: TrainState, rows: np.ndarray) -> bool:
        made, error = self._attempt(state, rows)
        if error is not None and len(np.unique(rows)) == 1:
            self._causes[int(rows[0])] = _cause(error)
        return made is None

    def _skip(self, state: TrainState, rows: np.ndarray, error: TrainingFailed | None) -> tuple[TrainState, StepReport]:
        """Count the step without an update, or go back, or stop."""
        self.skipped += 1
        whole = len(np.unique(rows)) == len(self.names)
        if error is not None and (whole or self.skipped > SKIPS_BEFORE_RETURN):
            unmoved = int(self.good.step) == int(state.step) - self.skipped + 1
            if unmoved or self.returns == MOST_RETURNS:
                raise self._named(error, rows)
            self.returns, self.skipped = self.returns + 1, 0
            kept = {name: getattr(state, name) for name in ("step", "best_model", "best_score", "best_step")}
            state = replace(self.good, **kept)
            self.good = replace(state, step=state.step + 1)
        forward = replace(state, step=state.step + 1)
        nothing = BatchLoss(jnp.asarray(jnp.nan), {}, jnp.zeros(0))
        report = StepReport(nothing, jnp.asarray(jnp.nan), jnp.zeros(0, bool), jnp.asarray(False))
        every = dict.fromkeys(rows.tolist(), "" if error is None else _cause(error))
        return forward, self._told(report, rows, every)

    def _told(self, report: StepReport, rows: np.ndarray, more: dict[int, str] | None = None) -> StepReport:
        out = (more or {}) | self.out
        return replace(report, left_out={str(self.names[i]): out[i] for i in np.unique(rows).tolist() if i in out})

    def _named(self, error: TrainingFailed, rows: np.ndarray) -> TrainingFailed:
        """The error, of a failed step with the first few of the examples, all of which fail."""
        if not isinstance(error, FailedStep):
            return error
        some = [int(i) for i in np.unique(rows)[:MOST_NAMED]]
        return FailedStep(
            error.step, FailedExamples(error.failure.cause, some, [self.names[i] for i in some]), error.model
        )


def _cause(error: TrainingFailed) -> str:
    return error.failure.cause if isinstance(error, FailedStep) else NOT_FINITE
