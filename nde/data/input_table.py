"""Read observations and what is given to the same series: doses, constants, covariates."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from nde.data.cells import read_names, read_numbers
from nde.data.dose_rows import DoseRows, is_dose, read_doses
from nde.data.files import no_column, read_cells, read_table, Table
from nde.data.inputs_layout import InputsFormat
from nde.data.layout import TableFormat
from nde.data.panel import Panel
from nde.data.series_inputs import SeriesInputs
from nde.data.table import INDEX, panel_of
from nde.data.times import read_times, TimeColumn


def read_panel_with_inputs(
    path: Any,
    layout: TableFormat,
    inputs: InputsFormat,
    states: Sequence[str] | None = None,
    *,
    require_values: bool = True,
) -> tuple[Panel, SeriesInputs]:
    """Read a table of observations, as `nde.data.read_panel`, and what is given to the same series.

    Doses stand in the same table, as in those of NONMEM, or in one of their own. A row of the table that is a dose and
    observes nothing is no row of the panel; constants and covariates are read from it all the same. Doses that repeat
    are written out, and so are those before a steady state.

    **The clock of a series** starts at the earliest of its rows and doses, so that its first observation may have a
    time above zero.

    **Arguments:**

    - `path`, `layout`, `require_values`: those of `nde.data.read_panel`.
    - `inputs`: what else stands in the table, and where.
    - `states`: the names of the states that doses are given into; the channels if `None`.

    **Returns:** the `Panel` and the `nde.data.SeriesInputs` of its series.

    **Raises:** `TableError` as `read_panel`, and in one line with series and time for a dose that can not be given, a
    constant that changes or is missing, a covariate without a value or with two at one time, a steady dose that is not
    the first, and doses that all lie after the observations.
    """
    doses = inputs.doses
    own = doses is not None and doses.path is None
    wanted = [*inputs.names(), *(doses.columns() if own and doses is not None else [])]
    table = _read_whole(path, layout, [*wanted, *([doses.state] if own and doses is not None else [])])
    for name in wanted:
        if name not in table.columns:
            raise no_column(table, name, wanted)
    ids, times = read_names(table, layout.id), read_times(table, layout)
    kept, layout = table, replace(layout, channels=layout.channels or _channels(table, layout, inputs, states or ()))
    if own and doses is not None:
        keep = ~is_dose(table, doses, layout) | _observes(table, layout)
        if not require_values:  # who has doses alone is asked for at their times
            keep |= ~ids.is_in(ids.filter(keep).unique().to_list()).to_numpy()
        kept = table.only(keep)
    panel = panel_of(kept, layout, require_values=require_values)
    rows = None
    states = tuple(states or panel.channels)
    if doses is not None and own:
        rows = read_doses(table, ids, times, doses, layout, states)
    elif doses is not None:
        beside = replace(layout, id=doses.id or layout.id, time=doses.time or layout.time)
        beside = replace(beside, channels=(), channel=None, value=None)
        other = read_cells(doses.path, beside)
        for name in (beside.id, beside.time):
            if name not in other.columns:
                raise no_column(other, name, [beside.id, beside.time])
        rows = read_doses(other, read_names(other, beside.id), read_times(other, beside), doses, beside, states)
    arrays = None
    if rows is not None and doses is not None:
        arrays = _padded_doses(panel, rows, doses.steady_doses, fresh=not require_values)
        panel = arrays.pop("panel")
    where = _Places(panel, ids, times)
    constants = {name: _constant(table, layout, where, name) for name in inputs.constants}
    found = _covariates(table, layout, where, inputs) if inputs.covariates else {}
    empty = np.zeros((len(panel), 0))
    none = {"times": empty, "amounts": empty, "durations": empty, "given": empty.astype(int)}
    return panel, SeriesInputs(states, **(arrays or none), constants=constants, **found)


def _read_whole(path: Any, layout: TableFormat, beside: Sequence[str]) -> Table:
    """All rows of a table, since a row that observes nothing may hold what is given, and the columns that count."""
    if layout.channel is not None:
        return read_table(path, replace(layout, channels=None), beside)
    return read_table(path, layout, None if layout.channels is None else (*layout.channels, *beside))


def _channels(table: Table, layout: TableFormat, inputs: InputsFormat, states: Sequence[str]) -> tuple[str, ...] | None:
    """All columns of a wide table that can be channels; `None` where `nde.data.read_panel` finds them."""
    if layout.channel is not None:
        return None
    taken = {layout.id, layout.time, *inputs.beside(states)}
    return tuple(name for name in table.columns if name not in taken and not INDEX.fullmatch(name)) or None


def _observes(table: Table, layout: TableFormat) -> np.ndarray:
    """Which rows hold a value of a channel."""
    names = [layout.value] if layout.value is not None else list(layout.channels or ())
    return np.any([~np.isnan(read_numbers(table, name, layout)) for name in names], axis=0)


class _Places:
    """The series and the time, in the panel's, of the rows of a table."""

    def __init__(self, panel: Panel, ids: pl.Series, times: TimeColumn):
        self.panel, self.ids, self.column = panel, ids, times
        self.series = numbered(ids, panel)
        self.times = np.where(self.series >= 0, since_first_row(panel, self.series, times), np.nan)
        self.times = self.times + panel.times[self.series, 0]


