"""Forecast the series of a table with the models of a run."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl

from nde.config import ForecastConfig
from nde.data import Normaliser, Panel, TableFormat
from nde.objectives import likelihood_from_plain, likelihood_to_plain
from nde.report import far_channels, forecast_marks, path_block, quantiles_of_samples
from nde.tasks.base import chosen_label, member_key, OpenedRun, predicting, Prediction, RunError
from nde.tasks.forecast.problem import blocks_of, padded_rows
from nde.tasks.forecast.stack import law_of, no_stack, read_stack, Stack, stack_from_plain, stack_to_plain
from nde.tasks.portable import ArrayFunction, BEYOND, key_arguments, Portable, Ported, PortedPaths, series_arguments
from nde.tasks.predictions import prediction_columns, prediction_table
from nde.tasks.series_export import described_channels, series_rungs, series_words
from nde.tasks.tables import (
    normaliser_from_plain,
    normaliser_to_plain,
    read_asked,
    read_normaliser,
    refuse_taken,
    table_format_from_plain,
)


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
    return _forecaster(run).predict(asked)


@dataclass(frozen=True)
class Forecaster:
    """All that a forecast of a table is made of, whether it is that of a run or was exported from one.

    - `source`: what messages call it.
    - `layout`: of the table; `span`: the last time of the training series; `seed`: the run's.
    - `names`: of each `[[model]]`, by its label; `alone`: the label of that which forecasts alone, where nothing pools.
    - `models`: the members of each, by its label, for times up to the one given.
    """

    source: str
    layout: TableFormat
    span: float
    seed: int
    normaliser: Normaliser
    stack: Stack | None
    names: Mapping[str, str]
    alone: str
    models: Callable[[float], Mapping[str, Sequence[Any]]]

    def predict(self, asked: Prediction) -> pl.DataFrame:
        """The forecasts that are asked for, as of `predict`."""
        refuse_taken(self.layout, asked, prediction_columns())
        panel = read_asked(self.layout, asked, self.normaliser.channels)
        try:
            panel = panel.asked_ahead(asked.ahead)
        except ValueError as error:
            raise RunError(f"{asked.source}: --ahead: {str(error).rstrip('.')}.") from None
        values = self.normaliser.apply(panel)
        until = float(panel.times.max())
        try:
            models = self.models(until)
        except RunError as error:
            raise RunError(f"{asked.source}: a series or --ahead of {until:g} can not be solved: {error}") from None
        stack = None if asked.model is not None or self.stack is None or not self.stack.weights else self.stack
        if stack is None:
            label = self.alone if asked.model is None else chosen_label(self.names, asked.model, self.source)
            models = {label: models[label]}
        off, frames, order = far_channels(values, panel.mask), [], []
        count = len(panel.channels)
        for places, rows in blocks_of(panel.lengths, padded_rows(panel.lengths), asked.samples * count):
            part = panel[places].shortened(rows)
            frames.append(self._predict_block(models, stack, asked, part, values[places, :rows], off))
            order.append(np.repeat(places, part.lengths * count))
        if len(frames) == 1:
            return frames[0]
        return pl.concat(frames)[np.argsort(np.concatenate(order), kind="stable")]

    def _predict_block(
        self,
        models: Mapping[str, Sequence[Any]],
        stack: Stack | None,
        asked: Prediction,
        panel: Panel,
        values: np.ndarray,
        off: np.ndarray,
    ) -> pl.DataFrame:
        """The table of some series."""
        given = panel.times, values, panel.mask, panel.times
        law = law_of(models, stack, given, panel.ids, samples=asked.samples, seeded=self)
        draws = law.sample(asked.samples, series=panel.ids, key=member_key(self, 0, "forecasts"))
        centre = quantiles_of_samples(draws, [0.5])[0]
        marks = forecast_marks(panel.times, values, panel.mask, centre, span=self.span, off=off)
        normaliser = self.normaliser
        return prediction_table(self.layout, panel, normaliser.undo(draws), asked, log=normaliser.log, marks=marks)


def _forecaster(run: OpenedRun) -> Forecaster:
    config: ForecastConfig = run.config
    return Forecaster(
        source=str(run.folder),
        layout=config.data.table_format(),
        span=config.data.span or 0.0,
        seed=config.seed,
        normaliser=read_normaliser(run.folder),
        stack=read_stack(run),
        names={section.called(): section.name for section in config.model},
        alone=predicting(run, None),
        models=lambda until: run.models(until=until),
    )


def portable(run: OpenedRun, until: float | None, rows: int | None) -> Portable:
    """What forecasts a table without the run: paths of its models by lowered functions, laws of values by numbers.

    **Raises:** `RunError` for a law that is no row of numbers.
    """
    this, data = _forecaster(run), run.config.data
    scale = data.time_scale or 1.0
    far = BEYOND * data.horizon if until is None else until / scale
    models = this.models(far)
    try:
        laws = {label: [likelihood_to_plain(one.likelihood) for one in members] for label, members in models.items()}
    except ValueError as error:
        raise RunError(f"{run.folder}: can not be exported: {error}.") from None
    channels, rungs = len(this.normaliser.channels), series_rungs(run, rows)

    def paths(model, times, values, mask, ts, codes, start, words):
        return path_block(model, (times, values, mask), ts, codes, start, jax.random.wrap_key_data(words))

    def arguments(rows: int) -> tuple[jax.ShapeDtypeStruct, ...]:
        series, (codes, words) = series_arguments(rows, channels), key_arguments()
        return *series, series[0], codes, jax.ShapeDtypeStruct((), jnp.result_type(int)), words

    facts = {
        "layout": dataclasses.asdict(this.layout),
        "span": this.span,
        "seed": this.seed,
        "names": dict(this.names),
        "alone": this.alone,
        "laws": laws,
        "stack": None if this.stack is None else stack_to_plain(this.stack),
        "notes": forecast_notes(run),
    }
    functions = {label: ArrayFunction(paths, members, arguments) for label, members in models.items()}
    normaliser = normaliser_to_plain(this.normaliser)
    words = series_words(run, USE, facts["layout"], described_channels(normaliser), rungs, far * scale)
    return Portable(facts, normaliser, functions, rungs, far * scale, words)


USE = (
    "Forecasts, with their spread, of series like those that it was trained on, from what is observed of each, at the "
    "times that a table names or that lie ahead of its last row (`--ahead`, in the table's unit of time)."
)


def predict_portable(ported: Ported, asked: Prediction) -> pl.DataFrame:
    """The forecasts of what `portable` made, equal to those of `predict` but for rounding."""
    facts = ported.facts
    layout = table_format_from_plain(facts["layout"])

    def models(until: float) -> Mapping[str, Sequence[Any]]:
        ported.check_until(until, layout.time_scale or 1.0)
        return {
            label: [PortedPaths(likelihood_from_plain(law), f) for law, f in zip(laws, members, strict=True)]
            for (label, laws), members in zip(facts["laws"].items(), ported.functions.values(), strict=True)
        }

    stack = None if facts["stack"] is None else stack_from_plain(facts["stack"])
    own = Forecaster(
        ported.source,
        layout,
        facts["span"],
        facts["seed"],
        normaliser_from_plain(ported.normaliser),
        stack,
        facts["names"],
        facts["alone"],
        models,
    )
    return own.predict(asked)


def forecast_notes(run: OpenedRun) -> list[str]:
    """What the forecasts of a run are drawn from, where that is not its one model alone, or should not be."""
    stack = read_stack(run)
    if stack is not None and stack.weights:
        return [stack.line()]
    alone = [f"forecasts of the {predicting(run, None)}"] if len(run.config.model) > 1 else []
    if stack is None:
        return [*alone, *([no_stack(run)] if run.config.evaluate.stack else [])]
    return [*alone, *stack.notes]
