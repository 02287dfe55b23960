"""How a run did on what was held out: what a task's scores are shown and written as."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import polars as pl
from rich.table import Table

from nde.report import fitted_table


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

    @abstractmethod
    def rows(self) -> list[dict[str, Any]]:
        """The scores: a row a method, by column."""

    @abstractmethod
    def noted(self, notes: Sequence[str]) -> Self:
        """The same evaluation with more to say below the table, and in `results.json`."""

    def pooled(self, others: "Sequence[AbstractEvaluation]") -> "AbstractEvaluation | None":
        """This evaluation and those of the other folds as one; `None`, unless overridden: each stands for itself."""
        del others
        return None


@dataclass(frozen=True)
class TableEvaluation(AbstractEvaluation):
    """Rows of numbers under named columns, the same in each row; all that most tasks need.

    - `title`, `caption`: over and under the table.
    - `scores`: column to text or number, a mapping for each row. A number that is `nan` is shown as a dash.
    - `notes`: sentences below the table.
    - `summary`: what else stands in `results.json`.
    - `details`: what the task's own figures need; not written.
    """

    title: str
    caption: str
    scores: Sequence[Mapping[str, str | float]]
    notes: Sequence[str] = ()
    summary: Mapping[str, Any] = field(default_factory=dict)
    details: Any = None

    def rows(self) -> list[dict[str, Any]]:
        return [dict(row) for row in self.scores]

    def table(self) -> Table:
        columns = {name: [_shown(row[name]) for row in self.scores] for name in self.scores[0]}
        text = [name for name, value in self.scores[0].items() if isinstance(value, str)]
        return fitted_table(columns, text=text, title=self.title, caption=self.caption)

    def lines(self) -> list[str]:
        return list(self.notes)

    def noted(self, notes: Sequence[str]) -> Self:
        return replace(self, notes=[*self.notes, *notes])

    def write(self, folder: Path) -> None:
        pl.DataFrame(self.rows()).write_csv(folder / "results.csv", float_precision=6)
        rows = [{name: _plain(value) for name, value in row.items()} for row in self.scores]
        summary = {**self.summary, "methods": rows, "notes": list(self.notes)}
        (folder / "results.json").write_text(json.dumps(summary, indent=1) + "\n")


def _shown(value: str | float) -> str:
    if isinstance(value, str):
        return value
    return "–" if value != value else f"{value:d}" if isinstance(value, int) else f"{value:.4f}"


def _plain(value: str | float) -> str | float | None:
    return None if value != value else value  # JSON has no NaN
