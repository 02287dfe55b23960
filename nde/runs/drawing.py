"""Draw the figures of a run."""

from pathlib import Path

import numpy as np

from nde import config as configs
from nde.report import plot_calibration, plot_forecasts, plot_training, sample_forecast, Story
from nde.report.figures import FAN_LEVELS
from nde.runs.evaluation import COVERAGE_LEVELS, Evaluation
from nde.runs.folder import member_key, Run
from nde.runs.problem import Problem
from nde.train import read_metrics

MAX_CHANNELS, MAX_SERIES, FAN_POINTS = 4, 3, 80


def draw(run: Run, problem: Problem, evaluation: Evaluation, folder: Path | None = None) -> list[Path]:
    """Write `training.png`, `forecasts.png` and `calibration.png` into the run's `figures`, or another folder."""
    folder = run.folder / "figures" if folder is None else folder
    folder.mkdir(parents=True, exist_ok=True)
    figures = {
        "training": plot_training(read_metrics(run.metrics_path)),
        "forecasts": _fans(run, problem),
        "calibration": plot_calibration(
            COVERAGE_LEVELS, evaluation.covered, problem.panel.channels, pooled=evaluation.pooled
        ),
    }
    paths = [folder / f"{name}.png" for name in figures]
    for path, figure in zip(paths, figures.values(), strict=True):
        figure.savefig(path, dpi=150)
    return paths


def _fans(run: Run, problem: Problem):
    """Fans for the test series with the most values to forecast, one of each third of the lengths of follow-up."""
    panel, settings = problem.panel, run.config.evaluate
    times, values, mask = problem.arrays(problem.split.test)
    cut = configs.build_task(settings).cut(times, mask)
    chosen = _telling(cut.targets, panel.last_times[problem.split.test])
    channels = np.sort(np.argsort(-mask[chosen].sum((0, 1)), kind="stable")[:MAX_CHANNELS])
    ends = np.array([times[i][mask[i].any(-1)].max() for i in chosen])
    ts = np.linspace(times[chosen, 0], ends, FAN_POINTS, axis=1)
    forecast = sample_forecast(
        run.models(), times[chosen], values[chosen], cut.context[chosen], ts,
        samples=settings.samples, key=member_key(run.config, 0, "forecasts"),
    )  # fmt: skip
    smooth = forecast.law.redrawn(20, key=member_key(run.config, 0, "figures"))
    bands = problem.normaliser.undo(smooth.quantiles(FAN_LEVELS))
    test = panel[problem.split.test]
    stories = [
        Story(
            name=f"{run.config.data.id} {test.ids[i]}",
            times=test.times[i],
            values=test.values[i][:, channels],
            mask=test.mask[i][:, channels],
            cutoff=float(cut.cutoff[i]),
            ts=ts[n],
            bands=bands[:, n][..., channels],
        )
        for n, i in enumerate(chosen)
    ]
    names = [panel.channels[c] for c in channels]
    units = run.config.data.units
    labels = [f"{name} ({units[name]})" if name in units else name for name in names]
    log = [bool(problem.normaliser.log[c]) for c in channels]
    return plot_forecasts(stories, names, labels, log, f"time since first row ({panel.time_unit})")


def _telling(targets: np.ndarray, last_times: np.ndarray) -> list[int]:
    """Of each third of the series by length, the one with the most targets."""
    counts = targets.sum((1, 2))
    scored = np.flatnonzero(counts)
    thirds = np.array_split(scored[np.argsort(last_times[scored], kind="stable")], MAX_SERIES)
    return [int(part[np.argmax(counts[part])]) for part in thirds if len(part)]
