"""All samplers of `nde.diffusion.SAMPLERS` on mixtures of Gaussians with the exact prediction.

    python tests/bench/samplers.py [--parts ode,sde,guidance]

- `ode`: in the plane, variance preserving, modes of variance 0.15 and 0.01: the distance of each sample's end from the
  exact one, that of the probability-flow ODE from the same noise (Dopri8, 1e-10), at 5, 10, 20 and 40 evaluations, its
  mean over the samples (and root mean square, where a few that change modes weigh most); times even in log-SNR, in t
  and by Karras et al. A sampler of k evaluations a step takes as many whole steps as the evaluations allow.
- `sde`: no such end exists for a sampler that draws noise, so the energy distance of its samples from the law at the
  data's end, beside the same distance between two samples of that law, and the mean squared distance from the nearest
  mean in units of what it should be, less one.
- `guidance`: a mixture of two classes in 16 dimensions within [-1, 1], guided without a classifier at scales up to 8:
  the share of samples that leave the range, how far, and how far they are from the exact end.

Double precision.
"""

import argparse
import json
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
    converted,
    diffusion_model_term,
    GaussianMixture,
    karras_times,
    log_snr_times,
    noise_span,
    SAMPLERS,
    thresholded,
    uniform_times,
    VariancePreserving,
)
from nde.report import transport_distance

RESULTS = Path(__file__).parent / "results" / "samplers.json"
SCHEDULE = VariancePreserving()
GRIDS = {"log-SNR": log_snr_times, "t": uniform_times, "Karras": karras_times}
EVALUATIONS = (5, 10, 20, 40)
VARIANCES = (0.15, 0.01)
POINTS = 500
FEW = 250


def plane(variance: float) -> GaussianMixture:
    """Three modes in the plane."""
    return GaussianMixture([0.3, 0.5, 0.2], [[-1.5, -1.0], [1.0, 1.2], [1.5, -1.2]], std=variance**0.5)


def solve(prediction: Any, sampler: Any, times: Any, x: Any, key: Any = None) -> Any:
    """The end of one sample from `x`, by one prediction of the data."""
    path, noise = None, sampler.noise
    form = "data" if sampler.form == "velocity" else sampler.form
    if callable(noise) or noise > 0:
        span = noise_span(SCHEDULE, form, noise, SCHEDULE.ends)
        path = nde.VirtualBrownianTree(*span, 1e-10 * span[1], x.shape, key)
    if sampler.form == "velocity" and path is None:
        term: Any = diffrax.ODETerm(converted(prediction, "data", "velocity", SCHEDULE))
    else:
        term = diffusion_model_term(prediction, SCHEDULE, "data", path, noise=noise, form=form)
    control = nde.StepTo(times)
    solution = nde.diffeqsolve(
        term, sampler.solver, times[0], times[-1], None, x, stepsize_controller=control, max_steps=1000, throw=False
    )
    return solution.ys[0]


@eqx.filter_jit
def exact_ends(prediction: Any, xs: Any) -> Any:
    """The ends of the probability-flow ODE."""
    term = diffrax.ODETerm(converted(prediction, "data", "velocity", SCHEDULE))
    control = diffrax.PIDController(rtol=1e-10, atol=1e-10)
    first, last = SCHEDULE.ends

    def end(x):
        return nde.diffeqsolve(
            term, nde.Dopri8(), last, first, None, x, stepsize_controller=control, max_steps=100_000
        ).ys[0]

    return jax.vmap(end)(xs)


@eqx.filter_jit
def ends(prediction: Any, name: str, times: Any, xs: Any, keys: Any) -> Any:
    """The ends by a sampler of the table."""
    return jax.vmap(lambda x, key: solve(prediction, SAMPLERS[name], times, x, key))(xs, keys)


def is_random(name: str) -> bool:
    """Whether a sampler draws noise."""
    noise = SAMPLERS[name].noise
    return callable(noise) or noise > 0


def by_ode() -> dict[str, Any]:
    """Distances from the exact ends: by variance, grid, sampler and evaluations."""
    found: dict[str, Any] = {}
    laws = {variance: plane(variance) for variance in VARIANCES}
    starts = {
        variance: law.marginal(SCHEDULE, SCHEDULE.ends[1]).sample(jax.random.key(0), POINTS)
        for variance, law in laws.items()
    }
    predictions = {variance: law.prediction(SCHEDULE, "data") for variance, law in laws.items()}
    exact = {variance: exact_ends(predictions[variance], starts[variance]) for variance in VARIANCES}
    keys = jax.random.split(jax.random.key(1), POINTS)
    for name in SAMPLERS:
        if is_random(name):
            continue
        for count in EVALUATIONS:
            steps = count // SAMPLERS[name].evaluations
            if steps == 0:
                continue
            for grid, times in GRIDS.items():
                for variance in VARIANCES:
                    got = ends(predictions[variance], name, times(SCHEDULE, steps), starts[variance], keys)
                    apart = np.linalg.norm(np.asarray(got - exact[variance]), axis=1)
                    row = {"mean": float(apart.mean()), "rms": float(np.sqrt((apart**2).mean()))}
                    found.setdefault(str(variance), {}).setdefault(grid, {}).setdefault(name, {})[str(count)] = row
        print(name, {v: {g: found[v][g][name] for g in ("log-SNR",)} for v in found}, flush=True)
        jax.clear_caches()
    return found


