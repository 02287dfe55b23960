"""Train a run."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree
from rich.console import Console

from nde import config as configs
from nde.config import RunConfig
from nde.data import index_batches
from nde.models import LatentSDE
from nde.objectives import annealed, hide_future
from nde.report import sample_forecast
from nde.runs.folder import member_key, Run
from nde.runs.problem import Problem, RunError
from nde.train import BatchLoss, fit, Interrupt, make_step, MetricsFile, ProgressPrinter, TrainState


def train(run: Run, problem: Problem, console: Console) -> bool:
    """Train what is not yet trained of a run, from its last checkpoints on; `False` if Ctrl-C ended it early."""
    config = run.config
    optimiser = configs.build_optimiser(config.train)
    update = make_step(batch_loss(config), optimiser)
    validate = validation_score(config, problem)
    with Interrupt() as interrupt:
        for member in range(config.train.members):
            reason = _train_member(run, problem, member, update, validate, optimiser, console, interrupt)
            if reason == "interrupted":
                return False
    return True


def _train_member(run, problem, member, update, validate, optimiser, console, interrupt) -> str:
    config, series = run.config, problem.split.train
    checkpoints = run.checkpoints(member)
    state = TrainState.create(run.new_model(member), optimiser)
    state = checkpoints.restore(state) or state
    start = int(state.step)
    title = f"member {member + 1}/{config.train.members}" if config.train.members > 1 else ""
    progress = ProgressPrinter(config.train.steps, start=start, title=title, console=console)
    log = MetricsFile(run.metrics_path, member=member, every=config.train.log_every)
    batches = index_batches(
        len(series), min(config.train.batch_size, len(series)), config.train.steps, seed=config.seed + member
    )
    outcome = fit(
        update,
        state,
        jax.tree.map(_to_device, problem.arrays(series)),
        batches,
        validate,
        configs.build_schedule(config.train),
        key=member_key(config, member, "training"),
        names=[problem.panel.ids[i] for i in series],
        observers=(checkpoints, log, progress),
        stop=lambda: interrupt.asked,
    )
    checkpoints.close()
    if outcome.reason != "finished":
        console.print(f"{title} stopped at step {int(outcome.state.step)}: {outcome.reason}.".strip())
    return outcome.reason


def batch_loss(config: RunConfig) -> Callable[..., BatchLoss]:
    """The loss of a batch: the objective of each series in a random context, per observed value."""
    settings = config.objective
    objective = configs.build_objective(settings)

    def loss(model: PyTree, batch: PyTree, step: jax.Array, key: jax.Array) -> BatchLoss:
        def series(times, values, mask, key):
            context_key, path_key = jax.random.split(key)
            context = hide_future(times, mask, whole=settings.whole, key=context_key)
            return objective(model, times, values, mask, context, key=path_key)

        times, values, mask = batch
        terms = jax.vmap(series)(times, values, mask, jax.random.split(key, len(times)))
        weight = annealed(settings.kl_weight, settings.anneal_steps, step)
        losses = jax.vmap(lambda term: term.loss(weight))(terms)
        parts = {
            "log_likelihood": jnp.mean(terms.log_likelihood),
            "kl_path": jnp.mean(terms.kl_path),
            "kl_initial": jnp.mean(terms.kl_initial),
        }
        return BatchLoss(jnp.sum(losses) / jnp.sum(terms.count), parts, losses)

    return loss


def check_targets(config: RunConfig, problem: Problem) -> None:
    """Refuse, before any training, a split whose validation or test series hold nothing to forecast."""
    task = configs.build_task(config.evaluate)
    for name, series in (("validation", problem.split.validation), ("test", problem.split.test)):
        if not task.cut(problem.panel.times[series], problem.panel.mask[series]).targets.any():
            raise RunError(
                f"{config.data.table_path()}: none of the {len(series)} {name} series has a value to forecast; change "
                "data.folds, data.validation or data.split_seed, or choose another evaluate.task."
            )


def validation_score(config: RunConfig, problem: Problem) -> Callable[[LatentSDE], float]:
    """The mean negative log predictive density per value on the validation series, in the config's task."""
    times, values, mask = problem.arrays(problem.split.validation)
    cut = configs.build_task(config.evaluate).cut(times, mask)
    key = member_key(config, 0, "validation")

    def score(model: LatentSDE) -> float:
        samples = config.train.validation_samples
        forecast = sample_forecast([model], times, values, cut.context, times, samples=samples, key=key)
        return float(-forecast.law.log_density(values)[cut.targets].mean())

    return score


def _to_device(x: np.ndarray) -> jax.Array:
    return jnp.asarray(x, jnp.result_type(float) if x.dtype.kind == "f" else x.dtype)
