"""Solve the models of a run on for the series of a table."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
from jaxtyping import Array, Float

from nde.config import DynamicsConfig
from nde.models import ObservedODE
from nde.objectives import AbstractLikelihood, likelihood_from_plain
from nde.report import SERIES
from nde.tasks.base import member_key, OpenedRun, Prediction
from nde.tasks.dynamics.asked import Asking, asking_from_plain, asking_of
from nde.tasks.dynamics.evaluation import mixture
from nde.tasks.dynamics.ported import (
    GivenArrays,
    laws_of,
    padded_inputs,
    places_of,
    portable_series,
    refuse_late,
    span_of,
)
from nde.tasks.dynamics.problem import DynamicsProblem
from nde.tasks.dynamics.starts import learned_series, LearnedSeries
from nde.tasks.dynamics.training import batched_inputs, first_states, solve_series, trajectories
from nde.tasks.portable import ArrayFunction, in_blocks, LoweredFunction, Portable, Ported, refuse_nan
from nde.tasks.predictions import prediction_table
from nde.train import blame


def predict(run: OpenedRun, asked: Prediction) -> pl.DataFrame:
    """Predict every series of a table at every time that it names, and `ahead` of each one's last row.

    A series starts as `observe.start` says: at what is known, or in its first row; of a run that has learned starts, as
    that series of the run which has its id. Its other values are not read. Doses, constants and covariates stand in the
    table as in that of the run. The result is that of `nde.tasks.predictions.prediction_table`.

    **Raises:** `RunError` or `TableError` for a table that can not be used, and for a series whose start is not known.
    """
    return _predictor(run).predict(asked)


class AbstractTrajectories(ABC):
    """One member of a model as what solves series of a table: that of a run, or what was exported of it.

    - `likelihood`: of values around where they lie; `starts`: where the series of the run start, `(series, state)`, if
      that was learned.
    """

    likelihood: AbstractLikelihood
    starts: Float[Array, "series state"] | None

    @abstractmethod
    def locations(self, problem: DynamicsProblem, first: Float[Array, "series state"]) -> Array:
        """Where the values of all series lie, `(series, rows, channels)`, from their `first` states.

        **Raises:** `nde.train.FailedExamples`, by the ids, for series that can not be solved.
        """


@dataclass(frozen=True)
class _ModelTrajectories(AbstractTrajectories):
    model: ObservedODE
    asking: Asking

    @property
    def likelihood(self) -> AbstractLikelihood:
        return self.model.likelihood

    @property
    def starts(self) -> Array | None:
        return None if self.model.starts is None else self.model.starts[:, 0]

    def locations(self, problem, first):
        times = jnp.asarray(problem.panel.times, jnp.result_type(float))
        count = times.shape[1]
        times = jnp.pad(times, ((0, 0), (0, max(2 - count, 0))), mode="edge")  # a solve has two times at least
        given = batched_inputs(self.asking, problem)
        return trajectories(_from_given(self.model), times, first, problem.panel.ids, given)[1][:, :count]


@dataclass(frozen=True)
class _PortedTrajectories(AbstractTrajectories):
    likelihood: AbstractLikelihood
    starts: Array | None
    function: LoweredFunction
    asking: Asking

    def locations(self, problem, first):
        times, given = problem.panel.times, batched_inputs(self.asking, problem)
        count = times.shape[1]
        rows = self.function.rows(places_of(count, given))
        longer = np.pad(times, ((0, 0), (0, rows - count)), mode="edge")
        arrays = [longer, np.asarray(first), *map(np.asarray, jax.tree.leaves(given))]

        def solve(series: np.ndarray) -> Array:
            states, found = in_blocks(partial(self.function.unchecked, rows), [x[series] for x in arrays])
            refuse_nan(states)
            return found[:, :count]

        return blame(solve, np.arange(len(times)), problem.panel.ids)


@dataclass(frozen=True)
class SeriesPredictor:
    """All that predictions of a table are made of, whether it is that of a run or was exported from one.

    - `asking`: how the table is read.
    - `learned`: the series of the run, if where they start was learned.
    - `models`: the members of each model, by its label, for a problem that they can serve.
    - `fitting`: a problem as they take it.
    """

    asking: Asking
    learned: LearnedSeries | None
    models: Callable[[DynamicsProblem], Mapping[str, Sequence[AbstractTrajectories]]]
    fitting: Callable[[DynamicsProblem], DynamicsProblem]

    def predict(self, asked: Prediction) -> pl.DataFrame:
        """The predictions that are asked for, as of `predict`."""
        asking = self.asking
        problem, label = asking.read(asked), asking.label(asked)
        panel, models = problem.panel, self.models(problem)[label]
        problem = self.fitting(problem)
        order = None if self.learned is None else self.learned.places(panel, asked)
        known = jnp.asarray(first_states(asking, problem), jnp.result_type(float))
        located = [
            one.locations(problem, known if one.starts is None or order is None else one.starts[order])
            for one in models
        ]
        laws, key = [one.likelihood for one in models], member_key(asking, 0, "forecasts")
        law = mixture(laws, located, max(FEWEST, asked.samples), panel.ids, key)
        draws = law.draws[np.arange(asked.samples) * len(law.draws) // asked.samples]
        log = asking.observe.log_noise
        draws = np.exp(draws) if log else draws
        which = np.full(len(panel.channels), log)
        return prediction_table(asking.layout, panel, draws, asked, log=which, marks=None)


FEWEST = 20
"""Draws that are made at least, of which fewer may be asked for."""


def _predictor(run: OpenedRun) -> SeriesPredictor:
    config: DynamicsConfig = run.config
    asking = asking_of(run)

    def models(problem: DynamicsProblem) -> Mapping[str, Sequence[AbstractTrajectories]]:
        every = run.models(until=float(problem.panel.times.max()))
        return {label: [_ModelTrajectories(one, asking) for one in members] for label, members in every.items()}

    learned = learned_series(run.problem.panel) if config.observe.start == "learned" else None
    return SeriesPredictor(asking, learned, models, fitting=lambda problem: problem)


def portable(run: OpenedRun, until: float | None, rows: int | None, notes: Sequence[str]) -> Portable:
    """What predicts a table without the run: its solutions by lowered functions, laws of values by numbers.

    **Raises:** `RunError` for a law that is no row of numbers, or where the run's table is needed and gone.
    """
    this = _predictor(run)
    asking, span = this.asking, span_of(run, this.asking, until, rows)
    models, given = run.models(until=span.until), GivenArrays(asking)
    dtype, size = jnp.result_type(float), len(asking.observe.states or ())

    def solve(model, times, first, *arrays):
        return solve_series(model, times, first, given.inputs(arrays))

    def arguments(rows: int) -> tuple[jax.ShapeDtypeStruct, ...]:
        shapes = (SERIES, rows), (SERIES, size)
        return *(jax.ShapeDtypeStruct(shape, dtype) for shape in shapes), *given.shapes(rows)

    learned = None
    if this.learned is not None:
        states = {label: [_starts_of(one) for one in members] for label, members in models.items()}
        learned = {**asdict(this.learned), "states": states}
    functions = {
        label: ArrayFunction(solve, [_from_given(one) for one in members], arguments)
        for label, members in models.items()
    }
    facts = {"laws": laws_of(run, models), "notes": list(notes), "learned": learned}
    return portable_series(run, asking, span, functions, facts, USE)


def _starts_of(model: ObservedODE) -> list[list[float]]:
    assert model.starts is not None
    return model.starts[:, 0].tolist()


def _from_given(model: ObservedODE) -> ObservedODE:
    """The model without the starts that it has learned: it starts from what it is given."""
    return eqx.tree_at(lambda m: m.starts, model, None, is_leaf=lambda x: x is None)


USE = (
    "The course of series that follow the equation which was fitted, from where each starts and from what is given to "
    "it, with the spread of what is observed, at the times that a table names or that lie ahead of its last row "
    "(`--ahead`, in the table's unit of time)."
)


def predict_portable(ported: Ported, asked: Prediction) -> pl.DataFrame:
    """The predictions of what `portable` made, equal to those of `predict` but for rounding."""
    facts: Mapping[str, Any] = ported.facts
    asking, learned = asking_from_plain(ported.source, facts), facts["learned"]

    def models(problem: DynamicsProblem) -> Mapping[str, Sequence[AbstractTrajectories]]:
        refuse_late(ported, asking, problem)
        return {
            label: [
                _PortedTrajectories(likelihood_from_plain(law), _starts(learned, label, place), function, asking)
                for place, (law, function) in enumerate(zip(laws, ported.functions[label], strict=True))
            ]
            for label, laws in facts["laws"].items()
        }

    def fitting(problem: DynamicsProblem) -> DynamicsProblem:
        return padded_inputs(asking, problem, ported.functions[asking.label(asked)][0])

    series = None
    if learned is not None:
        series = LearnedSeries(**{name: value for name, value in learned.items() if name != "states"})
    return SeriesPredictor(asking, series, models, fitting).predict(asked)


def _starts(learned: Mapping[str, Any] | None, label: str, place: int) -> Array | None:
    return None if learned is None else jnp.asarray(learned["states"][label][place], jnp.result_type(float))
