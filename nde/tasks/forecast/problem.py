"""The series of a forecast, read, split and standardised."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from nde.config import ForecastConfig, ForecastEvaluate
from nde.data import Normaliser, Panel, refuse_empty_channels, row_counts, Split, split_series
from nde.report import AbstractCut, Landmark, SecondHalf
from nde.tasks.base import RunError
from nde.tasks.tables import load_series, resolved_table


@dataclass(frozen=True)
class Problem:
    """A config's data, ready for a model.

    - `panel`: all series, in their own units.
    - `split`: which of them train, stop the training and are scored.
    - `normaliser`: fitted on the training fold (`split.fold`).
    - `values`: `(series, rows, channels)`, standardised.
    """

    panel: Panel
    split: Split
    normaliser: Normaliser
    values: np.ndarray

    def ids(self, series: np.ndarray) -> tuple[str, ...]:
        """The ids of some series."""
        return tuple(self.panel.ids[i] for i in series)

    def arrays(self, series: np.ndarray, rows: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Times, standardised values and mask of some series, and of those the first rows if not all."""
        return self.panel.times[series, :rows], self.values[series, :rows], self.panel.mask[series, :rows]

    def blocks(self, series: np.ndarray, samples: int) -> Iterator[tuple[np.ndarray, int]]:
        """Places in `series`, so many at a time as their samples may be held, and how many rows they need."""
        counts = padded_rows(self.panel.lengths)
        yield from blocks_of(self.panel.lengths[series], counts, samples * len(self.panel.channels))


MANY = 2000
"""Series from which on those of like lengths are forecast together, each padded to at most twice its rows in the mean.
Below it the time that is saved is less than that of compiling for several lengths."""

NUMBERS, MULTIPLE = 2**24, 32
"""Of samples in a block of forecasts, 64 MB in single precision, of which some copies are made; series are forecast by
so many at once."""


def padded_rows(lengths: np.ndarray) -> np.ndarray:
    """The numbers of rows to which series are padded to be forecast, ascending, the last of them the longest length."""
    return row_counts(lengths, most=2.0) if len(lengths) >= MANY else np.array([lengths.max()])


def blocks_of(lengths: np.ndarray, counts: np.ndarray, numbers: int) -> Iterator[tuple[np.ndarray, int]]:
    """Which series make up each block, as places in `lengths`, and the rows that they need, one of `counts`.

    **Arguments:** `numbers`: that are made for each row.
    """
    group = np.searchsorted(counts, lengths)
    for number, rows in enumerate(counts):
        own = np.flatnonzero(group == number)
        size = max(NUMBERS // (numbers * int(rows)) // MULTIPLE, 1) * MULTIPLE
        for first in range(0, len(own), size):
            yield own[first : first + size], int(rows)


def load_problem(config: ForecastConfig) -> Problem:
    """Read, split and normalise the data of a config.

    **Raises:** `TableError` or `ValueError` for a bad table or split, `RunError` if the table is not the one that the
    config's `data.sha256` was made from.
    """
    data = config.data
    panel = load_series(data)
    if data.time_scale is None:
        panel = _in_tenths(panel)
    split = split_series(len(panel), fold=data.fold, folds=data.folds, validation=data.validation, seed=data.split_seed)
    fitted = panel.mask & np.isin(np.arange(len(panel)), split.fold)[:, None, None]
    refuse_empty_channels(panel, fitted, source=data.source())
    normaliser = Normaliser.fit(panel, data.log, series=split.fold)
    scored = replace(split, test=sample_series(split.test, config.evaluate.series, data.split_seed))
    return Problem(panel, scored, normaliser, normaliser.apply(panel))


def sample_series(series: np.ndarray, count: int, seed: int) -> np.ndarray:
    """So many of the series at random, in their order; all of them for a count of 0 or above their number."""
    if count == 0 or count >= len(series):
        return series
    return np.sort(np.random.default_rng(seed).choice(series, count, replace=False))


def build_cut(settings: ForecastEvaluate, time_scale: float | None) -> AbstractCut:
    """Where series are cut; `time_scale`: units of the table's time column in one of the model's."""
    if settings.cut == "landmark":
        at, until = settings.landmark(time_scale)
        return Landmark(at=at, until=until)
    return SecondHalf()


def resolve(config: ForecastConfig, problem: Problem) -> ForecastConfig:
    """The config with all that depends on the data filled in, so that it says the same when read elsewhere.

    **Raises:** `RunError` if the horizon is shorter than a series, or if the validation or test series hold nothing to
    forecast.
    """
    data, panel = config.data, problem.panel
    longest = float(panel.times.max())
    horizon = data.horizon or longest or 1.0
    if horizon < longest:
        raise RunError(f"data.horizon is {horizon:g}, but the longest series is {longest:g} long; raise it.")
    _check_targets(config, problem)
    update = resolved_table(data, panel)
    fold = problem.split.fold
    seen = float(panel.mask[fold].sum(1).mean())
    span = float(panel.last_times[fold].max())
    update |= {"horizon": horizon, "span": span, "observations": data.observations or seen}
    # A unit of time that was chosen here, or that has no name, would mean nothing on an axis.
    if data.table_unit is None and (data.time_scale is None or data.time_unit is None):
        update["table_unit"] = panel.time_unit
    return config.model_copy(update={"data": data.model_copy(update=update)})


def _check_targets(config: ForecastConfig, problem: Problem) -> None:
    """Refuse a split whose validation or test series hold nothing to forecast."""
    cut = build_cut(config.evaluate, problem.panel.time_scale)
    for name, series in (("validation", problem.split.validation), ("test", problem.split.test)):
        if not cut.cut(problem.panel.times[series], problem.panel.mask[series]).targets.any():
            raise RunError(
                f"{config.data.source()}: none of the {len(series)} {name} series has a value to forecast; change "
                "data.folds, data.validation or data.split_seed, or choose another evaluate.cut."
            )


def _in_tenths(panel: Panel) -> Panel:
    """The panel in a unit of time of which its longest series has ten."""
    scale = float(panel.times.max()) / 10 or 1.0
    return replace(panel, times=panel.times / scale, time_scale=scale)
