"""The table that `nde predict` gives of laws of values: a row for each series, time and channel."""

import numpy as np
import polars as pl

from nde.data import Panel, TableFormat
from nde.report import quantiles_of_samples
from nde.tasks.base import Prediction

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)


def prediction_table(
    data: TableFormat, panel: Panel, draws: np.ndarray, asked: Prediction, *, log: np.ndarray, marks: np.ndarray | None
) -> pl.DataFrame:
    """Mean, quantiles and what was observed, of `draws` `(samples, series, rows, channels)` in own units.

    **Arguments:** `log`: `(channels,)`, for which channels the column `mean` holds the median; `marks`: what to say of
    each forecast, `(series, rows, channels)`, or `None`.
    """
    rows = np.arange(panel.times.shape[1])[None, :] < panel.lengths[:, None]
    series, row = np.nonzero(rows)
    count = len(panel.channels)
    chosen = draws[:, series, row].reshape(len(draws), -1)
    median = np.tile(log, len(series))
    quantiles = dict(zip(LEVELS, quantiles_of_samples(chosen, LEVELS), strict=True))
    observed = np.where(panel.mask, panel.values, np.nan)[series, row].reshape(-1)
    ids, times = panel.keys(np.repeat(series, count), np.repeat(row, count), as_text=asked.as_text)
    columns = {
        data.id: ids,
        data.time: times,
        "channel": np.tile(np.array(panel.channels), len(series)),
        "observed": observed,
        "mean": np.where(median, quantiles[0.5], chosen.mean(0)),
        "statistic": np.where(median, "median", "mean"),
    }
    columns |= {quantile_name(level): values for level, values in quantiles.items()}
    if marks is not None:
        columns["mark"] = [mark or None for mark in marks[series, row].reshape(-1)]
    if asked.keep_samples:
        columns |= {f"sample_{i}": sample for i, sample in enumerate(chosen)}
    return pl.DataFrame(columns, schema_overrides={"mark": pl.String} if marks is not None else None).with_columns(
        pl.col("observed").fill_nan(None)
    )


def prediction_columns() -> set[str]:
    """The names of its columns beside those of the series and the time."""
    return {"channel", "observed", "mean", "statistic", "mark", *map(quantile_name, LEVELS)}


def quantile_name(level: float) -> str:
    """The column of a quantile."""
    return f"q{100 * level:02.0f}"
