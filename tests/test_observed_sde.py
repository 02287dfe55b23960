"""SDEs seen with noise: the extended Kalman filter against joint normal laws, its gradients, what it refuses."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg, stats

import nde

DRIFT = np.array([[-0.4, 1.1], [-0.9, -0.2]])
TIMES = np.array([0.0, 0.3, 0.3, 1.1, 1.9, 2.0, 3.5])
VALUES = np.random.default_rng(0).normal(size=(7, 2))
SEEN = np.array([[1, 1], [1, 0], [0, 1], [0, 0], [1, 1], [1, 1], [1, 0]], bool)
START, PUSH, NOISE = np.array([0.5, -1.0]), np.array([0.7, 0.3]), np.array([0.2, 0.4])
EXACT = {"controller": nde.PIDController(rtol=1e-9, atol=1e-11)}


def linear(field=None, **changes):
    """A linear equation, or another, whose channels see the states in the other order."""
    given = {"start": START, "push": PUSH, "noise": NOISE, "observed": [1, 0], "start_spread": 0.6, **EXACT, **changes}
    drift = jnp.asarray(DRIFT)
    return nde.ObservedSDE(field or (lambda t, y, args: drift @ y), **given)


def joint():
    """Means and covariance of all values of the linear equation, by matrix exponentials, rows and channels in a row."""
    means = np.stack([linalg.expm(DRIFT * t) @ START for t in TIMES])
    states = np.zeros((7, 7, 2, 2))
    for i, t in enumerate(TIMES):
        # Van Loan 1978: the variance of what the noise has added by t
        block = linalg.expm(np.block([[-DRIFT, np.diag(PUSH**2)], [np.zeros((2, 2)), DRIFT.T]]) * t)
        flow = block[2:, 2:].T
        spread = flow @ (0.36 * np.eye(2)) @ flow.T + flow @ block[:2, 2:]
        for j in range(i, 7):
            later = linalg.expm(DRIFT * (TIMES[j] - t)) @ spread
            states[j, i], states[i, j] = later, later.T
    sees = np.eye(2)[[1, 0]]
    covariance = np.einsum("ab,ijbc,dc->iajd", sees, states, sees).reshape(14, 14)
    return (means @ sees.T).ravel(), covariance + np.diag(np.tile(NOISE**2, 7))


def test_linear_equation_has_the_joint_normal_law_of_what_is_seen_and_forecasts_the_rest():
    mean, covariance = joint()
    seen, values = SEEN.ravel(), np.where(SEEN, VALUES, np.nan).ravel()
    expected = stats.multivariate_normal(mean[seen], covariance[np.ix_(seen, seen)]).logpdf(values[seen])
    found = eqx.filter_jit(linear().filter)(TIMES, np.where(SEEN, VALUES, np.nan), SEEN)
    np.testing.assert_allclose(found.log_prob.sum(), expected, rtol=1e-6)
    # the fifth row given the rows before it
    before, place = np.flatnonzero(seen & (np.arange(14) < 8)), np.array([8, 9])
    gain = covariance[np.ix_(place, before)] @ np.linalg.inv(covariance[np.ix_(before, before)])
    np.testing.assert_allclose(found.locations[4], mean[place] + gain @ (values - mean)[before], rtol=1e-6)
    conditioned = covariance[np.ix_(place, place)] - gain @ covariance[np.ix_(before, place)]
    np.testing.assert_allclose(found.covariances[4], conditioned, rtol=1e-6)
    np.testing.assert_allclose(linear()(TIMES, VALUES, SEEN), expected, rtol=1e-6)


def test_gradients_are_those_of_finite_differences():
    field = nde.fields.LogField(nde.fields.lotka_volterra(1.0, 0.5, 0.4, 0.8))
    coarse = {"solver": nde.Heun(), "controller": nde.ConstantStepSize(), "dt0": 0.2}  # exact on its grid
    model = linear(field, start_spread=0.3, **coarse)
    leaves, structure = jax.tree.flatten(eqx.filter(model, eqx.is_inexact_array))
    sizes = np.cumsum([x.size for x in leaves])[:-1]

    def value(vector):
        parts = [part.reshape(x.shape) for part, x in zip(jnp.split(vector, sizes), leaves, strict=True)]
        one = eqx.combine(jax.tree.unflatten(structure, parts), model)
        return one(TIMES, VALUES, SEEN)

    at = jnp.concatenate([x.ravel() for x in leaves])
    assert len(at) == 10  # four rates, two pushes, two noises, two starts
    value, step = jax.jit(value), 1e-5
    differences = [(value(at + step * e) - value(at - step * e)) / (2 * step) for e in jnp.eye(10)]
    np.testing.assert_allclose(jax.jit(jax.grad(value))(at), differences, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: linear(push=[0.1]), r"a push for each state .* the shapes \(2,\) of start, \(1,\) of push"),
        (lambda: linear(observed=[0]), r"a noise for each channel"),
        (lambda: linear(observed=[0, 2]), "observe states 0 to 1"),
        (lambda: linear(start_spread=0.0), "start_spread > 0"),
        (lambda: linear(push=[0.1, 0.0]), "'push' is positive"),
        (lambda: linear().filter(TIMES, VALUES[:, :1], SEEN), r"values and seen \(rows, 2\), but got the shapes"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
