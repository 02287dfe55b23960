from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from numpy import ndarray
from scipy import stats
from statsmodels.regression.mixed_linear_model import MixedLM

from nde.report.baselines import BASELINES, LastValue, MixedModel, Population
from nde.report.baselines.mixed_likelihood import mixed_loss, observed


def panel_times(rng: np.random.Generator, series: int, rows: int) -> tuple[ndarray, ndarray]:
    """Irregular times, padded with a series' last, and a mask without the padding and a fifth of the rest."""
    steps = rng.exponential(0.5, (series, rows))
    steps[:, 0] = 0.0
    length = rng.integers(rows // 2, rows + 1, series)[:, None]
    real = np.arange(rows) < length
    return np.cumsum(np.where(real, steps, 0.0), axis=1), real & (rng.random((series, rows)) < 0.8)


def covariance(model: MixedModel, c: int, t: ndarray) -> ndarray:
    """Covariance of the values of one series without their noise, entry by entry."""
    (d00, d01), (d10, d11) = model.random[c]
    v, length = model.ou_variance[c], model.ou_length[c]

    def entry(a: float, b: float) -> float:
        return d00 + d01 * b + d10 * a + d11 * a * b + v * np.exp(-abs(a - b) / length)

    return np.array([[entry(a, b) for b in t] for a in t])


def simulate(model: MixedModel, rng: np.random.Generator, series: int, rows: int) -> tuple[ndarray, ...]:
    """Times, values and mask of a panel of the model, with NaN wherever the mask is false."""
    t, m = panel_times(rng, series, rows)
    x = np.empty((series, rows, len(model.noise)))
    for c, (b0, b1) in enumerate(model.fixed):
        for i in range(series):
            smooth = rng.multivariate_normal(b0 + b1 * t[i], covariance(model, c, t[i]), method="eigh")
            x[i, :, c] = smooth + model.noise[c] * rng.normal(size=rows)
    mask = np.repeat(m[..., None], len(model.noise), axis=-1)
    return t, np.where(mask, x, np.nan), mask


def halved(t: ndarray, m: ndarray) -> ndarray:
    """The context: what was observed in the first half of each series."""
    return m & (t <= t[:, -1:] / 2)[..., None]


def density(model: MixedModel, c: int, t: ndarray, x: ndarray, m: ndarray) -> float:
    """Log density of one channel of a panel; arrays `(series, rows)`."""
    total = 0.0
    for ti, xi, mi in zip(t, x, m, strict=True):
        spread = covariance(model, c, ti[mi]) + model.noise[c] ** 2 * np.eye(mi.sum())
        total += stats.multivariate_normal.logpdf(xi[mi], np.polyval(model.fixed[c, ::-1], ti[mi]), spread)
    return total


def assert_maximum(log_likelihood: Callable[[ndarray], float], point: ndarray) -> None:
    """The value at the point is more than that two per cent to either side of it along every axis."""
    top = log_likelihood(point)
    for factor in (1.02, 0.98):
        for k in range(point.size):
            moved = np.where(np.arange(point.size) == k, factor, 1.0) * point
            assert log_likelihood(moved) < top, f"axis {k} times {factor}"


TRUTH = MixedModel(
    fixed=np.array([[0.3, -0.4], [-0.2, 0.1]]),
    random=np.array([[[0.5, -0.1], [-0.1, 0.08]], [[0.3, 0.02], [0.02, 0.02]]]),
    noise=np.array([0.4, 0.3]),
    ou_variance=np.array([0.0, 0.8]),
    ou_length=np.array([1.0, 0.7]),
    log_likelihood=np.zeros(2),
)


@pytest.fixture(scope="module")
def panel():
    return simulate(TRUTH, np.random.default_rng(0), 250, 10)


@pytest.fixture(scope="module")
def fitted(panel):
    return {name: fit(*panel) for name, fit in BASELINES.items()}


@pytest.fixture(scope="module")
def others():
    """Series that no baseline was fitted to."""
    return simulate(TRUTH, np.random.default_rng(3), 500, 10)


# --- mixed model ---


def test_mixed_model_is_that_of_statsmodels(panel, fitted):
    t, x, m = panel
    series, at = np.nonzero(m[..., 0])
    lines = np.stack([np.ones(series.size), t[series, at]], -1)
    peer = MixedLM(x[series, at, 0], lines, groups=series, exog_re=lines).fit(reml=False, gtol=1e-8)
    model = fitted["mixed model"]
    np.testing.assert_allclose(model.log_likelihood[0], peer.llf, atol=1e-5)
    np.testing.assert_allclose(model.fixed[0], peer.fe_params, atol=1e-4)
    np.testing.assert_allclose(model.random[0], peer.cov_re, atol=1e-4)
    np.testing.assert_allclose(model.noise[0] ** 2, peer.scale, rtol=1e-4)


@pytest.mark.parametrize("name", ["mixed model", "mixed model + OU"])
def test_log_likelihood_is_the_gaussian_density(panel, fitted, name):
    (t, x, m), model = panel, fitted[name]
    for c in range(2):
        expected = density(model, c, t, x[..., c], m[..., c])
        np.testing.assert_allclose(model.log_likelihood[c], expected, rtol=1e-9)


@pytest.mark.parametrize("size", [4, 6])
def test_gradient_is_that_of_finite_differences(panel, size):
    t, x, m = panel[0][:20], panel[1][:20, :, 1], panel[2][:20, :, 1]
    loss = partial(mixed_loss, observed(t, x, m))
    theta = np.array([-0.5, 0.4, -1.0, -0.8, -0.3, 0.2])[:size]
    differences = [(loss(theta + step)[0] - loss(theta - step)[0]) / 2e-5 for step in 1e-5 * np.eye(size)]
    np.testing.assert_allclose(loss(theta)[1], differences, rtol=1e-6, atol=1e-6)


def test_mixed_model_is_at_the_maximum(panel):
    t, x, m = panel[0][:100], panel[1][:100, :, 1:], panel[2][:100, :, 1:]
    model = MixedModel.fit(t, x, m, ou=True)
    root = np.linalg.cholesky(model.random[0])

    def log_likelihood(point: ndarray) -> float:
        factor = np.array([[point[2], 0.0], [point[3], point[4]]])
        random = (factor @ factor.T)[None]
        moved = MixedModel(point[None, :2], random, *point[5:, None], log_likelihood=np.zeros(1))
        return density(moved, 0, t, x[..., 0], m[..., 0])

    scales = [model.noise[0], model.ou_variance[0], model.ou_length[0]]
    assert_maximum(log_likelihood, np.array([*model.fixed[0], *root[np.tril_indices(2)], *scales]))


def test_process_raises_the_likelihood_only_where_there_is_one(fitted):
    gain = fitted["mixed model + OU"].log_likelihood - fitted["mixed model"].log_likelihood
    assert -1e-6 < gain[0] < 4.0  # twice it is near chi squared with two degrees of freedom
    assert gain[1] > 50.0


def test_process_is_recovered(fitted):
    # Standard errors, from twelve repetitions: 0.09, 0.14 and 0.03.
    model = fitted["mixed model + OU"]
    assert abs(model.ou_variance[1] - 0.8) < 0.2
    assert abs(model.ou_length[1] - 0.7) < 0.3
    assert abs(model.noise[1] - 0.3) < 0.07


def test_prediction_is_gaussian_conditioning(panel):
    t, x, m = (array[:5] for array in panel)
    context = halved(t, m)
    mean, std = TRUTH.predict(t, x, context)
    for i, row, c in np.ndindex(x.shape):
        known, (b0, b1) = context[i, :, c], TRUTH.fixed[c]
        joint = covariance(TRUTH, c, np.append(t[i, known], t[i, row]))
        joint += TRUTH.noise[c] ** 2 * np.eye(len(joint))
        gain = np.linalg.lstsq(joint[:-1, :-1], joint[:-1, -1])[0]
        expected = b0 + b1 * t[i, row] + gain @ (x[i, known, c] - b0 - b1 * t[i, known])
        np.testing.assert_allclose(mean[i, row, c], expected, atol=1e-11)
        np.testing.assert_allclose(std[i, row, c] ** 2, joint[-1, -1] - gain @ joint[:-1, -1], atol=1e-11)


def test_prediction_keeps_its_digits_in_calendar_years(panel):
    """The same law of the same values, its lines written about the year 0."""
    t, x, m = (array[:5] for array in panel)
    context, years = halved(t, m), np.array([[1.0, -2000.0], [0.0, 1.0]])
    moved = replace(TRUTH, fixed=TRUTH.fixed @ years.T, random=years @ TRUTH.random @ years.T)
    for one, other in zip(moved.predict(t + 2000.0, x, context), TRUTH.predict(t, x, context), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-8)


def test_mixed_model_without_context_is_the_marginal_law(panel):
    t, x, m = panel
    mean, std = TRUTH.predict(t, x, np.zeros_like(m))
    lines = np.stack([np.ones_like(t), t], -1)
    variance = np.einsum("sri,cij,srj->src", lines, TRUTH.random, lines)
    np.testing.assert_allclose(mean, TRUTH.fixed[:, 0] + TRUTH.fixed[:, 1] * t[..., None], atol=1e-13)
    np.testing.assert_allclose(std**2, variance + TRUTH.ou_variance + TRUTH.noise**2, rtol=1e-13)


def test_mixed_model_follows_the_units_of_time_and_values(panel, fitted):
    t, x, m = (array[:40] for array in panel)
    model, other = MixedModel.fit(t, x, m), MixedModel.fit(365.25 * t, 10.0 * x + 3.0, m)
    np.testing.assert_allclose(other.fixed, model.fixed * [10.0, 10.0 / 365.25] + [3.0, 0.0], rtol=1e-5)
    np.testing.assert_allclose(other.noise, 10.0 * model.noise, rtol=1e-5)


# --- last value and population ---


def test_last_value_recovers_a_random_walk():
    rng = np.random.default_rng(1)
    t, m = panel_times(rng, 300, 10)
    walk = np.cumsum(rng.normal(size=t.shape) * np.sqrt(0.6 * np.diff(t, prepend=0.0, axis=1)), axis=1)
    x = 0.5 * t + walk + 0.3 * rng.normal(size=t.shape)
    model = LastValue.fit(t, x[..., None], m[..., None])
    # Standard errors, from twelve repetitions: 0.02, 0.02 and 0.05.
    np.testing.assert_allclose(model.drift, 0.5, atol=0.06)
    np.testing.assert_allclose(model.jump**2, 2 * 0.3**2, atol=0.05)
    np.testing.assert_allclose(model.diffusion**2, 0.6, atol=0.12)


def test_last_value_is_at_the_maximum_over_pairs(panel, fitted):
    t, x, m = panel
    i, j = np.triu_indices(t.shape[1], 1)
    both = m[:, i, 0] & m[:, j, 0]
    h, dx = (t[:, j] - t[:, i])[both], (x[:, j, 0] - x[:, i, 0])[both]
    model = fitted["last value"]

    def log_likelihood(point: ndarray) -> float:
        return stats.norm.logpdf(dx, point[0] * h, np.hypot(point[1], point[2] * np.sqrt(h))).sum()

    assert_maximum(log_likelihood, np.array([model.drift[0], model.jump[0], model.diffusion[0]]))


def test_last_value_of_a_long_table_is_fitted_on_a_part_of_its_pairs(panel, fitted, monkeypatch):
    monkeypatch.setattr("nde.report.baselines.last_value.PAIRS", 3000)  # of 4011
    whole, part = fitted["last value"], LastValue.fit(*panel)
    spreads = [np.hypot(one.jump, one.diffusion * np.sqrt(2.0)) for one in (whole, part)]
    np.testing.assert_allclose(spreads[1], spreads[0], rtol=0.06)
    assert (part.jump != whole.jump).all()
    again = LastValue.fit(*panel)
    np.testing.assert_array_equal(again.jump, part.jump)


def test_last_value_continues_from_the_last_context_value():
    t, x = np.array([[0.0, 1.0, 2.0, 4.0]]), np.array([[np.nan, 1.0, 5.0, np.nan]])[..., None]
    population = Population.fit(np.arange(4.0)[None], np.ones((1, 4, 1)), np.ones((1, 4, 1), bool))
    model = LastValue(np.array([0.5]), np.array([0.3]), np.array([0.4]), population)
    mean, std = model.predict(t, x, np.array([[False, True, False, False]])[..., None])
    elsewhere = population.predict(t, x, np.zeros((1, 4, 1), bool))
    np.testing.assert_allclose(mean[0, :, 0], [elsewhere[0][0, 0, 0], 1.0, 1.5, 2.5], rtol=1e-14)
    variance = [elsewhere[1][0, 0, 0] ** 2, 0.09, 0.09 + 0.16, 0.09 + 0.48]
    np.testing.assert_allclose(std[0, :, 0] ** 2, variance, rtol=1e-14)


def test_last_value_without_context_is_the_population(panel, fitted):
    t, x, m = panel
    context = halved(t, m)
    context[7, :, 1] = False
    for one, other in zip(
        fitted["last value"].predict(t, x, context), fitted["population"].predict(t, x, context), strict=True
    ):
        np.testing.assert_array_equal(one[7, :, 1], other[7, :, 1])
        assert np.all(one[7, m[7, :, 0], 0] != other[7, m[7, :, 0], 0])


def test_population_recovers_mean_and_spread():
    rng = np.random.default_rng(2)
    t = np.sort(rng.uniform(0.0, 3.0, (400, 8)), axis=1)
    x = np.sin(2 * t) + np.exp(0.4 * t - 1.0) * rng.normal(size=t.shape)
    mask = np.ones((*t.shape, 1), bool)
    at = np.linspace(0.1, 2.9, 50)[None]
    model = Population.fit(t, x[..., None], mask)
    mean, std = model.predict(at, np.zeros((1, 50, 1)), np.zeros((1, 50, 1), bool))
    np.testing.assert_allclose(mean[0, :, 0], np.sin(2 * at[0]), atol=0.12)
    np.testing.assert_allclose(std[0, :, 0], np.exp(0.4 * at[0] - 1.0), rtol=0.12)


def test_population_is_at_the_maximum(panel, fitted):
    t, x, m = panel
    curve = fitted["population"].curves[0]

    def log_likelihood(point: ndarray) -> float:
        moved = Population((replace(curve, weights=point.reshape(-1, 2)),))
        mean, std = moved.predict(t, x[..., :1], m[..., :1])
        return stats.norm.logpdf(x[..., :1], mean, std)[m[..., :1]].sum()

    assert_maximum(log_likelihood, curve.weights.ravel())


def test_population_is_constant_beyond_the_training_times(panel, fitted):
    times = np.array([[panel[0].max(), 100.0]])
    for law in fitted["population"].predict(times, np.zeros((1, 2, 2)), np.zeros((1, 2, 2), bool)):
        np.testing.assert_array_equal(law[0, 0], law[0, 1])


# --- all ---


@pytest.mark.parametrize("name", BASELINES)
def test_nothing_outside_the_mask_or_the_context_matters(panel, fitted, name):
    t, x, m = panel
    context = halved(t, m)
    laws = fitted[name].predict(t, x, context)
    others = fitted[name].predict(t, np.where(context, x, 1e6), context)
    for law, again in zip(laws, others, strict=True):
        np.testing.assert_array_equal(law, again)
        assert law.shape == x.shape
        assert np.isfinite(law).all()


@pytest.mark.parametrize("name", BASELINES)
def test_fit_reads_the_mask_only(panel, name):
    t, x, m = panel[0][:60], panel[1][:60, :, 1:], panel[2][:60, :, 1:]
    one, other = BASELINES[name](t, x, m), BASELINES[name](t, np.where(m, x, 1e6), m)
    for law, again in zip(one.predict(t, x, halved(t, m)), other.predict(t, x, halved(t, m)), strict=True):
        np.testing.assert_array_equal(law, again)


@pytest.mark.parametrize("name", BASELINES)
def test_ninety_per_cent_intervals_hold_ninety_per_cent(fitted, others, name):
    t, x, m = others
    context = halved(t, m)
    target = m & ~context
    mean, std = fitted[name].predict(t, x, context)
    inside = np.abs(x - mean)[target] < stats.norm.ppf(0.95) * std[target]
    assert abs(inside.mean() - 0.9) < 0.02  # standard error 0.009


def test_more_of_the_model_forecasts_better(fitted, others):
    t, x, m = others
    context = halved(t, m)
    target = m & ~context & np.array([False, True])
    laws = {name: model.predict(t, x, context) for name, model in fitted.items()}
    score = {name: -stats.norm.logpdf(x, *law)[target].mean() for name, law in laws.items()}
    exact = -stats.norm.logpdf(x, *TRUTH.predict(t, x, context))[target].mean()
    assert abs(score["mixed model + OU"] - exact) < 0.01
    assert score["mixed model + OU"] < score["mixed model"] - 0.02
    assert score["mixed model"] < score["population"] - 0.03


@pytest.mark.parametrize("name", BASELINES)
def test_channel_that_never_changes_has_a_law(panel, name):
    t, m = panel[0][:50], panel[2][:50, :, :1]
    x = np.full(m.shape, 2.0)
    mean, std = BASELINES[name](t, x, m).predict(t, x, halved(t, m))
    np.testing.assert_allclose(mean, 2.0, atol=1e-6)
    assert (std > 0).all()
    assert (std < 0.01).all()


@pytest.mark.parametrize("name", BASELINES)
def test_channel_without_values_is_refused(panel, name):
    t, x, m = panel
    with pytest.raises(ValueError, match="channel 1 of 0 to 1 has no observed value"):
        BASELINES[name](t, x, m & np.array([True, False]))


def test_channel_without_pairs_is_refused(panel):
    t, x, m = panel
    first = np.cumsum(m, axis=1) == 1
    with pytest.raises(ValueError, match="channel 1: no series has two observed values"):
        LastValue.fit(t, x, m & (first | np.array([True, False])))


def test_bad_panels_are_refused(panel, fitted):
    t, x, m = panel
    with pytest.raises(ValueError, match=r"got times \(250, 9\), values \(250, 10, 2\), mask \(250, 10, 2\)"):
        Population.fit(t[:, 1:], x, m)
    with pytest.raises(ValueError, match="a mask is boolean, got float64"):
        Population.fit(t, x, m.astype(float))
    with pytest.raises(ValueError, match="times must not decrease"):
        Population.fit(t[:, ::-1], x, m)
    with pytest.raises(ValueError, match="true at a value that is not finite"):
        Population.fit(t, x, np.ones_like(m))
    with pytest.raises(ValueError, match="fitted to 2 channels, got values with 1"):
        fitted["mixed model"].predict(t, x[..., :1], m[..., :1])
