"""How well series were classed: accuracies over seeds, and figures of where a classifier errs and of what it saw."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nde.report.figures import BLUE, GREY, ORANGE


def accuracy_rows(
    logits: Mapping[str, Float[np.ndarray, "seeds series classes"]], labels: Int[np.ndarray, " series"]
) -> list[dict[str, str | float]]:
    """A row for each method: mean accuracy over its seeds, standard deviation, each seed.

    **Arguments:** `logits`: of each method, `(seeds, series, classes)`, the largest wins;
    `labels`: `(series,)`, the true classes.

    **Returns:** rows with `method`, `accuracy` and `sd` in shares of the series, and a column `seed N` for each. `sd`
    has `seeds - 1` degrees of freedom; it is NaN for a single seed. It is the spread that training alone makes: of
    other test series it says nothing.
    """
    rows = []
    for method, scores in logits.items():
        accuracies = (scores.argmax(-1) == labels).mean(-1)
        sd = float(accuracies.std(ddof=1)) if len(accuracies) > 1 else float("nan")
        seeds = {f"seed {i}": float(accuracy) for i, accuracy in enumerate(accuracies)}
        rows.append({"method": method, "accuracy": float(accuracies.mean()), "sd": sd, **seeds})
    return rows


def log_softmax(logits: Float[np.ndarray, "*shape classes"]) -> Float[np.ndarray, "*shape classes"]:
    """Log-probabilities from scores, in nats, along the last axis."""
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def brier_score(
    logits: Float[np.ndarray, "*shape series classes"], labels: Int[np.ndarray, " series"]
) -> Float[np.ndarray, "*shape"]:
    r"""The Brier score $\sum_k (p_k - [k = y])^2$, mean over series: between 0 and 2, lower is better.

    Proper like the log-likelihood, and bounded: a few series that a sure classifier gets wrong do not decide it.

    **Source:** Brier, *Verification of forecasts expressed in terms of probability*, Monthly Weather Review 1950.
    """
    probabilities = np.exp(log_softmax(logits))
    return ((probabilities - np.eye(logits.shape[-1])[labels]) ** 2).sum(-1).mean(-1)


def confusion(
    predicted: Int[np.ndarray, "seeds series"], labels: Int[np.ndarray, " series"], classes: int
) -> Float[np.ndarray, "classes classes"]:
    """How often each true class (row) was taken for each class (column), over all seeds; rows with series sum to one.

    A class without series has a row of zeros.
    """
    counts = np.zeros((classes, classes))
    np.add.at(counts, (np.broadcast_to(labels, predicted.shape), predicted), 1)
    return counts / np.maximum(counts.sum(1, keepdims=True), 1)


def plot_confusion(tables: Mapping[str, Float[np.ndarray, "classes classes"]], classes: Sequence[str]) -> Figure:
    """`nde.report.confusion` of each method, in per cent: the true class downwards, the predicted one across."""
    size = 0.75 * len(classes) + 1.4
    figure = Figure(figsize=(size * len(tables), size), layout="constrained")
    grid = figure.subplots(1, len(tables), squeeze=False, sharey=True)[0]
    places = range(len(classes))
    for axes, (method, table) in zip(grid, tables.items(), strict=True):
        axes.imshow(table, cmap="Blues", vmin=0, vmax=1)
        for row in places:
            for column in places:
                share = table[row, column]
                colour = "white" if share > 0.6 else "black" if share > 0 else GREY
                axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", color=colour, fontsize=10)
        axes.set_xticks(places, classes, rotation=35, ha="right", fontsize=9)
        axes.set_yticks(places, classes, fontsize=9)
        axes.set_xlabel("predicted")
        axes.set_title(f"{method} (% of the true class)", fontsize=10)
    grid[0].set_ylabel("true")
    return figure


@dataclass(frozen=True)
class SeenSeries:
    """One series as a classifier saw it.

    - `name`: of the series and its class.
    - `times`, `values`: `(rows,)` and `(rows, channels)`, complete.
    - `mask`: `(rows, channels)`; what the classifier was given.
    - `ts`, `path`: `(points,)` and `(points, channels)`; the path that was laid through it.
    - `verdict`: what the classifier made of it, for the title.
    """

    name: str
    times: np.ndarray
    values: np.ndarray
    mask: np.ndarray
    ts: np.ndarray
    path: np.ndarray
    verdict: str


def plot_seen_series(stories: Sequence[SeenSeries], channels: Sequence[str], time_label: str) -> Figure:
    """A row a series, a column a channel: what was given, what was removed, and the path that a neural CDE follows."""
    figure = Figure(figsize=(4.4 * len(channels), 1.7 * len(stories) + 0.8), layout="constrained")
    grid = figure.subplots(len(stories), len(channels), squeeze=False, sharex=True)
    for story, line in zip(stories, grid, strict=True):
        for c, axes in enumerate(line):
            _seen(axes, story, c)
            axes.set_title(f"{story.name} – {channels[c]}" if c else f"{story.name}: {story.verdict}", fontsize=9)
            if c == 0:
                axes.set_ylabel(channels[0], fontsize=9)
            if story is stories[-1]:
                axes.set_xlabel(time_label)
    handles = [
        Line2D([], [], color=BLUE, label="path"),
        Line2D([], [], color="black", marker="o", ls="", ms=4, label="given"),
        Line2D([], [], color=ORANGE, marker="o", mfc="white", ls="", ms=4, label="removed"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False, fontsize=9)
    return figure


def _seen(axes: Axes, story: SeenSeries, c: int) -> None:
    given = story.mask[:, c]
    axes.plot(story.ts, story.path[:, c], color=BLUE, lw=1.1)
    axes.plot(story.times[~given], story.values[~given, c], "o", color=ORANGE, mfc="white", ms=3, mew=0.9)
    axes.plot(story.times[given], story.values[given, c], "o", color="black", ms=2.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, lw=0.6)
    axes.tick_params(labelsize=8)
