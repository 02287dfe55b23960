"""Draw the figures of a run that forecasts."""

import numpy as np
from matplotlib.figure import Figure

from nde.report import FAN_LEVELS, plot_calibration, plot_forecasts, Story
from nde.tasks.base import OpenedRun
from nde.tasks.forecast.evaluation import COVERAGE_LEVELS, ForecastEvaluation
from nde.tasks.forecast.problem import build_cut, Problem
from nde.tasks.forecast.stack import predictive_law

MAX_CHANNELS, MAX_SERIES, FAN_POINTS = 4, 3, 80
REDRAWN = 20
"""Draws of each sample's value, with which the bands are smooth to the eye."""


def figures(run: OpenedRun, problem: Problem, evaluation: ForecastEvaluation) -> dict[str, Figure]:
    """Forecast fans and calibration."""
    calibration = plot_calibration(
        COVERAGE_LEVELS, evaluation.covered, problem.panel.channels, pooled=evaluation.over_all
    )
    return {"forecasts": _fans(run, problem), "calibration": calibration}


def _fans(run: OpenedRun, problem: Problem) -> Figure:
    """Fans for the test series with the most values to forecast, one of each third of the lengths of follow-up."""
    panel, settings = problem.panel, run.config.evaluate
    times, values, mask = problem.arrays(problem.split.test)
    cut = build_cut(settings, problem.panel.time_scale).cut(times, mask)
    chosen = _telling(cut.targets, panel.last_times[problem.split.test])
    channels = np.sort(np.argsort(-mask[chosen].sum((0, 1)), kind="stable")[:MAX_CHANNELS])
    ends = np.array([times[i][mask[i].any(-1)].max() for i in chosen])
    ts = np.linspace(times[chosen, 0], ends, FAN_POINTS, axis=1)
    given = times[chosen], values[chosen], cut.context[chosen], ts
    test = panel[problem.split.test]
    ids = [test.ids[i] for i in chosen]
    law, drawn_by = predictive_law(run, run.models(), given, ids, samples=settings.samples, redraws=REDRAWN)
    bands = problem.normaliser.undo(law.quantiles(FAN_LEVELS))
    shown = panel.time_scale if run.config.data.table_unit else 1.0
    stories = [
        Story(
            name=f"{run.config.data.id} {test.ids[i]}",
            times=shown * test.times[i],
            values=test.values[i][:, channels],
            mask=test.mask[i][:, channels],
            cutoff=shown * float(cut.cutoff[i]),
            ts=shown * ts[n],
            bands=bands[:, n][..., channels],
        )
        for n, i in enumerate(chosen)
    ]
    names = [panel.channels[c] for c in channels]
    units = run.config.data.units
    labels = [f"{name} ({units[name]})" if name in units else name for name in names]
    log = [bool(problem.normaliser.log[c]) for c in channels]
    left = [name for name in panel.channels if name not in names]
    notes = [f"forecasts of the {drawn_by}"] if drawn_by != run.config.model[0].called() else []
    notes += [f"not drawn, with fewer values in these series: {', '.join(left)}"] if left else []
    unit = run.config.data.table_unit or panel.time_unit
    return plot_forecasts(stories, names, labels, log, f"time since first row ({unit})", note="; ".join(notes))


def _telling(targets: np.ndarray, last_times: np.ndarray) -> list[int]:
    """Of each third of the series by length, the one with the most targets."""
    counts = targets.sum((1, 2))
    scored = np.flatnonzero(counts)
    thirds = np.array_split(scored[np.argsort(last_times[scored], kind="stable")], MAX_SERIES)
    return [int(part[np.argmax(counts[part])]) for part in thirds if len(part)]
