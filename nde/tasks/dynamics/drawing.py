"""Draw the forecasts of fitted ODEs, and what its network has learned."""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from nde.config import DynamicsConfig, HybridModel
from nde.data import DATASETS
from nde.report import BLUE, fan_legend, GREY, ORANGE, plot_profile
from nde.tasks.base import OpenedRun
from nde.tasks.dynamics.evaluation import DynamicsDetails, forecast
from nde.tasks.dynamics.problem import DynamicsProblem
from nde.tasks.dynamics.training import batched_inputs, first_states, trajectories
from nde.tasks.scores import TableEvaluation

MAX_SERIES, POINTS = 3, 300


def figures(run: OpenedRun, problem: DynamicsProblem, evaluation: TableEvaluation) -> dict[str, Figure]:
    """Forecasts of each method, and for hybrids of one input the learned residual."""
    config: DynamicsConfig = run.config
    drawn = {"forecasts": plot_methods(config, problem, evaluation.details)}
    for label, found in evaluation.details.found.items():
        for name, profile in found.profiles.items():
            drawn[f"profile of {name}, {label}"] = plot_profile(profile, level=config.evaluate.level)
    for section in config.model:
        inputs, acts = getattr(section, "residual_inputs", None), getattr(section, "residual_states", None)
        of_state = set(inputs or ()) <= set(config.observe.facts().states)
        if isinstance(section, HybridModel) and of_state and len(inputs or ()) == len(acts or ()) == 1:
            name = "residual" if "residual" not in drawn else f"residual of {section.called()}"
            drawn[name] = plot_residual(config, problem, evaluation.details, section)
    return drawn


def plot_methods(config: DynamicsConfig, problem: DynamicsProblem, details: DynamicsDetails) -> Figure:
    """A row for each scored series and channel, a column for each method: median, 50 % and 90 % bands, data."""
    panel = problem.panel
    chosen = np.flatnonzero(problem.test.any((1, 2)))[:MAX_SERIES]
    held = int(problem.test.any((1, 2)).sum())
    places = [(series, channel) for series in chosen for channel in range(len(panel.channels))]
    methods = list(details.models)
    ts = np.linspace(problem.clock, panel.times.max(1), POINTS, axis=1)
    figure = Figure(figsize=(4.2 * len(methods), 1.9 * len(places) + 1.0), layout="constrained")
    grid = figure.subplots(len(places), len(methods), squeeze=False, sharex=True, sharey="row")
    back = np.exp if config.observe.log_noise else np.asarray
    for column, method in enumerate(methods):
        law = forecast(config, problem, details.models[method], ts)
        bands = back(law.quantiles((0.05, 0.25, 0.5, 0.75, 0.95)))
        for line, (series, channel) in enumerate(places):
            axes = grid[line, column]
            low, lower, middle, upper, high = bands[:, series, :, channel]
            axes.fill_between(ts[series], low, high, color=BLUE, alpha=0.2, lw=0)
            axes.fill_between(ts[series], lower, upper, color=BLUE, alpha=0.3, lw=0)
            axes.plot(ts[series], middle, color=BLUE, lw=1.2)
            _dots(axes, problem, series, channel)
            if config.observe.log_noise:
                axes.set_yscale("log")
            if column == 0:
                name = f"{panel.ids[series]}\n" if len(panel) > 1 else ""
                axes.set_ylabel(name + panel.channels[channel], fontsize=9)
            if line == 0:
                axes.set_title(method, fontsize=10)
            seen = problem.values[..., channel][panel.mask[..., channel]]
            margin = 0.4 * np.ptp(seen)
            axes.set_ylim(*back(np.array([seen.min() - margin, seen.max() + margin])))
            axes.spines[["top", "right"]].set_visible(False)
    if held > len(chosen):
        figure.supxlabel(f"{len(chosen)} of the {held} held-out series are drawn", fontsize=9)
    fan_legend(figure, "fitted")
    for axes in grid[-1]:
        axes.set_xlabel(f"time since {'first row' if problem.inputs is None else 'start'} ({panel.time_unit})")
    return figure


def _dots(axes, problem: DynamicsProblem, series: int, channel: int) -> None:
    times, values = problem.panel.times[series], problem.panel.values[series, :, channel]
    test = problem.test[series, :, channel]
    rest = problem.panel.mask[series, :, channel] & ~test
    axes.plot(times[rest], values[rest], "o", color="black", ms=3)
    axes.plot(times[test], values[test], "o", color=ORANGE, mfc="white", ms=3.5)


def plot_residual(
    config: DynamicsConfig, problem: DynamicsProblem, details: DynamicsDetails, section: HybridModel
) -> Figure:
    """What the network adds as a function of its one input, over the values that the fitted trajectory visits."""
    facts = config.observe.facts()
    name, acted = "".join(section.residual_inputs or ()), "".join(section.residual_states or ())
    place = facts.states.index(name)
    location, scale, rate = facts.location[place], facts.scale[place], facts.scale[facts.states.index(acted)]
    members = details.models[section.called()]
    ts = np.linspace(problem.clock, problem.train_until, POINTS, axis=1)
    first = jnp.asarray(first_states(config, problem))
    given = batched_inputs(config, problem)
    out = config.train.failed == "leave_out"
    solved = [trajectories(m, jnp.asarray(ts), first, problem.panel.ids, given, leave_out=out)[0] for m in members]
    visited = np.concatenate([np.asarray(ys)[..., place] for ys in solved])
    visited = visited[np.isfinite(visited)]
    grid = np.linspace(visited.min(), visited.max(), 200)
    states_along = jnp.zeros((len(grid), len(facts.states))).at[:, place].set(grid)
    figure = Figure(figsize=(5.0, 3.4), layout="constrained")
    axes = figure.subplots()
    grid, visited = location + scale * grid, location + scale * visited
    for i, member in enumerate(members):
        learned = jax.vmap(lambda y, field=member.ode.field: field.correction(0.0, y))(states_along)
        axes.plot(
            grid,
            rate * np.asarray(learned[:, 0]),
            color=BLUE,
            lw=1.3,
            alpha=0.8,
            label=None if i else "learned, a line a member",
        )
    truth = DATASETS[config.data.dataset].truth if config.data.dataset else {}
    if (added := truth.get(f"added to {acted} by {name}")) is not None:
        axes.plot(grid, added(grid), color="black", ls="--", lw=1.5, label="truth")
    axes.plot(visited.ravel(), np.full(visited.size, axes.get_ylim()[0]), "|", color=GREY, ms=5, alpha=0.2)
    axes.plot([], [], "|", color=GREY, ms=5, label="visited while fitted")
    axes.set(xlabel=name, ylabel=f"added to the rate of {acted}")
    axes.legend(frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