def by_sde() -> dict[str, Any]:
    """Distances from the law, with their floor: by variance, sampler and evaluations, times even in log-SNR."""
    found: dict[str, Any] = {}
    points, last = 1000, SCHEDULE.ends[1]
    keys = jax.random.split(jax.random.key(1), points)
    for name in SAMPLERS:
        for count in (10, 20, 40):
            steps = count // SAMPLERS[name].evaluations
            if steps == 0 or not (is_random(name) or name in ("ddim", "dpm_solver++_2m")):
                continue
            for variance in VARIANCES:
                law = plane(variance)
                truth = law.marginal(SCHEDULE, SCHEDULE.ends[0])
                start = law.marginal(SCHEDULE, last).sample(jax.random.key(0), points)
                times = log_snr_times(SCHEDULE, steps)
                samples = np.asarray(ends(law.prediction(SCHEDULE, "data"), name, times, start, keys))

                def sampler(count: int, seed: int, truth: Any = truth) -> Any:
                    return truth.sample(jax.random.key(seed), count)

                distance = transport_distance(samples, sampler(points, 10**6), "energy", sampler=sampler)
                squares = ((samples[:, None] - np.asarray(truth.means)) ** 2).sum(-1).min(1)
                row = {
                    "energy_distance": distance.value,
                    "floor": distance.floor,
                    "floor_sd": distance.floor_sd,
                    "within_modes": float(squares.mean() / (2 * truth.variances[0, 0]) - 1),
                }
                found.setdefault(str(variance), {}).setdefault(name, {})[str(count)] = row
        if name in found.get("0.01", {}):
            print(name, {v: found[v][name] for v in found}, flush=True)
    return found


@eqx.filter_jit
def guided_ends(law: Any, scale: Any, threshold: bool, name: str, times: Any, xs: Any) -> Any:
    """The ends under guidance towards the first two components."""
    prediction = law.guided(SCHEDULE, "data", [0, 1], scale)
    prediction = thresholded(prediction, quantile=1.0) if threshold else prediction
    return jax.vmap(lambda x: solve(prediction, SAMPLERS[name], times, x))(xs)


def by_guidance() -> list[dict[str, Any]]:
    """A row for each scale, sampler and number of evaluations."""
    size, points = 16, 300
    means = jnp.sign(jax.random.normal(jax.random.key(3), (4, size)))
    law = GaussianMixture(None, 0.7 * means, std=0.08)  # four standard deviations within the range
    start = jax.random.normal(jax.random.key(4), (points, size))
    rows = []
    for scale in (1.0, 2.0, 4.0, 8.0):
        exact = exact_ends(law.guided(SCHEDULE, "data", [0, 1], jnp.asarray(scale)), start)
        rows.append({"scale": scale, "sampler": "exact", **_leaving(law, exact, exact)})
        print(rows[-1], flush=True)
        for count in (10, 20, 50):
            for name, threshold in (
                ("ddim", False), ("dpm_solver_2", False), ("dpm_solver++_2s", False), ("dpm_solver++_2m", False),
                ("dpm_solver++_2m", True),
            ):  # fmt: skip
                times = log_snr_times(SCHEDULE, count // SAMPLERS[name].evaluations)
                got = guided_ends(law, jnp.asarray(scale), threshold, name, times, start)
                row = {"scale": scale, "sampler": name, "thresholded": threshold, "evaluations": count}
                rows.append({**row, **_leaving(law, got, exact)})
                print(rows[-1], flush=True)
    return rows


def _leaving(law: GaussianMixture, got: Any, exact: Any) -> dict[str, float]:
    """What became of the samples: of the range, of their class, of the exact ends."""
    got, means = np.asarray(got), np.asarray(law.means)
    largest = np.abs(got).max(1)
    apart = ((got[:, None] - means) ** 2).sum(-1)
    return {
        "outside": float((largest > 1.0).mean()),
        "largest": float(largest.max()),
        "of_its_class": float((apart.argmin(1) < 2).mean()),
        "distance_from_the_nearest_mean_in_std": float(np.sqrt(apart.min(1).mean() / got.shape[1] / 0.08**2)),
        "distance_from_the_exact_end": float(np.linalg.norm(got - np.asarray(exact), axis=1).mean()),
    }


PARTS = {"ode": by_ode, "sde": by_sde, "guidance": by_guidance}


def main() -> None:
    """Measure, print, store."""
    jax.config.update("jax_enable_x64", True)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS))
    options = parser.parse_args()
    stored = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    stored["machine"] = {"cores": os.cpu_count(), "jax": jax.__version__, "diffrax": diffrax.__version__}
    for part in options.parts.split(","):
        stored[part] = PARTS[part]()
        RESULTS.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
