"""Training curves, forecast fans, calibration: functions that return a matplotlib figure and write nothing."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

BLUE, ORANGE, GREY = "#2b6ca3", "#c4561e", "#6b6b6b"
PARTS = {
    "log_likelihood": "log-likelihood (nats per series)",
    "kl_path": "path KL (nats per series)",
    "kl_initial": "initial KL (nats per series)",
    "accuracy": "accuracy on the batch (share of series)",
}


def plot_training(
    rows: Sequence[Mapping[str, float]],
    *,
    loss_name: str = "loss (nats per value)",
    score_name: str = "validation NLL per value",
    names: Sequence[str] | None = None,
) -> Figure:
    """Training curves from the rows of a metrics file: loss, its parts, validation score; a line for each member.

    **Arguments:** `rows`: from `nde.train.read_metrics`; `loss_name`, `score_name`: titles, with units; `names`:
    what each member is called; those of one name share a colour.
    """
    members = sorted({int(row["member"]) for row in rows})
    called = {m: f"member {m + 1}" if names is None else names[m] for m in members}
    colours = {name: f"C{i}" for i, name in enumerate(dict.fromkeys(called.values()))}
    panels = [("loss", loss_name), ("validation", score_name)]
    panels += [(name, label) for name, label in PARTS.items() if any(name in row for row in rows)]
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(3.4 * columns, 2.6 * lines + 0.4), layout="constrained")
    grid = np.ravel(figure.subplots(lines, columns))
    for axes in grid[len(panels) :]:
        axes.remove()
    # One range for all, since a panel of a single validation would count in fractions of a step.
    steps = [row["step"] for row in rows] or [0]
    margin = 0.04 * (max(steps) - min(steps)) or 0.5
    limits = (min(steps) - margin, max(steps) + margin)
    for axes, (name, label) in zip(grid[: len(panels)], panels, strict=True):
        for member in members:
            points = [(row["step"], row[name]) for row in rows if row["member"] == member and name in row]
            colour = BLUE if len(members) == 1 else colours[called[member]]
            if points:
                axes.plot(*np.transpose(points), color=colour, lw=1.3, marker="." if name == "validation" else None)
        axes.set(xlabel="step", title=label, xlim=limits)
        axes.title.set_fontsize(10)
        _tidy(axes)
    if len(members) > 1:
        handles = [Line2D([], [], color=colour, label=name) for name, colour in colours.items()]
        longest = max(len(name) for name in colours)
        columns = max(1, min(len(handles), int(3.4 * columns / (0.5 + 0.085 * longest))))
        figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
    return figure


@dataclass(frozen=True)
class Story:
    """One series to draw: a row of fans.

    - `name`: what it is called.
    - `times`, `values`, `mask`: `(rows,)` and `(rows, channels)`, in their own units.
    - `cutoff`: the last time that the forecast was given.
    - `ts`: `(asked,)`; times of the fan.
    - `bands`: `(levels, asked, channels)`; quantiles at 5, 25, 50, 75 and 95 %, in their own units.
    """

    name: str
    times: np.ndarray
    values: np.ndarray
    mask: np.ndarray
    cutoff: float
    ts: np.ndarray
    bands: np.ndarray


FAN_LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)


def plot_forecasts(
    stories: Sequence[Story],
    channels: Sequence[str],
    labels: Sequence[str],
    log: Sequence[bool],
    time_label: str,
    *,
    note: str = "",
) -> Figure:
    """Forecast fans: a row a series, a column a channel, with the 50 % and 90 % bands, what was observed, the cut-off.

    **Arguments:** `stories`: the series; `channels`: names, over the columns; `labels`: with units, beside the axes;
    `log`: which channels stand on a log scale; `time_label`: under the axes;
    `note`: below all, such as which channels are not drawn.
    """
    size = (3.0 * len(channels) + 0.6, 2.3 * len(stories) + 0.9)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(stories), len(channels), squeeze=False, sharex="row", sharey="col")
    for story, line in zip(stories, grid, strict=True):
        for c, axes in enumerate(line):
            _fan(axes, story, c)
            if log[c]:
                axes.set_yscale("log")
                axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
                axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
                axes.yaxis.set_minor_formatter(NullFormatter())
            if story is stories[0]:
                axes.set_title(channels[c], fontsize=11)
            if story is stories[-1]:
                axes.set_xlabel(time_label)
            _tidy(axes)
            axes.set_ylabel(f"{story.name}\n{labels[c]}" if c == 0 else labels[c], fontsize=9)
    fan_legend(figure, "given", [Line2D([], [], color=GREY, ls="--", label="cut-off")])
    if note:
        figure.supxlabel(textwrap.fill(note, int(14 * size[0])), fontsize=9)
    return figure


def fan_legend(figure: Figure, known: str, more: Sequence[Line2D] = ()) -> None:
    """A legend of forecast fans above their figure: bands, median, the values that were `known` and those held out."""
    handles = [
        Patch(color=BLUE, alpha=0.22, lw=0, label="90 % band"),
        Patch(color=BLUE, alpha=0.45, lw=0, label="50 % band"),
        Line2D([], [], color=BLUE, label="median"),
        Line2D([], [], color="black", marker="o", ls="", ms=5, label=known),
        Line2D([], [], color=ORANGE, marker="o", mfc="white", ls="", ms=5, label="held out"),
        *more,
    ]
    columns = legend_columns(len(handles), figure.get_figwidth())
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, frameon=False, fontsize=10)


def legend_columns(entries: int, width: float) -> int:
    """How many short entries of a legend stand side by side in a figure of so many inches, none of them cut off."""
    return max(1, min(entries, int(width / 1.3)))


def _fan(axes: Axes, story: Story, c: int) -> None:
    low, lower, middle, upper, high = story.bands[:, :, c]
    axes.fill_between(story.ts, low, high, color=BLUE, alpha=0.22, lw=0)
    axes.fill_between(story.ts, lower, upper, color=BLUE, alpha=0.3, lw=0)
    axes.plot(story.ts, middle, color=BLUE, lw=1.4)
    seen = story.mask[:, c]
    given = seen & (story.times <= story.cutoff)
    held = seen & ~given
    axes.plot(story.times[given], story.values[given, c], "o", color="black", ms=4.5)
    axes.plot(story.times[held], story.values[held, c], "o", color=ORANGE, mfc="white", ms=5, mew=1.3)
    axes.axvline(story.cutoff, color=GREY, ls="--", lw=1)


def plot_calibration(
    levels: Sequence[float], observed: np.ndarray, channels: Sequence[str], *, pooled: np.ndarray
) -> Figure:
    """Calibration: the nominal level of central intervals against the share of values that fell inside.

    **Arguments:** `levels`: nominal; `observed`: `(levels, channels)`; `pooled`: `(levels,)`, over all channels.
    """
    # The legend stands beside the axes in columns of sixteen lines, and the figure is as wide as its names need.
    columns = -(-(len(channels) + 2) // 16)
    wide = 0.6 + 0.085 * max(len(name) for name in (*channels, "all channels"))
    figure = Figure(figsize=(4.0 + columns * wide, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 100], [0, 100], color=GREY, ls="--", lw=1, label="ideal")
    for c, name in enumerate(channels):
        axes.plot(100 * np.asarray(levels), 100 * observed[:, c], lw=1, alpha=0.8, label=name)
    axes.plot(100 * np.asarray(levels), 100 * pooled, color="black", lw=2.2, label="all channels")
    axes.set(xlabel="nominal coverage (%)", ylabel="observed coverage (%)", xlim=(0, 100), ylim=(0, 100))
    axes.set_aspect("equal")
    axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False, fontsize=9, ncols=columns)
    _tidy(axes)
    return figure


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, lw=0.6)
    axes.tick_params(labelsize=9)
