"""Restart sampling: the law that it keeps, the errors that it forgets, and what is refused."""

import jax
import jax.numpy as jnp
import pytest

from nde.diffusion import log_snr_times, MeanReverting, VarianceExploding, VariancePreserving
from nde.models import restart_sample, RestartInterval

VE = VarianceExploding(0.02, 10.0)


def data(schedule, bias=0.0, centre=0.0):
    """The exact prediction of a Gaussian of mean 1 and variance 1/4, and one that is off by a constant."""

    def prediction(t, x, args):
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        x = x - centre
        return centre + 1.0 + 0.25 * alpha / (0.25 * alpha**2 + sigma**2) * (x - alpha) + bias

    return prediction


def draws(prediction, schedule, intervals, steps=24, count=4000):
    times = log_snr_times(schedule, steps)

    def one(key):
        start, rest = jax.random.split(key)
        centre = 0.0 if schedule.centre is None else schedule.centre
        x = centre + schedule.sigma(times[0]) * jax.random.normal(start, (1,))
        return restart_sample(prediction, schedule, x, times, intervals, key=rest)

    return jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), count))[:, 0]


@pytest.mark.parametrize(
    ("schedule", "centre", "interval"),
    [(VE, 0.0, (0.5, 0.7)), (MeanReverting(VariancePreserving(), jnp.array([3.0])), 3.0, (0.3, 0.5))],
    ids=["VE", "about a centre"],
)
def test_exact_predictions_keep_their_law(schedule, centre, interval):
    found = draws(data(schedule, centre=centre), schedule, [RestartInterval(*interval, rounds=2, steps=10)])
    assert float(found.mean()) == pytest.approx(centre + 1.0, abs=0.05)
    assert float(found.std()) == pytest.approx(0.5, abs=0.03)


def test_an_error_made_early_is_forgotten():
    """A prediction that is wrong above t = 0.7 alone moves the ODE's mean, and hardly that with restarts below."""

    def wrong_early(t, x, args):
        return jnp.where(t > 0.6, data(VE, bias=3.0)(t, x, args), data(VE)(t, x, args))

    plain, again = (draws(wrong_early, VE, each) for each in ([], [RestartInterval(0.3, 0.55, rounds=4, steps=6)]))
    assert abs(float(plain.mean()) - 1.0) > 0.1
    assert abs(float(again.mean()) - 1.0) < 0.3 * abs(float(plain.mean()) - 1.0)


def test_wrong_input_is_named():
    times, x, key = log_snr_times(VE, 4), jnp.zeros(1), jax.random.key(0)
    with pytest.raises(ValueError, match="times that fall from the noise to the data"):
        restart_sample(data(VE), VE, x, times[::-1], [], key=key)
    for interval in (RestartInterval(0.5, 0.4), RestartInterval(1.5, 2.0), RestartInterval(0.2, 0.5, rounds=0)):
        with pytest.raises(ValueError, match="needs intervals with 0 <= low < 1"):
            restart_sample(data(VE), VE, x, times, [interval], key=key)
