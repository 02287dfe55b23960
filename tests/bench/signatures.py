"""Regression on signatures beside a neural CDE: targets made by a controlled equation, from 50, 100 and 200 series.

    python tests/bench/signatures.py [--steps 300] [--seeds 5] [--out tests/bench/results/signatures.json]

Two smooth random channels, of a spread of about 1 or 0.3, are seen at 40 random times in [0, 1]. The target
is a linear function of the end of a CDE of four states along the whole channels and time, whose field is a random
network, plus noise of a tenth of its spread; network and series are those of the seed. 256 other series of the same
law are held out; the error is the root mean square over the targets' standard deviation, of the noiseless target.

signature   `nde.models.fit_signature_regression`: depths 1 to 4, eleven penalties, five folds
neural CDE  `nde.NeuralCDE` of 8 states, width 32, one midpoint step a row, Adam at 1e-2 falling to zero, batch 32; a
            fifth of the series chooses the step. Nothing was tuned

Times are of a fit after everything is compiled: features, cross-validation and the last fit of the one; training steps,
and validation every 25, of the other, all seeds in one `vmap`, whose time is divided by their number.
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the matrices are too small for two: they would wait for each other

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from timing import load, processor

import nde
from nde.models import fit_signature_regression

ROWS, FINE, STATES, HELD, HELD_PART, BATCH = 40, 400, 4, 256, 40, 32
SIZES, SPREADS = (50, 100, 200), (1.0, 0.3)


class Series(NamedTuple):
    """Times `(series, rows)`, values and mask `(series, rows, 2)`, targets with and without noise `(series,)`."""

    ts: np.ndarray
    values: np.ndarray
    mask: np.ndarray
    noisy: np.ndarray
    exact: np.ndarray


def simulate(number: int, spread: float, seed: int) -> Series:
    """Series and the targets that a CDE makes of them; its field is that of the seed."""
    rng = np.random.default_rng(seed)
    mix, shift = rng.normal(size=(3, STATES, STATES)) / 2, rng.normal(size=(3, STATES))
    read = rng.normal(size=STATES)
    size, phase = rng.normal(size=(number, 2, 4)), rng.uniform(0, 2 * np.pi, (number, 2, 4))

    def curve(t):  # (series, times) -> (series, times, 2)
        waves = size[:, None] * np.sin(np.pi * np.arange(1, 5) * t[..., None, None] + phase[:, None])
        return spread * (waves / np.arange(1, 5)).sum(axis=-1)

    fine = np.broadcast_to(np.linspace(0, 1, FINE + 1), (number, FINE + 1))
    path = np.concatenate([fine[..., None], curve(fine)], axis=2)
    y = np.zeros((number, STATES))

    def field(y, dx):
        return np.einsum("nki,nk->ni", np.tanh(np.einsum("kij,nj->nki", mix, y) + shift), dx)

    for dx in np.diff(path, axis=1).transpose(1, 0, 2):
        y = y + field(y + field(y, dx) / 2, dx)
    exact = y @ read
    exact = (exact - exact.mean()) / exact.std()
    ts = np.sort(rng.uniform(size=(number, ROWS)), axis=1)
    ts[:, 0], ts[:, -1] = 0, 1
    return Series(ts, curve(ts), np.ones((number, ROWS, 2), bool), exact + 0.1 * rng.normal(size=number), exact)


def some(data: Series, rows: Any) -> Series:
    """Some of the series."""
    return Series(*(x[rows] for x in data))


def error(predictions: np.ndarray, data: Series) -> float:
    """The root mean square error, over the standard deviation."""
    return float(np.sqrt(np.mean((predictions - data.exact) ** 2)) / data.exact.std())


def by_signature(train: Series, test: Series) -> dict[str, Any]:
    """The error of the regression and the time of its fit, the first time and the second."""
    spent = []
    for _ in range(2):
        start = time.perf_counter()
        fit = fit_signature_regression(train.ts, train.values, train.mask, train.noisy, counts=False)
        spent.append(time.perf_counter() - start)
    out = np.asarray(eqx.filter_jit(eqx.filter_vmap(fit.model))(*map(jnp.asarray, test[:3])))[:, 0]
    return {
        "error": error(out, test),
        "fit_s": spent[1],
        "first_s": spent[0],
        "depth": fit.depth,
        "penalty": fit.penalty,
    }


@eqx.filter_vmap
def cdes(key: jax.Array) -> nde.NeuralCDE:
    """Untrained models, one a key."""
    keys = jax.random.split(key, 3)
    return nde.NeuralCDE(
        eqx.nn.MLP(5, 8, 32, 1, key=keys[0]),
        nde.CDEField(8, 5, width=32, depth=1, key=keys[1]),
        eqx.nn.Linear(8, "scalar", key=keys[2]),
        time_scale=1.0,
        solver=diffrax.Midpoint(),
        steps_per_row=1,
    )


@eqx.filter_jit
@eqx.filter_vmap
def predict(model, ts, values, mask):
    """Of each seed's model the outputs for its series."""
    return jax.vmap(model)(ts, values, mask)


