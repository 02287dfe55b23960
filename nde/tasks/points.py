"""The points of a run, of whatever task: read or made, divided, brought to one scale, and written into its config."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

from nde.config import PointsData, RunConfig
from nde.data import as_point_set, PointSet, read_points
from nde.diffusion import fit_kinetic
from nde.tasks.base import OpenedRun, RunError
from nde.tasks.tables import file_fingerprint, NORMALISER


@dataclass(frozen=True)
class Part:
    """Some of the points, in the models' units, and their classes, `None` without."""

    points: np.ndarray
    labels: np.ndarray | None

    def __len__(self) -> int:
        return len(self.points)


@dataclass(frozen=True)
class PointsProblem:
    """The points of a config: to train on, to stop by, to score.

    - `data`: all of them, in their own units.
    - `train`, `validation`, `test`: those of each part, in the models' units, `(x - shift) / scale`.
    - `source`: where flows begin, in the models' units, if not in noise; as many for each part.
    """

    data: PointSet
    train: Part
    validation: Part
    test: Part
    shift: np.ndarray
    scale: np.ndarray
    source: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None

    @cached_property
    def units(self) -> "PointUnits":
        """What is kept of them to predict by."""
        labels, classes = self.train.labels, len(self.data.classes)
        counts = () if labels is None else tuple(np.bincount(labels, minlength=classes).tolist())
        return PointUnits(column_names(self.data), tuple(self.shift.tolist()), tuple(self.scale.tolist()), counts)

    def undo(self, points: Any) -> np.ndarray:
        """Points in the models' units in their own again."""
        return self.units.undo(points)

    @property
    def log_scale(self) -> float:
        """What a log-density in the models' units is above one in the data's own."""
        return self.units.log_scale


@dataclass(frozen=True)
class PointUnits:
    """What a run keeps of its points to predict by, without them.

    - `columns`: what the coordinates are called; `shift`, `scale`: of each, `(x - shift) / scale` is in the models'
      units.
    - `counts`: how many training points each class has; empty without classes.
    """

    columns: tuple[str, ...]
    shift: tuple[float, ...]
    scale: tuple[float, ...]
    counts: tuple[int, ...]

    def apply(self, points: Any) -> np.ndarray:
        """Points in their own units in the models'."""
        with np.errstate(over="ignore"):  # what is then infinite can not be solved for, which is said by its row
            return (np.asarray(points, np.float64) - np.array(self.shift)) / np.array(self.scale)

    def undo(self, points: Any) -> np.ndarray:
        """Points in the models' units in their own again."""
        return np.asarray(points, np.float64) * np.array(self.scale) + np.array(self.shift)

    @property
    def log_scale(self) -> float:
        """What a log-density in the models' units is above one in the data's own."""
        return float(np.log(self.scale).sum())

    def named(self) -> str:
        """The columns, of many the first and the last."""
        names = self.columns
        return ", ".join(names) if len(names) <= SHOWN_COLUMNS else f"{names[0]}, {names[1]}, …, {names[-1]}"

    def to_plain(self) -> dict[str, Any]:
        """What JSON can hold of them, to the last bit."""
        return asdict(self)

    @classmethod
    def from_plain(cls, saved: Mapping[str, Any]) -> "PointUnits":
        """What `to_plain` made, of JSON."""
        return cls(**{name: tuple(value) for name, value in saved.items()})


SHOWN_COLUMNS = 12


def column_names(data: PointSet) -> tuple[str, ...]:
    """What the coordinates are called: as in their table, else `x` and `y`, or `x1`, `x2`, …"""
    size = data.points.shape[1]
    return data.columns or (("x", "y") if size == 2 else tuple(f"x{i + 1}" for i in range(size)))


def write_units(folder: Path, problem: PointsProblem) -> None:
    """Keep the units of a run's points in its folder."""
    (folder / NORMALISER).write_text(json.dumps(problem.units.to_plain(), indent=1) + "\n")


def read_units(run: OpenedRun) -> PointUnits:
    """What `write_units` kept; of a run of an nde that kept none, that of its points."""
    path = run.folder / NORMALISER
    return PointUnits.from_plain(json.loads(path.read_text())) if path.is_file() else run.problem.units


