"""Samples like the data, as a task: diffusion models, flows between laws, and whatever else draws points."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
from jaxtyping import Array, PRNGKeyArray
from matplotlib.figure import Figure

from nde.config import build_loss, GenerateConfig, Member, PointFacts
from nde.models import at_tolerance, flow_paths, Solved
from nde.objectives import independent_pairs, point_loss, transport_pairs
from nde.report import bits_per_dimension, energy_distance, plot_clouds, plot_images, sample_distances
from nde.tasks.base import AbstractTask, Examples, member_key, OpenedRun, Prediction
from nde.tasks.density import log_prob
from nde.tasks.point_export import portable_points, ported_points
from nde.tasks.point_prediction import Asked, Draws, models_of
from nde.tasks.points import (
    column_names,
    describe_points,
    load_points,
    named_models,
    PointsProblem,
    resolved_points,
    write_units,
)
from nde.tasks.portable import Portable, Ported
from nde.tasks.scores import TableEvaluation
from nde.train import LossFunction


class Generator(Protocol):
    """What this task knows of a model; `nde.DiffusionModel`, `nde.InterpolantModel` and a normalising flow are three.

    One with a source of its own has `carry` in place of `draw`, and an attribute `has_density` that is false.
    """

    def draw(self, args: Any = None, /, *, key: PRNGKeyArray, steps: int | None = None, **options: Any) -> Solved:
        """A sample, and what its solve was like."""
        ...

    def log_prob(self, x: Array, args: Any = None, /, *, key: PRNGKeyArray | None = None) -> Array:
        """The log-density at a point, in nats."""
        ...


@dataclass(frozen=True)
class Drawn:
    """Samples of one model in the data's own units, their classes, and how often a solve evaluated its field."""

    points: np.ndarray
    labels: np.ndarray | None
    evaluations: float


@dataclass(frozen=True)
class GenerateEvaluation(TableEvaluation):
    """Scores of samples; `details` holds them, by model, and they are written beside the scores."""

    columns: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()

    def write(self, folder: Path) -> None:
        super().write(folder)
        frames = []
        for method, drawn in self.details.items():
            frame = {"model": [method] * len(drawn.points)}
            frame |= {name: drawn.points[:, i] for i, name in enumerate(self.columns)}
            if drawn.labels is not None:
                frame["class"] = [self.classes[i] for i in drawn.labels]
            frames.append(pl.DataFrame(frame))
        pl.concat(frames).write_csv(folder / "samples.csv", float_precision=6)


