"""Strong and weak scaling of a training step over host devices, against one device doing the same work.

    XLA_FLAGS=--xla_force_host_platform_device_count=4 python tests/bench/scaling.py

Steps of the shipped latent SDE on PBC, and of an adaptive neural ODE of 64 hidden units, with batches divided among 1,
2 and 4 devices of one process, called in turn; also through a piece of each batch at a time. On two cores nothing can
get faster by four devices: what dividing adds is what is measured.
"""

import json
import os
from pathlib import Path

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=4")

import jax
import numpy as np
from timing import load, medians_in_turn, processor

import nde
from nde.config import load_config
from nde.runs import prepare
from nde.tasks import new_model, TASKS
from nde.train import adam_with_warmup, batch_loss, gradient_update, Sharing

HERE = Path(__file__).parent
STORED = HERE / "results" / "scaling.json"
DEVICES = (1, 2, 4)


def latent_sde():
    """Loss, model and data of the shipped config."""
    config, problem = prepare(load_config(HERE.parents[1] / "configs" / "latent_sde_pbc.toml"))
    task, member = TASKS[config.task], config.members()[0]
    arrays = task.examples(config, problem, member).arrays
    data = tuple(np.asarray(x, bool if x.dtype == bool else np.float32) for x in arrays)
    return task.loss(config, problem), new_model(config, member, task.facts(config)), data


def neural_ode():
    """Loss, model and data of series on times of their own, solved with steps that adapt."""
    rng, size = np.random.default_rng(0), 512
    times = np.sort(rng.uniform(0, 4, (size, 20)), axis=1).astype(np.float32)
    values = np.sin(times[..., None] + rng.uniform(0, 6, (size, 1, 2))).astype(np.float32)
    ode = nde.NeuralODE(nde.MLPField(2, 64, 2, key=jax.random.key(0)))
    model = nde.ObservedODE(ode, None, nde.GaussianLikelihood(2), observed=(0, 1))
    data = (times, values, np.ones_like(values), np.arange(size), values[:, 0])
    return batch_loss(nde.TrajectoryFit()), model, data


def times(loss, model, data, size: int, ways: dict[str, Sharing | None]) -> dict[str, float]:
    """Median milliseconds of a step on a batch of a size, each way."""
    indices = np.random.default_rng(0).choice(len(data[0]), size, replace=size > len(data[0]))

    def step(sharing):
        update = gradient_update(
            loss,
            adam_with_warmup(learning_rate=1e-3, steps=1000, warmup=10, weight_decay=0.0, clip=1.0),
            sharing=sharing,
        )
        state, key = update.init(model), jax.random.key(0)
        return lambda: update.compiled(state, data, indices, key)[1].batch.loss

    return medians_in_turn({name: step(sharing) for name, sharing in ways.items()}, rounds=21, budget_s=60)


def main() -> None:
    """Measure both models, and store it."""
    found = {"machine": processor(), "load": load(), "models": {}}
    for name, make, size in (("latent SDE, PBC", latent_sde, 128), ("neural ODE, adaptive", neural_ode, 128)):
        loss, model, data = make()
        shared = {str(n): Sharing.among(n) for n in DEVICES[1:]}
        strong = times(loss, model, data, 4 * size, {"1": None, **shared, "4 turns": Sharing(turns=4)})
        weak = {}
        for n in DEVICES[1:]:
            weak[str(n)] = times(loss, model, data, n * size, {"1": None, str(n): Sharing.among(n)})
        found["models"][name] = {"size": size, "strong": strong, "weak": weak}
        print(name, json.dumps(found["models"][name]), flush=True)
    STORED.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
