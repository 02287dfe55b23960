"""The table of a run, of whatever kind: read, told of, and written into its config."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from nde.config.table import TableData
from nde.data import Panel, read_panel
from nde.runs.interface import RunError

SHOWN_CHANNELS = 30


def load_table(data: TableData) -> Panel:
    """Read the table of a `[data]` section.

    **Raises:** `TableError` for a bad table, `RunError` if it is not the one that `sha256` was made from.
    """
    path = data.table_path()
    assert path is not None
    panel = read_panel(path, data.table_format())
    check_unchanged(data)
    return panel


def check_unchanged(data: TableData) -> None:
    """Refuse a table that is not the one that `sha256` was made from."""
    path = data.table_path()
    if path is not None and data.sha256 is not None and data.sha256 != _sha256(path):
        raise RunError(f"{path}: the table has changed since the run was made; give the run back its table.")


def describe_table(data: TableData, panel: Panel) -> list[str]:
    """Which columns became channels, the unit of time, and what reading had to say, a line each."""
    names = list(panel.channels[:SHOWN_CHANNELS])
    more = len(panel.channels) - len(names)
    channels = f"channels: {', '.join(names)}" + (f" and {more} more" if more else "")
    return [f"{channels}; time: {data.time or 'since the start'}, in {panel.time_unit}", *panel.notes]


def resolved_table(data: TableData, panel: Panel) -> dict[str, Any]:
    """What `nde fit` found, for keys of `[data]`, so that another table is read in the same way."""
    path = data.table_path()
    update: dict[str, Any] = {"channels": panel.channels, "time_unit": panel.time_unit}
    if panel.table is not None:
        update |= {"time_scale": panel.time_scale, "date_unit": panel.table.times.unit}
    if data.path is not None:
        update["path"] = str(Path(data.path).absolute())
    return update if path is None else update | {"sha256": _sha256(path)}


def read_asked(data: TableData, path: Path, channels: tuple[str, ...]) -> Panel:
    """Read a table that asks for forecasts as the run's own was read; `data` is that of a resolved config.

    **Raises:** `TableError` for a bad table; `RunError` where one has dates and the other numbers for times.
    """
    layout = replace(data.table_format(), channels=channels, min_observations=0)
    panel = read_panel(path, layout, require_values=False)
    assert panel.table is not None
    here, there = ("dates" if unit else "numbers" for unit in (panel.table.times.unit, data.date_unit))
    if here != there:
        raise RunError(
            f"{path}: the times in '{data.time}' are {here}, but the run was made from {there}; give {there}."
        )
    return panel


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
