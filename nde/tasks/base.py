"""What a task must know, so that the loop, the folder, the library's face and the command line need not."""

import math
import numbers
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
import polars as pl
from jaxtyping import PyTree
from matplotlib.figure import Figure

from nde.config import build_update, Member, RunConfig
from nde.fields import draw_parameters
from nde.report import LogDensity, Posterior
from nde.tasks.portable import Portable, Ported
from nde.tasks.scores import AbstractEvaluation
from nde.train import LossFunction, Update


class RunError(ValueError):
    """A run that can not be made, or a folder that can not be used: one line naming it and what would be right."""


class RunFailed(RuntimeError):
    """A run that came to something that could not be computed: one line with what, where, and what may help."""


class OpenedRun(Protocol):
    """What a task is given of a run: `nde.Run` is one."""

    @property
    def folder(self) -> Path:
        """Where the run lies."""
        ...

    @property
    def config(self) -> Any:
        """Its resolved config, of the task's own class."""
        ...

    @property
    def problem(self) -> Any:
        """Its data, as the task's `load` returns them; read when first asked for."""
        ...

    def models(self, *, until: float = 0.0) -> dict[str, list[Any]]:
        """The best model of each member, by what its `[[model]]` is called; solved at least up to `until`."""
        ...

    def validation_scores(self) -> dict[str, float]:
        """The best validation score of each `[[model]]`, the mean over its members."""
        ...


@dataclass(frozen=True)
class Examples:
    """What is trained on.

    - `arrays`: a pytree of NumPy arrays whose first axis counts examples; `names`: of the examples.
    - `lengths`: `(examples,)`, how many rows each has, where `arrays` is a tuple of padded series, of which a batch may
      leave out rows that none of its series has; `in_rows`: which of them have rows as their second axis.
    """

    arrays: PyTree
    names: Sequence[str]
    lengths: np.ndarray | None = None
    in_rows: tuple[bool, ...] = ()


@dataclass(frozen=True)
class Prediction:
    """What `nde predict` asks for.

    - `data`: a table laid out like the one that the run was trained on: a path, or a frame of polars or pandas; `None`
      for new points, of a task that draws them.
    - `ahead`: times after each series' last row to forecast too, in the table's unit.
    - `samples`: how many; `keep_samples`: whether each becomes a column.
    - `as_text`: whether dates of a CSV table are given as they are written there; else as dates.
    - `model`: what the `[[model]]` is called that predicts alone; `None` leaves it to the task.

    **Raises:** `RunError` for times that are not after the last row, and what is no number of samples.
    """

    data: Any
    ahead: Sequence[float] = ()
    samples: int = 200
    keep_samples: bool = False
    as_text: bool = False
    model: str | None = None

    def __post_init__(self) -> None:
        ahead, samples = self.ahead, self.samples
        if not isinstance(ahead, Iterable) or not all(isinstance(step, numbers.Real) for step in ahead):
            raise RunError(f"ahead must be a list of numbers, times after the last row, but is {ahead!r}.")
        if any(not 0 < step < math.inf for step in ahead):
            given = ", ".join(map(str, ahead))
            raise RunError(f"ahead must hold times after the last row, above zero, but is {given}.")
        if isinstance(samples, bool) or not isinstance(samples, numbers.Integral):
            raise RunError(f"samples must be a whole number, but is {samples!r}.")
        if samples < 1:
            raise RunError(f"samples must be at least 1, but is {samples}.")

    @property
    def source(self) -> str:
        """What messages call the table."""
        return str(self.data) if isinstance(self.data, str | Path) else "data"


