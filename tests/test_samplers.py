"""Published samplers: each in one step and in float32, those of the ODE to its end, those of the SDE to the law."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nde
from nde.diffusion import diffusion_model_term, GaussianMixture, log_snr_times, noise_span, SAMPLERS, VariancePreserving

SCHEDULE = VariancePreserving()
RANDOM = [name for name, sampler in SAMPLERS.items() if callable(sampler.noise) or sampler.noise > 0]
START = np.array([0.5, -1.0])


def sampled(sampler, counts):
    """Where a sampler carries one start of a Gaussian of variance 4, in float32, in so many steps: one program."""
    with jax.enable_x64(False):
        grids = [log_snr_times(SCHEDULE, steps) for steps in counts]

        def data(t, x, args):
            alpha, sigma = SCHEDULE.alpha(t), SCHEDULE.sigma(t)
            return 4 * alpha / (4 * alpha**2 + sigma**2) * x

        form, path = "data" if sampler.form == "velocity" else sampler.form, None
        if callable(sampler.noise) or sampler.noise > 0:
            low, high = (float(t) for t in noise_span(SCHEDULE, form, sampler.noise, SCHEDULE.ends))
            path = nde.VirtualBrownianTree(low, high, 1e-6 * (high - low), (2,), jax.random.key(0))
        term = diffusion_model_term(data, SCHEDULE, path=path, noise=sampler.noise, form=form)

        def end(times):
            steps, x = nde.StepTo(times), jnp.asarray(START, jnp.float32)
            return nde.diffeqsolve(term, sampler.solver, times[0], times[-1], None, x, stepsize_controller=steps).ys[-1]

        found = jax.jit(lambda grids: [end(times) for times in grids])(grids)
    assert all(one.dtype == jnp.float32 and np.isfinite(one).all() for one in found)
    return found


@pytest.mark.parametrize("name", RANDOM)
def test_samplers_of_the_sde_run_in_one_step_and_in_float32(name):
    sampled(SAMPLERS[name], [1])


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name not in RANDOM])
def test_samplers_of_the_ode_run_in_one_step_and_come_to_its_end(name):
    """The flow of a Gaussian is known: from the spread at the noise's end to that at the data's."""
    spread = [float(jnp.sqrt(4 * SCHEDULE.alpha(t) ** 2 + SCHEDULE.sigma(t) ** 2)) for t in SCHEDULE.ends]
    _, found = sampled(SAMPLERS[name], [1, 100])
    error = np.abs(np.asarray(found) - START * spread[0] / spread[1]).max()
    assert error < (0.05 if name == "ddim" else 0.005)


# The law. In 16 dimensions a few draws tell a variance well; the first-order samplers have an error of their own, on
# one side, in a share of the variance.
SIZE, DRAWS = 16, 256
SIGNS = np.where(np.random.default_rng(0).random((2, SIZE)) < 0.5, -1.0, 1.0)
LAW = GaussianMixture([0.4, 0.6], 0.15 * SIGNS, std=[0.5, 0.4])
MODEL = nde.DiffusionModel(LAW.prediction(SCHEDULE, "data"), SIZE, SCHEDULE, predicts="data", scale=None)
STEPS, SHORT_BY, LONG_BY = {"ddpm": 48, "euler_maruyama": 96}, {"ddpm": 0.1}, {"euler_maruyama": 0.2}


@pytest.mark.parametrize("name", ["default", *(name for name in RANDOM if name != "sde_dpm_solver++_2m")])
def test_samplers_of_the_sde_have_the_mixtures_mean_and_variance(name):
    """By default, with noise 1, DPM-Solver++ 2M for the SDE."""
    first, last = 0.02, 0.8
    how = {"noise": 1.0} if name == "default" else {"sampler": SAMPLERS[name]}
    times = log_snr_times(SCHEDULE, STEPS.get(name, 24), ends=(first, last))
    draws = jax.jit(jax.vmap(lambda key: MODEL.draw(key=key, steps=times, **how).ys))
    x = np.asarray(draws(jax.random.split(jax.random.key(0), DRAWS)))
    truth = LAW.marginal(SCHEDULE, first)
    away = x - np.asarray(truth.mean)
    assert (np.abs(away.mean(0)) < 4 * x.std(0) / DRAWS**0.5).all()
    squares, expected = (away**2).sum(1), float(jnp.trace(truth.covariance))
    error = 4 * squares.std() / DRAWS**0.5
    low, high = 1 - SHORT_BY.get(name, 0.0), 1 + LONG_BY.get(name, 0.0)
    assert low * expected - error < squares.mean() < high * expected + error


def test_the_sampler_of_an_sde_is_dpm_solver_unless_given():
    ways = {"noise": 1.0}, {"sampler": SAMPLERS["sde_dpm_solver++_2m"]}
    found = jax.jit(lambda key: [MODEL.sample(key=key, steps=2, **how) for how in ways])(jax.random.key(0))
    np.testing.assert_array_equal(*found)
