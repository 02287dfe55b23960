"""The density of points as a task."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
from matplotlib.figure import Figure

from nde.config import build_loss, DensityConfig, Member, PointFacts
from nde.models import at_tolerance
from nde.objectives import point_loss
from nde.report import density_rows, fit_gaussian, fit_kde, PlaneGrid, plot_plane
from nde.tasks.base import AbstractTask, Examples, member_key, OpenedRun, Prediction
from nde.tasks.point_export import portable_points, ported_points
from nde.tasks.point_prediction import Asked, LogDensities, models_of
from nde.tasks.points import describe_points, load_points, named_models, PointsProblem, resolved_points, write_units
from nde.tasks.portable import Portable, Ported
from nde.tasks.scores import TableEvaluation
from nde.train import blame, LossFunction


class DensityTask(AbstractTask):
    """The density of points, by models with an exact log-density and samples, such as a continuous normalising flow."""

    loss_name = "loss (nats per point)"
    score_name = "validation loss (nats per point)"

    def load(self, config: DensityConfig) -> PointsProblem:
        return load_points(config)

    def resolve(self, config: DensityConfig, problem: PointsProblem) -> DensityConfig:
        return config.model_copy(update={"data": config.data.model_copy(update=resolved_points(config, problem))})

    def facts(self, config: DensityConfig, *, until: float = 0.0) -> PointFacts:
        del until  # a flow's time is its own
        assert config.data.size is not None
        learned = "end_time" in config.regularise.penalties
        return PointFacts(
            config.data.size, learned_end=learned, image=config.data.image, kinetic_path=config.data.kinetic_path
        )

    def describe(self, config: DensityConfig, problem: PointsProblem) -> list[str]:
        return describe_points(config, problem)

    def save(self, folder: Path, config: DensityConfig, problem: PointsProblem) -> None:
        write_units(folder, problem)

    def examples(self, config: DensityConfig, problem: PointsProblem, member: Member) -> Examples:
        return Examples((problem.train.points,), [f"point {i}" for i in range(len(problem.train))])

    def loss(self, config: DensityConfig, problem: PointsProblem) -> LossFunction:
        return build_loss(config.regularise, config.train, partial(point_loss, matching=config.objective.build()))

    def validation(self, config: DensityConfig, problem: PointsProblem) -> Callable[[Any], float]:
        points, log_scale = problem.validation.points, problem.log_scale
        return lambda model: log_scale - float(log_prob(model, points).mean())

    def evaluate(self, run: OpenedRun, problem: PointsProblem) -> TableEvaluation:
        settings = run.config.evaluate
        flows = {name: at_tolerance(model, settings.tolerance) for name, model in named_models(run).items()}
        first = next(iter(flows))
        train, test = problem.train.points, problem.test.points
        laws: dict[str, Callable[[np.ndarray], np.ndarray]] = {
            "Gaussian": fit_gaussian(train),
            "Gaussian kernels": fit_kde(train, problem.validation.points),
        }
        scores = {name: law(test) for name, law in laws.items()}
        scores |= {name: log_prob(flow, test) for name, flow in flows.items()}
        scores = {name: values - problem.log_scale for name, values in scores.items()}
        made = run.config.data.made()
        truth = None if made is None or run.config.data.is_standardised() else made.truth.get("log_prob")
        if truth is not None:
            scores["the density itself"] = truth(test)
        notes, details = [], None
        summary: dict[str, float] = {"points_scored": len(test)}
        if test.shape[1] == 2:
            grid = PlaneGrid(EXTENT)
            heights = {f"log-density of the {first}": log_prob(flows[first], grid.points())}
            mass = summary["mass_on_the_grid"] = grid.integral(*heights.values())
            if truth is not None:
                heights["true log-density"] = truth(grid.points())
            keys = jax.random.split(member_key(run.config, 0, "figures"), settings.samples)
            details = np.asarray(_draw(flows[first], keys)), heights, grid
            notes = [
                f"the {first}'s density has a mass of {mass:.4f} on the square of the figure, {2 * EXTENT:g} a side."
            ]
        return TableEvaluation(
            title=f"{run.config.data.source_name()}: log-likelihood of {len(test)} held-out points",
            caption=f"nats per point, higher is better; difference = {first} − method; se over points",
            scores=density_rows(scores, first),
            notes=notes,
            summary=summary,
            details=details,
        )

    def figures(self, run: OpenedRun, problem: PointsProblem, evaluation: TableEvaluation) -> dict[str, Figure]:
        if evaluation.details is None:  # points that are not in the plane
            return {}
        samples, heights, grid = evaluation.details
        return {"density": plot_plane(problem.test.points, samples, heights, grid)}

    def predict(self, run: OpenedRun, asked: Prediction) -> pl.DataFrame:
        """The table with a column `log_prob`: the log-density of each row's point, in nats and the table's own units.

        By one model, that which was asked for or validated best, solved at `evaluate.tolerance`; of several members
        the log of the mean of their densities.

        **Raises:** `TableError` for a bad table, `RunFailed` for points that can not be solved for, by their rows.
        """
        return models_of(run, _asks(run)).log_densities(asked)

    def prediction_notes(self, run: OpenedRun, model: str | None = None) -> Sequence[str]:
        return models_of(run, _asks(run)).density_notes(model)

    def portable(self, run: OpenedRun, *, until: float | None, rows: int | None) -> Portable:
        return portable_points(run, _asks(run), until, rows, self.prediction_notes(run))

    def predict_portable(self, portable: Ported, asked: Prediction) -> pl.DataFrame:
        return ported_points(portable).log_densities(asked)

    def portable_notes(self, portable: Ported, model: str | None = None) -> Sequence[str]:
        return ported_points(portable).density_notes(model)


def _asks(run: OpenedRun) -> Asked:
    """Log-densities by the adaptive solves that score them."""
    calls = {section.called(): LogDensities() for section in run.config.model}
    ready = partial(at_tolerance, tolerance=run.config.evaluate.tolerance)
    use = f"{USE} Solved at a tolerance of {run.config.evaluate.tolerance:g}."
    return Asked(calls, ready, use, "--data TABLE.csv --out densities.csv")


USE = "The log-density of each of a table's points, in nats, for points like those that it was trained on."


EXTENT = 4.5


@eqx.filter_jit
def _log_probs(flow: Any, points: jax.Array, labels: jax.Array | None) -> jax.Array:
    keys = jax.random.split(jax.random.key(0), len(points))  # for a model that estimates its trace
    return jax.vmap(lambda x, label, key: flow.log_prob(x, label, key=key))(points, labels, keys)


@eqx.filter_jit
def _draw(flow: Any, keys: jax.Array) -> jax.Array:
    return jax.vmap(lambda key: flow.sample(key=key))(keys)


def log_prob(flow: Any, points: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
    """Log-densities in nats, `(points,)`, in double precision from here on; of a model that estimates them, estimates.

    **Arguments:** `points`: in the model's units; `labels`: their classes.
    """
    data = jnp.asarray(points, jnp.result_type(float))
    classes = None if labels is None else jnp.asarray(labels)
    names = [f"point {i}" for i in range(len(points))]

    def some(rows):
        return _log_probs(flow, data[rows], None if classes is None else classes[rows])

    return np.asarray(blame(some, np.arange(len(points)), names), np.float64)
