"""Log-densities of a table's points, and new points, by the models of a run or by what was exported of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
from jaxtyping import Array, PRNGKeyArray

from nde.data import PointRows, read_point_rows, TableFormat
from nde.report import counted
from nde.tasks.base import chosen_label, member_key, OpenedRun, predicting, Prediction, RunError, RunFailed
from nde.tasks.points import PointUnits, read_units
from nde.train import blame, FailedExamples

BLOCK = 256
"""Points that go through a compiled program at once; fewer are filled up."""

Block = Callable[[Any, Any, Any, Any], Any]
"""A member on a block: `(points, labels, rows, words of a key) -> values`; a block's rows do not know of each other."""


class LogDensities(eqx.Module):
    """The log-densities of a block of points, `(BLOCK,)`, in nats and the model's units; probes are drawn by row."""

    def __call__(self, model: Any, points: Array, labels: Array, rows: Array, words: Array) -> Array:
        del labels
        return jax.vmap(lambda x, key: model.log_prob(x, key=key))(points, _keys(rows, words))


class Draws(eqx.Module):
    """A point for each row of a block, `(BLOCK, size)`, in the model's units.

    - `options`: what the model's `draw` takes by keyword.
    - `classes`: whether it is drawn of the row's class; `begins`: whether it begins at the row's point.
    """

    options: dict[str, Any]
    classes: bool = eqx.field(static=True)
    begins: bool = eqx.field(static=True)

    def __call__(self, model: Any, points: Array, labels: Array, rows: Array, words: Array) -> Array:
        def one(x, label, key):
            label = label if self.classes else None
            options = {"key": key, **self.options}
            return (model.carry(x, label, **options) if self.begins else model.draw(label, **options)).ys

        return jax.vmap(one)(points, labels, _keys(rows, words))


def _keys(rows: Array, words: Array) -> PRNGKeyArray:
    return jax.vmap(partial(jax.random.fold_in, jax.random.wrap_key_data(words)))(rows)


@eqx.filter_jit
def _compiled(call: Callable[..., Array], model: Any, *arrays: Any) -> Array:
    return call(model, *arrays)


