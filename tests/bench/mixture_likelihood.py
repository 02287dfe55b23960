"""The log-likelihood of a mixture of Gaussians by the probability-flow ODE, against its own.

    python tests/bench/mixture_likelihood.py

Tsit5 through `nde.diffeqsolve` with the divergence beside the state (`nde.terms.WithIntegrals`), exact or by one
Hutchinson probe, from the data to the noise's end. The law there is the mixture's own, or the normal law that a model
assumes. Points are drawn from the mixture; errors in nats, of each point and of the mean over them. Single and double
precision.
"""

import json
import os
from pathlib import Path
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp

import nde
from nde.diffusion import GaussianMixture, SubVariancePreserving, VarianceExploding, VariancePreserving

RESULTS = Path(__file__).parent / "results" / "mixture_likelihood.json"
POINTS = 500
# From so close to the data that the noise there changes no log-density by 1e-3.
SCHEDULES = {
    "VP": (VariancePreserving(), 1e-5),
    "sub-VP": (SubVariancePreserving(), 1e-5),
    "VE": (VarianceExploding(1e-3, 50.0), 0.0),
}
TOLERANCES = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7)


def mixture(size: int) -> GaussianMixture:
    """Four components with covariances of their own."""
    keys = jax.random.split(jax.random.key(7), 2)
    factors = 0.4 * jax.random.normal(keys[0], (4, size, size)) / size**0.5
    covariances = factors @ jnp.swapaxes(factors, 1, 2) + 0.05 * jnp.eye(size)[None]
    return GaussianMixture([0.1, 0.2, 0.3, 0.4], 1.5 * jax.random.normal(keys[1], (4, size)), covariances)


class Divergence(eqx.Module):
    """The field and its divergence, exact, or by one probe a solve."""

    exact: bool = eqx.field(static=True)

    def __call__(self, field: Any, t: Any, y: Any, args: Any) -> tuple[Any, Any]:
        """`args` is the probe."""
        directions = jnp.eye(len(y), dtype=y.dtype) if self.exact else args[None]
        velocity, push = jax.linearize(lambda y: field(t, y, args), y)
        return velocity, jnp.sum(directions * jax.vmap(push)(directions))


@eqx.filter_jit
def log_probs(law: GaussianMixture, schedule: Any, first: Any, points: Any, tolerance: Any, exact: bool) -> Any:
    """The log-likelihoods by the mixture's own end and by the normal one, and the evaluations of the velocity."""
    last = schedule.ends[1]
    equation = diffrax.ODETerm(law.prediction(schedule, "velocity"))
    pair = nde.terms.WithIntegrals(equation, joint=Divergence(exact))
    control = diffrax.PIDController(rtol=tolerance, atol=tolerance)
    control = pair.controller(control)
    end, std = law.marginal(schedule, last), schedule.sigma(last)

    def each(x, probe):
        state = pair.state(x)
        solution = nde.diffeqsolve(
            pair.terms, nde.Tsit5(), first, last, None, state, probe, stepsize_controller=control, max_steps=100_000
        )
        z, (change,) = jax.tree.map(lambda leaf: leaf[0], solution.ys)
        normal = jnp.sum(jax.scipy.stats.norm.logpdf(z / std) - jnp.log(std))
        return end.log_prob(z) + change, normal + change, 6 * solution.stats["num_steps"] + 1

    return jax.vmap(each)(points, jax.random.rademacher(jax.random.key(3), points.shape, points.dtype))


def rows(size: int, double: bool) -> list[dict[str, Any]]:
    """A row for each schedule, tolerance and kind of divergence."""
    jax.config.update("jax_enable_x64", double)
    law, found = mixture(size), []
    points = law.sample(jax.random.key(0), POINTS)
    truth = jax.vmap(law.log_prob)(points)
    for name, (schedule, first) in SCHEDULES.items():
        for tolerance in TOLERANCES:
            if tolerance < 1e-5 and not double:
                continue
            for exact in (True, False) if tolerance == 1e-5 else (True,):
                own, normal, evaluations = log_probs(law, schedule, first, points, jnp.asarray(tolerance), exact)
                error, whole = own - truth, normal - truth
                found.append(
                    {
                        "schedule": name,
                        "size": size,
                        "precision": "double" if double else "single",
                        "tolerance": tolerance,
                        "divergence": "exact" if exact else "one probe",
                        "largest_error": float(jnp.abs(error).max()),
                        "rms_error": float(jnp.sqrt(jnp.mean(error**2))),
                        "error_of_the_mean": float(error.mean()),
                        "spread_of_the_mean": float(error.std() / POINTS**0.5),
                        "largest_error_of_a_normal_end": float(jnp.abs(whole).max()),
                        "error_of_the_mean_of_a_normal_end": float(whole.mean()),
                        "evaluations": float(evaluations.mean()),
                    }
                )
                print(json.dumps(found[-1]), flush=True)
    return found


def main() -> None:
    """Measure, print, store."""
    found = [row for double in (False, True) for size in (2, 8) for row in rows(size, double)]
    machine = {"cores": os.cpu_count(), "jax": jax.__version__, "diffrax": diffrax.__version__}
    RESULTS.write_text(json.dumps({"points": POINTS, "rows": found, "machine": machine}, indent=1) + "\n")


if __name__ == "__main__":
    main()
