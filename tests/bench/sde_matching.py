"""SDE Matching beside the simulated bound: the exact likelihood of a linear model, time a step, the stochastic Lorenz.

    python tests/bench/sde_matching.py kalman
    python tests/bench/sde_matching.py speed
    python tests/bench/sde_matching.py lorenz_matching
    python tests/bench/sde_matching.py lorenz_simulation
    python tests/bench/sde_matching.py notebook

Each part stores `results/sde_matching_PART.json`. The Lorenz attractor is as in `nde.data.make_stochastic_lorenz`, 1024
series to learn from and 256 to score, in a unit of time of which a series is ten long.
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sde_matching_lorenz import likelihood_by_ekf, report_on
from timing import load, medians_in_turn, processor

import nde
from nde.data import DATASETS, make_stochastic_lorenz
from nde.models import posterior_control

RESULTS = Path(__file__).parent / "results"
SIZES = {"width": 100, "control_width": 100, "encoder_size": 50, "diffusion_scale": 0.1, "horizon": 10.0}
BOUNDS = {"marginals": nde.SDEMatching, "control": nde.ELBO}


def lorenz_model(posterior: Any, dt0: float, seed: int = 0) -> nde.LatentSDE:
    """A latent SDE of four states for the three coordinates."""
    law, key = nde.GaussianLikelihood(3, scale=0.5), jax.random.key(seed)
    return nde.LatentSDE(3, 4, posterior=posterior, likelihood=law, dt0=dt0, key=key, **SIZES)


def lorenz_data() -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Times, values and mask of the 1024 series to learn from, and of the 256 to score."""
    panel = make_stochastic_lorenz(series=1280)
    arrays = (10 * panel.times, panel.values, panel.mask)
    data = tuple(jnp.asarray(x, None if x.dtype == bool else jnp.float32) for x in arrays)
    return tuple(x[:1024] for x in data), tuple(x[1024:] for x in data)


def bounds(bound: Any, model: Any, data: tuple[Any, ...], key: Any) -> Any:
    """The terms of each series, all of it shown."""
    keys = jax.random.split(key, len(data[0]))
    return jax.vmap(lambda t, x, m, key: bound(model, t, x, m, m, key=key))(*data[:3], keys)


def trained(
    model: Any, loss: Callable[..., Any], steps: int, *, rate: float, every: int = 100, watch: Any = None
) -> tuple[Any, float]:
    """The model after so many steps of Adam on `loss(model, key)`, and the seconds without compilation.

    `watch(model, seconds)` is called after each `every` steps, outside of that time.
    """
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, 100, steps)
    optimiser = optax.chain(optax.clip_by_global_norm(10.0), optax.adam(schedule))
    weights, rest = eqx.partition(model, eqx.is_inexact_array)

    @jax.jit
    def some(carry, keys):
        def step(carry, key):
            weights, state = carry
            value, gradient = jax.value_and_grad(lambda w: loss(eqx.combine(w, rest), key))(weights)
            change, state = optimiser.update(gradient, state, weights)
            return (optax.apply_updates(weights, change), state), value

        return jax.lax.scan(step, carry, keys)

    carry = weights, optimiser.init(weights)
    keys, seconds = jax.random.split(jax.random.key(0), steps), 0.0
    jax.block_until_ready(some(carry, keys[:every]))
    for first in range(0, steps, every):
        start = time.perf_counter()
        carry, values = jax.block_until_ready(some(carry, keys[first : first + every]))
        seconds += time.perf_counter() - start
        print(first + every, round(seconds), float(values.mean()), flush=True)
        if watch is not None:
            watch(eqx.combine(carry[0], rest), seconds)
    return eqx.combine(carry[0], rest), seconds


