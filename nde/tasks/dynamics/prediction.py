"""Solve the models of a run on for the series of a table."""

from dataclasses import replace

import equinox as eqx
import numpy as np
import polars as pl

from nde.config import DynamicsConfig
from nde.data import Panel, read_panel_with_inputs
from nde.models import ObservedODE
from nde.tasks.base import OpenedRun, predicting, Prediction, RunError
from nde.tasks.dynamics.evaluation import forecast
from nde.tasks.dynamics.limits import within_limits
from nde.tasks.dynamics.problem import dose_states, DynamicsProblem, load
from nde.tasks.predictions import prediction_columns, prediction_table
from nde.tasks.tables import read_asked, refuse_other_times, refuse_taken


def predict(run: OpenedRun, asked: Prediction) -> pl.DataFrame:
    """Predict every series of a table at every time that it names, and `ahead` of each one's last row.

    A series starts as `observe.start` says: at what is known, or in its first row; of a run that has learned starts, as
    that series of the run which has its id. Its other values are not read. Doses, constants and covariates stand in the
    table as in that of the run. The result is that of `nde.tasks.predictions.prediction_table`.

    **Raises:** `RunError` or `TableError` for a table that can not be used, and for a series whose start is not known.
    """
    config: DynamicsConfig = run.config
    refuse_taken(config.data.table_format(), asked, prediction_columns())
    problem = asked_problem(config, asked)
    panel = problem.panel
    models = run.models(until=float(panel.times.max()))[predicting(run, asked.model)]
    if config.observe.start == "learned":
        models = [_starting_as(config, model, panel, asked) for model in models]
    settings = config.evaluate.model_copy(update={"samples": max(20, asked.samples)})
    # A series that can not be solved is an error here, named, and no row of NaN.
    config = config.model_copy(update={"train": config.train.model_copy(update={"failed": "stop"})})
    law = forecast(config.model_copy(update={"evaluate": settings}), problem, models)
    draws = law.draws[np.arange(asked.samples) * len(law.draws) // asked.samples]
    log = config.observe.log_noise
    draws = np.exp(draws) if log else draws
    which = np.full(len(panel.channels), log)
    return prediction_table(config.data.table_format(), panel, draws, asked, log=which, marks=None)


def asked_problem(config: DynamicsConfig, asked: Prediction) -> DynamicsProblem:
    """The series of a table that asks for predictions, and what is given to them, as those of the run were read.

    **Raises:** `RunError` or `TableError` for a table that can not be used.
    """
    data, layout, channels = config.data, config.data.inputs_format(), config.observe.channels or ()
    if data.doses is not None and data.doses.path is not None:
        raise RunError(
            f"{asked.source}: the run read its doses from {data.doses.path}; to predict, make a run whose doses stand "
            "in the table itself."
        )
    inputs = None
    if layout and data.table_path() is not None:
        form = replace(data.table_format(), channels=channels, min_observations=0)
        panel, inputs = read_panel_with_inputs(asked.data, form, layout, dose_states(config), require_values=False)
        refuse_other_times(data.table_format(), asked, panel)
    else:
        panel = read_asked(data.table_format(), asked, channels)
    try:
        panel = panel.asked_ahead(asked.ahead)
    except ValueError as error:
        raise RunError(f"{asked.source}: --ahead: {error}.") from None
    panel = within_limits(config, panel)
    log = config.observe.log_noise
    if log and (panel.values[panel.mask] <= 0).any():
        raise RunError(f"{asked.source}: the noise of the run is log-normal, but some values are not positive.")
    values = np.log(np.where(panel.mask, panel.values, 1.0)) if log else panel.values
    if config.observe.positive and not log and (panel.values[panel.mask] <= 0).any():
        raise RunError(f"{asked.source}: observe.positive needs positive values, but some are not.")
    if config.observe.start == "first_row" and inputs is not None and (panel.times[:, 0] > 0).any():
        name = panel.ids[int((panel.times[:, 0] > 0).argmax())]
        raise RunError(f"{asked.source}: a dose of series {name} lies before its first row, in which it starts.")
    if config.observe.start == "first_row" and not panel.mask[:, 0].all():
        name = panel.ids[int((~panel.mask[:, 0].all(-1)).argmax())]
        raise RunError(
            f"{asked.source}: series {name} starts in its first row, which must have a value of each channel."
        )
    none = np.zeros_like(panel.mask)
    return DynamicsProblem(panel, values, panel.mask, none, none, np.arange(len(panel)), inputs)


def _starting_as(config: DynamicsConfig, model: ObservedODE, panel: Panel, asked: Prediction) -> ObservedODE:
    """The model with the learned starts of the series of a table, in their order."""
    own = load(config).panel
    numbers = {name: i for i, name in enumerate(own.ids)}
    unknown = [str(name) for name in panel.ids if name not in numbers]
    if unknown:
        raise RunError(
            f"{asked.source}: the start of series {unknown[0]} was not learned; those of the run are "
            f"{', '.join(map(str, own.ids[:SHOWN]))}{' and more' if len(own.ids) > SHOWN else ''}."
        )
    order = np.array([numbers[name] for name in panel.ids])
    count = np.arange(len(order))
    here, there = (p.keys(rows, 0 * rows, as_text=False)[1] for p, rows in ((panel, count), (own, order)))
    moved = ~np.isclose(panel.times[:, 0], own.times[order, 0])  # since the first of rows and doses
    late = np.flatnonzero((np.asarray(here) != np.asarray(there)) | moved)
    if len(late):
        at = int(late[0])
        raise RunError(
            f"{asked.source}: series {panel.ids[at]} begins at {here[at]}, but the run learned where it starts at "
            f"{there[at]}; give its rows from there on."
        )
    assert model.starts is not None
    return eqx.tree_at(lambda m: m.starts, model, model.starts[order])


SHOWN = 5
