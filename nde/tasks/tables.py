"""The series of a run, of whatever task: read or made, told of, and written into its config."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nde.config import TableData
from nde.data import LabelledPanel, Normaliser, Panel, read_panel, table_files, TableFormat
from nde.tasks.base import Prediction, RunError

SHOWN_CHANNELS = 30


def load_series(data: TableData) -> Panel:
    """The series of a `[data]` section: a table, or a data set that is made.

    **Raises:** `TableError` for a bad table, `RunError` if it is not the one that `sha256` was made from.
    """
    dataset, path = data.made(), data.table_path()
    if dataset is None:
        assert path is not None
        panel = read_panel(path, data.table_format())
    else:
        made = dataset.load(seed=data.seed) if dataset.made else dataset.load()
        panel = with_channels(made.panel if isinstance(made, LabelledPanel) else made, data)
    check_unchanged(data, panel)
    return panel


def with_channels(panel: Panel, data: TableData) -> Panel:
    """The panel of a data set with the channels that `[data]` names, if it names any."""
    if data.channels in (None, panel.channels):
        return panel
    missing = [name for name in data.channels or () if name not in panel.channels]
    if missing:
        raise RunError(f"{data.source()}: no channel '{missing[0]}'; the channels are {', '.join(panel.channels)}.")
    places = [panel.channels.index(name) for name in data.channels or ()]
    return replace(
        panel, channels=tuple(data.channels or ()), values=panel.values[..., places], mask=panel.mask[..., places]
    )


def check_unchanged(data: TableData, panel: Panel) -> None:
    """Refuse data that are not those which `sha256` was made from."""
    if data.sha256 is not None and data.sha256 != fingerprint(data, panel):
        if data.made() is not None:
            raise RunError(f"{data.source()}: the data set is not what the run was made from; make the run anew.")
        raise RunError(
            f"{data.table_path()}: the table has changed since the run was made; give the run back its table."
        )


def describe_table(data: TableData, panel: Panel) -> list[str]:
    """Which columns became channels, the unit of time, and what reading had to say, a line each."""
    names = list(panel.channels[:SHOWN_CHANNELS])
    more = len(panel.channels) - len(names)
    channels = f"channels: {', '.join(names)}" + (f" and {more} more" if more else "")
    return [f"{channels}; time: {data.time or 'since the start'}, in {panel.time_unit}", *panel.notes]


def resolved_table(data: TableData, panel: Panel) -> dict[str, Any]:
    """What `nde fit` found, for keys of `[data]`, so that another table is read in the same way."""
    update: dict[str, Any] = {"channels": panel.channels, "time_unit": panel.time_unit}
    if panel.table is not None:
        update |= {"time_scale": panel.time_scale, "date_unit": panel.table.times.unit}
    if data.path is not None:
        update["path"] = str(Path(data.path).absolute())
    names = {"id": data.id or "id", "time": data.time or "time"}  # of a table that asks for predictions
    return update | names | {"sha256": fingerprint(data, panel)}


def read_asked(data: TableFormat, asked: Prediction, channels: tuple[str, ...]) -> Panel:
    """Read a table that asks for predictions as the run's own was read; `data` is the layout of a resolved config.

    **Raises:** `TableError` for a bad table; `RunError` where one has dates and the other numbers for times.
    """
    layout = replace(data, channels=channels, min_observations=0)
    panel = read_panel(asked.data, layout, require_values=False)
    refuse_other_times(data, asked, panel)
    return panel


def table_format_from_plain(saved: Mapping[str, Any]) -> TableFormat:
    """The layout whose fields JSON has kept."""
    lists = {name: tuple(value) for name, value in saved.items() if isinstance(value, list)}
    return TableFormat(**{**saved, **lists})


def refuse_other_times(data: TableFormat, asked: Prediction, panel: Panel) -> None:
    """Refuse a table with dates for a run made from numbers, or with numbers for one made from dates."""
    assert panel.table is not None
    here, there = ("dates" if unit else "numbers" for unit in (panel.table.times.unit, data.date_unit))
    if here != there:
        raise RunError(
            f"{asked.source}: the times in '{data.time}' are {here}, but the run was made from {there}; give {there}."
        )


def refuse_taken(data: TableFormat, asked: Prediction, columns: set[str]) -> None:
    """Refuse names of columns that are those of the predictions too."""
    taken = {data.id, data.time} & columns
    if taken:
        raise RunError(
            f"{asked.source}: '{min(str(name) for name in taken)}' is also the name of a column of the predictions; "
            "rename it in the table."
        )


def fingerprint(data: TableData, panel: Panel) -> str:
    """The SHA-256 of the file, or of the values of data that are none."""
    path = data.table_path()
    if path is not None:
        return file_fingerprint(path)
    return hashlib.sha256(np.ascontiguousarray(panel.values).tobytes()).hexdigest()


def file_fingerprint(path: str | Path) -> str:
    """The SHA-256 of a file, or of the files of a folder or a pattern one after another; it is never held whole."""
    found = hashlib.sha256()
    for each in table_files(path):
        with each.open("rb") as file:
            while part := file.read(2**20):
                found.update(part)
    return found.hexdigest()


def write_normaliser(folder: Path, normaliser: Normaliser) -> None:
    """Keep what a run's series were standardised with."""
    (folder / NORMALISER).write_text(json.dumps(normaliser_to_plain(normaliser), indent=1) + "\n")


def read_normaliser(folder: Path) -> Normaliser:
    """What `write_normaliser` kept."""
    return normaliser_from_plain(json.loads((folder / NORMALISER).read_text()))


def normaliser_to_plain(normaliser: Normaliser) -> dict[str, list[Any]]:
    """What JSON can hold of it, to the last bit."""
    fields = dataclasses.asdict(normaliser)
    return {name: value.tolist() if isinstance(value, np.ndarray) else list(value) for name, value in fields.items()}


def normaliser_from_plain(saved: Mapping[str, Any]) -> Normaliser:
    """What `normaliser_to_plain` wrote."""
    arrays = (np.array(saved[name]) for name in ("log", "mean", "std"))
    return Normaliser(tuple(saved["channels"]), *arrays)


NORMALISER = "normaliser.json"
