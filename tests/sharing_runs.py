"""Run by tests/test_sharing.py in processes of their own: training on several host devices, or processes."""

import json
import os
from functools import partial

import equinox as eqx
import jax
import numpy as np
import optax

from nde.train import batch_loss, fit, gradient_update, join_processes, Schedule, Sharing, with_ema

if "JAX_NUM_PROCESSES" in os.environ:
    join_processes()  # before what follows, with which JAX's first computations come

import nde  # after the processes have joined
from nde.regularise import KineticEnergy  # the same

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
SERIES, STEPS = 11, 4


def problem():
    """Series that weigh unequally in the loss, and an ODE solved with steps that adapt, of each series its own."""
    rng = np.random.default_rng(0)
    times = np.tile(np.linspace(0, 1, 4, dtype=np.float32), (SERIES, 1))
    values = rng.standard_normal((SERIES, 4, 1)).astype(np.float32)
    weights = (rng.random((SERIES, 4, 1)) < rng.uniform(0.3, 1.0, (SERIES, 1, 1))).astype(np.float32)
    first = rng.standard_normal((SERIES, 1)).astype(np.float32)
    ode = nde.NeuralODE(nde.MLPField(1, 3, 1, key=jax.random.key(0)), solver=nde.Heun())
    model = nde.ObservedODE(ode, None, nde.GaussianLikelihood(1), observed=(0,))
    return model, (times, values, weights, np.arange(SERIES), first)


def loss(penalised=False):
    regulariser = KineticEnergy() if penalised else None
    fit = nde.TrajectoryFit()

    def noisy(model, times, values, *rest, key, **options):  # what is drawn for a series goes with it
        return fit(model, times, values + 0.1 * jax.random.normal(key, values.shape), *rest, key=key, **options)

    return batch_loss(partial(noisy, regulariser=regulariser))


class Curve:
    """Keeps what each step reports."""

    def __init__(self):
        self.loss, self.norm, self.each = [], [], []

    def on_step(self, step, report):
        self.loss.append(float(report.batch.loss))
        self.norm.append(float(report.gradient_norm))
        self.each.append(np.asarray(report.batch.per_example).tolist())

    def on_validation(self, state, score):
        pass

    on_end = on_failure = lambda self, state: None


def curve(sharing, penalised=False, sizes=(7, 8)):
    """Losses and gradient norms of steps on batches that the devices do not divide, and the parameters after them."""
    model, data = problem()
    update = with_ema(gradient_update(loss(penalised), optax.adam(0.02), sharing=sharing), 0.9)
    batches = [np.random.default_rng(i).permutation(SERIES)[: sizes[i % len(sizes)]] for i in range(STEPS)]
    seen = Curve()
    outcome = fit(
        update, update.init(model), data, batches, lambda model: 0.0, Schedule(STEPS, STEPS),
        key=jax.random.key(1), names=range(SERIES), callbacks=(seen,),
    )  # fmt: skip
    leaves = jax.tree.leaves(eqx.filter(outcome.state.evaluated_model, eqx.is_inexact_array))
    flat = np.concatenate([np.ravel(x) for x in leaves]).tolist()
    return {"loss": seen.loss, "norm": seen.norm, "each": seen.each, "model": flat}


if __name__ == "__main__":
    if "JAX_NUM_PROCESSES" in os.environ:
        found = {"all": curve(Sharing.among("all"))}
    else:
        sharings = {"none": None, "4": Sharing.among(4), "turns": Sharing.among(2, turns=2)}
        found = {name: curve(sharings[name]) for name in ("none", "4")}
        found |= {f"{name} penalised": curve(sharings[name], penalised=True, sizes=(7,)) for name in ("none", "turns")}
    print(json.dumps(found))
