"""A panel: many irregular series of the same channels, padded to one shape."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int

from nde.data.checks import check_series
from nde.data.times import TimeColumn


@dataclass(frozen=True)
class TableRows:
    """The ids and times of a panel's rows as its table has them.

    - `ids`, `times`: cells of the table's columns, bit for bit and in their own types.
    - `index`: `(series, rows)`; which of them each row has, counted from 0. Past a series' end it repeats its last.
    """

    ids: pl.Series
    times: TimeColumn
    index: Int[np.ndarray, "series rows"]


@dataclass(frozen=True)
class Panel:
    """Series of the same channels at irregular times, padded to one number of rows.

    - `ids`: the name of each series, as in the table.
    - `channels`: the name of each channel.
    - `times`: `(series, rows)`, since the series' first row, in `time_unit`, sorted. Rows past a series' end repeat its
      last time.
    - `values`: `(series, rows, channels)`; zero where nothing was observed.
    - `mask`: `(series, rows, channels)`, true where a value was observed. Rows past a series' end have none; a row of
      the table without any value has none either, and is kept: it may ask for a forecast.
    - `lengths`: `(series,)`, the number of rows that the table had.
    - `origin`: `(series,)`, the time of the series' first row in the table, in the table's own unit.
    - `time_scale`: units of the table's time column in one unit of `times`.
    - `time_unit`: what one unit of `times` is called in figures.
    - `notes`: what reading left out and what is odd about the channels, a sentence each.
    - `table`: the rows of the table that it was read from, a `TableRows`; `None` for a panel that was made otherwise.

    A panel is indexed by series: `panel[[3, 1]]` holds two of them. One of arrays of your own is made by
    `nde.data.panel_of_arrays`.

    **Raises:** `TableError`, which names the series, the row and the channel, for arrays that do not fit each other,
    times that repeat, go back or are not finite, a value that is marked as observed and is not finite, and rows past
    a series' end that are not as said.
    """

    ids: tuple[str, ...]
    channels: tuple[str, ...]
    times: Float[np.ndarray, "series rows"]
    values: Float[np.ndarray, "series rows channels"]
    mask: Bool[np.ndarray, "series rows channels"]
    lengths: np.ndarray
    origin: Float[np.ndarray, " series"]
    time_scale: float = 1.0
    time_unit: str = "time"
    notes: tuple[str, ...] = ()
    table: TableRows | None = None

    def __post_init__(self):
        check_series(self.times, self.values, self.mask, self.lengths, ids=self.ids, channels=self.channels)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, series: Sequence[int] | np.ndarray) -> "Panel":
        chosen = np.asarray(series, dtype=int)
        return replace(
            self,
            ids=tuple(self.ids[i] for i in chosen),
            times=self.times[chosen],
            values=self.values[chosen],
            mask=self.mask[chosen],
            lengths=self.lengths[chosen],
            origin=self.origin[chosen],
            table=None if self.table is None else replace(self.table, index=self.table.index[chosen]),
        )

    def shortened(self, rows: int) -> "Panel":
        """The panel with so many rows, of series that have no more."""
        table = None if self.table is None else replace(self.table, index=self.table.index[:, :rows])
        arrays = {"times": self.times[:, :rows], "values": self.values[:, :rows], "mask": self.mask[:, :rows]}
        return replace(self, **arrays, table=table)

    @property
    def last_times(self) -> Float[np.ndarray, " series"]:
        """The time of each series' last observation, shape `(series,)`; zero for one without observations."""
        return np.where(self.mask.any(-1), self.times, 0.0).max(-1)

    def table_times(self) -> np.ndarray:
        """The times as they stand in the table, `(series, rows)`: numbers bit for bit, dates as `datetime64`.

        Past a series' end they repeat its last.
        """
        if self.table is None:
            return self.origin[:, None] + self.times * self.time_scale
        index = self.table.index
        return self.table.times.cells.gather(index.ravel()).to_numpy().reshape(index.shape)

    def time_name(self, series: int, row: int) -> str:
        """The time of one row as a message shows it."""
        if self.table is None:
            return f"{self.table_times()[series, row]:g}"
        return self.table.times.name(self.table.index[series, row])

    def keys(self, series: np.ndarray, row: np.ndarray, *, as_text: bool = False) -> tuple[pl.Series, pl.Series]:
        """The id and the time of some rows as the table has them, in its own types, so that results join its rows.

        `as_text` gives dates of a CSV file as they were written there.
        """
        if self.table is None:
            return pl.Series(np.array(self.ids)[series]), pl.Series(self.table_times()[series, row])
        rows = self.table.index[series, row]
        return self.table.ids.gather(rows), self.table.times.shown(rows, as_text=as_text)

    def asked_ahead(self, steps: Sequence[float]) -> "Panel":
        """The panel with a row without values for each of the steps after each series' last row.

        **Arguments:** `steps`: positive, in the unit of the table's times. A time that results is of the table's type:
        dates move by whole days, timestamps to their resolution, and the row stands at the time as rounded.

        **Raises:** `ValueError` for a step that is less than the resolution of the table's dates, or two that it does
        not tell apart.
        """
        if not len(steps):
            return self
        steps = sorted(set(steps))
        count, rows = len(self), self.times.shape[1]
        ends = np.arange(count), self.lengths - 1
        inside = np.arange(rows)[None, :] < self.lengths[:, None]
        places = self.lengths[:, None] + np.arange(len(steps))

        def longer(x: np.ndarray, added: np.ndarray, beyond: np.ndarray) -> np.ndarray:
            out = np.empty((count, rows + len(steps), *x.shape[2:]), x.dtype)
            out[:] = beyond
            out[:, :rows][inside] = x[inside]
            out[ends[0][:, None], places] = added
            return out

        table = self.table
        if table is None:
            moves = np.broadcast_to(np.array(steps), (count, len(steps)))
        else:
            last = table.index[ends]
            times = table.times.extended(last, steps)
            fresh = len(table.times.cells) + np.arange(count * len(steps)).reshape(count, -1)
            moves = (times.ticks[fresh] - times.ticks[last][:, None]) / times.per_unit
            index = longer(table.index, fresh, fresh[:, -1:])
            table = TableRows(pl.concat([table.ids, table.ids.gather(np.repeat(last, len(steps)))]), times, index)
        ahead = self.times[ends][:, None] + moves / self.time_scale
        nothing = np.zeros(())
        return replace(
            self,
            times=longer(self.times, ahead, ahead[:, -1:]),
            values=longer(self.values, nothing, nothing),
            mask=longer(self.mask, nothing, nothing),
            lengths=self.lengths + len(steps),
            table=table,
        )
