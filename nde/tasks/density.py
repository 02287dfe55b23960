"""The density of points as a task."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from nde.adjoints import CheckpointAdjoint
from nde.config import build_loss, DensityConfig, Member, PointFacts
from nde.data import DATASETS
from nde.models import ContinuousNormalizingFlow, position_norm
from nde.objectives import density_loss
from nde.report import density_rows, fit_gaussian, fit_kde, PlaneGrid, plot_plane
from nde.tasks.base import AbstractTask, Examples, member_key, OpenedRun, TableEvaluation
from nde.train import blame, LossFunction


@dataclass(frozen=True)
class Points:
    """Points of a density, `(points, size)` each: to train on, to stop by, to score."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


class DensityTask(AbstractTask):
    """The density of points, by models with an exact log-density and samples, such as a continuous normalising flow."""

    loss_name = "loss (nats per point)"
    score_name = "validation loss (nats per point)"

    def load(self, config: DensityConfig) -> Points:
        data = config.data
        sizes = (data.points, data.validation_points, data.test_points)
        seed = config.seed if data.seed is None else data.seed
        points = DATASETS[data.dataset].load(seed=seed, size=sum(sizes))
        return Points(*np.split(points, np.cumsum(sizes)[:-1]))

    def resolve(self, config: DensityConfig, problem: Points) -> DensityConfig:
        seed = config.seed if config.data.seed is None else config.data.seed
        found = {"seed": seed, "size": problem.train.shape[1]}
        return config.model_copy(update={"data": config.data.model_copy(update=found)})

    def facts(self, config: DensityConfig, *, until: float = 0.0) -> PointFacts:
        del until  # a flow's time is its own
        assert config.data.size is not None
        return PointFacts(config.data.size, learned_end="end_time" in config.regularise.penalties)

    def describe(self, config: DensityConfig, problem: Points) -> list[str]:
        sizes = [len(problem.train), len(problem.validation), len(problem.test)]
        return [f"points of {config.data.dataset}: {sizes[0]} train, {sizes[1]} validate, {sizes[2]} test"]

    def examples(self, config: DensityConfig, problem: Points, member: Member) -> Examples:
        return Examples((problem.train,), [f"point {i}" for i in range(len(problem.train))])

    def loss(self, config: DensityConfig, problem: Points) -> LossFunction:
        return build_loss(config.regularise, config.train, density_loss)

    def validation(self, config: DensityConfig, problem: Points) -> Callable[[Any], float]:
        return lambda model: -float(_log_prob(model, problem.validation).mean())

    def evaluate(self, run: OpenedRun, problem: Points) -> TableEvaluation:
        settings = run.config.evaluate
        flows = {}
        for label, models in run.models().items():
            for i, model in enumerate(models):
                flows[label if len(models) == 1 else f"{label} {i + 1}"] = _exact(model, settings.tolerance)
        first = next(iter(flows))
        laws: dict[str, Callable[[np.ndarray], np.ndarray]] = {
            "Gaussian": fit_gaussian(problem.train),
            "Gaussian kernels": fit_kde(problem.train, problem.validation),
        }
        scores = {name: law(problem.test) for name, law in laws.items()}
        scores |= {name: _log_prob(flow, problem.test) for name, flow in flows.items()}
        truth = DATASETS[run.config.data.dataset].truth.get("log_prob")
        if truth is not None:
            scores["the density itself"] = truth(problem.test)
        notes, details = [], None
        summary: dict[str, float] = {"points_scored": len(problem.test)}
        if problem.test.shape[1] == 2:
            grid = PlaneGrid(EXTENT)
            heights = {f"log-density of the {first}": _log_prob(flows[first], grid.points())}
            mass = summary["mass_on_the_grid"] = grid.integral(*heights.values())
            if truth is not None:
                heights["true log-density"] = truth(grid.points())
            keys = jax.random.split(member_key(run.config, 0, "figures"), settings.samples)
            details = np.asarray(_draw(flows[first], keys)), heights, grid
            notes = [
                f"the {first}'s density has a mass of {mass:.4f} on the square of the figure, {2 * EXTENT:g} a side."
            ]
        return TableEvaluation(
            title=f"{run.config.data.dataset}: log-likelihood of {len(problem.test)} held-out points",
            caption=f"nats per point, higher is better; difference = {first} − method; se over points",
            scores=density_rows(scores, first),
            notes=notes,
            summary=summary,
            details=details,
        )

    def figures(self, run: OpenedRun, problem: Points, evaluation: TableEvaluation) -> dict[str, Figure]:
        if evaluation.details is None:  # points that are not in the plane
            return {}
        samples, heights, grid = evaluation.details
        return {"density": plot_plane(problem.test, samples, heights, grid)}


EXTENT = 4.5


def _exact(flow: ContinuousNormalizingFlow, tolerance: float) -> ContinuousNormalizingFlow:
    """The flow with steps as small as a tolerance asks, by its own solver, or Tsit5 if that estimates no error."""
    solver = flow.solver if isinstance(flow.solver, diffrax.AbstractAdaptiveSolver) else diffrax.Tsit5()
    controller = diffrax.PIDController(rtol=tolerance, atol=tolerance, norm=position_norm)
    numerics = dataclasses.replace(
        flow.numerics, solver=solver, controller=controller, adjoint=CheckpointAdjoint(), dt0=None, max_steps=4096
    )
    return eqx.tree_at(lambda f: f.numerics, flow, numerics)


@eqx.filter_jit
def _log_probs(flow: ContinuousNormalizingFlow, points: jax.Array) -> jax.Array:
    return jax.vmap(flow.log_prob)(points)


@eqx.filter_jit
def _draw(flow: ContinuousNormalizingFlow, keys: jax.Array) -> jax.Array:
    return jax.vmap(lambda key: flow.sample(key=key))(keys)


def _log_prob(flow: ContinuousNormalizingFlow, points: np.ndarray) -> np.ndarray:
    """Log-densities in nats, `(points,)`, in double precision from here on."""
    data = jnp.asarray(points, jnp.result_type(float))
    names = [f"point {i}" for i in range(len(points))]
    return np.asarray(blame(lambda rows: _log_probs(flow, data[rows]), np.arange(len(points)), names), np.float64)
