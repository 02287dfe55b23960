"""Regression on signatures: targets that are words are found, missing values leave no trace, bad input is refused."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nde.config import MODELS, SeriesFacts, SolverConfig
from nde.models import fit_signature_regression, SignatureRegression
from nde.paths import signature

SERIES, ROWS = 60, 9


@pytest.fixture(scope="module")
def walks():
    generator = np.random.default_rng(0)
    ts = np.cumsum(generator.uniform(0.5, 1.5, (SERIES, ROWS)), axis=1)
    return ts, np.cumsum(generator.standard_normal((SERIES, ROWS, 2)), axis=1)


def test_a_target_that_is_an_area_is_found_at_depth_two(walks):
    ts, values = walks
    area = jax.vmap(lambda x: signature(x, 2)[1])(values)
    area = np.asarray(area[:, 0, 1] - area[:, 1, 0])
    fit = fit_signature_regression(ts[:40], values[:40], None, np.stack([area, 3 - area], axis=1)[:40], depth=3)
    assert fit.depth == 2
    assert fit.errors[0].min() > 0.3 > 1e-6 > fit.errors[1].min()
    found = jax.vmap(fit.model)(ts[40:], values[40:])
    np.testing.assert_allclose(found, np.stack([area, 3 - area], axis=1)[40:], atol=1e-3)
    # and is that of an ordinary ridge regression with the same penalty
    features = np.asarray(jax.vmap(fit.model.features)(ts[:40], values[:40]))
    spread = features.std(axis=0)
    x = (features - features.mean(axis=0))[:, spread > 1e-9] / spread[spread > 1e-9]
    unit = np.sum(x**2) / len(x)
    weights = np.linalg.solve(x.T @ x + fit.penalty * unit * np.eye(x.shape[1]), x.T @ (area[:40] - area[:40].mean()))
    fitted = jax.vmap(fit.model)(ts[:40], values[:40])[:, 0]
    np.testing.assert_allclose(fitted, x @ weights + area[:40].mean(), atol=1e-5)


def test_padding_and_what_the_mask_hides_change_nothing(walks):
    ts, values = walks[0][0], walks[1][0]
    seen = np.random.default_rng(1).uniform(size=values.shape) > 0.4
    model = SignatureRegression(2, 3, 3, time_scale=9.0, count_scale=5.0)
    plain, rows = model.features(ts, values, seen), ((0, 3), (0, 0))
    for hidden in (np.nan, 5.0):
        padded = np.pad(np.where(seen, values, hidden), rows, constant_values=hidden)
        found = model.features(np.pad(ts, (0, 3), mode="edge"), padded, np.pad(seen, rows))
        np.testing.assert_allclose(found, plain, rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(model.features(ts + 7, np.where(seen, values, np.nan)), plain, rtol=1e-9, atol=1e-12)


def test_a_config_builds_a_classifier_with_a_gradient(walks):
    facts = SeriesFacts(channels=2, horizon=12.0, until=12.0, observations=9.0, classes=4)
    model = MODELS["signature"](depth=2, counts=False).build(facts, SolverConfig(), key=jax.random.key(0))
    data = jnp.asarray(walks[0][0], jnp.float32), jnp.asarray(walks[1][0], jnp.float32)
    np.testing.assert_array_equal(model(*data), np.zeros(4))
    gradient = eqx.filter_grad(lambda model: jax.nn.log_softmax(model(*data))[1])(model)
    np.testing.assert_allclose(gradient.weights[1], 0.75 * model.features(*data), rtol=1e-6)


def test_bad_input_is_refused(walks):
    ts, values = walks
    with pytest.raises(ValueError, match=r"got ts of shape \(60, 9\) and targets of shape \(50,\)|\(50, 1\)"):
        fit_signature_regression(ts, values, None, np.zeros(50))
    with pytest.raises(ValueError, match="finite targets, but that of series 7 is not"):
        fit_signature_regression(ts, values, None, np.where(np.arange(60) == 7, np.nan, 0.0))
    with pytest.raises(ValueError, match="got 9 of 4"):
        fit_signature_regression(ts[:4], values[:4], None, np.zeros(4), folds=9)
    with pytest.raises(ValueError, match="depth >= 1, but got 0"):
        SignatureRegression(2, 1, 0)
    with pytest.raises(ValueError, match="time_scale=0.0"):
        SignatureRegression(2, 1, 1, time_scale=0.0)
    with pytest.raises(ValueError, match=r"values and mask of shape \(rows, 3\)"):
        SignatureRegression(3, 1, 1)(ts[0], values[0])
