"""Schedules of noise, predictions of one kind as another, and times."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chex import assert_trees_all_close

from nde.diffusion import (
    convert,
    converted,
    CosineSchedule,
    diffusion_model_term,
    EDMSchedule,
    karras_times,
    LinearFlow,
    log_snr_times,
    MeanReverting,
    PREDICTIONS,
    SubVariancePreserving,
    thresholded,
    uniform_times,
    VarianceExploding,
    VariancePreserving,
)

SCHEDULES = {
    "VP": VariancePreserving(),
    "cosine": CosineSchedule(),
    "sub-VP": SubVariancePreserving(),
    "VE": VarianceExploding(),
    "EDM": EDMSchedule(),
    "flow": LinearFlow(),
    "mean-reverting": MeanReverting(CosineSchedule(), jnp.array([1.0, -2.0]), 0.7),
}
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


@every_schedule
def test_time_is_the_inverse_of_the_ratio_of_signal_to_noise(schedule):
    ts = log_snr_times(schedule, 20)
    assert_trees_all_close(schedule.time(schedule.gamma(ts)), ts, rtol=1e-8, atol=1e-9)
    assert_trees_all_close(schedule.log_snr(ts), 2 * jnp.log(schedule.gamma(ts)), rtol=1e-12)
    assert bool(jnp.all(jnp.diff(schedule.gamma(ts)) > 0))


@every_schedule
def test_rates_are_derivatives(schedule):
    first, last = schedule.ends
    for t in np.linspace(first, last, 5)[1:-1]:
        h = 1e-6 * (last - first)
        differences = [(f(t + h) - f(t - h)) / (2 * h) for f in (schedule.alpha, schedule.sigma)]
        np.testing.assert_allclose(schedule.rates(t), differences, rtol=1e-5, atol=1e-7)


def test_forward_equations_are_the_published_ones():
    """Of VP and sub-VP: f = -beta/2, g^2 = beta and beta (1 - exp(-2 L)); of VE g^2 = 2 sigma^2 log(sigma1/sigma0)."""
    t = jnp.array(0.4)
    beta, log = 0.1 + 19.9 * t, 0.1 * t + 19.9 * t**2 / 2
    for name, square in (("VP", beta), ("sub-VP", beta * (1 - jnp.exp(-2 * log)))):
        schedule = SCHEDULES[name]
        assert_trees_all_close(schedule.drift_rate(t), -beta / 2, rtol=1e-10)
        assert_trees_all_close(schedule.squared_diffusion(t), square, rtol=1e-10)
    exploding = SCHEDULES["VE"]
    wanted = 2 * exploding.sigma(t) ** 2 * jnp.log(50.0 / 0.01)
    assert_trees_all_close(exploding.squared_diffusion(t), wanted, rtol=1e-10)
    assert_trees_all_close(SCHEDULES["EDM"].squared_diffusion(t), 2 * t, rtol=1e-12)


def test_mean_reverting_is_the_solution_of_its_equation():
    """dx = theta (c - x) dt + sqrt(2 lambda^2 theta) dW has the stationary standard deviation lambda."""
    schedule, t = SCHEDULES["mean-reverting"], jnp.array(0.3)
    theta = -schedule.drift_rate(t)
    assert_trees_all_close(schedule.squared_diffusion(t), 2 * 0.7**2 * theta, rtol=1e-9)
    far = schedule.perturb(0.9946, jnp.array([5.0, 5.0]), jnp.zeros(2))
    np.testing.assert_allclose(far, jnp.array([1.0, -2.0]), atol=0.06)


@every_schedule
@pytest.mark.parametrize("predicts", PREDICTIONS)
def test_predictions_are_converted_there_and_back(schedule, predicts):
    data, noise = jnp.array([0.3, -1.2]), jnp.array([-0.5, 0.8])
    t = log_snr_times(schedule, 4)[2]
    x = schedule.perturb(t, data, noise)
    (alpha_rate, sigma_rate), centre = schedule.rates(t), 0 if schedule.centre is None else schedule.centre
    known = {
        "data": data,
        "noise": noise,
        "score": -noise / schedule.sigma(t),
        "velocity": alpha_rate * (data - centre) + sigma_rate * noise,
    }
    for to in PREDICTIONS:
        found = convert(known[predicts], predicts, to, schedule, t, x)
        np.testing.assert_allclose(found, known[to], rtol=1e-9, atol=1e-9)


@every_schedule
def test_velocity_is_the_field_of_the_probability_flow(schedule):
    """Written out, the semilinear term of any form is the velocity."""
    t, x = log_snr_times(schedule, 4)[2], jnp.array([0.4, 0.1])

    def score(t, x, args):
        return -0.3 * x

    for form in ("data", "noise"):
        term = diffusion_model_term(score, schedule, "score", form=form)
        wanted = converted(score, "score", "velocity", schedule)(t, x, None)
        np.testing.assert_allclose(term.vf(t, x, None), wanted, rtol=1e-8, atol=1e-10)


@every_schedule
@pytest.mark.parametrize("make", [uniform_times, log_snr_times, karras_times])
@pytest.mark.parametrize("steps", [1, 7])
def test_times_fall_from_end_to_end(schedule, make, steps):
    ts = make(schedule, steps)
    assert ts.shape == (steps + 1,)
    assert (float(ts[0]), float(ts[-1])) == (schedule.ends[1], schedule.ends[0])
    assert bool(jnp.all(jnp.diff(ts) < 0))


def test_times_are_even_in_what_they_say():
    schedule = SCHEDULES["VP"]
    assert_trees_all_close(jnp.diff(schedule.log_snr(log_snr_times(schedule, 9)), 2), jnp.zeros(8), atol=1e-10)
    karras = karras_times(SCHEDULES["EDM"], 17)  # of Karras et al., equation 5
    i = np.arange(18)
    wanted = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(karras, wanted, rtol=1e-10)


def test_times_in_float32_are_those_in_float64():
    for schedule in SCHEDULES.values():
        double = log_snr_times(schedule, 10)
        with jax.enable_x64(False):
            single = log_snr_times(schedule, 10)
        assert single.dtype == jnp.float32
        np.testing.assert_allclose(single, double, rtol=5e-4, atol=1e-6)


def test_thresholded_keeps_within_the_range():
    wide = thresholded(lambda t, x, args: x, quantile=0.5, limit=1.0)
    np.testing.assert_allclose(wide(0.0, jnp.array([-4.0, 2.0, 1.0]), None), [-1.0, 1.0, 0.5])
    np.testing.assert_allclose(wide(0.0, jnp.array([-0.4, 0.2]), None), [-0.4, 0.2])


def test_wrong_input_is_named():
    schedule, x = VariancePreserving(), jnp.zeros(2)
    with pytest.raises(ValueError, match="predicts must be one of data, noise, score, velocity, but got 'x0'"):
        convert(x, "x0", "data", schedule, 0.5, x)
    with pytest.raises(ValueError, match='form must be "data" or "noise", but got \'score\''):
        diffusion_model_term(lambda t, x, args: x, schedule, form="score")
    with pytest.raises(ValueError, match="zero without a Brownian path"):
        diffusion_model_term(lambda t, x, args: x, schedule, noise=0.5)
    with pytest.raises(ValueError, match='a function of noise needs form="data"'):
        diffusion_model_term(lambda t, x, args: x, schedule, "noise", noise=lambda chi: chi**2)
    for make in (uniform_times, log_snr_times, karras_times):
        with pytest.raises(ValueError, match=r"at least one step, but got steps=0"):
            make(schedule, 0)
        with pytest.raises(ValueError, match="from the noise to the data"):
            make(schedule, 5, ends=(0.9, 0.1))
        with pytest.raises(ValueError, match=r"at t = 0 the VariancePreserving has alpha / sigma = inf"):
            make(schedule, 5, ends=(0.0, 1.0))
        with pytest.raises(ValueError, match=r"at t = 1 the LinearFlow has alpha / sigma = 0"):
            make(LinearFlow(), 5, ends=(0.1, 1.0))
    with pytest.raises(ValueError, match="rho > 0"):
        karras_times(schedule, 5, rho=0.0)
    with pytest.raises(ValueError, match="0 < quantile <= 1"):
        thresholded(lambda t, x, args: x, quantile=1.5)
