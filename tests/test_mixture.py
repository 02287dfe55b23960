"""Mixtures of Gaussians: densities, exact predictions under schedules, and interpolants between two of them."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy import stats

import nde
from nde.diffusion import GaussianMixture, MixtureInterpolant, PREDICTIONS

KEY = jax.random.key(0)
SCHEDULES = {
    "vp": (nde.diffusion.VariancePreserving(), 0.3),
    "sub-vp": (nde.diffusion.SubVariancePreserving(), 0.4),
    "ve": (nde.diffusion.VarianceExploding(), 0.6),
    "cosine": (nde.diffusion.CosineSchedule(), 0.5),
    "edm": (nde.diffusion.EDMSchedule(), 1.5),
    "linear": (nde.diffusion.LinearFlow(), 0.7),
    "mean-reverting": (nde.diffusion.MeanReverting(nde.diffusion.VariancePreserving(), jnp.full(1, 0.8), 0.5), 0.3),
}
LINE = GaussianMixture([1.0, 3.0], [[-1.0], [2.0]], std=[0.3, 0.7])
COVARIANCES = np.array([[[0.5, 0.2], [0.2, 0.3]], [[0.04, -0.01], [-0.01, 0.09]], [[1.0, 0.0], [0.0, 1.0]]])
PLANE = GaussianMixture([0.2, 0.5, 0.3], [[-2.0, 0.0], [1.0, 1.0], [1.0, -2.0]], COVARIANCES)


def naive_log_prob(mixture, points):
    laws = zip(mixture.weights, mixture.means, mixture.covariances, strict=True)
    return np.log(sum(w * stats.multivariate_normal(m, c).pdf(points) for w, m, c in laws))


@pytest.mark.parametrize("mixture", [LINE, PLANE, GaussianMixture(None, [[0.0, 1.0]], std=[[0.5, 2.0]])])
def test_log_density_is_the_formula_and_samples_have_the_moments(mixture):
    points, components = mixture.sample_with_components(KEY, 20_000)
    np.testing.assert_allclose(jax.vmap(mixture.log_prob)(points[:50]), naive_log_prob(mixture, points[:50]), rtol=1e-9)
    error = np.sqrt(np.diag(mixture.covariance) / len(points))
    assert (np.abs(points.mean(0) - mixture.mean) < 4 * error).all()
    np.testing.assert_allclose(np.atleast_2d(np.cov(points.T)), mixture.covariance, rtol=0.05, atol=0.05)
    np.testing.assert_allclose(np.bincount(components) / len(points), mixture.weights, atol=0.015)
    np.testing.assert_array_equal(points, mixture.sample(KEY, 20_000))


def test_one_covariance_for_all_and_the_standard_deviation_of_it_are_one_law():
    means, x = [[0.0, 1.0], [2.0, 0.0]], jnp.array([0.3, 0.4])
    by_std = GaussianMixture(None, means, std=0.5)
    by_covariance = GaussianMixture(None, means, 0.25 * jnp.eye(2))
    schedule = nde.diffusion.VariancePreserving()
    np.testing.assert_allclose(by_std.log_prob(x), by_covariance.log_prob(x), rtol=1e-12)
    found = [law.prediction(schedule, "velocity")(0.3, x, None) for law in (by_std, by_covariance)]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-12)
    np.testing.assert_allclose(by_std.covariances, by_covariance.covariances)


@pytest.mark.parametrize("name", SCHEDULES)
def test_predictions_are_posterior_means_by_quadrature(name):
    schedule, t = SCHEDULES[name]
    x0 = np.linspace(-8, 8, 4001)
    centre = 0.0 if schedule.centre is None else float(schedule.centre[0])
    alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
    rates = [float(rate) for rate in schedule.rates(t)]
    prior = np.exp(naive_log_prob(LINE, x0))
    for x in (-2.0, 0.4, 3.0):
        noise = (x - centre - alpha * (x0 - centre)) / sigma
        joint = prior * stats.norm.pdf(noise) / sigma
        mass, point = joint.sum(), jnp.array([x])
        data, eps = joint @ x0 / mass, joint @ noise / mass
        expected = {"data": data, "noise": eps, "score": -eps / sigma}
        expected["velocity"] = rates[0] * (data - centre) + rates[1] * eps
        marginal = LINE.marginal(schedule, t)
        np.testing.assert_allclose(marginal.log_prob(point), np.log(mass * (x0[1] - x0[0])), rtol=1e-9)
        for predicts in PREDICTIONS:
            found = LINE.prediction(schedule, predicts)(t, point, None)
            np.testing.assert_allclose(found, [expected[predicts]], rtol=1e-8, err_msg=predicts)
        np.testing.assert_allclose(jax.grad(marginal.log_prob)(point), [expected["score"]], rtol=1e-8)


@pytest.mark.parametrize("predicts", PREDICTIONS)
def test_predictions_with_full_covariances_agree_with_the_score_by_differentiation(predicts):
    schedule, t, x = nde.diffusion.VariancePreserving(), 0.2, jnp.array([0.2, -0.7])
    score = jax.grad(PLANE.marginal(schedule, t).log_prob)(x)
    expected = nde.diffusion.convert(score, "score", predicts, schedule, t, x)
    np.testing.assert_allclose(PLANE.prediction(schedule, predicts)(t, x, None), expected, rtol=1e-10)


def test_guidance_extrapolates_from_the_whole_to_the_class():
    schedule, t, x = nde.diffusion.VariancePreserving(), 0.4, jnp.array([0.2, -0.7])
    of_class = PLANE.given([0, 2])
    np.testing.assert_allclose(of_class.weights, [0.4, 0.0, 0.6])
    np.testing.assert_array_equal(PLANE.given(jnp.array([True, False, True])).weights, of_class.weights)
    for predicts in PREDICTIONS:
        u, c = (law.prediction(schedule, predicts)(t, x, None) for law in (PLANE, of_class))
        guided = PLANE.guided(schedule, predicts, [0, 2], 8.0)(t, x, None)
        np.testing.assert_allclose(guided, u + 8 * (c - u), rtol=1e-12)
        one = PLANE.guided(schedule, predicts, [0, 2], 1)(t, x, None)
        np.testing.assert_allclose(one, c, rtol=1e-12)


def test_responsibilities_are_bayes_rule():
    x = jnp.array([0.5, 0.1])
    parts = zip(PLANE.weights, PLANE.means, COVARIANCES, strict=True)
    each = [w * stats.multivariate_normal(m, c).pdf(x) for w, m, c in parts]
    np.testing.assert_allclose(PLANE.responsibilities(x), np.array(each) / np.sum(each), rtol=1e-10)


@pytest.mark.parametrize("name", ["vp", "ve", "mean-reverting"])
def test_flow_of_one_gaussian_is_the_solution_of_the_ode(name):
    schedule, _ = SCHEDULES[name]
    if schedule.centre is not None:
        schedule = nde.diffusion.MeanReverting(nde.diffusion.VariancePreserving(), jnp.array([0.5, -1.0]), 0.5)
    mixture = GaussianMixture(None, [[1.0, -2.0]], COVARIANCES[0])
    first, last = schedule.ends
    x = 0.7 * schedule.sigma(last) * jnp.ones(2)
    term = diffrax.ODETerm(mixture.prediction(schedule, "velocity"))
    control = diffrax.PIDController(rtol=1e-11, atol=1e-11)
    solved = nde.diffeqsolve(term, nde.Tsit5(), last, first, None, x, stepsize_controller=control).ys[0]
    np.testing.assert_allclose(mixture.flow_map(schedule, last, first, x), solved, rtol=1e-8)


@pytest.mark.parametrize("predicts", PREDICTIONS)
def test_single_precision_is_right_close_to_the_data_and_far_from_all_means(predicts):
    """Close to the data the noise is a small difference of large numbers; far away every density underflows."""
    cases = [
        (nde.diffusion.EDMSchedule(), 1e-6, [1.0, 1.0]),
        (nde.diffusion.VarianceExploding(), 0.0, [-1.9, 0.1]),
        (nde.diffusion.VariancePreserving(), 1e-5, [3e4, -2e4]),
        (nde.diffusion.VariancePreserving(), 1.0, [-1e6, 3e5]),
        (nde.diffusion.LinearFlow(), 0.999, [0.3, 0.4]),
    ]
    single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), PLANE)
    for schedule, t, x in cases:
        point = jnp.array(x, jnp.float32)
        found = single.prediction(schedule, predicts)(jnp.float32(t), point, None)
        exact = PLANE.prediction(schedule, predicts)(float(jnp.float32(t)), point.astype(float), None)
        assert found.dtype == jnp.float32
        # A velocity is a small difference where noise and data are equally wide, by the schedule's own rounding.
        np.testing.assert_allclose(
            found, exact, rtol=1e-4, atol=1e-5 * np.abs(exact).max() + 1e-6 * np.abs(point).max()
        )
        assert np.isfinite(single.marginal(schedule, jnp.float32(t)).log_prob(point))


def test_a_prediction_has_the_precision_of_its_state():
    x = jnp.array([1.0, 2.0], jnp.float32)
    assert PLANE.prediction(nde.diffusion.LinearFlow(), "data")(0.5, x, None).dtype == jnp.float32
    assert PLANE.prediction(nde.diffusion.LinearFlow(), "data")(0.5, np.array([1, 2]), None).dtype == jnp.float64


def test_gradients_are_those_of_finite_differences():
    def of_all(t, x, means, std, beta1, scale):
        mixture = GaussianMixture([1.0, 2.0], means, std=std)
        schedule = nde.diffusion.VariancePreserving(0.1, beta1)
        guided = mixture.guided(schedule, "velocity", [1], scale)(t, x, None)
        return jnp.sum(guided**2) + mixture.marginal(schedule, t).log_prob(x)

    point = (0.3, jnp.array([0.2, 0.5]), jnp.array([[-1.0, 0.0], [1.0, 0.5]]), jnp.array([0.3, 0.5]), 20.0, 2.0)
    check_grads(jax.jit(of_all), point, order=1, modes=["rev"], rtol=1e-5)

    @jax.jit
    def of_covariances(covariances):
        mixture = GaussianMixture(None, jnp.zeros((3, 2)), covariances + jnp.swapaxes(covariances, -1, -2))
        return mixture.log_prob(jnp.array([0.5, 0.1]))

    check_grads(of_covariances, (COVARIANCES + 0.1 * np.diag([1.0, 2.0]),), order=1, modes=["rev"], rtol=1e-5)


@pytest.mark.parametrize(
    ("schedule", "first"),
    [
        (nde.diffusion.SubVariancePreserving(), 1e-5),
        (nde.diffusion.VarianceExploding(1e-3, 50.0), 0.0),
    ],
)
def test_likelihood_by_the_probability_flow_is_the_mixtures_own(schedule, first):
    """log p(x) = log p_T(x_T) + the integral of the divergence on the way there, from where the noise is negligible."""
    last = schedule.ends[1]

    def divergence(field, t, y, args):
        return field(t, y, args), jnp.trace(jax.jacfwd(lambda y: field(t, y, args))(y))

    pair = nde.terms.WithIntegrals(diffrax.ODETerm(PLANE.prediction(schedule, "velocity")), joint=divergence)
    control = pair.controller(diffrax.PIDController(rtol=1e-6, atol=1e-6))

    @jax.jit
    @jax.vmap
    def log_probs(x):
        solution = nde.diffeqsolve(
            pair.terms, diffrax.Bosh3(), first, last, None, pair.state(x), stepsize_controller=control
        )
        z, (change,) = jax.tree.map(lambda leaf: leaf[0], solution.ys)
        return PLANE.marginal(schedule, last).log_prob(z) + change

    points = PLANE.sample(KEY, 20)
    np.testing.assert_allclose(log_probs(points), jax.vmap(PLANE.log_prob)(points), atol=1e-3)


# --- interpolants ---

CHORD = (lambda t: 1 - t, lambda t: t**2, lambda t: jnp.sqrt(2 * t * (1 - t)))


def test_interpolant_is_the_posterior_mean_by_quadrature():
    other = GaussianMixture([2.0, 1.0], [[-2.0], [1.0]], std=[0.4, 0.5])
    between, t = MixtureInterpolant(LINE, other, *CHORD), 0.4
    values, rates = jax.jvp(lambda t: jnp.stack([f(t) for f in CHORD]), (t,), (1.0,))
    (alpha, beta, gamma), rates = np.array(values), np.array(rates)
    axis = np.linspace(-6, 6, 801)
    x0, x1 = axis[:, None], axis[None]
    prior = np.exp(naive_log_prob(LINE, axis))[:, None] * np.exp(naive_log_prob(other, axis))
    for x in (-1.0, 0.3, 2.0):
        z = (x - alpha * x0 - beta * x1) / gamma
        joint = prior * stats.norm.pdf(z) / gamma
        share = joint / joint.sum()
        denoised, point = (share * z).sum(), jnp.array([x])
        velocity = (share * (rates[0] * x0 + rates[1] * x1 + rates[2] * z)).sum()
        np.testing.assert_allclose(between.denoiser(t, point), [denoised], rtol=1e-8)
        np.testing.assert_allclose(between.velocity(t, point, None), [velocity], rtol=1e-8)
        np.testing.assert_allclose(between.score(t, point), [-denoised / gamma], rtol=1e-8)
        density = joint.sum() * (axis[1] - axis[0]) ** 2
        np.testing.assert_allclose(between.log_prob(t, point), np.log(density), rtol=1e-8)


@pytest.mark.parametrize("gamma", [None, CHORD[2]])
def test_interpolant_with_full_covariances_carries_the_law_along(gamma):
    """The equation of continuity: the log-density changes along the velocity by minus its divergence."""
    other = GaussianMixture([1.0, 2.0], [[0.0, 2.0], [3.0, 0.0]], std=[0.5, 0.3])
    between = MixtureInterpolant(PLANE, other, *CHORD[:2], gamma)
    t, x = 0.3, jnp.array([0.4, 0.2])

    @eqx.filter_jit
    def sides(between, t, x):
        velocity = between.velocity(t, x)
        along = jax.jvp(between.log_prob, (t, x), (jnp.ones_like(t), velocity))[1]
        divergence = jnp.trace(jax.jacfwd(lambda x: between.velocity(t, x))(x))
        return along, -divergence, between.score(t, x), jax.grad(between.log_prob, argnums=1)(t, x)

    along, divergence, score, slope = sides(between, jnp.asarray(t), x)
    np.testing.assert_allclose(along, divergence, rtol=1e-9)
    np.testing.assert_allclose(score, slope, rtol=1e-9)
    turned = eqx.tree_at(  # the second's covariances written out
        lambda b: b.last, between, GaussianMixture([1.0, 2.0], other.means, other.covariances)
    )
    np.testing.assert_allclose(turned.velocity(t, x), between.velocity(t, x), rtol=1e-10)


def test_interpolant_samples_have_its_law():
    between = MixtureInterpolant(LINE, LINE, *CHORD)
    points = between.sample(0.5, KEY, 4000)[:, 0]
    axis = np.linspace(-8, 8, 2001)
    density = np.exp(jax.vmap(lambda x: between.log_prob(0.5, x[None]))(jnp.asarray(axis)))
    law = np.cumsum(density) * (axis[1] - axis[0])
    assert stats.kstest(points, lambda x: np.interp(x, axis, law)).pvalue > 0.01


# --- what is refused ---


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"std": 1.0, "covariances": np.eye(2)}, "covariances or std, and needs one of the two"),
        ({}, "covariances or std, and needs one of the two"),
        ({"means": [0.0, 1.0], "std": 1.0}, r"means must be of shape \(components, size\), but are \(2,\)"),
        ({"means": np.zeros((0, 2)), "std": 1.0}, r"means must be of shape \(components, size\), but are \(0, 2\)"),
        ({"weights": [1.0, 1.0, 1.0], "std": 1.0}, r"needs weights of shape \(2,\), but got \(3,\)"),
        ({"std": np.ones(3)}, r"needs std of shape \(\) or \(2,\) or \(2, 2\), but got \(3,\)"),
        ({"covariances": np.ones(2)}, r"needs covariances of shape \(2, 2, 2\) or \(2, 2\), but got \(2,\)"),
        ({"weights": [-1.0, 2.0], "std": 1.0}, "weights must be finite and not negative"),
        ({"weights": [0.0, 0.0], "std": 1.0}, "with one above zero"),
        ({"means": [[np.nan, 0.0], [0.0, 0.0]], "std": 1.0}, "means must be finite"),
        ({"std": 0.0}, "std must be finite and above zero"),
        ({"covariances": np.array([[1.0, 0.5], [0.2, 1.0]])}, "covariances must be finite and symmetric"),
        ({"covariances": np.array([[1.0, np.nan], [np.nan, 1.0]])}, "covariances must be finite and symmetric"),
        ({"covariances": np.ones((2, 2)) - 2 * np.eye(2)}, "must be positive definite, but one has the eigenvalue -2"),
    ],
)
def test_what_makes_no_mixture_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        GaussianMixture(**{"weights": None, "means": np.zeros((2, 2)), **arguments})


def test_what_does_not_fit_a_mixture_is_refused():
    schedule = nde.diffusion.LinearFlow()
    with pytest.raises(ValueError, match=r"size 2 needs a point of shape \(2,\), but got \(5, 2\); use jax.vmap"):
        PLANE.log_prob(jnp.ones((5, 2)))
    with pytest.raises(ValueError, match=r"needs a point of shape \(2,\), but got \(3,\)"):
        PLANE.prediction(schedule, "data")(0.5, jnp.ones(3), None)
    with pytest.raises(ValueError, match="predicts must be one of data, noise, score, velocity, but got 'x0'"):
        PLANE.prediction(schedule, "x0")
    with pytest.raises(ValueError, match="known for one Gaussian, but this mixture has 3"):
        PLANE.flow_map(schedule, 0.9, 0.1, jnp.ones(2))
    with pytest.raises(ValueError, match=r"a boolean array that chooses some has shape \(3,\), but got \(2,\)"):
        PLANE.given(jnp.array([True, False]))
    with pytest.raises(ValueError, match=r"must be whole numbers or booleans, but got 0\.5"):
        PLANE.given(0.5)
    with pytest.raises(ValueError, match="two mixtures of one size, but got sizes 2, 1"):
        MixtureInterpolant(PLANE, LINE, *CHORD)
