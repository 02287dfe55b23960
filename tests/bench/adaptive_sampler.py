"""Sampling the reverse SDE with adaptive steps, beside Euler–Maruyama: a mixture of Gaussians in 64 dimensions.

    python tests/bench/adaptive_sampler.py [--points 500]

Heun's method with its embedded Euler step as error estimate and a step size controller, through `nde.diffeqsolve` on a
`nde.VirtualBrownianTree`, as Jolicoeur-Martineau et al. (2021, arXiv 2105.14080) sample: each sample has its own steps,
and the error of a step is measured in units of their absolute tolerance of 0.0078 and a relative one of the larger of
the states before and after. Three controllers: the usual gain, half of it, and a proportional and integral one with
more safety. Euler–Maruyama takes fixed steps, even in time (for VE that is even in log-SNR) or in log-SNR.

The modes are narrow beside their distances, as those of images are: at the data's end steps must be short. Both start
from the exact law at the noise's end and are compared with the exact law at the data's end:

- within modes, the mean of the squared distance from the nearest of the means in units of what it should be, less one;
- between modes, the largest difference of a mode's mass, in standard errors.

The evaluations of Euler–Maruyama at equal error are those at which its curve, a power of the evaluations between two
measured ones, meets the error within modes; `null` where all that was measured lies below it or above it.
Double precision.
"""

import argparse
import itertools
import json
import math
import os
from pathlib import Path
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import nde
from nde.diffusion import (
    diffusion_model_term,
    GaussianMixture,
    log_snr_times,
    noise_span,
    uniform_times,
    VarianceExploding,
    VariancePreserving,
)
from nde.report import mode_masses

RESULTS = Path(__file__).parent / "results" / "adaptive_sampler.json"
SIZE = 64
ABSOLUTE = 0.0078
SCHEDULES = {"VP": VariancePreserving(), "VE": VarianceExploding()}
TOLERANCES = (0.05, 0.1, 0.2)
CONTROLLERS = {
    "usual gain": {"icoeff": 1.0, "pcoeff": 0.0, "safety": 0.9},
    "half the gain": {"icoeff": 0.5, "pcoeff": 0.0, "safety": 0.9},
    "proportional and integral": {"icoeff": 0.1, "pcoeff": 0.3, "safety": 0.7},
}
STEPS = (12, 25, 50, 100, 200, 400, 800)
GRIDS = {"even in t": uniform_times, "even in log-SNR": log_snr_times}


def mixture() -> GaussianMixture:
    """Five isotropic modes of standard deviation 0.05, with coordinates of order one."""
    means = jax.random.normal(jax.random.key(11), (5, SIZE))
    return GaussianMixture([0.1, 0.15, 0.2, 0.25, 0.3], means, std=0.05)


def errors(law: GaussianMixture, schedule: Any, samples: Any) -> dict[str, float]:
    """How far the samples are from the law at the data's end."""
    law, samples = law.marginal(schedule, schedule.ends[0]), np.asarray(samples)
    masses, mass_errors = mode_masses(samples, law.means)
    nearest = ((samples[:, None] - np.asarray(law.means)) ** 2).sum(-1).argmin(1)
    ratio = ((samples - np.asarray(law.means)[nearest]) ** 2 / np.asarray(law.variances)[nearest]).mean(1)
    return {
        "within_modes": float(ratio.mean() - 1),
        "within_modes_error": float(ratio.std(ddof=1) / math.sqrt(len(ratio))),
        "masses_in_standard_errors": float((np.abs(masses - law.weights) / mass_errors).max()),
    }