def numbered(ids: pl.Series, panel: Panel) -> np.ndarray:
    """The place in a panel of the series of each row of a table, -1 of one that is not there."""
    places = np.arange(len(panel))
    return ids.replace_strict(list(panel.ids), places, default=-1, return_dtype=pl.Int64).to_numpy()


def since_first_row(panel: Panel, series: np.ndarray, times: TimeColumn) -> np.ndarray:
    """The times of rows of another column, in the panel's unit, since the first row of the series of each."""
    assert panel.table is not None
    first, own = panel.table.index[:, 0], panel.table.times
    if own.ticks.dtype == times.ticks.dtype and own.per_unit == times.per_unit:
        since = (times.ticks - own.ticks[first][series]) / own.per_unit
    else:
        since = times.numbers() - own.numbers()[first][series]
    return since / panel.time_scale


def _padded_doses(panel: Panel, rows: DoseRows, steady_doses: int, *, fresh: bool) -> dict[str, Any]:
    """The doses of each series with their repeats, and the panel with its clock at the earliest of all."""
    assert panel.table is not None
    if (panel.table.times.unit is None) != (rows.times.unit is None):
        kinds = ["numbers" if times.unit is None else "dates" for times in (rows.times, panel.table.times)]
        raise rows.table.error(f"the times of doses are {kinds[0]}, but those of the observations are {kinds[1]}.")
    everywhere = numbered(rows.ids, panel)
    series = everywhere[rows.row]
    times = since_first_row(panel, everywhere, rows.times)[rows.row]
    notes = _lost(rows, series)
    _refuse_late(panel, rows, series, times, fresh)
    _refuse_unsteady(rows, series, times)
    each: list[list[tuple[float, ...]]] = [[] for _ in panel.ids]
    for dose, place in enumerate(series):
        if place >= 0:
            interval = rows.intervals[dose] / panel.time_scale
            before = steady_doses if rows.steady[dose] else 0
            said = (rows.amounts[dose], rows.durations[dose] / panel.time_scale, rows.states[dose], rows.resets[dose])
            each[place] += [
                (times[dose] + k * interval if k else times[dose], *said)
                for k in range(-before, int(rows.additional[dose]) + 1)
            ]
    each = [sorted(given, key=lambda dose: dose[0]) for given in each]
    start = np.array([min(0.0, *(dose[0] for dose in given)) if given else 0.0 for given in each])
    out = np.zeros((5, len(panel), max(map(len, each), default=0)))
    out[0] = np.inf
    for place, given in enumerate(each):
        for k, dose in enumerate(given):
            out[:, place, k] = dose
    out[0] -= start[:, None]
    panel = replace(panel, times=panel.times - start[:, None], origin=panel.origin + start * panel.time_scale)
    return {
        "panel": panel, "times": out[0], "amounts": out[1], "durations": out[2], "given": out[3].astype(int),
        "resets": out[4].astype(bool) if out[4].any() else None, "notes": notes,
    }  # fmt: skip


def _lost(rows: DoseRows, series: np.ndarray) -> tuple[str, ...]:
    lost = dict.fromkeys(rows.ids[int(row)] for row in rows.row[series < 0])
    if not lost:
        return ()
    shown = ", ".join(list(lost)[:3]) + (f" and {len(lost) - 3} more" if len(lost) > 3 else "")
    return (f"doses of series without observations are left out: {shown}.",)


