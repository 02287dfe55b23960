"""Theophylline, twelve subjects: a population of one compartment with random effects on all three parameters.

    python tests/bench/theophylline.py

The marginal likelihood at its maximum by Laplace's approximation, beside adaptive Gauss-Hermite quadrature of the same
model (nine nodes an effect), written here with scipy and the closed form of the solution. In float64. Parameters beside
those that nlme 3.1.162 finds by linearisation, in R, with `d` the table, by

    nlme(conc ~ dose * exp(lKa - lV) * (exp(-exp(lCl - lV) * t) - exp(-exp(lKa) * t)) / (exp(lKa) - exp(lCl - lV)),
         data = d, fixed = lKa + lCl + lV ~ 1, random = pdDiag(lKa + lCl + lV ~ 1), groups = ~ subject,
         start = c(0.45, -3.2, -0.78), method = "ML")
"""

import json
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import polars as pl
from scipy import optimize

import nde
from nde.data.datasets import theophylline_path
from nde.fields import Parameter
from nde.objectives import LaplaceMarginal
from nde.paths import Doses, Inputs
from nde.train import batch_loss, gradient_update

STORED = Path(__file__).parent / "results" / "theophylline.json"
STARTS = {"ka": 1.0, "cl": 0.05, "v": 0.6}
NLME = {
    "parameters": {"ka": 1.56118, "cl": 0.0402899, "v": 0.455566},
    "spread": {"ka": 0.642238, "cl": 0.264458, "v": 0.134573},
    "noise": 0.692170,
    "log_likelihood": -179.3246,
}


def subjects():
    frame = pl.read_csv(theophylline_path())
    parts = [part for _, part in frame.group_by("subject", maintain_order=True)]
    times, values = (np.stack([p[c].to_numpy() for p in parts]) for c in ("time_h", "conc_mg_per_L"))
    return times, values[..., None], np.array([p["dose_mg_per_kg"][0] for p in parts])


def population(dt0: float = 0.25) -> nde.models.Population:
    def flow(t, y, p):
        gut, central = y
        return jnp.stack([-p.ka * gut, p.ka * gut - p.cl / p.v * central])

    field = nde.KnownField(flow, {name: Parameter(x, log=True) for name, x in STARTS.items()})
    steps = {"controller": nde.ConstantStepSize(), "dt0": dt0, "max_steps": int(25 / dt0)}
    ode = nde.NeuralODE(field, solver=nde.Dopri5(), **steps)
    noise = nde.GaussianLikelihood(1, scale=0.7)
    return nde.models.Population(
        ode, noise, list(STARTS), observe=lambda t, y, p: y[1:] / p.v, start=jnp.zeros(2), spread=[0.5, 0.3, 0.2]
    )


def data():
    times, values, dose = subjects()
    inputs = jax.vmap(lambda a: Inputs(Doses(jnp.zeros(1), a[None], np.array([0]), states=2)))(jnp.asarray(dose))
    return jnp.asarray(times), jnp.asarray(values), jnp.ones(values.shape, bool), inputs


def fit(model, arrays, steps: int = 400):
    update = gradient_update(batch_loss(LaplaceMarginal()), optax.adam(optax.cosine_decay_schedule(5e-2, steps)))
    state, rows = update.init(model), np.arange(len(arrays[0]))
    losses = []
    for _ in range(steps):
        state, report = update.compiled(state, arrays, rows, jax.random.key(0))
        losses.append(float(report.batch.loss))
    return state.model, losses


def quadrature(model, nodes: int = 9) -> np.ndarray:
    """Log marginal likelihoods by adaptive Gauss-Hermite quadrature, of the closed form, by scipy alone."""
    times, values, dose = subjects()
    typical = np.log([float(model.ode.field.parameters[name].value) for name in STARTS])
    spread, noise = np.exp(np.asarray(model.raw_spread)), float(model.likelihood.scale[0])
    x, w = np.polynomial.hermite.hermgauss(nodes)
    grid = np.stack(np.meshgrid(x, x, x, indexing="ij"), -1).reshape(-1, 3)
    weights = np.prod(np.stack(np.meshgrid(w, w, w, indexing="ij"), -1).reshape(-1, 3), -1)

    def joint(eta, i):
        ka, cl, v = np.exp(typical + eta)
        ke = cl / v
        seen = dose[i] * ka / (v * (ka - ke)) * (np.exp(-ke * times[i]) - np.exp(-ka * times[i]))
        error = -0.5 * np.sum(((values[i, :, 0] - seen) / noise) ** 2) - len(seen) * np.log(noise * np.sqrt(2 * np.pi))
        return error - 0.5 * np.sum((eta / spread) ** 2) - np.sum(np.log(spread * np.sqrt(2 * np.pi)))

    found = []
    for i in range(len(dose)):
        least = optimize.minimize(lambda eta, i=i: -joint(eta, i), np.zeros(3), method="BFGS", options={"gtol": 1e-7})
        h, eye = 1e-4, np.eye(3)
        hessian = np.array([[
            (joint(least.x + h * (a + b), i) - joint(least.x + h * (a - b), i) - joint(least.x - h * (a - b), i)
             + joint(least.x - h * (a + b), i)) / (4 * h * h) for b in eye] for a in eye])  # fmt: skip
        factor = np.linalg.cholesky(np.linalg.inv(-hessian))
        points = least.x + np.sqrt(2) * grid @ factor.T
        logs = np.array([joint(p, i) for p in points]) + np.sum(grid**2, -1) + np.log(weights)
        found.append(np.logaddexp.reduce(logs) + 1.5 * np.log(2) + np.log(np.diag(factor)).sum())
    return np.array(found)


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    arrays = data()
    start = time.perf_counter()
    model, losses = fit(population(), arrays)
    seconds = time.perf_counter() - start
    laplace = eqx.filter_jit(jax.vmap(lambda *one: LaplaceMarginal().log_marginal(model, one)))(*arrays)
    exact = quadrature(model)
    fine = eqx.tree_at(lambda m: m.ode, model, population(0.1).ode)
    fine = eqx.tree_at(lambda m: m.ode.field, fine, model.ode.field)
    error = float(jnp.sum(jax.vmap(lambda *one: LaplaceMarginal().log_marginal(fine, one))(*arrays) - laplace))
    values = {name: float(x.value) for name, x in model.ode.field.parameters.items()}
    spread = dict(zip(STARTS, map(float, jnp.exp(model.raw_spread)), strict=True))
    found = {
        "laplace": float(laplace.sum()), "quadrature": float(exact.sum()), "steps_error": error, "seconds": seconds,
        "parameters": values, "spread": spread, "noise": float(model.likelihood.scale[0]),
        "last_change": losses[-20] - losses[-1], "nlme": NLME,
    }  # fmt: skip
    print(json.dumps(found, indent=1))
    STORED.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
