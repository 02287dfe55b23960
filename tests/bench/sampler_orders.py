"""Weak orders of the samplers of `nde.diffusion.SAMPLERS` that draw noise, by errors at 40 to 160 steps.

    python tests/bench/sampler_orders.py

No random number is needed. Of Gaussian data in one dimension the exact prediction is linear, and so is each sampler's
end in its start and in the increments of its Brownian path. With one solve for each of them the law of the end is known
to rounding, a Gaussian, and so is the error of its mean and of its variance, by schedule, variance preserving and
exploding, times even in log-SNR. The order is the slope between the two finest; of an error that is rounding none is
given. (The orders of samplers without noise are held by tests/test_exponential.py.) Double precision.
"""

import json
from pathlib import Path
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from samplers import is_random
from timing import processor

import nde
from nde.diffusion import (
    diffusion_model_term,
    GaussianMixture,
    log_snr_times,
    SAMPLERS,
    VarianceExploding,
    VariancePreserving,
)

RESULTS = Path(__file__).parent / "results" / "sampler_orders.json"
SCHEDULES = {"VP": VariancePreserving(), "VE": VarianceExploding(0.02, 100.0)}
STEPS = (40, 80, 160)


class Given(diffrax.AbstractBrownianPath):
    """A path through given values at given times, which grow: what a solve with steps at these times sees of it."""

    times: Any
    values: Any
    levy_area: Any = eqx.field(static=True, default=diffrax.BrownianIncrement)

    @property
    def t0(self) -> Any:
        return self.times[0]

    @property
    def t1(self) -> Any:
        return self.times[-1]

    def evaluate(self, t0: Any, t1: Any = None, left: bool = True, use_levy: bool = False) -> Any:
        start, end = (self.t0, t0) if t1 is None else (t0, t1)
        nearest = [self.values[jnp.argmin(jnp.abs(self.times - t))] for t in (start, end)]
        return (nearest[1] - nearest[0])[None]


def term_of(prediction: Any, sampler: Any, schedule: Any, path: Any) -> Any:
    """The equation that a sampler solves."""
    form = "data" if sampler.form == "velocity" else sampler.form
    return diffusion_model_term(prediction, schedule, "data", path, noise=sampler.noise, form=form)


def end(term: Any, solver: Any, times: Any, x: Any) -> Any:
    """Where the steps come to."""
    steps = nde.StepTo(times)
    return nde.diffeqsolve(
        term, solver, times[0], times[-1], None, x, stepsize_controller=steps, max_steps=len(times) + 5
    ).ys[-1]


def order(errors: Any) -> float | None:
    """The slope between the last two, if they are no rounding."""
    return float(np.log2(errors[-2] / errors[-1])) if min(errors[-2:]) > 1e-12 else None


def by_sde(schedule: Any) -> dict[str, Any]:
    """Errors of mean and variance, and weak orders, of each sampler with noise."""
    law = GaussianMixture(None, [[1.0]], std=0.5)
    begin, truth = (law.marginal(schedule, t) for t in (schedule.ends[1], schedule.ends[0]))
    found = {}
    for name, sampler in SAMPLERS.items():
        if not is_random(name):
            continue
        errors: dict[str, list[float]] = {"mean": [], "variance": []}
        for steps in STEPS:
            mean, variance = moments(law, sampler, schedule, steps, begin)
            errors["mean"].append(abs(float(mean - truth.mean[0])))
            errors["variance"].append(abs(float(variance / truth.covariance[0, 0] - 1)))
        found[name] = {key: {"errors": each, "order": order(each)} for key, each in errors.items()}
        print(name, found[name], flush=True)
    return found


@eqx.filter_jit
def moments(law: Any, sampler: Any, schedule: Any, steps: int, begin: Any) -> tuple[Any, Any]:
    """Mean and variance of a sampler's end, of a Gaussian start: the end is affine in the start and in increments."""
    prediction, times = law.prediction(schedule, "data"), log_snr_times(schedule, steps)
    form = "data" if sampler.form == "velocity" else sampler.form
    variables = diffusion_model_term(prediction, schedule, "data", _still(steps), noise=sampler.noise, form=form)
    clock = jnp.sort(jax.vmap(variables.path_time)(times))

    def from_increments(x: Any, increments: Any) -> Any:
        path = Given(clock, jnp.concatenate([jnp.zeros(1), jnp.cumsum(increments)]))
        return end(term_of(prediction, sampler, schedule, path), sampler.solver, times, x[None])[0]

    still, nowhere = jnp.zeros(steps), jnp.zeros(())
    origin = from_increments(nowhere, still)
    by_start = from_increments(jnp.ones(()), still) - origin
    by_noise = jax.vmap(lambda unit: from_increments(nowhere, unit))(jnp.eye(steps)) - origin
    variance = by_start**2 * begin.covariance[0, 0] + jnp.sum(by_noise**2 * jnp.diff(clock))
    return origin + by_start * begin.mean[0], variance


def _still(steps: int) -> Given:
    return Given(jnp.zeros(steps + 1), jnp.zeros(steps + 1))


def main() -> None:
    """Measure, print, store."""
    jax.config.update("jax_enable_x64", True)
    stored: dict[str, Any] = {"machine": processor(), "steps": STEPS}
    for name, schedule in SCHEDULES.items():
        stored.setdefault("sde", {})[name] = by_sde(schedule)
        RESULTS.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
