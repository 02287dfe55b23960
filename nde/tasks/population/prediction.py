"""Predict individuals of a table from what is known of them."""

import numpy as np
import polars as pl

from nde.config import PopulationConfig
from nde.report import individual_forecast
from nde.tasks.base import member_key, OpenedRun, predicting, Prediction
from nde.tasks.dynamics import asked_problem
from nde.tasks.population.training import individuals
from nde.tasks.predictions import prediction_columns, prediction_table
from nde.tasks.tables import refuse_taken


def predict(run: OpenedRun, asked: Prediction) -> pl.DataFrame:
    """Predict every individual of a table at every time that it names, and `ahead` of each one's last row.

    All observed values of the table are given: few or none are enough, and what they leave open of an individual is as
    in the population. A row without values asks for a prediction at its time. Doses, constants and covariates stand in
    the table as in that of the run. The result is that of `nde.tasks.predictions.prediction_table`.

    **Raises:** `RunError` or `TableError` for a table that can not be used.
    """
    config: PopulationConfig = run.config
    refuse_taken(config.data.table_format(), asked, prediction_columns())
    problem = asked_problem(config, asked)
    panel = problem.panel
    # The fixed steps of the fit, with which effects are searched for, need to come to the last value alone.
    resets = problem.inputs is not None and problem.inputs.resets is not None
    seen = panel.times[panel.mask.any(-1)]
    models = run.models(until=float(panel.times.max() if resets else seen.max(initial=0.0)))
    chosen = models[predicting(run, asked.model)]
    found = individual_forecast(
        chosen, individuals(config, problem, panel.mask), panel.times, series=panel.ids, samples=asked.samples,
        key=member_key(config, 0, "forecasts"),
    )  # fmt: skip
    draws = found.law.sample(asked.samples, series=panel.ids, key=member_key(config, 0, "forecasts"))
    none = np.zeros(len(panel.channels), bool)
    marks = None
    if any(found.marks()):
        marks = np.broadcast_to(np.array(found.marks(), object)[:, None, None], panel.values.shape)
    return prediction_table(config.data.table_format(), panel, draws, asked, log=none, marks=marks)
