"""Figures of a population: a visual predictive check, individual predictions, weighted residuals."""

import jax
import numpy as np
from matplotlib.figure import Figure

from nde.config import PopulationConfig
from nde.models import Population
from nde.report import (
    BLUE,
    GREY,
    individual_fits,
    Individuals,
    ORANGE,
    plot_predictive_check,
    plot_profile,
    predictive_check,
    weighted_residuals,
)
from nde.tasks.base import member_key, OpenedRun
from nde.tasks.dynamics import DynamicsProblem
from nde.tasks.population.training import individuals
from nde.tasks.scores import TableEvaluation

MAX_INDIVIDUALS = 12


def figures(run: OpenedRun, problem: DynamicsProblem, evaluation: TableEvaluation) -> dict[str, Figure]:
    """Of each `[[model]]` a visual predictive check of all individuals, the predictions of some, weighted residuals."""
    config: PopulationConfig = run.config
    details = evaluation.details
    data = individuals(config, problem, problem.panel.mask)
    drawn = {}
    for label, members in details.models.items():
        model, many = members[0], len(details.models) > 1
        name = f", {label}" if many else ""
        check = predictive_check(
            model, data, edges=bin_edges(data, config.evaluate.bins), repeats=config.evaluate.repeats,
            key=member_key(config, 0, "figures"),
        )  # fmt: skip
        time = f"time since start ({problem.panel.time_unit})"
        drawn[f"predictive check{name}"] = plot_predictive_check(check, data, names=problem.panel.channels, time=time)
        shown = individuals(config, problem, details.shown)
        drawn[f"individuals{name}"] = plot_individuals(model, problem, shown, time)
        drawn[f"residuals{name}"] = plot_residuals(model, data, problem.panel.channels, time)
    for label, found in details.found.items():
        for name, profile in found.profiles.items():
            drawn[f"profile of {name}, {label}"] = plot_profile(profile, level=config.evaluate.level)
    return drawn


def bin_edges(data: Individuals, bins: int) -> list[float]:
    """Edges of bins of time with about equally many rows; fewer bins where many rows share a time."""
    times = np.asarray(data[0])[np.asarray(data[2]).any(-1)]
    inner = np.unique(np.quantile(times, np.linspace(0, 1, bins + 1)[1:-1]))
    edges = np.unique([times.min(), *inner, np.nextafter(times.max(), np.inf, dtype=times.dtype)])
    kept = [edges[0]]
    for edge in edges[1:]:  # a bin of which a channel has no value is joined with the next
        inside = (np.asarray(data[0]) >= kept[-1]) & (np.asarray(data[0]) < edge)
        if (np.asarray(data[2]) & inside[..., None]).any((0, 1)).all():
            kept.append(edge)
    kept[-1] = edges[-1]
    return [float(edge) for edge in kept]


def plot_individuals(model: Population, problem: DynamicsProblem, shown: Individuals, time: str) -> Figure:
    """Of some individuals, held-out ones first, what is predicted with their own effects and with the typical ones."""
    panel = problem.panel
    held = np.flatnonzero((problem.test & ~problem.fit).any((1, 2)))
    order = [*held, *(i for i in problem.series if i not in set(held.tolist()))][:MAX_INDIVIDUALS]
    some = jax.tree.map(lambda x: np.asarray(x)[np.array(order)], shown)
    fine = np.linspace(some[0][:, 0], panel.times[np.array(order)].max(1), 120, axis=1).astype(some[0].dtype)
    rows = np.concatenate([some[0], fine], axis=1)
    place = np.argsort(rows, axis=1, kind="stable")
    blank = np.zeros((*fine.shape, some[1].shape[-1]))
    values = np.take_along_axis(np.concatenate([some[1], blank], 1), place[..., None], 1).astype(some[1].dtype)
    mask = np.take_along_axis(np.concatenate([some[2], blank.astype(bool)], 1), place[..., None], 1)
    times = np.take_along_axis(rows, place, 1)
    fits = individual_fits(model, (times, values, mask, some[3]))
    count, channels = len(order), len(panel.channels)
    columns = min(4, count) if channels == 1 else channels
    lines = -(-count // columns) if channels == 1 else count
    figure = Figure(figsize=(2.7 * columns, 2.1 * lines), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False, sharex=True)
    for axes in grid.ravel()[count * channels :]:
        axes.set_visible(False)
    for n, (i, c) in enumerate((i, c) for i in range(count) for c in range(channels)):
        axes, who = grid.ravel()[n], order[i]
        axes.plot(times[i], fits.population[i, :, c], color=GREY, lw=1.2, ls="--", label="typical")
        axes.plot(times[i], fits.individual[i, :, c], color=BLUE, lw=1.4, label="own effects")
        seen, given = panel.mask[who, :, c], problem.test[who, :, c] & ~problem.fit[who, :, c]
        axes.plot(panel.times[who][seen & ~given], problem.values[who, :, c][seen & ~given], "o", color="black", ms=3)
        axes.plot(
            panel.times[who][seen & given], problem.values[who, :, c][seen & given], "o", color=ORANGE, mfc="w", ms=3.5
        )
        what = f", {panel.channels[c]}" if channels > 1 else ""
        axes.set_title(f"{panel.ids[who]}{what}{' (held out)' if who in held else ''}", fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    grid.ravel()[0].legend(frameon=False, fontsize=8)
    figure.supxlabel(time, fontsize=9)
    return figure


def plot_residuals(model: Population, data: Individuals, channels: tuple[str, ...], time: str) -> Figure:
    """Conditional weighted residuals of all values over time, of mean zero and variance one were the model true."""
    residuals = weighted_residuals(model, data)
    figure = Figure(figsize=(4.6 * len(channels), 3.2), layout="constrained")
    for c, axes in enumerate(figure.subplots(1, len(channels), squeeze=False)[0]):
        axes.plot(np.asarray(data[0]).ravel(), residuals[..., c].ravel(), "o", color=BLUE, ms=3, alpha=0.6)
        axes.axhline(0, color=GREY, lw=1)
        for bound in (-1.96, 1.96):
            axes.axhline(bound, color=GREY, lw=1, ls="--")
        axes.set(xlabel=time, ylabel=f"weighted residual of {channels[c]}")
        axes.spines[["top", "right"]].set_visible(False)
    return figure