@eqx.filter_jit
def adaptive(law: GaussianMixture, schedule: Any, keys: Any, control: Any) -> Any:
    """Samples, and how many steps each took and had rejected."""
    first, last = schedule.ends
    span = noise_span(schedule, "noise", 1.0, (first, last))
    prediction = law.prediction(schedule, "noise")
    start = law.marginal(schedule, last)

    def each(key):
        draw, path_key = jax.random.split(key)
        path = nde.VirtualBrownianTree(*span, 1e-10 * span[1], (SIZE,), path_key)
        term = diffusion_model_term(prediction, schedule, "noise", path)
        solution = nde.diffeqsolve(
            term, diffrax.Heun(), last, first, -0.01, start.sample(draw, 1)[0], stepsize_controller=control
        )
        return solution.ys[0], solution.stats["num_steps"], solution.stats["num_rejected_steps"]

    return jax.lax.map(each, keys, batch_size=250)


@eqx.filter_jit
def euler_maruyama(law: GaussianMixture, schedule: Any, times: Any, key: Any, points: int) -> Any:
    """Samples by fixed steps at falling `times`."""
    score = jax.vmap(law.prediction(schedule, "score"), (None, 0, None))
    draw, noise = jax.random.split(key)

    def step(x, inputs):
        t, dt, key = inputs
        square = schedule.squared_diffusion(t)
        drift = schedule.drift_rate(t) * x - square * score(t, x, None)
        z = jax.random.normal(key, x.shape)
        return x + dt * drift + jnp.sqrt(-dt * square) * z, None

    keys = jax.random.split(noise, len(times) - 1)
    start = law.marginal(schedule, schedule.ends[1]).sample(draw, points)
    return jax.lax.scan(step, start, (times[:-1], jnp.diff(times), keys))[0]


def at_equal_error(error: float, curve: list[dict[str, Any]]) -> float | None:
    """The evaluations at which Euler–Maruyama's error is the error given."""
    points = [(row["evaluations"], abs(row["within_modes"])) for row in curve]
    for (few, large), (many, small) in itertools.pairwise(points):
        if large >= abs(error) >= small:
            share = math.log(large / abs(error)) / math.log(large / small)
            return few * (many / few) ** share
    return None


def main() -> None:
    """Measure, print, store."""
    jax.config.update("jax_enable_x64", True)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=500)
    options = parser.parse_args()
    law, found = mixture(), {}
    for name, schedule in SCHEDULES.items():
        part: dict[str, Any] = {"euler_maruyama": [], "adaptive": []}
        exact = law.marginal(schedule, schedule.ends[0]).sample(jax.random.key(9), options.points)
        part["floor"] = errors(law, schedule, exact)
        for grid, times in GRIDS.items():
            if name == "VE" and grid != "even in t":  # which are the same times
                continue
            for steps in STEPS:
                each = times(schedule, steps)
                samples = euler_maruyama(law, schedule, each, jax.random.key(1), 4 * options.points)
                row = {"grid": grid, "evaluations": steps, **errors(law, schedule, samples)}
                part["euler_maruyama"].append(row)
                print(name, json.dumps(row), flush=True)
        for controller, gains in CONTROLLERS.items():
            for tolerance in TOLERANCES:
                keys = jax.random.split(jax.random.key(2), options.points)
                # As arrays, so that all are one program.
                numbers = {"rtol": tolerance, "atol": ABSOLUTE, **gains}
                control = diffrax.PIDController(**{k: jnp.asarray(v) for k, v in numbers.items()})
                samples, steps, rejected = adaptive(law, schedule, keys, control)
                row = {
                    "controller": controller,
                    "tolerance": tolerance,
                    "evaluations": float(2 * steps.mean()),
                    "rejected": float(rejected.sum() / steps.sum()),
                    **errors(law, schedule, samples),
                }
                for grid in GRIDS:
                    curve = [each for each in part["euler_maruyama"] if each["grid"] == grid]
                    row[f"euler_maruyama {grid}"] = at_equal_error(row["within_modes"], curve)
                part["adaptive"].append(row)
                print(name, json.dumps(row), flush=True)
        found[name] = part
    machine = {"cores": os.cpu_count(), "jax": jax.__version__, "diffrax": diffrax.__version__}
    RESULTS.write_text(
        json.dumps({"points": options.points, "size": SIZE, **found, "machine": machine}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
