"""Pools of forecasts: the mixture's density and draws, and the weights."""

import json

import jax
import numpy as np
import pytest
from scipy import stats

from nde.objectives import AbstractLikelihood, GaussianLikelihood, ScaledLikelihood, StudentTLikelihood
from nde.report import baseline_forecast, NormalForecast, pool_weights, PooledForecast, SampleForecast
from nde.report.baselines import baseline_from_plain, baseline_to_plain, BASELINES

KEY = jax.random.key(0)
SHAPE, IDS = (2, 3, 1), ["one", "two"]


def normal(mean, std):
    return NormalForecast(np.full(SHAPE, float(mean)), np.full(SHAPE, float(std)))


def test_pool_is_the_mixture_of_its_laws():
    laws, weights = {"a": normal(0, 1), "b": normal(3, 0.5)}, {"b": 0.3, "a": 0.7}
    pool = PooledForecast.of(laws, weights, 4000, series=IDS, key=KEY)
    values = np.random.default_rng(0).normal(1, 2, SHAPE)
    by_hand = 0.7 * stats.norm.pdf(values) + 0.3 * stats.norm.pdf(values, 3, 0.5)
    np.testing.assert_allclose(pool.log_density(values), np.log(by_hand), rtol=1e-12)
    assert pool.draws.shape == (4000, *SHAPE)
    # Against the mixture's distribution function: the standard error of a share is 0.008 at most.
    for level, quantile in zip((0.2, 0.5, 0.9), pool.quantiles((0.2, 0.5, 0.9)), strict=True):
        below = 0.7 * stats.norm.cdf(quantile) + 0.3 * stats.norm.cdf(quantile, 3, 0.5)
        np.testing.assert_allclose(below, level, atol=0.03)
    # A part of the draws has each law's share too, though they lie law by law.
    np.testing.assert_allclose((pool.sample(1000, series=IDS, key=KEY) > 2).mean(), 0.31, atol=0.03)


def test_pool_of_one_law_scores_as_that_law():
    law, values = normal(0.5, 2), np.random.default_rng(1).normal(size=SHAPE)
    pool = PooledForecast.of({"a": law}, {"a": 1.0}, 20_000, series=IDS, key=KEY)
    np.testing.assert_allclose(pool.log_density(values), law.log_density(values), rtol=1e-12)
    np.testing.assert_allclose(pool.crps(values), law.crps(values), atol=0.05)


LIKELIHOODS = GaussianLikelihood(2), StudentTLikelihood(2), ScaledLikelihood(StudentTLikelihood(2), unit=[0.1, 30.0])


@pytest.mark.parametrize("law", [*LIKELIHOODS, "normal", "pool"], ids=lambda x: type(x).__name__)
def test_draws_of_a_series_hang_on_its_id_alone(law):
    """Not on its neighbours, nor its place, nor the rows after its own; and no two series or rows share them."""
    loc = np.zeros((3, 4, 2))
    ids = ["a", "b", 7]

    def drawn(chosen, rows):
        part = loc[chosen, :rows]
        series = [ids[i] for i in chosen]
        if isinstance(law, AbstractLikelihood):
            return law.sample(np.repeat(part[None], 5, axis=0), series=series, key=KEY)
        normal = NormalForecast(part, part + 1)
        if law == "normal":
            return normal.sample(5, series=series, key=KEY)
        pool = PooledForecast.of({"a": normal, "b": normal}, {"a": 0.4, "b": 0.6}, 5, series=series, key=KEY)
        return pool.sample(5, series=series, key=KEY)

    whole = drawn([0, 1, 2], 4)
    np.testing.assert_array_equal(drawn([2, 0], 3), whole[:, [2, 0], :3])
    assert np.unique(whole).size == whole.size == 5 * 3 * 4 * 2


def test_ids_are_as_many_as_the_series():
    with pytest.raises(ValueError, match="one id for each of the 2 series, but has 1"):
        normal(0, 1).sample(3, series=["a"], key=KEY)


def test_pool_takes_each_laws_share_of_the_draws():
    draws = np.arange(10.0)[:, None, None, None] + np.zeros(SHAPE)
    laws = {"model": SampleForecast((), draws), "b": normal(100, 1), "c": normal(-100, 1)}
    pool = PooledForecast.of(laws, {"model": 0.5, "b": 0.26, "c": 0.24}, 10, series=IDS, key=KEY)
    own = pool.draws[np.abs(pool.draws[:, 0, 0, 0]) < 50]
    np.testing.assert_array_equal(own[:, 0, 0, 0], [0, 2, 4, 6, 8])
    assert [(pool.draws[:, 0, 0, 0] > 50).sum(), (pool.draws[:, 0, 0, 0] < -50).sum()] == [3, 2]
    with pytest.raises(ValueError, match="needs a weight for each law"):
        PooledForecast.of(laws, {"model": 1.0}, 10, series=IDS, key=KEY)