def trainer(steps: int) -> Any:
    """An optimiser, and the jitted step of all seeds' models."""
    optimiser = optax.adam(optax.cosine_decay_schedule(1e-2, steps))

    @eqx.filter_jit
    @eqx.filter_vmap
    def step(model, state, ts, values, mask, targets):
        def loss(model):
            return jnp.mean((jax.vmap(model)(ts, values, mask) - targets) ** 2)

        gradient = eqx.filter_grad(loss)(model)
        change, state = optimiser.update(gradient, state)
        return eqx.apply_updates(model, change), state

    return optimiser, step


def arrays(series: list[Series]) -> list[np.ndarray]:
    """Stacked times, values, masks and noisy targets, in single precision."""
    ts, values, mask, noisy, _ = (np.stack(part) for part in zip(*series, strict=True))
    return [ts.astype(np.float32), values.astype(np.float32), mask, noisy.astype(np.float32)]


def outputs(model: Any, data: list[np.ndarray]) -> np.ndarray:
    """Of each seed's model the outputs, by parts of one size, so that all compile once."""
    number = data[0].shape[1]
    rows = np.resize(np.arange(number), (-(-number // HELD_PART), HELD_PART))
    parts = [np.asarray(predict(model, *(x[:, part] for x in data[:3]))) for part in rows]
    return np.concatenate(parts, axis=1)[:, :number]


def by_cde(train: list[Series], test: list[Series], steps: int, trained: Any) -> list[dict[str, Any]]:
    """The error of each seed's neural CDE, and the time of its training: a share of that of all, which are one vmap."""
    optimiser, step = trained
    seeds, number = len(train), len(train[0].ts)
    rng, chosen = np.random.default_rng(0), np.arange(number) % 5 == 0
    data = arrays(train)
    held, rest = [x[:, chosen] for x in data], [x[:, ~chosen] for x in data]
    model = cdes(jax.random.split(jax.random.key(0), seeds))
    state = eqx.filter_vmap(optimiser.init)(eqx.filter(model, eqx.is_inexact_array))
    scores, best = np.full(seeds, np.inf), model

    def batch() -> list[np.ndarray]:
        rows = rng.permuted(np.tile(np.arange(len(rest[0][0])), (seeds, 1)), axis=1)[:, :BATCH]
        return [x[np.arange(seeds)[:, None], rows] for x in rest]

    step(model, state, *batch())  # compiles
    outputs(model, held)
    start = time.perf_counter()
    for count in range(1, steps + 1):
        model, state = step(model, state, *batch())
        if count % 25 == 0:
            score = np.mean((outputs(model, held) - held[3]) ** 2, axis=1)
            better = score < scores
            scores = np.where(better, score, scores)
            best = _choose(better, model, best)
    spent = (time.perf_counter() - start) / seeds
    out = outputs(best, arrays(test))
    return [{"error": error(x, data), "fit_s": spent} for x, data in zip(out, test, strict=True)]


def _choose(better: np.ndarray, new: Any, old: Any) -> Any:
    """Of stacked models the new one where it is better."""

    def choose(a, b):
        return jnp.where(better.reshape(-1, *[1] * (a.ndim - 1)), a, b) if eqx.is_array(a) else a

    return jax.tree.map(choose, new, old)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "signatures.json")
    options = parser.parse_args()
    trained, rows = trainer(options.steps), []
    for spread in SPREADS:
        every = [simulate(max(SIZES) + HELD, spread, seed) for seed in range(options.seeds)]
        test = [some(data, slice(max(SIZES), None)) for data in every]
        for size in SIZES:
            train = [some(data, slice(size)) for data in every]
            linear = [by_signature(*pair) for pair in zip(train, test, strict=True)]
            networks = by_cde(train, test, options.steps, trained)
            for seed, pair in enumerate(zip(linear, networks, strict=True)):
                row = {"spread": spread, "seed": seed, "series": size, "load": load()}
                rows.append(row | dict(zip(("signature", "neural CDE"), pair, strict=True)))
                print(json.dumps(rows[-1]), flush=True)
            found = {"rows": rows, "steps": options.steps, "jax": jax.__version__, **processor()}
            options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
