"""Predict individuals of a table from what is known of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl

from nde.models import Population
from nde.objectives import AbstractLikelihood, likelihood_from_plain
from nde.report import (
    AbstractIndividuals,
    effects_block,
    individual_forecast,
    locations_block,
    PATHS,
    SERIES,
    with_rows,
)
from nde.tasks.base import member_key, OpenedRun, Prediction
from nde.tasks.dynamics import (
    Asking,
    asking_from_plain,
    asking_of,
    DynamicsProblem,
    GivenArrays,
    laws_of,
    padded_inputs,
    places_of,
    portable_series,
    refuse_late,
    span_of,
)
from nde.tasks.population.training import individuals
from nde.tasks.portable import ArrayFunction, in_blocks, LoweredFunction, Portable, Ported, series_arguments
from nde.tasks.predictions import prediction_table


def predict(run: OpenedRun, asked: Prediction) -> pl.DataFrame:
    """Predict every individual of a table at every time that it names, and `ahead` of each one's last row.

    All observed values of the table are given: few or none are enough, and what they leave open of an individual is as
    in the population. A row without values asks for a prediction at its time. Doses, constants and covariates stand in
    the table as in that of the run. The result is that of `nde.tasks.predictions.prediction_table`.

    **Raises:** `RunError` or `TableError` for a table that can not be used.
    """
    return _predictor(run).predict(asked)


@dataclass(frozen=True)
class IndividualPredictor:
    """All that predictions of individuals are made of, whether it is that of a run or was exported from one.

    - `asking`: how the table is read.
    - `models`: the members of each model, by its label, for a problem that they can serve.
    - `fitting`: a problem as they take it.
    """

    asking: Asking
    models: Callable[[DynamicsProblem], Mapping[str, Sequence[Population | AbstractIndividuals]]]
    fitting: Callable[[DynamicsProblem], DynamicsProblem]

    def predict(self, asked: Prediction) -> pl.DataFrame:
        """The predictions that are asked for, as of `predict`."""
        asking = self.asking
        problem, label = asking.read(asked), asking.label(asked)
        panel, models = problem.panel, self.models(problem)[label]
        data, key = individuals(asking, self.fitting(problem), panel.mask), member_key(asking, 0, "forecasts")
        found = individual_forecast(models, data, panel.times, series=panel.ids, samples=asked.samples, key=key)
        draws = found.law.sample(asked.samples, series=panel.ids, key=key)
        none = np.zeros(len(panel.channels), bool)
        marks = None
        if any(found.marks()):
            marks = np.broadcast_to(np.array(found.marks(), object)[:, None, None], panel.values.shape)
        return prediction_table(asking.layout, panel, draws, asked, log=none, marks=marks)


def _predictor(run: OpenedRun) -> IndividualPredictor:
    def models(problem: DynamicsProblem) -> Mapping[str, Sequence[Population]]:
        # The fixed steps of the fit, with which effects are searched for, need to come to the last value alone.
        panel, resets = problem.panel, problem.inputs is not None and problem.inputs.resets is not None
        seen = panel.times[panel.mask.any(-1)]
        return run.models(until=float(panel.times.max() if resets else seen.max(initial=0.0)))

    return IndividualPredictor(asking_of(run), models, fitting=lambda problem: problem)


@dataclass(frozen=True)
class _PortedIndividuals(AbstractIndividuals):
    """The lowered functions of a population: the search for effects, and the solutions of those that are drawn."""

    likelihood: AbstractLikelihood
    search: LoweredFunction
    solve: LoweredFunction

    def effects(self, individuals):
        *data, inputs = individuals
        data = [np.asarray(x) for x in data]
        rows = self.search.rows(places_of(data[0].shape[1] - 1, inputs))
        arrays = [*with_rows(data, rows + 1), *map(np.asarray, jax.tree.leaves(inputs))]
        return in_blocks(partial(self.search.unchecked, rows), arrays)

    def locations(self, ts, inputs, effects):
        count, draws = ts.shape[1], effects.shape[1]
        rows = self.solve.rows(places_of(count - 1, inputs))
        longer = np.pad(np.asarray(ts), ((0, 0), (0, rows + 1 - count)), mode="edge")
        more = np.pad(np.asarray(effects), ((0, 0), (0, -draws % PATHS), (0, 0)), mode="edge")
        given = list(map(np.asarray, jax.tree.leaves(inputs)))
        found = [
            in_blocks(partial(self.solve.unchecked, rows), [longer, more[:, first : first + PATHS], *given])
            for first in range(0, draws, PATHS)
        ]
        return jnp.asarray(np.concatenate(found, axis=1)[:, :draws, :count])


def portable(run: OpenedRun, until: float | None, rows: int | None, notes: Sequence[str]) -> Portable:
    """What predicts a table without the run: of each model the search for effects and the solutions of those drawn.

    **Raises:** `RunError` for a law that is no row of numbers, or where the run's table is needed and gone.
    """
    asking = asking_of(run)
    span, given = span_of(run, asking, until, rows), GivenArrays(asking)
    models, channels = run.models(until=span.until), len(asking.layout.channels or ())

    def search(model, times, values, mask, *arrays):
        return effects_block(model, times, values, mask, given.inputs(arrays))

    def solve(model, ts, effects, *arrays):
        return locations_block(model, ts, given.inputs(arrays), effects)

    functions = {}
    for label, members in models.items():
        size = len(members[0].effects)

        # A series starts in a row of its own, before those of the table.
        def searched(rows: int) -> tuple[jax.ShapeDtypeStruct, ...]:
            return *series_arguments(rows + 1, channels), *given.shapes(rows)

        def solved(rows: int, size=size) -> tuple[jax.ShapeDtypeStruct, ...]:
            times, values, _ = series_arguments(rows + 1, channels)
            return times, jax.ShapeDtypeStruct((SERIES, PATHS, size), values.dtype), *given.shapes(rows)

        functions[f"{label}{SEARCH}"] = ArrayFunction(search, members, searched, label)
        functions[f"{label}{SOLVE}"] = ArrayFunction(solve, members, solved, label)
    facts = {"laws": laws_of(run, models), "notes": list(notes)}
    return portable_series(run, asking, span, functions, facts, USE)


SEARCH, SOLVE = ": search for effects", ": solutions"

USE = (
    "What is to be expected of individuals of the population that was fitted, from what is observed of each, be it "
    "little or nothing, and from what is given to it, at the times that a table names or that lie ahead of its last "
    "row (`--ahead`, in the table's unit of time)."
)


def predict_portable(ported: Ported, asked: Prediction) -> pl.DataFrame:
    """The predictions of what `portable` made, equal to those of `predict` but for rounding."""
    facts: Mapping[str, Any] = ported.facts
    asking = asking_from_plain(ported.source, facts)

    def models(problem: DynamicsProblem) -> Mapping[str, Sequence[AbstractIndividuals]]:
        refuse_late(ported, asking, problem)
        return {
            label: [
                _PortedIndividuals(likelihood_from_plain(law), *functions)
                for law, *functions in zip(
                    laws, ported.functions[f"{label}{SEARCH}"], ported.functions[f"{label}{SOLVE}"], strict=True
                )
            ]
            for label, laws in facts["laws"].items()
        }

    def fitting(problem: DynamicsProblem) -> DynamicsProblem:
        return padded_inputs(asking, problem, ported.functions[f"{asking.label(asked)}{SEARCH}"][0])

    return IndividualPredictor(asking, models, fitting).predict(asked)
