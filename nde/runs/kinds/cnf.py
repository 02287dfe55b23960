"""A continuous normalising flow of points in the plane as a kind of run."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray, PyTree
from matplotlib.figure import Figure

from nde.config import build_regulariser, build_share
from nde.config.cnf import build_flow, CNFConfig
from nde.data import DENSITIES, sample_density
from nde.models import ContinuousNormalizingFlow, position_norm
from nde.objectives import negative_log_likelihood
from nde.report import density_rows, fit_gaussian, fit_kde, PlaneGrid, plot_plane, plot_training
from nde.runs.interface import AbstractKind, Examples, member_key, OpenedRun, TableEvaluation
from nde.runs.kinds.penalty import with_penalty
from nde.train import BatchLoss, blame, LossFunction, read_metrics


@dataclass(frozen=True)
class PlanePoints:
    """Points of a density, `(points, 2)` each: to train on, to stop by, to score."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


class CNFKind(AbstractKind):
    """The density of points in the plane, by a continuous normalising flow with the exact trace."""

    def load(self, config: CNFConfig) -> PlanePoints:
        data = config.data
        sizes = (data.points, data.validation_points, data.test_points)
        seed = config.seed if data.seed is None else data.seed
        points = sample_density(data.density, sum(sizes), seed=seed)
        return PlanePoints(*np.split(points, np.cumsum(sizes)[:-1]))

    def resolve(self, config: CNFConfig, problem: PlanePoints) -> CNFConfig:
        seed = config.seed if config.data.seed is None else config.data.seed
        return config.model_copy(update={"data": config.data.model_copy(update={"seed": seed})})

    def describe(self, config: CNFConfig, problem: PlanePoints) -> list[str]:
        sizes = [len(problem.train), len(problem.validation), len(problem.test)]
        return [f"points of {config.data.density}: {sizes[0]} train, {sizes[1]} validate, {sizes[2]} test"]

    def new_model(
        self, config: CNFConfig, member: int, *, key: PRNGKeyArray, horizon: float = 0.0
    ) -> ContinuousNormalizingFlow:
        return build_flow(config.model, learned_end="end_time" in config.regularise.penalties, key=key)

    def examples(self, config: CNFConfig, problem: PlanePoints, member: int) -> Examples:
        return Examples(problem.train, [f"point {i}" for i in range(len(problem.train))])

    def loss(self, config: CNFConfig, problem: PlanePoints) -> LossFunction:
        def loss(model: PyTree, batch: jax.Array, step: jax.Array, key: jax.Array) -> BatchLoss:
            losses = jax.vmap(lambda point: negative_log_likelihood(model, point))(batch)
            return BatchLoss(jnp.mean(losses), {}, losses)

        regulariser, share = build_regulariser(config.regularise), build_share(config.regularise, config.train)

        def regularised(model: PyTree, batch: jax.Array, step: jax.Array, key: jax.Array) -> BatchLoss:
            def penalised(point, key):
                return model.penalised(regulariser, point, key=key)

            log_probs, penalties = jax.vmap(penalised)(batch, jax.random.split(key, len(batch)))
            result = BatchLoss(-jnp.mean(log_probs), {}, -log_probs)
            return with_penalty(result, penalties, share(step))

        return loss if regulariser is None else regularised

    def validation(self, config: CNFConfig, problem: PlanePoints) -> Callable[[Any], float]:
        return lambda model: -float(_log_prob(model, problem.validation).mean())

    def remedies(self, config: CNFConfig) -> list[str]:
        return [f"lower model.dt0 (now {config.model.dt0:g})"]

    def evaluate(self, run: OpenedRun, problem: PlanePoints) -> TableEvaluation:
        settings = run.config.evaluate
        flows = [_exact(flow, settings.tolerance) for flow in run.models()]
        names = ["flow" if len(flows) == 1 else f"flow {i + 1}" for i in range(len(flows))]
        laws: dict[str, Callable[[np.ndarray], np.ndarray]] = {
            "Gaussian": fit_gaussian(problem.train),
            "Gaussian kernels": fit_kde(problem.train, problem.validation),
        }
        scores = {name: law(problem.test) for name, law in laws.items()}
        scores |= {name: _log_prob(flow, problem.test) for name, flow in zip(names, flows, strict=True)}
        truth = DENSITIES[run.config.data.density].log_prob
        if truth is not None:
            scores["the density itself"] = truth(problem.test)
        grid = PlaneGrid(EXTENT)
        heights = {"log-density of the flow": _log_prob(flows[0], grid.points())}
        mass = grid.integral(heights["log-density of the flow"])
        if truth is not None:
            heights["true log-density"] = truth(grid.points())
        keys = jax.random.split(member_key(run.config, 0, "figures"), settings.samples)
        samples = np.asarray(_draw(flows[0], keys))
        return TableEvaluation(
            title=f"{run.config.data.density}: log-likelihood of {len(problem.test)} held-out points",
            caption=f"nats per point, higher is better; difference = {names[0]} − method; se over points",
            rows=density_rows(scores, names[0]),
            notes=[f"the flow's density has a mass of {mass:.4f} on the square of the figure, {2 * EXTENT:g} a side."],
            summary={"points_scored": len(problem.test), "mass_on_the_grid": mass},
            details=(samples, heights, grid),
        )

    def figures(self, run: OpenedRun, problem: PlanePoints, evaluation: TableEvaluation) -> dict[str, Figure]:
        samples, heights, grid = evaluation.details
        training = plot_training(
            read_metrics(run.folder / "metrics.jsonl"),
            loss_name="loss (nats per point)",
            score_name="validation loss (nats per point)",
        )
        return {"training": training, "density": plot_plane(problem.test, samples, heights, grid)}


EXTENT = 4.5


def _exact(flow: ContinuousNormalizingFlow, tolerance: float) -> ContinuousNormalizingFlow:
    """The flow with steps as small as a tolerance asks."""
    controller = diffrax.PIDController(rtol=tolerance, atol=tolerance, norm=position_norm)
    return dataclasses.replace(flow, controller=controller, dt0=None)


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
