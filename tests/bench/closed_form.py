"""Lotka and Volterra's equations with an unknown interaction: what a whole run recovers of it in closed form.

    python tests/bench/closed_form.py --out tests/bench/results/closed_form.json
    nice -n 10 taskset -c 0 python tests/bench/closed_form.py --seeds 10 --noise 0.05

Prey and predator with the rates 1.3, 0.9, 0.8, 1.8 from (0.44249296, 4.6280594), 30 rows over three units of time with
normal errors of a share of each state's mean: the example of Rackauckas et al., *Universal Differential Equations for
Scientific Machine Learning*, arXiv 2001.04385, whose growth and death are known, and whose noise is smaller. A network
of both states adds to both rates; `nde.fit` trains it, and `[evaluate.closed_form]` finds its equation, among all
monomials of degree two or three. Three units of time more and more are forecast, to three times the span; their rows
in the table are without noise, so that their root mean square error is that of the trajectory. Most of an hour on
one core.
"""

import argparse
import json
import platform
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import polars as pl

import nde

RATES, START, SPAN, ROWS = (1.3, 0.9, 0.8, 1.8), (0.44249296, 4.6280594), 3.0, 30
TRUTH = {"prey": {"prey * predator": -0.9}, "predator": {"prey * predator": 0.8}}


def linear(t, y, p):
    """What is known: prey grow, predators die."""
    return jnp.stack([p.growth * y[0], -p.death * y[1]])


def data(seed: int, noise: float) -> tuple[pl.DataFrame, float]:
    """A table of noisy rows and, after the span, of true ones; and the standard deviation of these."""
    ts = np.concatenate([np.linspace(0.0, SPAN, ROWS), np.linspace(SPAN, 3 * SPAN, 2 * ROWS + 1)[1:]])
    birth, loss, gain, death = RATES
    field = nde.fields.lotka_volterra(birth, loss, gain, death)
    solve = nde.NeuralODE(field, controller=diffrax.PIDController(rtol=1e-6, atol=1e-6))
    ys = np.array(solve(jnp.asarray(ts), jnp.array(START)), float)
    later, spread = ts > SPAN, ys[ts > SPAN].std(0)
    errors = noise * ys[~later].mean(0) * np.random.default_rng(seed).standard_normal((ROWS, 2))
    ys[~later] += errors
    return pl.DataFrame({"id": 1, "t": ts, "prey": ys[:, 0], "predator": ys[:, 1]}), float(np.sqrt((spread**2).mean()))


def config(seed: int, steps: int, polish: int) -> dict:
    """The run: known growth and death, a network for the rest."""
    fixed = {"growth": {"start": RATES[0], "fixed": True}, "death": {"start": RATES[3], "fixed": True}}
    return {
        "task": "dynamics",
        "seed": seed,
        "data": {"id": "id", "time": "t", "channels": ["prey", "predator"], "test_after": SPAN + 1e-3},
        "model": [
            {
                "name": "hybrid",
                "label": "hybrid",
                "known": linear,
                "states": ["prey", "predator"],
                "parameters": fixed,
                "width": 16,
            },
        ],
        "observe": {"noise_scale": 0.2},
        "objective": {"shooting": "growing", "first": 0.2, "grow": 0.5},
        "train": {"steps": steps, "polish": polish, "learning_rate": 1e-2, "validate_every": 50},
    }


def judged(form: dict, errors: dict) -> dict:
    """Whether the terms are the true ones, and how far their coefficients are off."""
    right = {name: set(terms) for name, terms in form.items()} == {name: set(terms) for name, terms in TRUTH.items()}
    found = [form[state].get(term, 0.0) / value - 1 for state, terms in TRUTH.items() for term, value in terms.items()]
    pairs = [(state, term) for state, terms in TRUTH.items() for term in terms if term in errors[state]]
    inside = [abs(form[s][term] - TRUTH[s][term]) < 1.645 * errors[s][term] for s, term in pairs]
    return {"right": right, "off": float(np.abs(found).max()), "inside": inside, "terms": form}


def one(seed: int, noise: float, steps: int, polish: int, gammas: list[float]) -> dict:
    """A whole run: the fit, and the closed forms of two libraries by two criteria."""
    frame, spread = data(seed, noise)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        run = nde.fit(config(seed, steps, polish), data=frame, out=Path(folder) / "run")
        found = {"seed": seed, "fit_seconds": time.perf_counter() - began}
        for degree in (2, 3):
            for gamma in gammas:
                began = time.perf_counter()
                settings = {"closed_form.degree": degree, "closed_form.gamma": gamma}
                evaluation = run.evaluate(**settings)
                rows = {row["method"]: row["RMSE"] / spread for row in evaluation.rows()}
                said = evaluation.summary["closed_forms"]["hybrid, closed form"]
                found[f"{degree} {'extended BIC' if gamma else 'BIC'}"] = {
                    **judged(said["terms"], said["errors"]),
                    "network": judged(said["network"], said["network"]),
                    "path": said["path"],
                    "extrapolation": rows.get("hybrid, closed form"),
                    "extrapolation_network": rows["hybrid"],
                    "seconds": time.perf_counter() - began,
                }
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--noise", type=float, nargs="+", default=[0.005, 0.05])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--polish", type=int, default=0)
    parser.add_argument("--gamma", type=float, nargs="+", default=[0.0, 1.0])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    runs = {}
    for noise in args.noise:
        runs[f"{noise:g}"] = []
        for seed in range(args.seeds):
            found = one(seed, noise, args.steps, args.polish, args.gamma)
            runs[f"{noise:g}"].append(found)
            print(json.dumps(found), flush=True)
    result = {
        "machine": platform.processor() or platform.machine(),
        "versions": {name: version(name) for name in ("jax", "diffrax", "nde")},
        "steps": args.steps,
        "polish": args.polish,
        "runs": runs,
    }
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    main()
