"""A reaction whose coefficients depend on a design, learned from some designs and forecast at others.

    python tests/bench/ignition.py

A fuel burns by Arrhenius' law (`nde.fields.systems.ignition`): stiff, for once it burns it does so a thousand times as
fast as it waits. Pre-exponential factor, temperature of activation and heat depend on two numbers of a design, pressure
and richness, in ways that no method is told. Of 24 designs, six of which choose what is kept, temperature and fuel are
seen at 41 times with noise of 1 % of their standard deviation; the start is known. Scored on fifty other designs of the
same square, without noise: root mean square error of both, in standard deviations, and mean error of the time at which
the temperature passes 1.75, in per cent, over the designs in which it does in truth.

- PNODE: the known equation, the logarithm of its factor, its activation and its heat by a network of the design
  (`nde.fields.DesignField`), by Kvaerno5; the best of five factors to start from, Adam, then Levenberg–Marquardt with
  a normal prior of standard deviation one on the network's weights.
- kernel ridge: from a design to the whole curve, a Gaussian kernel; its length and ridge from a grid, by the six.
- plain network: from design and time to both values, by Adam; the step that is kept by the six.

Three seeds, of designs, noise and networks. Some ten minutes of a busy core.
"""

import argparse
import json
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

import nde
from nde.fields import DesignField, ignition
from nde.train.least_squares import minimise_squares

STORED = Path(__file__).parent / "results" / "ignition.json"
TIMES = np.linspace(0.0, 0.4, 41)
TRAIN, CHOOSE, TEST, NOISE, LIT = 18, 6, 50, 0.01, 1.75
STEPS, NETWORK_STEPS, SEEDS = 60, 4000, 3
FREE = ("a", "e", "q")
SPREAD = {"pressure": (0.0, 0.58), "richness": (0.0, 0.58)}


def coefficients(design):
    """What is to be learned: factor, activation and heat of a pressure and a richness, each between -1 and 1."""
    pressure, richness = design[..., 0], design[..., 1]
    return {
        "a": 1e6 * np.exp(0.7 * pressure + 0.3 * np.sin(2 * richness)),
        "e": 14.0 + 0.6 * richness**2 - 0.3 * pressure,
        "q": 1.5 + 0.25 * richness - 0.15 * richness**2,
    }


def node(field) -> nde.NeuralODE:
    """The equation, solved by an implicit method."""
    control = diffrax.PIDController(rtol=1e-5, atol=1e-7)
    return nde.NeuralODE(field, solver=diffrax.Kvaerno5(), controller=control, max_steps=4000)


START = np.array([1.0, 1.0])


@eqx.filter_jit
def curves(model, given):
    """Temperature and fuel of many designs, `(designs, times, 2)`."""
    return jax.vmap(lambda one: model(jnp.asarray(TIMES), jnp.asarray(START), one))(given)


def named(design):
    """Designs as what a field is given."""
    return {name: jnp.asarray(design[:, i]) for i, name in enumerate(SPREAD)}


def descend(model, loss, choose, steps, rate, every):
    """Adam; the model with the least `choose` of those looked at, and that number."""
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(rate, steps, 0.02)))
    state, best = optimiser.init(eqx.filter(model, eqx.is_inexact_array)), (np.inf, model)

    @eqx.filter_jit
    def update(model, state):
        gradient = eqx.filter_grad(loss)(model)
        changes, state = optimiser.update(gradient, state)
        return eqx.apply_updates(model, changes), state

    for step in range(1, steps + 1):
        model, state = update(model, state)
        if step % every == 0:
            best = min(best, (float(choose(model)), model), key=lambda pair: pair[0])
    return best[1]


def misfit(model, data, scale):
    """Forecasts less data, in standard deviations."""
    return (curves(model, named(data[0])) - jnp.asarray(data[1])) / scale


def pnode(fit, choose, scale, key):
    """Adam from the best of some factors, then Levenberg–Marquardt; the one that the others choose."""

    def residuals(model, data):
        forward = replace(model.numerics, adjoint=diffrax.ForwardMode(), throw=False)
        off = misfit(eqx.tree_at(lambda m: m.numerics, model, forward), data, scale)
        weights, _ = ravel_pytree(eqx.filter(model.field.network, eqx.is_inexact_array))
        return jnp.concatenate([off.ravel(), NOISE * weights])

    def build(factor, network):
        return node(DesignField(ignition(factor, 14.0, 1.4), network, coefficients=FREE, given=SPREAD))

    def chosen(model):
        return float(jnp.mean(eqx.filter_jit(misfit)(model, choose, scale) ** 2))

    network = nde.MLPField(2, 12, 1, out_size=3, activation=jnp.tanh, scale=0.1, key=key)
    factors = [3e5, 6e5, 1e6, 2e6, 4e6]  # starts: a front that is nowhere near the data's has hardly a gradient
    model = min((build(factor, network) for factor in factors), key=chosen)
    model = descend(model, lambda m: jnp.mean(misfit(m, fit, scale) ** 2), chosen, STEPS, 2e-2, 10)
    best = min(model, eqx.filter_jit(minimise_squares)(residuals, model, fit), key=chosen)
    return lambda design: np.asarray(curves(best, named(design)))


