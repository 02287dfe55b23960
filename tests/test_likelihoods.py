"""Laws of observations: moments, densities and draws against scipy, and censoring far in the tails."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from nde import objectives
from nde.objectives import (
    BernoulliLikelihood,
    CensoredLikelihood,
    ChannelLikelihood,
    CombinedLikelihood,
    GaussianLikelihood,
    LogNormalLikelihood,
    PoissonLikelihood,
    ScaledLikelihood,
    StudentTLikelihood,
)

KEY, FLOOR = jax.random.key(0), 1e-3
LOC = jnp.array([[0.3], [2.0]])
# law, what scipy calls it at a location
LAWS = {
    "normal": (GaussianLikelihood(1, scale=0.7), lambda f: stats.norm(f, 0.7 + FLOOR)),
    "student": (StudentTLikelihood(1, scale=0.7, degrees=9.0), lambda f: stats.t(9.0, f, 0.7 + FLOOR)),
    "combined": (
        CombinedLikelihood(1, additive=0.3, proportional=0.5),
        lambda f: stats.norm(f, np.sqrt((0.3 + FLOOR) ** 2 + ((0.5 + FLOOR) * f) ** 2)),
    ),
    "proportional": (
        CombinedLikelihood(1, additive=None, proportional=0.5),
        lambda f: stats.norm(f, np.sqrt(FLOOR**2 + ((0.5 + FLOOR) * f) ** 2)),
    ),
    "log_normal": (LogNormalLikelihood(1, scale=0.4), lambda f: stats.lognorm(0.4 + FLOOR, scale=f)),
    "scaled": (
        ScaledLikelihood(LogNormalLikelihood(1, scale=0.4), unit=[3.0]),
        lambda f: stats.lognorm(0.401, scale=f),
    ),
}
DISCRETE = {
    "poisson": (PoissonLikelihood(), lambda f: stats.poisson(f)),
    "bernoulli": (BernoulliLikelihood(), lambda f: stats.bernoulli(f)),
}


@pytest.mark.parametrize("name", LAWS)
def test_density_tails_and_moments_are_those_of_scipy(name):
    law, theirs = LAWS[name]
    theirs, x = theirs(np.asarray(LOC)), np.array([[0.5], [1.1]])
    np.testing.assert_allclose(law.log_prob(jnp.asarray(x), LOC), theirs.logpdf(x), rtol=1e-9)
    np.testing.assert_allclose(law.mean(LOC), theirs.mean(), rtol=1e-9)
    np.testing.assert_allclose(law.variance(LOC), theirs.var(), rtol=1e-9)
    censored = [law] if isinstance(law, objectives.AbstractCensorableLikelihood) else []
    for each in censored:
        np.testing.assert_allclose(each.log_cdf(jnp.asarray(x), LOC), theirs.logcdf(x), rtol=1e-8)
        np.testing.assert_allclose(each.log_survival(jnp.asarray(x), LOC), theirs.logsf(x), rtol=1e-8)


@pytest.mark.parametrize("name", DISCRETE)
def test_counts_and_answers_are_those_of_scipy(name):
    law, theirs = DISCRETE[name]
    loc, x = jnp.array([[0.3], [0.8]]), np.array([[1.0], [0.0]])
    theirs = theirs(np.asarray(loc))
    np.testing.assert_allclose(law.log_prob(jnp.asarray(x), loc), theirs.logpmf(x), rtol=1e-9)
    np.testing.assert_allclose(law.mean(loc), theirs.mean(), rtol=1e-9)
    np.testing.assert_allclose(law.variance(loc), theirs.var(), rtol=1e-9)


@pytest.mark.parametrize("name", [*LAWS, *DISCRETE])
def test_draws_have_the_moments_of_the_law(name):
    law, _ = {**LAWS, **DISCRETE}[name]
    loc = np.full((4000, 1, 2, 1), 0.6)
    drawn = law.sample(loc, series=["a"], key=KEY)
    mean, variance = (float(np.asarray(x(jnp.asarray(loc[0, 0])))[0, 0]) for x in (law.mean, law.variance))
    assert drawn.shape == loc.shape
    np.testing.assert_allclose(drawn.mean(), mean, atol=4 * np.sqrt(variance / 8000))
    np.testing.assert_allclose(drawn.var(), variance, rtol=0.15)


def test_poisson_draws_are_by_the_law():
    drawn = PoissonLikelihood().sample(np.full((20000, 1, 1, 1), 2.3), series=["a"], key=KEY).ravel()
    found = np.bincount(drawn.astype(int), minlength=8)[:8] / len(drawn)
    np.testing.assert_allclose(found, stats.poisson(2.3).pmf(np.arange(8)), atol=0.012)


def test_censored_values_count_by_their_tail_with_finite_gradients():
    law = CensoredLikelihood(GaussianLikelihood(1, scale=0.5), below=[0.1], above=[9.0])
    theirs = stats.norm(np.array([2.0, 2.0, 2.0, 60.0]), 0.501)
    values = np.array([0.1, 3.0, 12.0, -5.0])
    expected = [theirs.logcdf(0.1)[0], theirs.logpdf(3.0)[1], theirs.logsf(9.0)[2], theirs.logcdf(0.1)[3]]
    loc = jnp.array([[2.0], [2.0], [2.0], [60.0]])  # the last, 120 standard deviations out
    found = law.log_prob(jnp.asarray(values)[:, None], loc)[:, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    slope = jax.grad(lambda m: jnp.sum(law.log_prob(jnp.asarray(values)[:, None], m)))(loc)[:, 0]
    assert np.isfinite(slope).all() and slope[3] < -100
    step = 1e-5
    higher, lower = (law.log_prob(jnp.asarray(values)[:, None], loc + d)[:, 0] for d in (step, -step))
    np.testing.assert_allclose(slope, (higher - lower) / (2 * step), rtol=1e-5)


def test_censored_draws_lie_on_their_limits_as_often_as_values_do():
    law = CensoredLikelihood(LogNormalLikelihood(1, scale=0.5), below=[0.8], above=[None])
    drawn = law.sample(np.ones((8000, 1, 1, 1)), series=["a"], key=KEY)
    assert drawn.min() == 0.8
    np.testing.assert_allclose((drawn == 0.8).mean(), stats.lognorm(0.501).cdf(0.8), atol=0.02)


def test_each_channel_has_its_law():
    laws = [GaussianLikelihood(1, scale=0.5), PoissonLikelihood()]
    law = ChannelLikelihood(laws)
    values, loc = jnp.array([[0.2, 3.0]]), jnp.array([[0.1, 2.0]])
    found = law.log_prob(values, loc)
    np.testing.assert_allclose(found[0], [stats.norm(0.1, 0.501).logpdf(0.2), stats.poisson(2.0).logpmf(3)], rtol=1e-9)
    np.testing.assert_allclose(law.variance(loc)[0], [0.501**2, 2.0], rtol=1e-9)
    drawn = law.sample(np.full((50, 1, 3, 2), 2.0), series=["a"], key=KEY)
    assert (drawn[..., 1] == np.round(drawn[..., 1])).all() and (drawn[..., 0] != np.round(drawn[..., 0])).all()
    # a count beside a concentration that is censored
    both = CensoredLikelihood(law, below=[0.3, None])
    np.testing.assert_allclose(
        both.log_prob(values, loc)[0], [stats.norm(0.1, 0.501).logcdf(0.3), found[0, 1]], rtol=1e-9
    )
    assert np.isfinite(jax.grad(lambda m: jnp.sum(both.log_prob(values, m)))(loc)).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CensoredLikelihood(StudentTLikelihood(1), below=[0.1]), "A StudentTLikelihood can not be censored"),
        (lambda: CensoredLikelihood(GaussianLikelihood(1), below=[2.0], above=[1.0]), "needs limits below under those"),
        (lambda: CombinedLikelihood(1, proportional=-1.0), "CombinedLikelihood needs proportional > 0"),
        (lambda: LogNormalLikelihood(1, scale=0.0), "LogNormalLikelihood needs scale > 0"),
    ],
)
def test_laws_that_can_not_be_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
