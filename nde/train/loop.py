"""The training loop."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray, PyTree

from nde.train.failures import (
    blame,
    cause_of,
    FailedExamples,
    FailedStep,
    NonFiniteLoss,
    not_finite,
    TrainingFailed,
)
from nde.train.state import StepReport, TrainState
from nde.train.survival import Survival
from nde.train.update import Update


@dataclass(frozen=True)
class Schedule:
    """When things happen: `steps` in all, a validation and a checkpoint each `every` steps, `patience` validations.

    Training stops when `patience` validations in a row brought no better score; `patience=0` never stops early.
    """

    steps: int
    every: int
    patience: int = 0

    def __post_init__(self):
        if self.steps < 0 or self.every < 1 or self.patience < 0:
            raise ValueError(f"steps and patience must not be negative and every must be positive, but got {self}.")


@dataclass(frozen=True)
class Outcome:
    """How training ended: the final state, and why: "finished", "no improvement" or "interrupted"."""

    state: TrainState
    reason: str


class Batches(Protocol):
    """A random-access source of batches of indices, such as `nde.data.index_batches` makes, or a list of arrays."""

    def __getitem__(self, index: Any, /) -> Any:
        """The indices of step `index`."""
        ...


class Callback(Protocol):
    """What is called along the training: metrics files, progress displays, checkpoints."""

    def on_step(self, step: int, report: StepReport) -> None:
        """After each update."""
        ...

    def on_validation(self, state: TrainState, score: float) -> None:
        """After each validation."""
        ...

    def on_end(self, state: TrainState) -> None:
        """At the end, unless a step or a validation failed."""
        ...

    def on_failure(self, state: TrainState) -> None:
        """At the end by a step or a validation that failed, with the state before it."""
        ...


def fit(  # noqa: PLR0913  (its keywords are the interface)
    update: Update,
    state: TrainState,
    data: PyTree,
    batches: Batches,
    validate: Callable[[PyTree], Any],
    schedule: Schedule,
    *,
    key: PRNGKeyArray,
    names: Sequence[Any],
    callbacks: Sequence[Callback] = (),
    stop: Callable[[], bool] = lambda: False,
    failed: Literal["stop", "leave_out"] = "stop",
) -> Outcome:
    """Train from a state on, up to `schedule.steps` updates in all.

    What happens at a step depends on the state, the key and the step's own batch only, so a run that was stopped and
    resumed from a checkpoint goes through the same states as one that was not.

    ```python
    >>> import jax, jax.numpy as jnp, nde, optax
    >>> from nde.train import BatchLoss, fit, gradient_update, Schedule
    >>> data = jnp.array([1.0, 2.0, 3.0])
    >>> def loss(model, batch, step, key):
    ...     each = (batch - model) ** 2
    ...     return BatchLoss(jnp.mean(each), {}, each)
    >>> update = gradient_update(loss, optax.sgd(0.25))
    >>> batches, validate = [jnp.arange(3)] * 20, lambda model: abs(model - 2.0)
    >>> options = {"key": jax.random.key(0), "names": ["a", "b", "c"]}
    >>> state = update.init(jnp.zeros(()))
    >>> outcome = fit(update, state, data, batches, validate, Schedule(steps=20, every=10), **options)
    >>> round(float(outcome.state.best_model), 2), outcome.reason
    (2.0, 'finished')

    ```

    **Arguments:**

    - `update`: what a step does: a `nde.train.Update`.
    - `state`: where to start: `update.init(model)`, or from a checkpoint.
    - `data`: pytree of arrays whose first axis counts examples.
    - `batches`: element `i` holds the indices of the examples of step `i`.
    - `validate`: `model -> score`; lower is better. The model is that with the averaged parameters, if the update
      averages them, and so is the best model.
    - `schedule`: a `nde.train.Schedule`.
    - `key`: the run's key.
    - `names`: the name of each example, for messages.
    - `callbacks`: what is called along the way, in this order.
    - `stop`: asked after each step whether to end.
    - `failed`: `"stop"` ends at an example that fails; `"leave_out"` leaves it out of the update, whose gradient is
      that of the others, names it in the step's report and goes on: see `nde.train.Survival`, also for what becomes of
      an update of which nothing can be made. A validation that fails then counts as one without an end, infinite.

    **Raises:** `nde.train.NonFiniteLoss` with the step and the culprits, or if a validation score is not a number;
    `nde.train.FailedStep` if a step or a validation failed at run time, as a solve may. With `"leave_out"` both only
    when nothing is left to go on with.
    """
    reason, end = "finished", "on_end"
    start = Survival.start if failed == "leave_out" else _Going.start
    going, state = start(update, data, key, names, state)
    state = state.copied()  # what a step changes is written over; whoever has the state before it keeps that
    try:
        while int(state.step) < schedule.steps:
            if _is_stale(state, schedule):
                reason = "no improvement"
                break
            state, report = going.step(state, batches[int(state.step)])
            step = int(state.step)
            for callback in callbacks:
                callback.on_step(step, report)
            if step % schedule.every == 0 or step == schedule.steps:
                has_best = step < schedule.steps or np.isfinite(float(state.best_score))  # without one, an end
                state, score = _validate(state, validate, forgive=failed == "leave_out" and bool(has_best))
                going.validated(state, score)
                for callback in callbacks:
                    callback.on_validation(going.remembered(state), score)
                state = state.copied()
            if stop():
                reason = "interrupted"
                break
    except TrainingFailed as error:
        end, state = "on_failure", state if error.state is None else error.state
        raise
    finally:
        _end(callbacks, end, going.remembered(state))
    return Outcome(state, reason)


def _end(callbacks: Sequence[Callback], end: str, state: TrainState) -> None:
    """Call the callbacks' `end`, each, whatever another raises, from the last to the first."""
    if state.is_used_up():  # it was interrupted within a step
        end = "on_failure"
    with ExitStack() as ends:
        for callback in reversed(callbacks):
            ends.callback(getattr(callback, end), state)


