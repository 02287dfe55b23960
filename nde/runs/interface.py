"""What a kind of run must know, so that the loop, the folder and the command line need not."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import jax
import polars as pl
from jaxtyping import PRNGKeyArray, PyTree
from matplotlib.figure import Figure
from rich.table import Table

from nde.config import RunConfig
from nde.train import LossFunction


class RunError(ValueError):
    """A run that can not be made, or a folder that can not be used: one line naming it and what would be right."""


class RunFailed(RuntimeError):
    """A run that came to something that could not be computed: one line with what, where, and what may help."""


class OpenedRun(Protocol):
    """What a kind is given of a run: `nde.runs.Run` is one."""

    @property
    def folder(self) -> Path:
        """Where the run lies."""
        ...

    @property
    def config(self) -> Any:
        """Its resolved config, of the kind's own class."""
        ...

    def models(self, *, horizon: float = 0.0) -> list[Any]:
        """The best model of each member, in the order of the members."""
        ...


@dataclass(frozen=True)
class Examples:
    """What is trained on: `arrays`, a pytree of NumPy arrays whose first axis counts examples, and their `names`."""

    arrays: PyTree
    names: Sequence[str]


@dataclass(frozen=True)
class Prediction:
    """What `nde predict` asks for.

    - `data`: a table laid out like the one that the run was trained on.
    - `ahead`: times after each series' last row to forecast too, in the table's unit.
    - `samples`: how many; `keep_samples`: whether each becomes a column.
    - `as_text`: whether dates of a CSV table are given as they are written there; else as dates.
    """

    data: Path
    ahead: Sequence[float] = ()
    samples: int = 200
    keep_samples: bool = False
    as_text: bool = False


class AbstractEvaluation(ABC):
    """How a run did on what was held out."""

    @abstractmethod
    def table(self) -> Table:
        """The table for the terminal."""

    @abstractmethod
    def lines(self) -> list[str]:
        """What there is to say below the table."""

    @abstractmethod
    def write(self, folder: Path) -> None:
        """Write `results.csv` and `results.json` into a folder."""

    def pooled(self, others: "Sequence[AbstractEvaluation]") -> "AbstractEvaluation | None":
        """This evaluation and those of the other folds as one; `None`, unless overridden: each stands for itself."""
        del others
        return None


@dataclass(frozen=True)
class TableEvaluation(AbstractEvaluation):
    """Rows of numbers under named columns, the same in each row; all that most kinds need.

    - `title`, `caption`: over and under the table.
    - `rows`: column to text or number, a mapping for each row. A number that is `nan` is shown as a dash.
    - `notes`: sentences below the table.
    - `summary`: what else stands in `results.json`.
    - `details`: what the kind's own figures need; not written.
    """

    title: str
    caption: str
    rows: Sequence[Mapping[str, str | float]]
    notes: Sequence[str] = ()
    summary: Mapping[str, Any] = field(default_factory=dict)
    details: Any = None

    def table(self) -> Table:
        table = Table(title=self.title, caption=self.caption)
        for name, value in self.rows[0].items():
            table.add_column(name, justify="left" if isinstance(value, str) else "right")
        for row in self.rows:
            table.add_row(*(value if isinstance(value, str) else _shown(value) for value in row.values()))
        return table

    def lines(self) -> list[str]:
        return list(self.notes)

    def write(self, folder: Path) -> None:
        pl.DataFrame([dict(row) for row in self.rows]).write_csv(folder / "results.csv", float_precision=6)
        rows = [{name: _plain(value) for name, value in row.items()} for row in self.rows]
        summary = {**self.summary, "methods": rows, "notes": list(self.notes)}
        (folder / "results.json").write_text(json.dumps(summary, indent=1) + "\n")


def _shown(value: float) -> str:
    return "–" if value != value else f"{value:d}" if isinstance(value, int) else f"{value:.4f}"


def _plain(value: str | float) -> str | float | None:
    return None if value != value else value  # JSON has no NaN


class AbstractKind(ABC):
    """A kind of run, the value of `kind` in its config. A leaf holds no state: everything is in its arguments.

    `config` is an instance of the kind's own config class, and `problem` whatever its `load` returns.
    """

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
    def describe(self, config: Any, problem: Any) -> list[str]:
        """What to say of the data before training, a line each."""

    def save(self, folder: Path, config: Any, problem: Any) -> None:
        """Write what the run's folder must hold from the start beside its config. Nothing, unless overridden."""
        del folder, config, problem

    def members(self, config: Any) -> list[str]:
        """A title for each model that is trained, one after another; `train.members` of one sort by default."""
        count = config.train.members
        return [f"member {i + 1}/{count}" if count > 1 else "" for i in range(count)]

    @abstractmethod
    def new_model(self, config: Any, member: int, *, key: PRNGKeyArray, horizon: float = 0.0) -> PyTree:
        """The untrained model of a member of a resolved config, without its data.

        `horizon` asks for a model that can be solved so far, where that is a matter of how it is built.
        """

    @abstractmethod
    def examples(self, config: Any, problem: Any, member: int) -> Examples:
        """What a member is trained on; mostly the same for all."""

    @abstractmethod
    def loss(self, config: Any, problem: Any) -> LossFunction:
        """`(model, batch, step, key) -> nde.train.BatchLoss`, for rows of the examples' arrays."""

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

    def remedies(self, config: Any) -> Sequence[str]:
        """What to change in a config, beside the learning rate, where an equation could not be solved."""
        del config
        return ()

    def failure_time(self, config: Any, model: Any, example: PyTree) -> float | None:
        """How far the solution of one example gets if its solve fails and that is known, in the examples' time.

        `example` holds its rows of the arrays of `examples`.
        """
        del config, model, example
        return None

    def predict(self, run: OpenedRun, asked: Prediction) -> pl.DataFrame | None:
        """The forecasts of a table, or `None` from a kind that does not forecast tables."""
        del run, asked
        return None

    def forecast_notes(self, run: OpenedRun) -> Sequence[str]:
        """What there is to say of the law that `predict` draws from, a line each."""
        del run
        return ()

    def can_predict(self) -> bool:
        """Whether `predict` is there."""
        return type(self).predict is not AbstractKind.predict


PURPOSES = ("initial weights", "training", "validation", "forecasts", "figures", "data", "pool")


def member_key(config: RunConfig, member: int, purpose: str) -> jax.Array:
    """A key of its own for each member and purpose of `PURPOSES`, from the run's seed."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(config.seed), PURPOSES.index(purpose)), member)
