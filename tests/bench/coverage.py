"""How often intervals of 90 % cover the truth: simulated populations, and single series.

    python tests/bench/coverage.py [--sets 150]

Maxima are those of `nde.report.maximise`, from the truth on; intervals are made here, by the observed curvature.

A bolus into one compartment, clearance and volume log-normal between 30 subjects of five values each: Laplace intervals
at the maximum of the marginal likelihood, of all five unknowns. And logistic growth of one series of 20 values: Laplace
intervals of its two parameters, its start and its noise, with the observed number of values. In float64.
"""

import argparse
import json
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import nde
from nde.objectives import LaplaceMarginal
from nde.report import Curve, maximise

STORED = Path(__file__).parent / "results" / "coverage.json"
Z90, STEP = 1.6448536269514722, 1e-4


def population(cl=0.2, v=2.0, spread=(0.3, 0.2), noise=0.4):
    field = nde.KnownField(lambda t, y, p: -p.cl / p.v * y, {
        "cl": nde.Parameter(cl, log=True), "v": nde.Parameter(v, log=True)})  # fmt: skip
    return nde.Population(
        nde.NeuralODE(field, steps_per_row=2, solver=nde.Bosh3()), nde.GaussianLikelihood(1, scale=noise), ["cl", "v"],
        observe=lambda t, y, p: y / p.v, start=jnp.array([20.0]), spread=list(spread),
    )  # fmt: skip


TIMES = jnp.array([0.0, 1.0, 3.0, 6.0, 10.0, 16.0])
SEEN = jnp.ones((6, 1), bool).at[0].set(False)


def population_arrays(model):
    """Vector of unknowns to model and back."""

    def leaves(m):
        known = m.ode.field.parameters
        return [known["cl"].raw, known["v"].raw, m.raw_spread, m.likelihood.raw_scale]

    vector = jnp.concatenate([jnp.ravel(x) for x in leaves(model)])

    def rebuilt(x):
        return eqx.tree_at(leaves, model, [x[0], x[1], x[2:4], x[4:5]])

    return vector, rebuilt


def population_coverage(sets: int, subjects: int) -> np.ndarray:
    model = population()
    truth, rebuilt = population_arrays(model)
    marginal = LaplaceMarginal(6, "expected")

    def simulate(key):
        effects, noise = jax.random.split(key)
        eta = jax.random.normal(effects, (subjects, 2)) @ model.factor.T
        seen = jax.vmap(lambda e: model.locations(TIMES, None, e))(eta)
        return seen + model.likelihood.scale * jax.random.normal(noise, seen.shape)

    def loss(x, values):
        here = rebuilt(x)
        return -jnp.sum(jax.vmap(lambda one: marginal.log_marginal(here, (TIMES, one, SEEN, None)))(values))

    def covered(key):
        values = simulate(key)
        return _covered(lambda x: loss(x, values), truth)

    keys = jax.random.split(jax.random.key(0), sets)
    return np.asarray(jax.jit(lambda: jax.lax.map(covered, keys, batch_size=10))())


def series_coverage(sets: int) -> np.ndarray:
    rows = jnp.linspace(0.0, 8.0, 20)
    truth = jnp.array([jnp.log(0.9), jnp.log(5.0), jnp.log(0.3), jnp.log(0.15)])  # rate, capacity, start, noise
    field = nde.KnownField(lambda t, y, p: p.rate * y * (1 - y / p.capacity), {
        "rate": nde.Parameter(0.9, log=True), "capacity": nde.Parameter(5.0, log=True)})  # fmt: skip
    ode = nde.NeuralODE(field, steps_per_row=2, solver=nde.Bosh3())

    def solved(x):
        here = eqx.tree_at(lambda m: [m.field.parameters[name].raw for name in ("rate", "capacity")], ode, [x[0], x[1]])
        return here(rows, jnp.exp(x[2:3]), nde.paths.Inputs())[:, 0]

    def covered(key):
        values = solved(truth) + jnp.exp(truth[3]) * jax.random.normal(key, rows.shape)

        def loss(x):
            return jnp.sum(0.5 * ((values - solved(x)) / jnp.exp(x[3])) ** 2 + x[3])

        return _covered(loss, truth)

    keys = jax.random.split(jax.random.key(1), sets)
    return np.asarray(jax.jit(lambda: jax.lax.map(covered, keys, batch_size=20))())


def _covered(loss, truth):
    """Whether each unknown of the truth lies in its interval about the maximum; NaN where none was found."""

    def curve(x):
        slope = jax.value_and_grad(loss)
        moves = STEP * jnp.eye(len(x))
        value, gradient = slope(x)
        ends = jax.vmap(lambda m: slope(x + m)[1] - slope(x - m)[1])(moves) / (2 * STEP)
        values, axes = jnp.linalg.eigh((ends + ends.T) / 2)
        return Curve(value, gradient, (axes * jnp.abs(values)[None]) @ axes.T, jnp.zeros_like(ends))

    found = maximise(curve, truth, evaluations=30)
    spread = jnp.sqrt(jnp.diagonal(jnp.linalg.inv(found.curve.curvature)))
    inside = jnp.abs(found.position - truth) <= Z90 * spread
    return jnp.where(found.converged, inside.astype(float), jnp.nan)


def summary(names, inside) -> dict:
    solved = np.isfinite(inside).all(1)
    share = inside[solved].mean(0)
    return {
        "sets": len(inside), "converged": int(solved.sum()), "coverage": dict(zip(names, share.tolist(), strict=True)),
        "mean": float(share.mean()), "standard_error_of_each": float(np.sqrt(0.09 / solved.sum())),
    }  # fmt: skip


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    parser = argparse.ArgumentParser()
    parser.add_argument("--sets", type=int, default=150)
    parser.add_argument("--subjects", type=int, default=30)
    options = parser.parse_args()
    start = time.perf_counter()
    found = {"series": summary(["rate", "capacity", "start", "noise"], series_coverage(2 * options.sets))}
    print(json.dumps(found, indent=1), flush=True)
    names = ["cl", "v", "spread of cl", "spread of v", "noise"]
    inside = population_coverage(options.sets, options.subjects)
    found["population"] = {"subjects": options.subjects, **summary(names, inside)}
    found["seconds"] = time.perf_counter() - start
    print(json.dumps(found, indent=1))
    STORED.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
