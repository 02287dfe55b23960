"""Hare and lynx, forecast from five origins: the known system, with a network, and pushed at random.

    python tests/bench/hare_lynx.py --out tests/bench/results/hare_lynx.json

Lotka and Volterra's equations in logarithms, fitted to the years up to 1915, 1916, ..., 1919, each forecasting all that
follow up to 1920: 30 values. The known system and the hybrid are those of `configs/hybrid_lynx_hare.toml`, a run of
`nde.fit` each. Pushed at random it is `nde.ObservedSDE`, its rates, pushes, noise and start at the maximum of the
likelihood by an extended Kalman filter: once as they stand, and once with draws of Laplace's approximation around it,
so that what sixteen years leave open of the rates counts too. Per value, of logarithms: negative log likelihood, root
mean square error, and the shares within central intervals. A few minutes on one core.
"""

import argparse
import json
import platform
import tempfile
from importlib.metadata import version
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from scipy import stats

import nde

CONFIG = Path(__file__).parents[2] / "configs" / "hybrid_lynx_hare.toml"
ORIGINS = (15, 16, 17, 18, 19)
STEPS, POLISH, DRAWS = 200, 50, 100


def fitted(times, values, origin):
    """The SDE at the maximum of its likelihood, and draws of models around it."""
    seen = jnp.asarray(np.broadcast_to((times <= origin)[:, None], values.shape))
    field = nde.fields.LogField(nde.fields.lotka_volterra())
    model = nde.ObservedSDE(
        field, start=values.mean(0), start_spread=1.0, push=[0.2, 0.2], noise=[0.1, 0.1], observed=[0, 1], throw=False,
        controller=nde.ConstantStepSize(), dt0=0.25,
    )  # fmt: skip
    flat, static = eqx.partition(model, eqx.is_inexact_array)
    start, rebuilt = ravel_pytree(flat)

    def loss(vector, seen=seen):
        value = -eqx.combine(rebuilt(vector), static)(times, values, seen)
        return jnp.where(jnp.isfinite(value), value, jnp.inf)

    optimiser = nde.train.then_lbfgs(optax.adam(2e-2), after=STEPS)

    @jax.jit  # what is seen is an argument, so that the origins are one program in the compilation cache
    def step(vector, state, seen):
        def now(one):
            return loss(one, seen)

        value, gradient = jax.value_and_grad(now)(vector)
        changes, state = optimiser.update(gradient, state, vector, value=value, grad=gradient, value_fn=now)
        return optax.apply_updates(vector, changes), state, value

    vector, state = start, optimiser.init(start)
    for _ in range(STEPS + POLISH):
        vector, state, value = step(vector, state, seen)
    gradient, small = jax.jit(jax.grad(loss)), 1e-4
    steps = small * jnp.eye(len(vector))
    rows = [(gradient(vector + one, seen) - gradient(vector - one, seen)) / (2 * small) for one in steps]
    bend = np.asarray(jnp.stack(rows))
    # A direction that the data leave open to more than a factor of e is held to that, as by a prior.
    values_, vectors = np.linalg.eigh(0.5 * (bend + bend.T))
    spread = vectors / np.sqrt(np.maximum(values_, 1.0))
    moved = np.random.default_rng(0).standard_normal((DRAWS, len(vector))) @ spread.T

    def rebuild(one):
        return eqx.combine(rebuilt(one), static)

    return rebuild, vector, jnp.asarray(vector + moved), seen, float(value)


def scored(locations, deviations, values) -> dict[str, float]:
    """Scores of normal laws, or of mixtures of them over the first axis, at values in logarithms."""
    density = stats.norm.logpdf(values, locations, deviations)
    nll = -(np.log(np.exp(density - density.max(0)).mean(0)) + density.max(0))
    below = stats.norm.cdf(values, locations, deviations).mean(0)  # the law's own distribution function
    mean = locations.mean(0)
    inside = {f"in {100 * p:g} %": (np.abs(below - 0.5) < p / 2).tolist() for p in (0.5, 0.9)}
    return {"nll": nll.tolist(), "squares": ((values - mean) ** 2).tolist(), **inside}


