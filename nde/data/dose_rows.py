"""The doses of a table, a row each, checked and their repeats written out."""

from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int

from nde.data.cells import read_names, read_numbers
from nde.data.files import no_column, Table
from nde.data.inputs_layout import DoseFormat, OPTIONAL
from nde.data.layout import TableError, TableFormat
from nde.data.times import TimeColumn


@dataclass(frozen=True)
class DoseRows:
    """Doses as a table has them, in the order of its rows.

    - `table`, `ids`, `times`: the table that holds them, and these columns of all of its rows.
    - `row`: `(doses,)`, the row of each.
    - `amounts`, `states`, `durations`, `resets`, `additional`, `intervals`, `steady`: `(doses,)`; durations and
      intervals in the unit of the table's times, states as indices.
    """

    table: Table
    ids: pl.Series
    times: TimeColumn
    row: Int[np.ndarray, " doses"]
    amounts: Float[np.ndarray, " doses"]
    states: Int[np.ndarray, " doses"]
    durations: Float[np.ndarray, " doses"]
    resets: Bool[np.ndarray, " doses"]
    additional: Int[np.ndarray, " doses"]
    intervals: Float[np.ndarray, " doses"]
    steady: Bool[np.ndarray, " doses"]

    def error(self, dose: int, text: str) -> TableError:
        """What is wrong with one of the doses, by its place."""
        return _dose_error(self.table, self.ids, self.times, int(self.row[dose]), text)


def is_dose(table: Table, doses: DoseFormat, layout: TableFormat) -> np.ndarray:
    """Which rows of the observations' table are doses: those with an amount, and those that reset a state."""
    there = np.nan_to_num(read_numbers(table, doses.amount, layout)) != 0
    return there if doses.reset is None else there | (np.nan_to_num(read_numbers(table, doses.reset, layout)) != 0)


def read_doses(
    table: Table, ids: pl.Series, times: TimeColumn, doses: DoseFormat, layout: TableFormat, states: tuple[str, ...]
) -> DoseRows:
    """The doses of a table of which the columns of ids and times are read.

    **Arguments:** `states`: the names of the states, in order.

    **Raises:** `TableError`, which names the row, the series and the time, for a column that is missing, a dose into
    an unknown state, an amount that is missing or negative, a negative duration or rate, and repeats that are no
    numbers of doses or have no interval.
    """
    for name in doses.columns():
        if name not in table.columns:
            raise no_column(table, name, doses.columns())
    columns = {name: read_numbers(table, getattr(doses, name), layout) for name in _numbered(doses)}
    amounts = columns["amount"]
    if doses.path is None:
        # Zeros beside observations, as tables of events have them, say that nothing is given.
        others = [np.nan_to_num(x) != 0 for name, x in columns.items() if name in ("duration", "additional", "steady")]
        row = np.flatnonzero(is_dose(table, doses, layout) | np.any([np.isnan(amounts) & x for x in others], axis=0))
    else:
        row = np.arange(len(amounts))
    found = {name: columns.get(name, np.zeros(len(amounts)))[row] for name in ("amount", *OPTIONAL)}
    resets = np.nan_to_num(found["reset"]) != 0
    missing = np.isnan(found["amount"])
    amounts = np.where(missing & resets, 0.0, found["amount"])
    found = {name: np.nan_to_num(x) for name, x in found.items()}

    def refuse(bad: np.ndarray, text: str, shown: np.ndarray | None = None) -> None:
        if bad.any():
            place = int(bad.argmax())
            value = "" if shown is None else f"{shown[place]:g}"
            raise _dose_error(table, ids, times, int(row[place]), text.format(value))

    given = read_states(table, ids, times, row, doses, states)
    refuse(np.isnan(amounts), f"its amount in '{doses.amount}' is missing; give it a number.")
    if not doses.negative:
        refuse(amounts < 0, "its amount is {}; where something is taken away set doses.negative = true.", amounts)
    for name in ("duration", "rate", "interval", "additional"):
        refuse(
            found[name] < 0, f"its {name} in '{getattr(doses, name)}' is {{}}, but must not be negative.", found[name]
        )
    repeated = (found["additional"] > 0) | (found["steady"] != 0)
    refuse(found["additional"] % 1 != 0, "it has {} additional doses; give a whole number.", found["additional"])
    refuse(~np.isin(found["steady"], (0, 1)), f"'{doses.steady}' is {{}}, but must be 0 or 1.", found["steady"])
    refuse(repeated & (found["interval"] <= 0), f"it is repeated, but has no interval in '{doses.interval}'.")
    refuse(resets & (found["steady"] == 1), "it is steady, and a reset; it can be one of them.")
    rate = found["rate"]
    durations = np.where(rate > 0, amounts / np.where(rate > 0, rate, 1.0), found["duration"])
    refuse(durations < 0, "it takes an amount of {} at a positive rate; give its duration.", amounts)
    refuse(resets & (durations > 0), "it resets a state over a duration of {}; leave out the duration.", durations)
    whole = found["additional"].astype(int)
    return DoseRows(
        table, ids, times, row, amounts, given, durations, resets, whole, found["interval"], found["steady"] == 1
    )


def _numbered(doses: DoseFormat) -> list[str]:
    return [name for name in ("amount", *OPTIONAL) if getattr(doses, name) is not None]


def read_states(
    table: Table, ids: pl.Series, times: TimeColumn, row: np.ndarray, doses: DoseFormat, states: tuple[str, ...]
) -> Int[np.ndarray, " doses"]:
    """The index of the state that each dose is given into: of the name, or of what a column of that name says."""
    if doses.state in states:
        return np.full(len(row), states.index(doses.state))
    if doses.state not in table.columns:
        raise table.error(
            f"doses.state = '{doses.state}' is neither a state ({', '.join(states)}) nor a column "
            f"({', '.join(table.columns)})."
        )
    cells = read_names(Table(table.source, table.frame[row], table.numbers[row]), doses.state).str.strip_chars()
    numbers = {str(i + 1): i for i in range(len(states))} | {f"{i + 1}.0": i for i in range(len(states))}
    index = [{**numbers, **{name: i for i, name in enumerate(states)}}.get(cell, -1) for cell in cells]
    if -1 in index:
        bad = index.index(-1)
        raise _dose_error(
            table,
            ids,
            times,
            int(row[bad]),
            f"it is given into '{cells[bad]}', but the states are {', '.join(states)}.",
        )
    return np.array(index, int)


def _dose_error(table: Table, ids: pl.Series, times: TimeColumn, row: int, text: str) -> TableError:
    return table.error(f"row {table.numbers[row]}, the dose of series {ids[row]} at time {times.name(row)}: {text}")