def kernel_ridge(fit, choose, scale):
    """Curves from designs, length and ridge from a grid."""

    def kernel(a, b, length):
        return np.exp(-np.sum((a[:, None] - b[None]) ** 2, -1) / (2 * length**2))

    (x, y), (xc, yc) = fit, choose
    mean, best = y.mean(0), None
    for length in np.geomspace(0.1, 10, 21):
        for ridge in np.geomspace(1e-8, 1, 17):
            weights = np.linalg.solve(kernel(x, x, length) + ridge * np.eye(len(x)), (y - mean).reshape(len(x), -1))

            def forecast(z, weights=weights, length=length):
                return mean + (kernel(z, x, length) @ weights).reshape(len(z), *mean.shape)

            error = np.mean(((forecast(xc) - yc) / scale) ** 2)
            if best is None or error < best[0]:
                best = error, forecast
    return best[1]


def plain(fit, choose, scale, key):
    """Values from design and time."""
    mean = fit[1].mean((0, 1))

    def forecast(model, design):
        grid = jnp.linspace(-1.0, 1.0, len(TIMES))[:, None]

        def row(one):
            return jax.vmap(model)(jnp.concatenate([jnp.broadcast_to(one, (len(TIMES), 2)), grid], 1))

        return mean + scale * jax.vmap(row)(jnp.asarray(design))

    def loss_of(data):
        return lambda model: jnp.mean(((forecast(model, data[0]) - jnp.asarray(data[1])) / scale) ** 2)

    network = eqx.nn.MLP(3, 2, 64, 3, activation=jnp.tanh, key=key)
    model = descend(network, loss_of(fit), eqx.filter_jit(loss_of(choose)), NETWORK_STEPS, 3e-3, 25)
    return lambda design: np.asarray(forecast(model, design))


def lit(values):
    """When the temperature first passes the mark, `(designs,)`; infinite where it does not."""
    above = values[..., 0] > LIT
    at = np.argmax(above, 1)
    before, after = (np.take_along_axis(values[..., 0], np.maximum(at - d, 0)[:, None], 1)[:, 0] for d in (1, 0))
    share = (LIT - before) / np.where(after > before, after - before, 1.0)
    return np.where(above.any(1) & (at > 0), TIMES[at] - (1 - share) * (TIMES[1] - TIMES[0]), np.inf)


def scores(values, truth, scale):
    """Errors of forecasts."""
    there, said = lit(truth), lit(values)
    both = np.isfinite(there) & np.isfinite(said)
    delay = np.abs(said[both] / there[both] - 1)
    return {
        "rmse": float(np.sqrt(np.mean(((values - truth) / scale) ** 2))),
        "delay": float(100 * np.mean(delay)),
        "missed": int((np.isfinite(there) != np.isfinite(said)).sum()),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=SEEDS)
    jax.config.update("jax_enable_x64", True)
    cells = []
    for seed in range(parser.parse_args().seeds):
        rng, key = np.random.default_rng(seed), jax.random.key(seed)
        design = rng.uniform(-1, 1, (TRAIN + CHOOSE + TEST, 2))
        exact = eqx.tree_at(lambda m: m.numerics.controller, node(ignition()), diffrax.PIDController(1e-8, 1e-10))
        truth = np.asarray(curves(exact, {n: jnp.asarray(c) for n, c in coefficients(design).items()}))
        scale = truth[: TRAIN + CHOOSE].std((0, 1))
        seen = truth + NOISE * scale * rng.standard_normal(truth.shape)
        fit, choose = (design[:TRAIN], seen[:TRAIN]), (design[TRAIN:-TEST], seen[TRAIN:-TEST])
        asked, exact_there = design[-TEST:], truth[-TEST:]
        methods = {
            "PNODE": partial(pnode, key=key),
            "kernel ridge": kernel_ridge,
            "plain network": partial(plain, key=key),
        }
        for name, make in methods.items():
            started = time.perf_counter()
            forecast = make(fit, choose, scale)
            seconds = time.perf_counter() - started
            cells.append(
                {"method": name, "seed": seed, "seconds": seconds, **scores(forecast(asked), exact_there, scale)}
            )
            print(cells[-1], flush=True)
        found = {"train": TRAIN, "choose": CHOOSE, "test": TEST, "noise": NOISE, "steps": STEPS, "cells": cells}
        STORED.write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