class GenerateTask(AbstractTask):
    """Samples like the data, from noise or from a source that is data too, of classes or not."""

    loss_name = "loss"
    score_name = "validation: energy distance of samples"
    needs_table = False

    def load(self, config: GenerateConfig) -> PointsProblem:
        return load_points(config, config.data.source)

    def resolve(self, config: GenerateConfig, problem: PointsProblem) -> GenerateConfig:
        return config.model_copy(update={"data": config.data.model_copy(update=resolved_points(config, problem))})

    def facts(self, config: GenerateConfig, *, until: float = 0.0) -> PointFacts:
        del until  # time is the model's own
        data = config.data
        assert data.size is not None
        learned = "end_time" in config.regularise.penalties
        begins = data.source is not None
        return PointFacts(data.size, learned, len(data.classes or ()), data.image, begins, data.kinetic_path)

    def describe(self, config: GenerateConfig, problem: PointsProblem) -> list[str]:
        begin = [] if config.data.source is None else [f"from points of {config.data.source}"]
        return [*describe_points(config, problem), *begin]

    def save(self, folder: Path, config: GenerateConfig, problem: PointsProblem) -> None:
        write_units(folder, problem)

    def examples(self, config: GenerateConfig, problem: PointsProblem, member: Member) -> Examples:
        x1, labels = problem.train.points, problem.train.labels
        coupling = getattr(member.section, "coupling", "independent")
        if problem.source is None and coupling == "independent":  # noise is drawn anew in each step
            return Examples((x1, None, labels), [f"point {i}" for i in range(len(x1))])
        pairs, seed = config.data.pairs, config.seed + member.index
        x0 = None if problem.source is None else problem.source[0]
        rows0, rows1 = independent_pairs(pairs if x0 is None else len(x0), len(x1), pairs, seed=seed)
        x0 = np.random.default_rng(seed).standard_normal((pairs, x1.shape[1])) if x0 is None else x0[rows0]
        x1, labels = x1[rows1], None if labels is None else labels[rows1]
        if coupling == "transport":
            rows0, rows1 = transport_pairs(
                x0, x1, batch=getattr(member.section, "coupling_batch", 256), labels=labels, seed=seed
            )
            x0, x1, labels = x0[rows0], x1[rows1], None if labels is None else labels[rows1]
        return Examples((x1, x0, labels), [f"pair {i}" for i in range(pairs)])

    def loss(self, config: GenerateConfig, problem: PointsProblem) -> LossFunction:
        return build_loss(config.regularise, config.train, partial(point_loss, matching=config.objective.build()))

    def validation(self, config: GenerateConfig, problem: PointsProblem) -> Callable[[Any], float]:
        # Not by the loss: its least value is another for each coupling, and most of it no model can lower.
        count = min(len(problem.validation), VALIDATED)
        points = problem.validation.points[:count]
        labels = None if problem.validation.labels is None else problem.validation.labels[:count]
        x0 = None if problem.source is None else problem.source[1][:count]
        key = member_key(config, 0, "validation")
        options = {"steps": VALIDATION_STEPS, "solver": diffrax.Heun()}

        def score(model: Any) -> float:
            found = np.asarray(_samples(model, labels, x0, key, count, options)[0])
            return energy_distance(found, points) if np.isfinite(found).all() else np.inf

        return score

    def evaluate(self, run: OpenedRun, problem: PointsProblem) -> GenerateEvaluation:
        settings, data = run.config.evaluate, problem.data
        count = min(settings.samples, len(problem.test))
        reference = problem.undo(problem.test.points[:count])
        drawn, rows, floors = {}, [], {}
        for label, model, section, index in _named(run):
            drawn[label] = one = _draw(run, problem, model, section.drawing(settings), count, index)
            found = sample_distances(one.points, reference, repeats=settings.repeats)
            row = {name: each.value for name, each in found.items()} | self._likelihood(run, problem, model)
            rows.append({"method": label, **row, "evaluations": one.evaluations})
            floors = {name: each.floor for name, each in found.items()}
        seen = problem.undo(problem.train.points)
        generator = np.random.default_rng(run.config.seed)
        normal = generator.multivariate_normal(seen.mean(0), np.atleast_2d(np.cov(seen.T)), count)
        found = sample_distances(normal, reference, repeats=settings.repeats)
        rows.append({"method": "Gaussian", **{name: each.value for name, each in found.items()}})
        rows.append({"method": "floor: held-out points", **floors})
        told = [name for name in rows[0] if any(row.get(name, np.nan) == row.get(name, np.nan) for row in rows)]
        rows = [{name: row.get(name, float("nan")) for name in told} for row in rows]
        return GenerateEvaluation(
            title=f"{run.config.data.source_name()}: {count} samples beside {count} held-out points",
            caption="distances between halves of both; the floor is that between halves of the held-out points",
            scores=rows,
            notes=self._notes(run, problem),
            summary={"samples": count, "points_scored": count},
            details=drawn,
            columns=column_names(data),
            classes=data.classes,
        )

    def figures(self, run: OpenedRun, problem: PointsProblem, evaluation: GenerateEvaluation) -> dict[str, Figure]:
        drawn: Mapping[str, Drawn] = evaluation.details
        test, data = problem.undo(problem.test.points), problem.data
        points = {"held out": test[: len(next(iter(drawn.values())).points)]}
        points |= {name: one.points for name, one in drawn.items()}
        if data.image is not None:
            return {"samples": plot_images(points, data.image, limits=(float(test.min()), float(test.max())))}
        if data.points.shape[1] == 1:
            return {"samples": plot_clouds(points, names=(evaluation.columns[0], ""))}
        labels = {name: one.labels for name, one in drawn.items()} | {"held out": problem.test.labels}
        colours = {name: each for name, each in labels.items() if each is not None}
        names = (evaluation.columns[0], evaluation.columns[1])
        figures = {"samples": plot_clouds(points, names=names, colours=colours)}
        if problem.source is not None:
            x0 = jnp.asarray(problem.source[2][:PATHS], jnp.result_type(float))
            source = problem.undo(problem.source[2])
            ways = {label: problem.undo(flow_paths(model, x0)) for label, model, _, _ in _named(run)}
            clouds = {"held out": test, "source": source} | {name: way[:, -1] for name, way in ways.items()}
            figures["paths"] = plot_clouds(clouds, names=names, paths=ways, span=np.concatenate([test, source]))
        return figures

    def predict(self, run: OpenedRun, asked: Prediction) -> pl.DataFrame:
        """New points in the data's own units, drawn as those that are scored, by `[evaluate]`.

        Without a table so many as `asked.samples`, of classes as often as in the training. With one a point for each
        row, in the columns of the points: of the class that stands in the column of labels, from where the row's own
        point is, or both, as the models ask for. One model draws, that which was asked for or validated best, and its
        members take turns. A row's draw depends on the run's seed and the row's number alone, not on the other rows.

        **Raises:** `RunError` for a table that is of no use or is missing; `TableError` for a bad one; `RunFailed` for
        rows that can not be solved for.
        """
        return models_of(run, _asks(run)).draws(asked)

    def prediction_notes(self, run: OpenedRun, model: str | None = None) -> Sequence[str]:
        return models_of(run, _asks(run)).draw_notes(model)

    def portable(self, run: OpenedRun, *, until: float | None, rows: int | None) -> Portable:
        return portable_points(run, _asks(run), until, rows, self.prediction_notes(run))

    def predict_portable(self, portable: Ported, asked: Prediction) -> pl.DataFrame:
        return ported_points(portable).draws(asked)

    def portable_notes(self, portable: Ported, model: str | None = None) -> Sequence[str]:
        return ported_points(portable).draw_notes(model)

    def _likelihood(self, run: OpenedRun, problem: PointsProblem, model: Any) -> dict[str, float]:
        """The mean log-density of held-out points and its standard error, in the data's own units."""
        settings, cell = run.config.evaluate, problem.data.cell
        count = min(settings.likelihood_points, len(problem.test))
        names = ["log_likelihood", "se", *([] if cell is None else ["bits/dim"])]
        if count < 2 or not getattr(model, "has_density", True):
            return {name: float("nan") for name in names}
        labels = None if problem.test.labels is None else problem.test.labels[:count]
        values = log_prob(at_tolerance(model, settings.tolerance), problem.test.points[:count], labels)
        values = values - problem.log_scale
        found = [values.mean(), values.std(ddof=1) / np.sqrt(count)]
        if cell is not None:
            found.append(bits_per_dimension(values, problem.data.points.shape[1], cell).mean())
        return dict(zip(names, map(float, found), strict=True))

    def _notes(self, run: OpenedRun, problem: PointsProblem) -> list[str]:
        notes = ["evaluations: of the network, a sample."]
        count = min(run.config.evaluate.likelihood_points, len(problem.test))
        if count >= 2 and problem.source is None:
            given = " given their class" if problem.data.labels is not None else ""
            notes.append(f"log_likelihood: nats per point, of {count} held-out points{given}; se over points.")
        return notes