def bound_by_quadrature(model: Any, marginals: Any, times: Any, values: Any, mask: Any) -> Any:
    """The bound of one series of a linear model with one state, whose draws vary by a hundred nats.

    Densities and squared controls are squares of the noise, for which three nodes are exact; 32 stand between rows.
    """
    whole = eqx.tree_at(lambda m: m.marginals, model, marginals)
    path = whole.marginal_path(times, values, mask)
    noises, weights = np.polynomial.hermite_e.hermegauss(3)
    weights = jnp.asarray(weights / weights.sum(), jnp.float32)
    places, shares = (jnp.asarray(x / 2, jnp.float32) for x in np.polynomial.legendre.leggauss(32))

    def expected(function):
        return weights @ jax.vmap(function)(jnp.asarray(noises, jnp.float32))

    def control(t, noise):
        u = posterior_control(path.at, path.drift, path.diffusion, t, path.state(t, noise[None]))
        return 0.5 * jnp.sum(u**2)

    law, gaps = path.at_rows(jnp.arange(len(times))), jnp.diff(times)
    inside = times[:-1, None] + gaps[:, None] * (places + 0.5)
    kl = jax.vmap(jax.vmap(lambda t: expected(partial(control, t))))(inside)
    density = expected(
        lambda noise: jnp.sum(whole.likelihood.log_prob(values, whole.decode(law.mean + law.std * noise)))
    )
    return density - gaps @ kl @ shares - whole.kl_initial(path)


def kalman(series: int = 8, steps: int = 20000) -> dict[str, Any]:
    """The bound of Ornstein–Uhlenbeck series against their likelihood: the prior exact, each posterior its own."""
    panel = DATASETS["ornstein_uhlenbeck"].load(seed=0, size=series)
    data = [jnp.asarray(x, None if x.dtype == bool else jnp.float32) for x in (panel.times, panel.values, panel.mask)]
    gaps = panel.times[:, :, None] - panel.times[:, None]
    covariance = np.exp(-0.5 * np.abs(gaps)) + 0.01 * np.eye(gaps.shape[1])
    values = panel.values[..., 0]
    squares = np.einsum("si,si->s", values, np.linalg.solve(covariance, values[..., None])[..., 0])
    exact = -0.5 * (squares + np.linalg.slogdet(2 * np.pi * covariance)[1])

    def model(key):
        law = nde.GaussianLikelihood(1, scale=0.1)
        sizes = {"width": 0, "control_width": 32, "encoder_size": 16, "diffusion_scale": 1.0, "horizon": 10.0}
        start = nde.LatentSDE(1, 1, posterior="marginals", likelihood=law, dt0=0.1, key=key, **sizes)
        parts = (-0.5 * jnp.eye(1), jnp.ones((1, 1)), jnp.zeros(1))
        return eqx.tree_at(lambda m: (m.drift.matrix, m.decoder.weight, m.decoder.bias), start, parts)

    fixed = model(jax.random.key(0))
    own = eqx.filter_vmap(lambda key: model(key).marginals)(jax.random.split(jax.random.key(0), series))

    def terms(marginals, key, samples):
        def one(marginals, times, values, mask, key):
            whole = eqx.tree_at(lambda m: m.marginals, fixed, marginals)
            return nde.SDEMatching(samples=samples)(whole, times, values, mask, mask, key=key).loss()

        return eqx.filter_vmap(one)(marginals, *data, jax.random.split(key, series))

    found, seconds = trained(own, lambda m, key: jnp.sum(terms(m, key, 64)), steps, rate=1e-2)
    bound = np.asarray(eqx.filter_jit(eqx.filter_vmap(partial(bound_by_quadrature, fixed)))(found, *data))
    gap = exact - bound
    return {
        "series": series,
        "observations": 25,
        "steps": steps,
        "training_s": round(seconds, 1),
        "likelihood": round(float(exact.mean()), 3),
        "bound": round(float(bound.mean()), 3),
        "gap": round(float(gap.mean()), 4),
        "largest_gap": round(float(gap.max()), 4),
    }


