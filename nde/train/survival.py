"""Go on with training past examples and updates that fail: what is left out, what is skipped, and when to stop."""

from collections.abc import Iterable, Sequence
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
from nde.train.state import BatchLoss, CHANGED, Setbacks, StepReport, TrainState
from nde.train.update import Update

SKIPS_BEFORE_RETURN, MOST_RETURNS, SLOWER = 3, 3, 0.5
NOT_FINITE, LEFT_BEFORE = "its loss or gradient is not finite", "it failed before the run was stopped"


@dataclass
class Survival:
    """The steps of a training that leaves out what fails, `failed="leave_out"` of `nde.train.fit`.

    An example whose loss or gradient can not be had, by an error at run time or a number that is not finite, is left
    out: the update is that of the batch without it. It stays out until the next validation, after which it is tried
    again. An update of which nothing can be made is skipped. After three in a row, or one of a batch of all examples,
    training goes on from the state of the last validation after which a step could be made, with moves half as long
    (`TrainState.rate`); when that does not help, or has happened three times before, it stops with what failed.

    What it remembers goes with the state into a checkpoint (`nde.train.Setbacks`), so that a run that is resumed goes
    the same way as one that was not stopped, wherever it was.

    **Limits:** the search for the culprits halves the batch, and costs up to two steps for each of its examples; a
    batch of another size is compiled once; and the update must take a batch of any size. The moves of
    `nde.train.gauss_newton_update` are not made shorter.
    """

    update: Update
    data: PyTree
    key: PRNGKeyArray
    names: Sequence[Any]
    good: TrainState
    out: dict[int, str] = field(default_factory=dict)
    skipped: int = 0
    returns: int = 0
    fresh: TrainState | None = None  # of the last validation, until a step is made from it
    _causes: dict[int, str] = field(default_factory=dict)

    @classmethod
    def start(
        cls, update: Update, data: PyTree, key: PRNGKeyArray, names: Sequence[Any], state: TrainState
    ) -> "tuple[Survival, TrainState]":
        """That of a training from a state on, which may have been one of before; and the state to go on from."""
        known, state = state.setbacks, replace(state, setbacks=None)
        if state.rate is None:
            state = replace(state, rate=jnp.ones((), jnp.float32))
        if known is None:
            return cls(update, data, key, names, state), state
        good = {name: getattr(known, f"good_{name}") for name in CHANGED}
        out = {int(row): LEFT_BEFORE for row in np.flatnonzero(np.asarray(known.out))}
        counts = int(known.skipped), int(known.returns), state if known.fresh else None
        return cls(update, data, key, names, replace(state, **good), out, *counts), state

    def remembered(self, state: TrainState) -> TrainState:
        """The state with what is remembered, for a checkpoint."""
        known = _setbacks(self.good, len(self.names), self.out)
        counts = {"skipped": self.skipped, "returns": self.returns, "fresh": self.fresh is not None}
        return replace(state, setbacks=replace(known, **{name: jnp.asarray(x) for name, x in counts.items()}))

    def step(self, state: TrainState, indices: Any) -> tuple[TrainState, StepReport]:
        """The state after a step, which is one further, whatever came of the update. The one before is used up.

        **Raises:** `nde.train.FailedStep`, `nde.train.NonFiniteLoss` if there is no going on.
        """
        rows = np.asarray(indices)
        left = rows[~np.isin(rows, list(self.out))]
        report = error = None
        if len(left):
            state, report = self._make(state, left)
        if len(left) and report is None:
            error = self._error(state, left)
            culprits = failing(lambda part: self._fails(state, np.resize(part, left.shape)), np.unique(left))
            if culprits and len(culprits) < len(np.unique(left)):
                self.out |= {row: self._causes.get(row, _cause(error)) for row in culprits}
                left = left[~np.isin(left, culprits)]
                state, report = self._make(state, left)
                error = self._error(state, left) if report is None else error
        if report is None:
            return self._skip(state, rows, error)
        self.skipped = 0
        self.good, self.fresh = self.fresh or self.good, None
        return state, self._told(report, rows)

    def validated(self, state: TrainState, score: float) -> None:
        """Take note of a validation: all examples are tried again, and this state, if it has a score and a step can be
        made from it, is the one to go back to."""
        self.out = {}
        self.fresh = state if self.skipped == 0 and np.isfinite(score) else None

    def _make(self, state: TrainState, rows: np.ndarray) -> tuple[TrainState, StepReport | None]:
        """The state after an update and its report; of one that is not made the same state, and `None`."""
        step = int(state.step) + 1
        state, report = self.update.consuming(state, self.data, rows, self.key)
        return state, report if int(state.step) == step else None

    def _error(self, state: TrainState, rows: np.ndarray) -> TrainingFailed | None:
        """What is in the way of an update, or `None`."""
        step = int(state.step) + 1
        try:
            new, report = self.update.checked(state, self.data, rows, self.key)
        except eqx.EquinoxRuntimeError as error:
            return FailedStep(step, FailedExamples(cause_of(error)), state.model)
        if int(new.step) == step:
            return None
        return not_finite(step, report, state.model, [self.names[i] for i in rows])

    def _fails(self, state: TrainState, rows: np.ndarray) -> bool:
        error = self._error(state, rows)
        if error is not None and len(np.unique(rows)) == 1:
            self._causes[int(rows[0])] = _cause(error)
        return error is not None

    def _skip(self, state: TrainState, rows: np.ndarray, error: TrainingFailed | None) -> tuple[TrainState, StepReport]:
        """Count the step without an update, or go back, or stop."""
        self.skipped += 1
        whole = len(np.unique(rows)) == len(self.names)
        if error is not None and (whole or self.skipped > SKIPS_BEFORE_RETURN):
            unmoved = int(self.good.step) == int(state.step) - self.skipped + 1
            if unmoved or self.returns == MOST_RETURNS:
                raise self._named(error, rows).at(state, rows[~np.isin(rows, list(self.out))])
            self.returns, self.skipped, self.fresh = self.returns + 1, 0, None
            assert state.rate is not None
            back = {name: getattr(self.good, name) for name in CHANGED if name != "step"}
            state = replace(state, **back, rate=state.rate * SLOWER)
            self.good = state if whole else replace(state, step=state.step + 1)
            state = state.copied()  # the one to go back to is kept
            if whole:  # there is no other batch to see by whether it helps
                return self.step(state, rows)
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


def _cause(error: TrainingFailed | None) -> str:
    return error.failure.cause if isinstance(error, FailedStep) else NOT_FINITE


def with_setbacks(state: TrainState, examples: int) -> TrainState:
    """The state of a training of so many examples that begins, as `Survival` hands it to checkpoints."""
    return replace(state, rate=jnp.ones((), jnp.float32), setbacks=_setbacks(state, examples))


def _setbacks(good: TrainState, examples: int, out: Iterable[int] = ()) -> Setbacks:
    mask = np.isin(np.arange(examples), list(out))
    kept = {f"good_{name}": getattr(good, name) for name in CHANGED}
    return Setbacks(jnp.asarray(mask), *map(jnp.asarray, (0, 0, False)), **kept)
