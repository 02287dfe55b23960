"""Forecast the series of a table with the models of a run."""

import numpy as np
import polars as pl

from nde.config import ForecastConfig
from nde.data import Normaliser, Panel
from nde.report import forecast_marks, quantiles_of_samples
from nde.tasks.base import member_key, OpenedRun, predicting, Prediction, RunError
from nde.tasks.forecast.stack import no_stack, predictive_law, read_stack
from nde.tasks.tables import read_asked, read_normaliser, refuse_taken

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
COLUMNS = ("channel", "observed", "mean", "statistic", "mark")


def predict(run: OpenedRun, asked: Prediction) -> pl.DataFrame:
    """Forecast every series of a table at every time that it names, and `ahead` of each series' last row.

    All observed values of the table are given to the model; a row without values asks for a forecast at its time. The
    result has a row for each (series, time, channel): the value observed, if any, and mean, 5, 25, 50, 75 and 95 %
    quantiles of the predictive law, in the channel's own unit. For a channel on a log scale `mean` holds the median,
    since under Student's t the mean of an exponential is not finite; `statistic` says which of the two it is. `mark`
    says of which forecasts little is known (`nde.report.forecast_marks`); it is empty elsewhere. A run that keeps a
    pool with the baselines forecasts by it; `forecast_notes`
    says so.
    A series' forecast is drawn by its id: it does not depend on which other series the table holds, nor on their order.
    Ids and times are those of the table, bit for bit and in their types, so that forecasts join its rows.

    **Raises:** `RunError` or `TableError` for a table that can not be used.
    """
    config: ForecastConfig = run.config
    refuse_taken(config.data, asked, {*COLUMNS, *map(_quantile_name, LEVELS)})
    normaliser = read_normaliser(run.folder)
    panel = read_asked(config.data, asked, normaliser.channels)
    try:
        panel = panel.asked_ahead(asked.ahead)
    except ValueError as error:
        raise RunError(f"{asked.source}: --ahead: {error}.") from None
    values = normaliser.apply(panel)
    until = float(panel.times.max())
    try:
        models = run.models(until=until)
    except RunError as error:
        raise RunError(f"{asked.source}: a series or --ahead of {until:g} can not be solved: {error}") from None
    given = panel.times, values, panel.mask, panel.times
    law, _ = predictive_law(run, models, given, panel.ids, samples=asked.samples, model=asked.model)
    draws = law.sample(asked.samples, series=panel.ids, key=member_key(config, 0, "forecasts"))
    centre = quantiles_of_samples(draws, [0.5])[0]
    span = config.data.span or 0.0
    marks = forecast_marks(panel.times, values, panel.mask, centre, span=span)
    return _table(run, panel, normaliser, draws, marks, asked)


def forecast_notes(run: OpenedRun) -> list[str]:
    """What the forecasts of a run are drawn from, where that is not its one model alone, or should not be."""
    stack = read_stack(run)
    if stack is not None and stack.weights:
        return [stack.line()]
    alone = [f"forecasts of the {predicting(run, None)}"] if len(run.config.model) > 1 else []
    if stack is None:
        return [*alone, *([no_stack(run)] if run.config.evaluate.stack else [])]
    return [*alone, *stack.notes]


def _table(
    run: OpenedRun, panel: Panel, normaliser: Normaliser, draws: np.ndarray, marks: np.ndarray, asked: Prediction
) -> pl.DataFrame:
    rows = np.arange(panel.times.shape[1])[None, :] < panel.lengths[:, None]
    series, row = np.nonzero(rows)
    count = len(panel.channels)
    chosen = normaliser.undo(draws)[:, series, row].reshape(len(draws), -1)
    log = np.tile(normaliser.log, len(series))
    quantiles = dict(zip(LEVELS, quantiles_of_samples(chosen, LEVELS), strict=True))
    observed = np.where(panel.mask, panel.values, np.nan)[series, row].reshape(-1)
    ids, times = panel.keys(np.repeat(series, count), np.repeat(row, count), as_text=asked.as_text)
    columns = {
        run.config.data.id: ids,
        run.config.data.time: times,
        "channel": np.tile(np.array(panel.channels), len(series)),
        "observed": observed,
        "mean": np.where(log, quantiles[0.5], chosen.mean(0)),
        "statistic": np.where(log, "median", "mean"),
    }
    columns |= {_quantile_name(level): values for level, values in quantiles.items()}
    columns["mark"] = [mark or None for mark in marks[series, row].reshape(-1)]
    if asked.keep_samples:
        columns |= {f"sample_{i}": sample for i, sample in enumerate(chosen)}
    return pl.DataFrame(columns, schema_overrides={"mark": pl.String}).with_columns(pl.col("observed").fill_nan(None))


def _quantile_name(level: float) -> str:
    return f"q{100 * level:02.0f}"
