"""How short a part of a white dwarf's profile a neural ODE and a hybrid can be fitted to and forecast the rest.

    python tests/bench/white_dwarf.py

Chandrasekhar's equation (`nde.fields.systems.white_dwarf`, C = 0.01) from its singular centre, seen at a hundred places
of 0.05 to 5.325, where phi' = slope, with normal noise of 0, 7 and 35 % of each channel's standard deviation. Fitted to
the first 100 to 10 % of the places, forecast over the rest, and compared there with the solution without noise: root
mean square error over both channels, each in units of its standard deviation. The interval and the shares are those of
Vazquez Martinez et al.; the noise of their study is not defined in what could be read of it, and is ours.

- neural ODE: (phi, slope)' is a network of both.
- hybrid: phi' = slope, slope' = -2 slope / eta + network(phi): geometry known, the pressure's term not.

Adam, then Levenberg–Marquardt, on the squares in those units; the weights of the networks
have a normal prior of standard deviation one. Four seeds, of noise and networks. Twenty minutes of one core.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from matplotlib.figure import Figure

import nde
from nde.fields.systems import white_dwarf
from nde.fields.systems.stars import NEAR_CENTRE
from nde.train import BatchLoss, gradient_update, then_least_squares

RESULTS = Path(__file__).parent / "results"
SHARES, NOISES, SEEDS = tuple(range(100, 9, -10)), (0.0, 0.07, 0.35), 4
ADAM, SQUARES, WIDTH, BOUND = 300, 3, 8, 0.1
COLOURS = {"neural ODE": "#2a6fbb", "hybrid": "#d95f02"}


class Hybrid(eqx.Module):
    """The known geometry, with an unknown term of phi."""

    term: nde.MLPField

    def __call__(self, t, y, args=None):
        phi, slope = y
        pull = self.term(t, phi[None])[0]
        near = t < NEAR_CENTRE  # there slope / eta is a third of slope', which is what pulls without the geometry
        ratio = jnp.where(near, pull / 3, slope / jnp.where(near, 1.0, t))
        return jnp.stack([slope, pull - 2 * ratio])


def fields(key) -> dict:
    """The two fields, from a key."""
    whole = nde.MLPField(2, WIDTH, 2, out_size=2, activation=jnp.tanh, scale=0.3, key=key)
    term = nde.MLPField(1, WIDTH, 2, out_size=1, activation=jnp.tanh, scale=0.3, key=key)
    return {"neural ODE": whole, "hybrid": Hybrid(term)}


def solver(field) -> nde.NeuralODE:
    """The solution of a field."""
    control = diffrax.PIDController(rtol=1e-6, atol=1e-8)
    return nde.NeuralODE(field, controller=control, max_steps=1000)


PLACES, CENTRE = np.concatenate([[0.0], np.linspace(0.05, 5.325, 100)]), np.array([1.0, 0.0])


def residuals(model, batch):
    """What is fitted, in units of the standard deviation, zero beyond; the solve ends where that does. And the weights,
    in proportion to the noise: a prior of standard deviation one."""
    values, scale, count, level = (x[0] for x in batch)
    places = jnp.asarray(PLACES)
    off = (model(jnp.minimum(places, places[count]), jnp.asarray(CENTRE))[1:] - values) / scale
    weights, _ = ravel_pytree(eqx.filter(model.field, eqx.is_inexact_array))
    fitted = jnp.where((jnp.arange(1, 101) <= count)[:, None], off, 0.0)
    return jnp.concatenate([fitted.ravel(), level * weights])


def forward(model, batch):
    """The residuals, to be differentiated forward, and no error where the equation can not be solved."""
    numerics = replace(model.numerics, adjoint=diffrax.ForwardMode(), throw=False)
    return residuals(eqx.tree_at(lambda m: m.numerics, model, numerics), batch)


def loss(model, batch, step, key):
    """The mean of their squares."""
    mean = jnp.sum(residuals(model, batch) ** 2) / (2.0 * batch[2][0])
    return BatchLoss(mean, {}, mean[None])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=SEEDS)
    seeds = parser.parse_args().seeds
    jax.config.update("jax_enable_x64", True)
    exact = nde.NeuralODE(white_dwarf(0.01), controller=diffrax.PIDController(rtol=1e-10, atol=1e-12))
    everywhere, centre = jnp.asarray(PLACES), jnp.asarray(CENTRE)
    truth = np.asarray(exact(everywhere, centre))[1:]
    scale = truth.std(0)
    adam = gradient_update(loss, optax.adam(optax.cosine_decay_schedule(2e-2, ADAM, 0.02)))
    update = then_least_squares(adam, forward, after=ADAM)
    forecast = eqx.filter_jit(lambda model: model(everywhere, centre)[1:])
    forgiving = replace(exact.numerics, controller=diffrax.PIDController(rtol=1e-6, atol=1e-8), throw=False)
    cells, curves, started = [], [], time.perf_counter()
    for seed in range(seeds):
        key = jax.random.key(seed)
        noise = np.asarray(jax.random.normal(jax.random.fold_in(key, 1), truth.shape))
        for level in NOISES:
            seen = truth + level * scale * noise
            for share in SHARES:
                data = tuple(
                    jnp.asarray(x)[None] for x in (seen, scale, np.asarray(share), np.asarray(max(level, 1e-4)))
                )
                for name, field in fields(jax.random.fold_in(key, 2)).items():
                    state = update.init(solver(field))
                    for _ in range(ADAM + SQUARES):
                        state, report = update.compiled(state, data, np.arange(1), key)
                    ys = np.asarray(forecast(eqx.tree_at(lambda m: m.numerics, state.model, forgiving)))
                    off = np.sqrt(np.mean(((ys - truth) / scale)[share if share < 100 else 0 :] ** 2))
                    off = float(off) if np.isfinite(off) else None
                    cells.append({
                        "model": name, "noise": level, "share": share, "seed": seed, "error": off,
                        "loss": float(loss(state.model, data, 0, key).loss),
                    })  # fmt: skip
                    if seed == 0 and share in (50, 20) and level == 0.07:
                        curves.append((name, share, seen, ys))
            print(seed, level, f"{time.perf_counter() - started:.0f} s", flush=True)
    found = {"bound": BOUND, "seeds": seeds, "adam": ADAM, "squares": SQUARES, "width": WIDTH, "cells": cells,
             "seconds": time.perf_counter() - started}  # fmt: skip
    (RESULTS / "white_dwarf.json").write_text(json.dumps(found) + "\n")
    draw(found, truth, curves).savefig(RESULTS / "white_dwarf.png", dpi=110)


def draw(found, truth, curves) -> Figure:
    """Errors over the share that is fitted, a panel a noise; below two forecasts."""
    figure = Figure(figsize=(10, 6), layout="constrained")
    grid = figure.add_gridspec(2, 6)
    for column, level in enumerate(NOISES):
        axes = figure.add_subplot(grid[0, 2 * column : 2 * column + 2])
        for name, colour in COLOURS.items():
            some = [c for c in found["cells"] if c["model"] == name and c["noise"] == level and c["share"] < 100]
            errors = [c["error"] or np.inf for c in some]
            shares = sorted({c["share"] for c in some})
            by = [[e for c, e in zip(some, errors, strict=True) if c["share"] == s] for s in shares]
            for share, each in zip(shares, by, strict=True):
                axes.plot([share] * len(each), np.minimum(each, 30), ".", color=colour, alpha=0.4, ms=4)
            axes.plot(shares, np.minimum([np.median(each) for each in by], 30), color=colour, label=name)
        axes.axhline(found["bound"], color="black", lw=0.8, ls=":")
        axes.set(yscale="log", title=f"noise {100 * level:.0f} %", xlabel="share fitted (%)", ylim=(1e-5, 50))
        if column == 0:
            axes.set_ylabel("error of the rest (sd)")
            axes.legend(frameon=False, fontsize=8)
    bottom = [figure.add_subplot(grid[1, 3 * i : 3 * i + 3]) for i in range(2)]
    places = PLACES[1:]
    for axes, share in zip(bottom, (50, 20), strict=True):
        axes.plot(places, truth[:, 0], color="black", lw=1, ls="--", label="truth")
        for name, which, seen, ys in curves:
            if which == share:
                axes.plot(places, ys[:, 0], color=COLOURS[name], label=name)
                axes.plot(places[:share], seen[:share, 0], ".", color="grey", ms=3)
        axes.set(title=f"noise 7 %, the first {share} % fitted", xlabel="distance", ylabel="phi", ylim=(-0.3, 1.3))
    bottom[0].legend(frameon=False, fontsize=8)
    return figure


if __name__ == "__main__":
    main()