@dataclass
class _Going:
    """The steps of a training that ends at what fails."""

    update: Update
    data: PyTree
    key: PRNGKeyArray
    names: Sequence[Any]

    @classmethod
    def start(cls, update: Update, data: PyTree, key: PRNGKeyArray, names: Sequence[Any], state: TrainState):
        """That of a training from a state on, and the state."""
        return cls(update, data, key, names), state

    def step(self, state: TrainState, indices: Any) -> tuple[TrainState, StepReport]:
        """The state after a step, which is one further. The one before is used up.

        **Raises:** `FailedStep` if it failed at run time; `NonFiniteLoss` if it was not made.
        """
        step = int(state.step) + 1
        state, report = self.update.consuming(state, self.data, indices, self.key)
        if int(state.step) == step:
            return state, report
        rows = np.asarray(indices)
        try:
            blame(lambda rows: self.update.checked(state, self.data, rows, self.key), rows, self.names)
        except FailedExamples as failure:
            raise FailedStep(step, failure, state.model).at(state, rows) from None
        raise not_finite(step, report, state.model, [self.names[i] for i in rows]).at(state, rows)

    def validated(self, state: TrainState, score: float) -> None:
        """Nothing."""

    def remembered(self, state: TrainState) -> TrainState:
        """The state: there is nothing to remember."""
        return state


def _is_stale(state: TrainState, schedule: Schedule) -> bool:
    waited = int(state.step) - int(state.best_step)
    return schedule.patience > 0 and waited >= schedule.patience * schedule.every


def _validate(state: TrainState, validate: Callable[[PyTree], Any], *, forgive: bool) -> tuple[TrainState, float]:
    """The state after a validation, and its score; `forgive`: whether one that fails is only a bad, infinite one."""
    step, model = int(state.step), state.evaluated_model
    try:
        score = _score(validate, model, step)
    except TrainingFailed as error:
        if not forgive:
            raise error.at(state, None) from None
        score = np.inf
    if score < float(state.best_score):
        state = eqx.tree_at(
            lambda s: (s.best_model, s.best_score, s.best_step),
            state,
            (model, jnp.asarray(score, jnp.float32), state.step),
        )
    return state, score


def _score(validate: Callable[[PyTree], Any], model: PyTree, step: int) -> float:
    try:
        score = float(validate(model))
    except FailedExamples as failure:
        raise FailedStep(step, failure, model, validating=True) from None
    except eqx.EquinoxRuntimeError as error:
        raise FailedStep(step, FailedExamples(cause_of(error)), model, validating=True) from None
    if np.isnan(score):
        raise NonFiniteLoss(f"step {step}: the validation score is not a number.")
    return score
