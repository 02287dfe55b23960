"""The figure of a sweep."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from nde.report import BLUE, GREY, ORANGE

STYLES = {
    "finished": {"marker": "o", "color": BLUE, "ms": 5.5},
    "pruned": {"marker": "o", "color": GREY, "mfc": "white", "ms": 5.5, "mew": 1.2},
}


def plot_sweep(
    rows: Sequence[Mapping[str, Any]],
    keys: Sequence[str],
    curves: Mapping[int, Sequence[Sequence[tuple[int, float]]]],
    *,
    choices: Mapping[str, Sequence[str]],
    score_name: str = "validation score",
) -> Figure:
    """The score against each key, and the validation curves; the best setting stands out.

    Scores far above the others, as of trainings that came apart, are drawn at the upper edge, as triangles.

    **Arguments:** `rows`: from `nde.sweeps.Sweep.rows`; `keys`: what was varied; `curves`: of each trial the steps and
    validation scores of its runs; `choices`: the values of keys with a list; `score_name`: beside the axes.
    """
    panels = len(keys) + 1
    columns = min(3, panels)
    lines = -(-panels // columns)
    figure = Figure(figsize=(3.5 * columns, 2.9 * lines + 0.4), layout="constrained")
    grid = np.ravel(figure.subplots(lines, columns))
    for axes in grid[panels:]:
        axes.remove()
    scored = [row for row in rows if row["state"] in STYLES and not math.isnan(row["score"])]
    best = next((row["trial"] for row in scored if row["state"] == "finished"), None)
    for axes, key in zip(grid, keys, strict=False):
        _against(axes, scored, key, _in_order(choices.get(key, ())), best)
    _curves(grid[len(keys)], rows, curves, best)
    for axes in grid[:panels]:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25, lw=0.6)
        axes.tick_params(labelsize=9)
    for axes in [*grid[:panels:columns], grid[len(keys)]]:
        axes.set_ylabel(score_name, fontsize=9)
    others = {row["state"] for row in scored if row["trial"] != best}
    said = {"finished": "finished", "pruned": "pruned, at its best score until then"}
    handles = [Line2D([], [], ls="", label=said[state], **STYLES[state]) for state in said if state in others]
    if best is not None:
        handles.insert(0, Line2D([], [], ls="", label="best setting", marker="*", color=ORANGE, ms=11))
    if handles:
        figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False, fontsize=9)
    return figure


def _in_order(listed: Sequence[str]) -> list[str]:
    """Numbers by size, other values as they were listed."""
    try:
        return sorted(listed, key=float)
    except ValueError:
        return list(listed)


def _limits(scores: Sequence[float], errors: Sequence[float]) -> tuple[float, float]:
    """A range that shows the better three quarters of the scores well."""
    if not scores:
        return 0.0, 1.0
    error = np.nan_to_num(errors)
    low, high = float(np.min(np.subtract(scores, error))), float(np.max(np.add(scores, error)))
    middle = float(np.quantile(scores, 0.75))
    top = high if high - low <= 4 * (middle - low) else middle + (middle - low)
    margin = 0.06 * (top - low) or 0.1 * abs(low) or 1.0
    return low - margin, top + margin


def _against(axes: Axes, rows: Sequence[Mapping[str, Any]], key: str, listed: Sequence[str], best: Any) -> None:
    """The scores against a key; values of a list stand at equal distances, and beside each other where they agree."""
    limits = _limits([row["score"] for row in rows], [row["error"] for row in rows])
    if listed:
        alike = {text: [row["trial"] for row in rows if row[key] == text] for text in listed}
        place = {
            trial: i + 0.5 * ((n + 0.5) / len(trials) - 0.5)
            for i, trials in enumerate(alike.values())
            for n, trial in enumerate(sorted(trials))
        }
        labels = [text.strip('"')[:16] for text in listed]
        axes.set_xticks(range(len(listed)), labels, rotation=20 if max(map(len, labels)) > 6 else 0)
        axes.set_xlim(-0.5, len(listed) - 0.5)
    else:
        place = {row["trial"]: float(row[key]) for row in rows}
        if place and min(place.values()) > 0 and max(place.values()) >= 10 * min(place.values()):
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
    for row in reversed(rows):  # the best on top
        error = None if math.isnan(row["error"]) else row["error"]
        x, y, style = place[row["trial"]], row["score"], STYLES[row["state"]]
        if row["trial"] == best:
            axes.errorbar(x, y, error, color=ORANGE, marker="*", ms=13, lw=1.2, zorder=3)
        elif y > limits[1]:
            axes.plot(x, limits[1], clip_on=False, **{**style, "marker": "^"})
        else:
            axes.errorbar(x, y, error, lw=1.2, **style)
    axes.set_ylim(limits)
    axes.set_title(key, fontsize=10)


def _curves(axes: Axes, rows: Sequence[Mapping[str, Any]], curves: Mapping[int, Any], best: Any) -> None:
    every = [y for row in rows for curve in curves.get(row["trial"], ()) for _, y in curve]
    for row in reversed(rows):
        mine = row["trial"] == best
        colour = ORANGE if mine else BLUE if row["state"] == "finished" else GREY
        for curve in curves.get(row["trial"], ()):
            axes.plot(*np.transpose(curve), color=colour, lw=2.2 if mine else 1, alpha=1 if mine else 0.55)
            if row["state"] == "pruned":
                axes.plot(*curve[-1], ls="", **STYLES["pruned"])
    if every:
        axes.set_ylim(*_limits(every, [0.0] * len(every)))
    axes.set_title("validation", fontsize=10)
    axes.set_xlabel("step", fontsize=9)