def _asks(run: OpenedRun) -> Asked:
    """Points drawn as those that are scored."""
    config = run.config
    classes, begins = tuple(config.data.classes or ()), config.data.source is not None
    drawn = {s.called(): Draws(s.drawing(config.evaluate), bool(classes), begins) for s in config.model}
    how = config.evaluate.model_dump(include={"noise", "steps", "sampler"}, exclude_none=True, exclude_defaults=True)
    said = ", ".join(f"{name} = {value}" for name, value in how.items())
    use = USE + (f" Drawn with {said}." if said else " Drawn by an ODE, its steps chosen by the solver.")
    command = "--data TABLE.csv --out points.csv" if begins else "--samples 1000 --out points.csv"
    return Asked(drawn, lambda model: model, use, command, classes)


USE = "New points like those that it was trained on."


VALIDATED, VALIDATION_STEPS = 500, 16
PATHS = 120


def _named(run: OpenedRun) -> list[tuple[str, Any, Any, int]]:
    """Every trained model, with what it is called, its section and which member it is."""
    members = zip(named_models(run).items(), run.config.members(), strict=True)
    return [(name, model, member.section, member.index) for (name, model), member in members]


def _draw(run: OpenedRun, problem: PointsProblem, model: Any, options: dict, count: int, index: int) -> Drawn:
    labels = problem.test.labels
    labels = None if labels is None else labels[:count]  # classes as often as in what is compared
    x0 = None if problem.source is None else problem.source[2][:count]
    found, evaluations = _samples(model, labels, x0, member_key(run.config, index, "forecasts"), count, options)
    return Drawn(problem.undo(found), labels, float(np.mean(evaluations)))


def _samples(model: Any, labels: Any, x0: Any, key: PRNGKeyArray, count: int, options: dict) -> tuple[Array, Array]:
    """Samples in the model's units, `(count, size)`, and evaluations of each solve."""
    dtype = jnp.result_type(float)
    labels = None if labels is None else jnp.asarray(labels)
    x0 = None if x0 is None else jnp.asarray(x0, dtype)
    return _many(model, labels, x0, jax.random.split(key, count), options)


@eqx.filter_jit
def _many(model: Any, labels: Any, x0: Any, keys: Array, options: dict) -> tuple[Array, Array]:
    def one(label, x0, key):
        solved = model.draw(label, key=key, **options) if x0 is None else model.carry(x0, label, key=key, **options)
        evaluations = solved.stats["num_field_evaluations"]
        return solved.ys, jnp.asarray(jnp.nan if evaluations is None else evaluations, solved.ys.dtype)

    return jax.vmap(one)(labels, x0, keys)