def pushed(times, values, origin) -> dict[str, dict]:
    """The SDE's forecasts from one origin, at the maximum and over draws."""
    rebuild, vector, draws, seen, loss = fitted(times, values, origin)
    ahead = times > origin

    @jax.jit
    def law(one, seen):
        found = rebuild(one).filter(times, values, seen)
        return found.locations, jnp.sqrt(jnp.diagonal(found.covariances, axis1=1, axis2=2))

    at, every = law(vector, seen), jax.jit(jax.vmap(law, (0, None)))(draws, seen)
    good = np.isfinite(np.asarray(every[0])).all((1, 2)) & np.isfinite(np.asarray(every[1])).all((1, 2))
    model = rebuild(vector)
    learned = {name: float(x) for name, x in model.ode.field.field.parameter_values().items()}
    learned |= {"push": model.push.value.tolist(), "noise": model.noise.value.tolist(), "negative_log_likelihood": loss}
    at, every = ([np.asarray(x)[..., ahead, :] for x in pair] for pair in (at, every))
    return {
        "pushed": {**scored(at[0][None], at[1][None], values[ahead]), "learned": learned},
        "pushed, rates drawn": {**scored(every[0][good], every[1][good], values[ahead]), "solved": int(good.sum())},
    }


def runs(origin, members, steps) -> dict[str, dict]:
    """The known system's and the hybrid's scores from one origin, of `nde.fit`."""
    options = [f"data.test_after={origin + 0.5}", f"train.members={members}", f"train.steps={steps}"]
    config = nde.config.load_config(CONFIG, options)
    with tempfile.TemporaryDirectory() as folder:
        rows = nde.fit(config, out=Path(folder) / "run").evaluate().rows()
    return {row["method"]: {k: v for k, v in row.items() if k != "method"} for row in rows}


def pooled(results: list[dict], name: str) -> dict[str, float]:
    """Scores over all origins, each value once."""
    counts = [2 * (20 - one["origin"]) for one in results]
    rows = [one["methods"][name] for one in results]
    if "nll" in rows[0]:
        every = {key: np.concatenate([np.ravel(row[key]) for row in rows]) for key in ("nll", "squares", *SHARES)}
        every = {key: float(x.mean()) for key, x in every.items()}
        return {"NLL": every["nll"], "RMSE": every["squares"] ** 0.5, **{key: every[key] for key in SHARES}}
    found = {key: float(np.average([row[key] for row in rows], weights=counts)) for key in ("NLL", *SHARES)}
    return {**found, "RMSE": float(np.average([row["RMSE"] ** 2 for row in rows], weights=counts)) ** 0.5}


SHARES = ("in 50 %", "in 90 %")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--members", type=int, default=5)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--only", choices=("pushed", "runs"))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    times, pelts = nde.data.load_lynx_hare()
    results = []
    for origin in ORIGINS:
        methods = {}
        if args.only != "runs":
            with jax.enable_x64(True):
                methods |= pushed(np.asarray(times, float), np.log(np.asarray(pelts, float)), origin)
        if args.only != "pushed":
            methods |= runs(origin, args.members, args.steps)
        results.append({"origin": origin, "methods": methods})
        print(json.dumps(results[-1]), flush=True)
    names = list(results[0]["methods"])
    result = {
        "machine": platform.processor() or platform.machine(),
        "versions": {name: version(name) for name in ("jax", "diffrax", "nde")},
        "members": args.members,
        "steps": args.steps,
        "values": sum(2 * (20 - origin) for origin in ORIGINS),
        "pooled": {name: pooled(results, name) for name in names},
        "origins": results,
    }
    print(json.dumps(result["pooled"], indent=1))
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