@dataclass(frozen=True)
class PointModels:
    """All that predictions of points are made of, whether it is that of a run or was exported from one.

    - `source`: what messages call it; `layout`: how a table is written; `seed`: the run's.
    - `units`: of the points; `label`: the column of their `classes`, which the models are given; `None` without.
    - `begins`: the data set whose points the models carry; `None` for models that begin in noise.
    - `names`: of each `[[model]]`, by its label; `alone`: the label of that which validated best; `count`: of members
      of each; `probes`: of those that estimate their log-density, how many, by the label.
    - `members`: the members of each, by its label.
    """

    source: str
    layout: TableFormat
    units: PointUnits
    label: str | None
    classes: tuple[str, ...]
    begins: str | None
    seed: int
    names: Mapping[str, str]
    alone: str
    count: int
    probes: Mapping[str, int]
    members: Callable[[], Mapping[str, Sequence[Block]]]

    def log_densities(self, asked: Prediction) -> pl.DataFrame:
        """The table with a column `log_prob`, in nats and the table's own units."""
        refuse_series_options(asked)
        given = self._read(asked, self.units.columns, None)
        if LOG_PROB in given.table.frame.columns:
            raise given.table.error(f"'{LOG_PROB}' is also the name of the column of the prediction; rename it.")
        points, rows = self.units.apply(given.points), np.arange(len(given))
        names, labels = _row_names(given), np.zeros(len(given), np.int32)
        members = self.members()[self._chosen(asked.model)]
        each = [self._in_blocks(one, points, labels, rows, names, "log-density") for one in members]
        values = np.logaddexp.reduce(each, axis=0) - np.log(len(members)) - self.units.log_scale
        return _with_points(given, self.units.columns, given.points).with_columns(pl.Series(LOG_PROB, values))

    def draws(self, asked: Prediction) -> pl.DataFrame:
        """New points: as many as are asked for, or one for each row of a table."""
        refuse_series_options(asked)
        if asked.data is None:
            return self._drawn(asked)
        if self.begins is None and self.label is None:
            raise RunError(
                f"{self.source}: draws points from noise and of no classes, so it takes no table: leave --data out, "
                "and give --samples, how many."
            )
        given = self._read(asked, () if self.begins is None else self.units.columns, self.label)
        start = np.zeros((len(given), len(self.units.columns))) if self.begins is None else given.points
        labels = np.zeros(len(given), np.int32) if given.labels is None else given.labels
        return _with_points(given, self.units.columns, self._points(asked, start, labels, _row_names(given)))

    def density_notes(self, asked: str | None) -> list[str]:
        """What there is to say of log-densities by a model, that which validated best if `None`, a line each."""
        label = self._chosen(asked)
        mean = f", the log of the mean density of its {self.count} members" if self.count > 1 else ""
        said = [f"{LOG_PROB}: nats, in the table's own units, by the {label}{mean}"]
        if label in self.probes:
            probes = counted(self.probes[label], "probe")
            said.append(f"{LOG_PROB} is an estimate, its trace by {probes} a point; a call again gives the same")
        return said

    def draw_notes(self, asked: str | None) -> list[str]:
        """What there is to say of points by a model, that which validated best if `None`, a line each."""
        label, columns = self._chosen(asked), self.units.named()
        turns = f", whose {self.count} members take turns" if self.count > 1 else ""
        said = [f"points by the {label}{turns}, in the columns {columns}; a call again gives the same"]
        if self.label is not None and self.begins is None:
            said.append("without a table, classes come as often as among the points of the training")
        return said

    def _chosen(self, asked: str | None) -> str:
        return self.alone if asked is None else chosen_label(self.names, asked, self.source)

    def _read(self, asked: Prediction, columns: tuple[str, ...], label: str | None) -> PointRows:
        given = read_point_rows(asked.data, columns=columns, label=label, classes=self.classes, layout=self.layout)
        frame = given.table.frame
        nested = [name for name, kind in frame.schema.items() if asked.as_text and kind.is_nested()]
        if nested:
            raise given.table.error(
                f"column '{nested[0]}' holds {frame.schema[nested[0]]}, which no .csv file can; write a .parquet file."
            )
        return given

    def _drawn(self, asked: Prediction) -> pl.DataFrame:
        if self.begins is not None:
            raise RunError(
                f"{self.source}: carries points like those of {self.begins}, and draws none from noise: give --data, a "
                f"table of points to begin at, with the columns {self.units.named()}."
            )
        count, size = asked.samples, len(self.units.columns)
        labels = even_classes(self.units.counts, count) if self.label is not None else np.zeros(count, np.int32)
        points = self._points(asked, np.zeros((count, size)), labels, [f"point {i}" for i in range(count)])
        columns = dict(zip(self.units.columns, points.T, strict=True))
        more = {} if self.label is None else {self.label: np.array(self.classes)[labels]}
        return pl.DataFrame(columns | more)

    def _points(self, asked: Prediction, start: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> np.ndarray:
        """A point for each row; members take turns."""
        members = self.members()[self._chosen(asked.model)]
        start, found = self.units.apply(start), np.zeros(start.shape)
        for turn, one in enumerate(members):
            rows = np.arange(turn, len(start), len(members))
            found[rows] = self._in_blocks(one, start, labels, rows, names, "point")
        return self.units.undo(found)

    def _in_blocks(
        self,
        member: Block,
        points: np.ndarray,
        labels: np.ndarray,
        rows: np.ndarray,
        names: Sequence[str],
        what: str,
    ) -> np.ndarray:
        """What a member makes of some rows, in double precision: each by its own key, whatever the others are."""
        words = jax.random.key_data(member_key(self, 0, "forecasts"))
        with np.errstate(over="ignore"):  # to single precision
            given = points.astype(jnp.result_type(float))

        def some(chosen: np.ndarray) -> np.ndarray:
            here = np.resize(chosen, BLOCK)
            values = np.asarray(member(given[here], labels[here], here.astype(np.uint32), words), np.float64)
            if np.isnan(values).any():
                raise eqx.EquinoxRuntimeError("the solution is no number")
            return values[: len(chosen)]

        try:
            parts = [blame(some, rows[i : i + BLOCK], names) for i in range(0, len(rows), BLOCK)]
        except FailedExamples as failure:
            which = f"the {what} of {', '.join(failure.names) or 'a row'}"
            raise RunFailed(f"{self.source}: {which} could not be solved for ({failure.cause}).") from None
        return np.concatenate(parts) if parts else np.zeros((0, *points.shape[1:]))


LOG_PROB = "log_prob"


def refuse_series_options(asked: Prediction) -> None:
    """Refuse what is of series and of samples of one forecast.

    **Raises:** `RunError`.
    """
    if asked.ahead or asked.keep_samples:
        raise RunError("points have no time, and each row gets one number or point: leave out --ahead, --keep-samples.")


def even_classes(counts: Sequence[int], rows: int) -> np.ndarray:
    r"""Classes of the first rows of a sequence, `(rows,)`, in which each comes as often as `counts` says.

    Of $\{(i + \tfrac12) \varphi\}$ with the golden ratio $\varphi$, the first `rows` are spread as evenly as a sequence
    allows, whatever `rows`: of each class there are a few more or fewer than its share, where random ones would differ
    by the square root.
    """
    shares = np.cumsum(counts) / np.sum(counts)
    places = np.modf((np.arange(rows) + 0.5) * (1 + np.sqrt(5)) / 2)[0]
    return np.searchsorted(shares[:-1], places, side="right").astype(np.int32)


def _with_points(given: PointRows, columns: Sequence[str], points: np.ndarray) -> pl.DataFrame:
    """The table with these points in the columns of the points, which are added where they are not there."""
    frame = given.table.frame
    if given.table.source.lower().endswith((".csv", ".tsv")):  # whose empty cells are read as empty text
        frame = frame.with_columns(pl.col(pl.String).replace("", None))
    return frame.with_columns([pl.Series(name, points[:, i]) for i, name in enumerate(columns)])


def _row_names(given: PointRows) -> list[str]:
    return [f"row {number}" for number in given.table.numbers]


@dataclass(frozen=True)
class Asked:
    """What a task asks of the models of a run.

    - `calls`: by the label of each `[[model]]`.
    - `ready`: what is made of a model before.
    - `use`, `command`: of `nde.tasks.Words`.
    - `classes`: that the models are given.
    """

    calls: Mapping[str, LogDensities | Draws]
    ready: Callable[[Any], Any]
    use: str
    command: str
    classes: tuple[str, ...] = ()

    def models(self, run: OpenedRun) -> dict[str, list[Any]]:
        """The members of each label, ready to be called."""
        return {label: [self.ready(model) for model in models] for label, models in run.models().items()}


def models_of(run: OpenedRun, asks: Asked) -> PointModels:
    """Those of a run."""
    config, data, calls = run.config, run.config.data, asks.calls

    def members() -> Mapping[str, Sequence[Block]]:
        return {label: [partial(_compiled, calls[label], one) for one in ms] for label, ms in asks.models(run).items()}

    return PointModels(
        source=str(run.folder),
        layout=data.table_format(),
        units=read_units(run),
        label=(data.label or "class") if asks.classes else None,
        classes=asks.classes,
        begins=getattr(data, "source", None),
        seed=config.seed,
        names={section.called(): section.name for section in config.model},
        alone=predicting(run, None),
        count=config.train.members,
        probes={s.called(): s.probes for s in config.model if getattr(s, "probes", None) is not None},
        members=members,
    )