def speed(rounds: int = 7) -> dict[str, Any]:
    """Milliseconds of a gradient of a batch of 32 series."""
    result: dict[str, Any] = {}
    for rows, per_gap in ((41, 4), (1000, 2)):
        panel = make_stochastic_lorenz(series=32, rows=rows)
        arrays = (10 * panel.times, panel.values, panel.mask)
        data = tuple(jnp.asarray(x, None if x.dtype == bool else jnp.float32) for x in arrays)
        steps = {}
        for name, posterior, bound in (
            ("matching", "marginals", nde.SDEMatching(samples=4)),
            ("matching, 32 rows drawn", "marginals", nde.SDEMatching(samples=4, rows=32)),
            ("simulation, 4 paths", "control", nde.ELBO(samples=4)),
            ("simulation, 1 path", "control", nde.ELBO(samples=1)),
        ):
            weights, rest = eqx.partition(lorenz_model(posterior, 10 / (rows - 1) / per_gap), eqx.is_inexact_array)

            def loss(weights, data, rest=rest, bound=bound):
                return jnp.mean(bounds(bound, eqx.combine(weights, rest), data, jax.random.key(1)).loss())

            step = jax.jit(jax.grad(loss))
            steps[name] = lambda step=step, weights=weights, data=data: step(weights, data)
        times = medians_in_turn(steps, rounds=rounds, budget_s=120)
        base = times["simulation, 4 paths"]
        result[str(rows)] = {
            "steps_a_gap": per_gap,
            "gradient_ms": {name: round(ms, 1) for name, ms in times.items()},
            "of_simulation": {name: round(base / ms, 1) for name, ms in times.items()},
        }
        print(rows, result[str(rows)], flush=True)
    return {"batch": 32, "samples": 4, "rows": result}


def lorenz(posterior: str, samples: int, steps: int = 2000) -> dict[str, Any]:
    """The latent SDE trained by the bound that goes with its posterior."""
    train, test = lorenz_data()
    bound = BOUNDS[posterior](samples=samples)

    def loss(model, key):
        rows_key, bound_key = jax.random.split(key)
        chosen = jax.random.randint(rows_key, (64,), 0, 1024)
        return jnp.mean(bounds(bound, model, tuple(x[chosen] for x in train), bound_key).loss())

    model, seconds = trained(lorenz_model(posterior, 0.0625), loss, steps, rate=3e-3)
    found = {"steps": steps, "batch": 64, "samples": samples, "training_s": round(seconds)}
    return found | {"ekf_log_likelihood": likelihood_by_ekf(test[1])} | report_on(model, test)


def notebook(steps: int = 2000) -> dict[str, Any]:
    """The objective of the public notebook: noise of 0.01 from the start, one row's reconstruction; to its 56.5."""
    train = lorenz_data()[0]
    law, bound = nde.GaussianLikelihood(3, scale=0.01), nde.SDEMatching(samples=2)

    def printed(model, data, key, bound=bound):
        terms = bounds(bound, eqx.tree_at(lambda m: m.likelihood, model, law), data, key)
        return jnp.mean(terms.kl_path + terms.kl_initial - terms.log_likelihood / 41)

    def loss(model, key):
        rows_key, bound_key = jax.random.split(key)
        chosen = jax.random.randint(rows_key, (64,), 0, 1024)
        return printed(model, tuple(x[chosen] for x in train), bound_key)

    judged = eqx.filter_jit(
        lambda m: printed(m, tuple(x[:256] for x in train), jax.random.key(9), nde.SDEMatching(samples=16))
    )
    course: list[list[float]] = []

    def watch(model, seconds):
        course.append([round(seconds, 1), round(float(judged(model)), 2)])
        print(course[-1], flush=True)

    trained(lorenz_model("marginals", 0.0625), loss, steps, rate=3e-3, watch=watch)
    reached = [seconds for seconds, value in course if value <= 56.5]
    return {"steps": steps, "batch": 64, "seconds_to_56.5": reached[0] if reached else None, "course": course}


PARTS = {
    "kalman": kalman,
    "speed": speed,
    "lorenz_matching": partial(lorenz, "marginals", 2),
    "lorenz_simulation": partial(lorenz, "control", 1),
    "notebook": notebook,
}


def main() -> None:
    """Measure one part, print it, store it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--steps", type=int)
    options = parser.parse_args()
    before, given = load(), {} if options.steps is None else {"steps": options.steps}
    result = {"load": before, "jax": jax.__version__, **processor(), **PARTS[options.part](**given)}
    print(json.dumps(result, indent=1))
    (RESULTS / f"sde_matching_{options.part}.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