def load_points(config: RunConfig, source: str | None = None) -> PointsProblem:
    """The points of a config with a `[data]` of `nde.config.PointsData`; `source`: the data set where flows begin.

    **Raises:** `TableError` for a bad table; `RunError` for one that has changed, or a source of another size.
    """
    settings: PointsData = config.data
    seed = config.seed if settings.seed is None else settings.seed
    data, counts = _read(settings, seed)
    if settings.size not in (None, data.points.shape[1]) or settings.classes not in (None, data.classes):
        raise RunError(f"{settings.source_name()}: the points are not those which the run was made from.")
    order = np.arange(len(data)) if settings.path is None else np.random.default_rng(seed).permutation(len(data))
    rows = np.split(order, np.cumsum(counts)[:-1])
    train = data.points[rows[0]]
    shift, scale = np.zeros(train.shape[1]), np.ones(train.shape[1])
    if settings.is_standardised():
        shift, scale = train.mean(0), train.std(0)
        still = [i for i, spread in enumerate(scale) if not spread > 0]
        if still:
            name = f"column '{data.columns[still[0]]}'" if data.columns else f"coordinate {still[0]}"
            raise RunError(f"{settings.source_name()}: {name} never varies, and has no density; leave it out.")
    parts = [Part((data.points[i] - shift) / scale, None if data.labels is None else data.labels[i]) for i in rows]
    begin = None if source is None else _begin(settings, source, seed, [len(i) for i in rows], shift, scale)
    return PointsProblem(data, parts[0], parts[1], parts[2], shift, scale, begin)


def resolved_points(config: RunConfig, problem: PointsProblem) -> dict[str, Any]:
    """What `nde fit` found, for keys of `[data]`."""
    settings, data = config.data, problem.data
    found: dict[str, Any] = {
        "seed": config.seed if settings.seed is None else settings.seed,
        "size": problem.train.points.shape[1],
        "cell": data.cell,
        "image": data.image,
    }
    if data.labels is not None:
        found["classes"] = data.classes
    if problem.source is None and any(getattr(section, "interpolant", "") == "kinetic" for section in config.model):
        kinetic = fit_kinetic(problem.train.points, key=jax.random.key(config.seed))
        found["kinetic_path"] = (kinetic.spread, *kinetic.speeds)
    if settings.path is not None:
        path = Path(settings.path).absolute()
        found |= {"path": str(path), "columns": data.columns, "sha256": file_fingerprint(path)}
    return found


def describe_points(config: RunConfig, problem: PointsProblem) -> list[str]:
    """What to say of the points before training."""
    settings, data = config.data, problem.data
    parts = (problem.train, problem.validation, problem.test)
    sizes = ", ".join(f"{len(part)} {what}" for part, what in zip(parts, ("train", "validate", "test"), strict=True))
    columns = f"; columns: {', '.join(data.columns[:30])}" if data.columns else ""
    classes = f", of {len(data.classes)} classes" if data.labels is not None else ""
    scaled = ", standardised" if settings.is_standardised() else ""
    return [f"points of {settings.source_name()}{classes}{scaled}: {sizes}{columns}"]


def named_models(run: OpenedRun) -> dict[str, Any]:
    """The trained models by what they are called, of several members with their numbers, in the members' order."""
    return {
        label if len(models) == 1 else f"{label} {i + 1}": model
        for label, models in run.models().items()
        for i, model in enumerate(models)
    }


def _read(settings: PointsData, seed: int) -> tuple[PointSet, tuple[int, ...]]:
    """The points, and how many train, validate and test."""
    made = settings.made()
    if made is not None:
        counts = (settings.points, settings.validation_points, settings.test_points)
        return as_point_set(made.load(seed=seed, size=sum(counts))), counts
    path = Path(str(settings.path))
    data = read_points(path, columns=settings.columns, label=settings.label, layout=settings.table_format())
    if settings.sha256 not in (None, file_fingerprint(path)):
        raise RunError(f"{path}: the table has changed since the run was made; give the run back its table.")
    tested, kept = round(settings.test * len(data)), round(settings.validation * len(data))
    counts = (len(data) - tested - kept, kept, tested)
    if min(counts) < FEWEST:
        raise RunError(
            f"{path}: {len(data)} rows make {counts[0]} points to train, {counts[1]} to validate and {counts[2]} to "
            f"test, but each needs {FEWEST}; give more rows, or other shares data.validation and data.test."
        )
    return data, counts


FEWEST = 10
"""Points of each part, of a table."""


def _begin(settings: PointsData, source: str, seed: int, counts: list[int], shift: Any, scale: Any) -> Any:
    # another seed than that of the data: a source of the same data set is another sample
    made = PointsData(dataset=source).made()
    assert made is not None
    try:
        points = as_point_set(made.load(seed=seed + 1, size=sum(counts))).points
    except ValueError as error:
        raise RunError(f"data.source: {error}") from None
    if points.shape[1] != len(shift):
        raise RunError(
            f"data.source = '{source}' has points of size {points.shape[1]}, and {settings.source_name()} of size "
            f"{len(shift)}: a flow needs one size at both ends."
        )
    return tuple(np.split((points - shift) / scale, np.cumsum(counts)[:-1]))
