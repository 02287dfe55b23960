"""What is given to the series of an exported equation, as arrays of a few shapes; what is kept, and said, beside it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import jax
import numpy as np

from nde.data import SeriesInputs
from nde.models import ObservedODE, Population
from nde.objectives import likelihood_to_plain
from nde.report import SERIES
from nde.tasks.base import OpenedRun, RunError
from nde.tasks.dynamics.asked import Asking
from nde.tasks.dynamics.problem import DynamicsProblem
from nde.tasks.portable import LoweredFunction, Portable, Ported
from nde.tasks.series_export import rows_of, series_rungs, series_until, series_words

Shapes = tuple[jax.ShapeDtypeStruct, ...]


@dataclass(frozen=True)
class GivenArrays:
    """Doses, constants and covariates as arrays, of which a lowered function makes `nde.paths.Inputs` again.

    A series has as many places for doses, and for rows of covariates, as it has rows: those that it does not need give
    nothing.
    """

    asking: Asking

    def blank(self, rows: int) -> SeriesInputs | None:
        """Those of `SERIES` series of so many rows to which nothing is given; `None` where nothing ever is."""
        asked, shape = self.asking.inputs, (SERIES, rows)
        if not asked:
            return None
        doses = (SERIES, rows if asked.doses is not None else 0)
        resets = asked.doses is not None and asked.doses.reset is not None
        return SeriesInputs(
            states=self.asking.states or self.asking.layout.channels or (),
            times=np.full(doses, np.inf),
            amounts=np.zeros(doses),
            durations=np.zeros(doses),
            given=np.zeros(doses, int),
            resets=np.zeros(doses, bool) if resets else None,
            constants={name: np.zeros(SERIES) for name in asked.constants},
            covariate_times=np.tile(np.arange(float(rows)), (SERIES, 1)) if asked.covariates else None,
            covariates={name: np.zeros(shape) for name in asked.covariates},
            ways=asked.covariates,
        )

    def shapes(self, rows: int) -> Shapes:
        """Of the arrays, for series of so many rows."""
        return tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in self._flat(rows)[0])

    def inputs(self, arrays: Sequence[Any]) -> Any:
        """Those that the arrays are of, each with a leading axis of series; `None` where nothing ever is given."""
        return jax.tree.unflatten(self._flat(1)[1], arrays)

    def _flat(self, rows: int) -> tuple[list[jax.Array], Any]:
        blank = self.blank(rows)
        observe = self.asking.observe
        batched = None if blank is None else blank.batched(np.array(observe.location), np.array(observe.scale))
        return jax.tree.flatten(batched)


def padded_inputs(asking: Asking, problem: DynamicsProblem, function: LoweredFunction) -> DynamicsProblem:
    """The problem with as many places for doses and rows of covariates as a lowered function has for its series.

    **Raises:** `ValueError` for more rows, doses or rows of covariates than any was lowered for.
    """
    inputs, rows = problem.inputs, rows_of(problem)
    function.rows(rows)
    if inputs is None:
        return problem
    doses = inputs.times.shape[1]
    function.rows(doses, "doses, with their repeats,")
    longest = _places(problem)
    function.rows(longest, "rows with covariates")
    places = function.rows(longest)
    return replace(problem, inputs=inputs.padded(places if asking.inputs.doses is not None else 0, places))


def places_of(rows: int, given: Any) -> int:
    """How many places series of so many rows need, with what `padded_inputs` has made of what is given to them."""
    return max([rows, *(x.shape[1] for x in jax.tree.leaves(given) if x.ndim > 1)])


def _places(problem: DynamicsProblem) -> int:
    """The most rows, doses or rows of covariates of a series."""
    inputs, rows = problem.inputs, rows_of(problem)
    if inputs is None:
        return rows
    times = inputs.covariate_times
    return max(rows, inputs.times.shape[1], 0 if times is None else times.shape[1])


@dataclass(frozen=True)
class Span:
    """What an export serves: the numbers of rows that it is lowered for, and times up to `until`, in the model's unit
    of time, `scale` of the table's in one of it."""

    rungs: tuple[int, ...]
    until: float
    scale: float


def span_of(run: OpenedRun, asking: Asking, until: float | None, rows: int | None) -> Span:
    """What is asked for, or what the run's own series need and some more.

    **Raises:** `RunError` for what is left out where the run's table is gone.
    """
    scale = asking.layout.time_scale or 1.0
    return Span(series_rungs(run, rows, _places), series_until(run, until, scale), scale)


def laws_of(run: OpenedRun, models: Mapping[str, Sequence[ObservedODE | Population]]) -> dict[str, list[Any]]:
    """The laws of noise of all members as plain numbers.

    **Raises:** `RunError` for one that is no numbers.
    """
    try:
        return {label: [likelihood_to_plain(one.likelihood) for one in members] for label, members in models.items()}
    except ValueError as error:
        raise RunError(f"{run.folder}: can not be exported: {error}.") from None


def portable_series(
    run: OpenedRun, asking: Asking, span: Span, functions: Mapping[str, Any], facts: Mapping[str, Any], use: str
) -> Portable:
    """The export of a run whose tables are read as `asking` says; `facts`: what its task keeps beside that."""
    until = span.until * span.scale
    kept = {**asking.to_plain(), **facts}
    words = series_words(run, use, kept["layout"], _described(asking), span.rungs, until, _since(asking))
    if asking.inputs.doses is not None:
        more = f"doses of a series, with their repeats and those before a steady state: at most {span.rungs[-1]}"
        words = replace(words, limits=[*words.limits, more])
    return Portable(kept, {"channels": list(asking.layout.channels or ())}, functions, span.rungs, until, words)


def refuse_late(ported: Ported, asking: Asking, problem: DynamicsProblem) -> None:
    """Refuse a table of times beyond what was exported.

    **Raises:** `ValueError`.
    """
    ported.check_until(float(problem.panel.times.max()), asking.layout.time_scale or 1.0, _since(asking))


def _since(asking: Asking) -> str:
    return "first row" if asking.inputs.doses is None else "first row or dose"


def _described(asking: Asking) -> list[str]:
    """What the card says of the columns of a table, of where its series start and of the noise of its values."""
    observe, doses = asking.observe, asking.inputs.doses
    said = [f"channels: {', '.join(asking.layout.channels or ())}"]
    if doses is not None:
        unused = () if doses.steady is not None else ("steady_doses",)
        columns = {name: value for name, value in asdict(doses).items() if value and name not in unused}
        said.append(f"doses: {', '.join(f'{name} `{value}`' for name, value in columns.items())}")
    if asking.inputs.constants:
        said.append(f"constants of each series: {', '.join(asking.inputs.constants)}")
    if asking.inputs.covariates:
        ways = ", ".join(f"{name} ({way})" for name, way in asking.inputs.covariates.items())
        said.append(f"covariates over time: {ways}")
    known = ", ".join(f"{name} = {value:g}" for name, value in (observe.known_start or {}).items())
    starts = {
        "known": f"at {known}",
        "first_row": "in its first row, which has a value of each channel",
        "learned": "where that series of the table above does which has its id, and this file holds those ids; others "
        "are refused",
    }
    laws = observe.noise_of(asking.layout.channels or ())
    said += [f"a series starts {starts[observe.start]}", f"noise: {', '.join(f'{k} {v}' for k, v in laws.items())}"]
    for where, limits in (("below", observe.below), ("above", observe.above)):
        if limits:
            told = ", ".join(f"{name} {limit:g}" for name, limit in limits.items())
            said.append(f"limits of quantification {where}, on which values beyond count: {told}")
    return said
