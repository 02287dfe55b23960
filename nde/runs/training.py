"""Train a run, of whatever kind."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from nde import config as configs
from nde.data import index_batches
from nde.runs.folder import Run
from nde.runs.interface import member_key
from nde.train import fit, Interrupt, make_step, MetricsFile, ProgressPrinter, TrainState


def train(run: Run, problem: Any, console: Console) -> bool:
    """Train what is not yet trained of a run, from its last checkpoints on; `False` if Ctrl-C ended it early."""
    config = run.config
    optimiser = configs.build_optimiser(config.train)
    update = make_step(run.kind.loss(config, problem), optimiser)
    validate = run.kind.validation(config, problem)
    with Interrupt() as interrupt:
        for member in range(len(run.kind.members(config))):
            reason = _train_member(run, problem, member, update, validate, optimiser, console, interrupt)
            if reason == "interrupted":
                return False
    return True


def _train_member(run, problem, member, update, validate, optimiser, console, interrupt) -> str:
    config = run.config
    examples = run.kind.examples(config, problem, member)
    count = len(examples.names)
    checkpoints = run.checkpoints(member)
    state = TrainState.create(run.new_model(member), optimiser)
    state = checkpoints.restore(state) or state
    start = int(state.step)
    title = run.kind.members(config)[member]
    progress = ProgressPrinter(config.train.steps, start=start, title=title, console=console)
    log = MetricsFile(run.metrics_path, member=member, every=config.train.log_every)
    size = min(config.train.batch_size, count)
    outcome = fit(
        update,
        state,
        jax.tree.map(_to_device, examples.arrays),
        index_batches(count, size, config.train.steps, seed=config.seed + member),
        validate,
        configs.build_schedule(config.train),
        key=member_key(config, member, "training"),
        names=examples.names,
        observers=(checkpoints, log, progress),
        stop=lambda: interrupt.asked,
    )
    checkpoints.close()
    if outcome.reason != "finished":
        console.print(f"{title} stopped at step {int(outcome.state.step)}: {outcome.reason}.".strip())
    return outcome.reason


def _to_device(x: np.ndarray) -> jax.Array:
    return jnp.asarray(x, {"f": jnp.result_type(float), "i": jnp.result_type(int)}.get(x.dtype.kind, x.dtype))
