"""Forecast the series of a table with the models of a run."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from nde.config import ForecastConfig
from nde.data import Normaliser, Panel
from nde.report import far_channels, forecast_marks, quantiles_of_samples
from nde.tasks.base import member_key, OpenedRun, predicting, Prediction, RunError
from nde.tasks.forecast.problem import blocks_of, padded_rows
from nde.tasks.forecast.stack import no_stack, predictive_law, read_stack
from nde.tasks.predictions import prediction_columns, prediction_table
from nde.tasks.tables import read_asked, read_normaliser, refuse_taken


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
    refuse_taken(config.data, asked, prediction_columns())
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
    off, frames, order = far_channels(values, panel.mask), [], []
    count = len(panel.channels)
    for places, rows in blocks_of(panel.lengths, padded_rows(panel.lengths), asked.samples * count):
        part = panel[places].shortened(rows)
        frames.append(_predict_block(run, models, asked, part, values[places, :rows], normaliser, off))
        order.append(np.repeat(places, part.lengths * count))
    if len(frames) == 1:
        return frames[0]
    return pl.concat(frames)[np.argsort(np.concatenate(order), kind="stable")]


def _predict_block(
    run: OpenedRun,
    models: Mapping[str, Sequence[Any]],
    asked: Prediction,
    panel: Panel,
    values: np.ndarray,
    normaliser: Normaliser,
    off: np.ndarray,
) -> pl.DataFrame:
    """The table of some series."""
    config: ForecastConfig = run.config
    given = panel.times, values, panel.mask, panel.times
    law, _ = predictive_law(run, models, given, panel.ids, samples=asked.samples, model=asked.model)
    draws = law.sample(asked.samples, series=panel.ids, key=member_key(config, 0, "forecasts"))
    centre = quantiles_of_samples(draws, [0.5])[0]
    marks = forecast_marks(panel.times, values, panel.mask, centre, span=config.data.span or 0.0, off=off)
    return prediction_table(config.data, panel, normaliser.undo(draws), asked, log=normaliser.log, marks=marks)


def forecast_notes(run: OpenedRun) -> list[str]:
    """What the forecasts of a run are drawn from, where that is not its one model alone, or should not be."""
    stack = read_stack(run)
    if stack is not None and stack.weights:
        return [stack.line()]
    alone = [f"forecasts of the {predicting(run, None)}"] if len(run.config.model) > 1 else []
    if stack is None:
        return [*alone, *([no_stack(run)] if run.config.evaluate.stack else [])]
    return [*alone, *stack.notes]