class AbstractTask(ABC):
    """What a run is for, the value of `task` in its config. A leaf holds no state: everything is in its arguments.

    `config` is an instance of the task's own config class, and `problem` whatever its `load` returns. Of a model a task
    knows what it calls of it, a Protocol; which models those are, the table `nde.config.MODELS` says.
    """

    loss_name = "loss (nats per value)"
    """What the training figure calls the loss, and, next, the validation score."""
    score_name = "validation NLL per value"
    counts_solves = True
    """Whether the solves of its loss are counted: not where it is differentiated in forward mode within itself."""

    @abstractmethod
    def load(self, config: Any) -> Any:
        """Read and prepare the data of a config, resolved or not.

        **Raises:** `ValueError` in one line for data that can not be used, or that are not those of a resolved config.
        """

    @abstractmethod
    def resolve(self, config: Any, problem: Any) -> Any:
        """The config with all that depends on the data filled in, so that it says the same when read elsewhere.

        **Raises:** `RunError` for what would fail later: here is the place to refuse it, before a folder is made.
        """

    @abstractmethod
    def facts(self, config: Any, *, until: float = 0.0) -> Any:
        """What models take from the data, of a resolved config; `until`: how far to solve, beyond what is usual."""

    @abstractmethod
    def describe(self, config: Any, problem: Any) -> list[str]:
        """What to say of the data before training, a line each."""

    def save(self, folder: Path, config: Any, problem: Any) -> None:
        """Write what the run's folder must hold from the start beside its config. Nothing, unless overridden."""
        del folder, config, problem

    @abstractmethod
    def examples(self, config: Any, problem: Any, member: Member) -> Examples:
        """What a member is trained on; mostly the same for all."""

    @abstractmethod
    def loss(self, config: Any, problem: Any) -> LossFunction:
        """`(model, batch, step, key) -> nde.train.BatchLoss`, for rows of the examples' arrays."""

    def update(self, config: Any, problem: Any) -> Update:
        """What a step of the training does: to lower the loss by the config's optimiser, unless overridden."""
        return build_update(config.train, self.loss(config, problem), counted=self.counts_solves)

    @abstractmethod
    def validation(self, config: Any, problem: Any) -> Callable[[Any], float]:
        """`model -> score`, lower is better: what chooses the best model and stops the training."""

    def finish(self, run: OpenedRun, problem: Any) -> None:
        """Learn and write what the folder of a run keeps beside its trained models. Nothing, unless overridden."""
        del run, problem

    @abstractmethod
    def evaluate(self, run: OpenedRun, problem: Any) -> AbstractEvaluation:
        """Score the run's models and the baselines on what was held out."""

    @abstractmethod
    def figures(self, run: OpenedRun, problem: Any, evaluation: Any) -> dict[str, Figure]:
        """The figures of the evaluation by file name, without `.png`; that of the training curves is made for all."""

    def failure_time(self, config: Any, model: Any, example: PyTree) -> float | None:
        """How far the solution of one example gets if its solve fails and that is known, in the examples' time.

        `example` holds its rows of the arrays of `examples`.
        """
        del config, model, example
        return None

    needs_table = True
    """Whether `predict` is of a table alone; else it draws points without one."""

    def refuse_no_table(self, asked: Prediction, source: object) -> None:
        """Refuse to predict without a table what is of a table alone; `source`: what messages call the run.

        **Raises:** `RunError`.
        """
        if self.needs_table and asked.data is None:
            raise RunError(f"{source}: predicts of a table: give --data, one laid out like that of the run.")

    @abstractmethod
    def predict(self, run: OpenedRun, asked: Prediction) -> pl.DataFrame:
        """The predictions for a table."""

    @abstractmethod
    def portable(self, run: OpenedRun, *, until: float | None, rows: int | None) -> Portable:
        """What predicts a table as `predict` does, without the run: `nde.runs.export` makes a file of it.

        **Arguments:** of a task of series, `until`: how far after its first row a series may be asked for, in the
        table's unit; if `None`, half as far again as the longest series of the run; `rows`: how many it may have.

        **Raises:** `RunError`, which says why, for a model whose predictions are no functions of arrays.
        """

    @abstractmethod
    def predict_portable(self, portable: Ported, asked: Prediction) -> pl.DataFrame:
        """The predictions for a table of what `portable` made."""

    def prediction_notes(self, run: OpenedRun, model: str | None = None) -> Sequence[str]:
        """What there is to say of what `predict` predicts by, a line each; `model`: the one that was asked for."""
        del run, model
        return ()

    def portable_notes(self, portable: Ported, model: str | None = None) -> Sequence[str]:
        """The same of what `portable` made: what it said then, but of a model that was asked for nothing."""
        return portable.facts["notes"] if model is None else ()

    def log_density(self, run: OpenedRun, problem: Any, model: Any) -> LogDensity | None:
        """The log density of what one of the run's models does not know, or `None` from a task without equations."""
        del run, problem, model
        return None

    def posterior(self, run: OpenedRun, problem: Any, model: Any) -> Posterior | None:
        """The same at its maximum, ready to be asked for intervals, or `None`."""
        del run, problem, model
        return None

    def has_posterior(self) -> bool:
        """Whether `log_density` and `posterior` are there."""
        return type(self).posterior is not AbstractTask.posterior


def new_model(config: RunConfig, member: Member, facts: Any, *, start: int = 0) -> PyTree:
    """The untrained model of a member of a resolved config: its `start`-th, from zero, which is the config's own.

    Another start has networks by another key, and its parameters are drawn (`nde.fields.draw_parameters`).

    **Raises:** `RunError` for a section that can not be built.
    """
    key = member_key(config, member.index, "initial weights")
    key = jax.random.fold_in(key, start) if start else key
    try:
        model = member.section.build(facts, config.solver, key=key)
    except ValueError as error:
        raise RunError(f"{member.label}: {str(error).rstrip('.')}.") from None
    drawing = jax.random.fold_in(member_key(config, member.index, "starts"), start)
    return draw_parameters(model, key=drawing) if start else model


def predicting(run: OpenedRun, asked: str | None) -> str:
    """What the `[[model]]` is called that predicts alone: the one asked for, else the one that validated best.

    **Raises:** `RunError` for one that the run does not have, or a name that two of them share.
    """
    names = {section.called(): section.name for section in run.config.model}
    if asked is None:
        scores = run.validation_scores()
        return min(names, key=lambda label: scores.get(label, math.inf))
    return chosen_label(names, asked, str(run.folder))


def chosen_label(names: Mapping[str, str], asked: str, source: str) -> str:
    """The label of the model that is asked for by its label or its name; `names`: the name of each label.

    **Raises:** `RunError` for one that there is not, or a name that two of them share; `source`: what it calls the run.
    """
    found = [asked] if asked in names else [label for label, name in names.items() if name == asked]
    if len(found) != 1:
        what = "are several models" if found else "is no model"
        raise RunError(f"{source}: there {what} '{asked}'; those of this run are {', '.join(names)}.")
    return found[0]


PURPOSES = ("initial weights", "training", "validation", "forecasts", "figures", "data", "pool", "classes", "starts")


class Seeded(Protocol):
    """A config, or whatever else keeps the seed of a run."""

    @property
    def seed(self) -> int:
        """The run's seed."""
        ...


def member_key(config: Seeded, member: int, purpose: str) -> jax.Array:
    """A key of its own for each member and purpose of `PURPOSES`, from the run's seed."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(config.seed), PURPOSES.index(purpose)), member)