def mixed_densities(share, series=200, rows=5):
    """Log densities under N(0, 1) and N(4, 1) of values that are of the second with a probability."""
    rng = np.random.default_rng(2)
    values = rng.normal(4 * (rng.random((series, rows)) < share))
    return np.stack([stats.norm.logpdf(values.ravel(), mean) for mean in (0, 4)]), np.repeat(np.arange(series), rows)


def test_weights_find_the_share_of_each_law():
    np.testing.assert_allclose(pool_weights(*mixed_densities(0.8))[1], 0.8, atol=0.04)
    assert pool_weights(*mixed_densities(1.0))[1] > 0.99


def test_few_series_leave_the_weights_near_equal():
    densities, series = mixed_densities(1.0, series=2, rows=50)
    weights = pool_weights(densities, series)
    # Two series against a prior of half a series for each law: (2 + 0.5) / 3, however many values they have.
    np.testing.assert_allclose(weights, [0.5 / 3, 2.5 / 3], atol=0.02)
    np.testing.assert_allclose(pool_weights(densities, series, prior=1e6), 0.5, atol=1e-4)


def test_weights_maximise_the_posterior():
    densities, series = mixed_densities(0.3, series=20)

    def posterior(weight):
        pooled = np.log(np.exp(densities).T @ [weight, 1 - weight])
        return 20 * pooled.mean() + 0.5 * (np.log(weight) + np.log(1 - weight))

    found = pool_weights(densities, series)[0]
    assert posterior(found) > max(posterior(found - 1e-3), posterior(found + 1e-3))


def test_weights_need_values_of_finite_density():
    for densities in (np.zeros((2, 0)), np.array([[np.nan], [0.0]]), np.full((2, 1), -np.inf)):
        with pytest.raises(ValueError, match="finite density"):
            pool_weights(densities, np.zeros(densities.shape[1], int))
    far = np.array([[-1e6, -1e6], [-1e6 - 50, -1e6 - 50]])
    assert pool_weights(far, np.array([0, 1]))[0] > 0.8


@pytest.fixture(scope="module")
def panel():
    rng = np.random.default_rng(3)
    times = np.sort(rng.uniform(0, 10, (8, 7)), axis=1)
    values = rng.normal(size=(8, 1, 2)) + 0.1 * times[..., None] + 0.3 * rng.normal(size=(8, 7, 2))
    return times, values, rng.random(values.shape) < 0.9


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_come_back_from_json_to_the_last_bit(name, panel):
    one = BASELINES[name](*panel)
    other = baseline_from_plain(json.loads(json.dumps(baseline_to_plain(one))))
    assert type(other) is type(one)
    for a, b in zip(one.predict(*panel), other.predict(*panel), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_is_no_baseline_is_refused():
    with pytest.raises(ValueError, match="'Oracle' is no baseline; the baselines are Population"):
        baseline_from_plain({"class": "Oracle"})
    with pytest.raises(ValueError, match="not the parameters of MixedModel"):
        baseline_from_plain({"class": "MixedModel", "slope": [1.0]})


@pytest.mark.parametrize("name", BASELINES)
def test_baseline_forecasts_at_any_times(name, panel, monkeypatch):
    times, values, mask = panel
    context = mask & (times < 5)[..., None]
    baseline = BASELINES[name](*panel)
    mean, std = baseline.predict(times, np.where(context, values, np.nan), context)
    asked = np.concatenate([times, times[:, -1:] + 1], axis=1)
    monkeypatch.setattr("nde.report.forecast.BASELINE_SERIES", 3)  # blocks of 3, 3 and 2 series
    law = baseline_forecast(baseline, times, values, context, asked)
    np.testing.assert_allclose(law.mean[:, :-1], mean, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(law.std[:, :-1], std, rtol=1e-6)
    same = baseline_forecast(baseline, times, values, context, times)
    np.testing.assert_allclose(same.mean, mean, rtol=1e-12)
    assert law.mean.shape == (8, 8, 2) and np.isfinite(law.std).all()


def test_pool_can_beat_each_of_its_laws():
    """Where either law is right for half of the series, their pool scores better than both."""
    rng = np.random.default_rng(4)
    centre = np.repeat([0.0, 6.0], 50)[:, None, None]
    values = centre + rng.normal(size=(100, 4, 1))
    laws = [NormalForecast(np.full(values.shape, m), np.ones(values.shape)) for m in (0.0, 6.0)]
    densities = np.stack([law.log_density(values).ravel() for law in laws])
    weights = pool_weights(densities, np.repeat(np.arange(100), 4))
    laws, weights = (dict(zip("ab", x, strict=True)) for x in (laws, weights))
    pool = PooledForecast.of(laws, weights, 10, series=range(100), key=KEY)
    assert pool.log_density(values).mean() > densities.mean(1).max() + 1
