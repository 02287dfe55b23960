"""What tasks of series share when they are exported: rows, the layout of the table, and the words of the card."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nde.report import counted
from nde.tasks.base import OpenedRun, RunError
from nde.tasks.portable import BEYOND, ladder, Words

SPARE = 8
"""Rows beyond those of the run's longest series, for times ahead."""

LAYOUT = {
    "id": "column of the series",
    "time": "column of the times",
    "channel": "column of the channels' names",
    "value": "column of the values",
    "date_unit": "dates are counted in",
    "time_format": "dates are written as",
    "time_scale": "units of the time column in one of the model's",
    "missing": "stands for a missing value",
}


def rows_of(problem: Any) -> int:
    """How many rows the longest series of a run has."""
    return problem.panel.times.shape[1]


def series_rungs(run: OpenedRun, rows: int | None, longest: Callable[[Any], int] = rows_of) -> tuple[int, ...]:
    """The numbers of rows that are lowered: up to `rows`, or those of the run's longest series and a few more.

    **Arguments:** `longest`: of the run's problem, how many rows or other things of that many places a series has.

    **Raises:** `RunError` without `rows`, where the run's table is gone.
    """
    if rows is not None:
        return ladder(rows)
    try:
        return ladder(longest(run.problem) + SPARE)
    except (ValueError, OSError) as error:
        text = str(error).rstrip(".")
        raise RunError(f"{text}; without the run's table give --rows, how many a series may have.") from None


def series_until(run: OpenedRun, until: float | None, scale: float) -> float:
    """How far series may be asked for, in the model's time: `until`, or half as far again as the run's longest.

    **Arguments:** `scale`: units of the table's time in one of the model's, in which `until` is.

    **Raises:** `RunError` without `until`, where the run's table is gone.
    """
    if until is not None:
        return until / scale
    try:
        return BEYOND * float(run.problem.panel.times.max())
    except (ValueError, OSError) as error:
        text = str(error).rstrip(".")
        raise RunError(f"{text}; without the run's table give --until, how far series may be asked for.") from None


def series_words(
    run: OpenedRun,
    use: str,
    layout: Mapping[str, Any],
    more: Sequence[str],
    rungs: Sequence[int],
    until: float,
    since: str = "first row",
) -> Words:
    """The words of the card.

    **Arguments:** `layout`: of the table, by the names of `LAYOUT`; `more`: what else to say of the table, a line each;
    `rungs`, `until`: as of `nde.tasks.Portable`, and `since`: of a series, what it begins with.
    """
    data = run.config.data
    source = f"the data set `{data.dataset}` of nde" if data.dataset else f"`{Path(str(data.path)).name}`"
    held = f"times after {data.test_after:g}" if getattr(data, "test_after", None) is not None else ""
    return Words(
        use=use,
        data=[
            f"trained on {source}{_size(run)}; SHA-256 of its data: `{data.sha256}`",
            *(f"{what}: `{layout[key]}`" for key, what in LAYOUT.items() if layout[key]),
            *more,
            f"held out: {held or f'fold {data.fold} of {data.folds}'}",
        ],
        limits=[
            f"times up to {until:g} after a series' {since}, in the table's unit; rows of a series, those to be "
            f"predicted included: at most {rungs[-1]}. Beyond, `nde predict` refuses the table",
            "a series that can not be solved is an error, by its name; nothing is told of why",
            "of series unlike those of the table above nothing was measured",
        ],
        command="--data TABLE.csv --out predictions.csv",
    )


def _size(run: OpenedRun) -> str:
    try:
        panel = run.problem.panel
    except (ValueError, OSError):  # its table is gone: the card says less
        return ""
    series = counted(len(panel), "series", "series")
    return f": {series}, {counted(int(panel.mask.sum()), 'value')}, at most {panel.times.shape[1]} rows each"


def described_channels(normaliser: Mapping[str, Any]) -> list[str]:
    """What the card says of the channels of a `Normaliser` that was made plain."""
    logs = [name for name, log in zip(normaliser["channels"], normaliser["log"], strict=True) if log]
    on_logs = [f"on a log scale: {', '.join(logs)}"] if logs else []
    return [f"channels: {', '.join(normaliser['channels'])}", *on_logs]