def _refuse_late(panel: Panel, rows: DoseRows, series: np.ndarray, times: np.ndarray, fresh: bool) -> None:
    """Refuse doses of which none lies before the end of its series: their times are of another unit, mostly."""
    ours = np.flatnonzero(series >= 0)
    if not len(ours) and len(series):
        raise rows.error(0, f"no series of the observations has a dose; they are {', '.join(panel.ids[:5])} ….")
    late = times[ours] > panel.times[series[ours]].max(1)
    if len(ours) and late.all() and not fresh:
        end = panel.time_name(int(series[ours[0]]), int(panel.lengths[series[ours[0]]]) - 1)
        raise rows.error(
            int(ours[0]),
            f"it lies after the last row, at {end}, and so do all others; give doses in the unit of the observations.",
        )


def _refuse_unsteady(rows: DoseRows, series: np.ndarray, times: np.ndarray) -> None:
    """Refuse a steady dose after a row or another dose of its series."""
    earliest = np.full(series.max(initial=0) + 1, np.inf)
    np.minimum.at(earliest, series[series >= 0], times[series >= 0])
    late = rows.steady & (series >= 0) & ((times > 0) | (times > earliest[series]))
    if late.any():
        raise rows.error(
            int(late.argmax()), "it is steady, which stands for doses before it, but is not the first of its series."
        )


def _constant(table: Table, layout: TableFormat, where: _Places, name: str) -> np.ndarray:
    values, found = read_numbers(table, name, layout), np.full(len(where.panel), np.nan)
    rows = np.flatnonzero(~np.isnan(values) & (where.series >= 0))
    found[where.series[rows[::-1]]] = values[rows[::-1]]  # the first of each series remains
    other = rows[values[rows] != found[where.series[rows]]]
    if len(other):
        row = int(other[0])
        raise table.row_error(
            row, name,
            f": series {where.ids[row]} has {values[row]:g} at time {where.column.name(row)}, and "
            f"{found[where.series[row]]:g} before; a constant has one value, one that changes is among the covariates.",
        )  # fmt: skip
    if np.isnan(found).any():
        series = where.panel.ids[int(np.isnan(found).argmax())]
        raise table.error(f"series {series} has no value in '{name}'; a constant needs one for each series.")
    return found


def _covariates(table: Table, layout: TableFormat, where: _Places, inputs: InputsFormat) -> dict[str, Any]:
    """Times and values of all covariates, rows of equal series and time as one."""
    order = np.lexsort((where.times, where.series))
    order = order[where.series[order] >= 0]
    series, times = where.series[order], where.times[order]
    first = np.diff(series, prepend=-1) != 0  # of its series
    new = first | (np.diff(times, prepend=np.nan) != 0)
    moment = np.cumsum(new) - 1  # that each row is of, counted over all series
    place = moment - moment[first][series]
    longest = int(place.max()) + 1
    padded = np.repeat(times[np.append(np.flatnonzero(first)[1:], len(times)) - 1][:, None], longest, axis=1)
    padded[series, place] = times
    found, clashes = {}, []
    for name in inputs.covariates:
        values = read_numbers(table, name, layout)[order]
        found[name] = np.full(padded.shape, np.nan)
        seen = np.flatnonzero(~np.isnan(values))[::-1]  # of several at one time the first remains
        found[name][series[seen], place[seen]] = values[seen]
        kept = found[name][series, place]
        clashes += [
            (int(i), name, values[i], kept[i]) for i in np.flatnonzero((values != kept) & ~np.isnan(values))[:1]
        ]
    if clashes:
        at, name, one, two = min(clashes, key=lambda clash: clash[0])
        row = int(order[at])
        raise table.row_error(
            row, name,
            f": series {where.ids[row]} has {one:g} and {two:g} at time {where.column.name(row)}; keep one.",
        )  # fmt: skip
    for name, values in found.items():
        without = np.isnan(values).all(1)
        if without.any():
            series = where.panel.ids[int(without.argmax())]
            raise table.error(f"series {series} has no value in '{name}'; a covariate needs one in each series.")
    return {"covariate_times": padded, "covariates": found, "ways": dict(inputs.covariates)}
