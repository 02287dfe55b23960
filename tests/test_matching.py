"""Diffusion models and flows: the loss and its minimiser, laws of samples, log-densities, couplings."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.optimize import linear_sum_assignment

import nde
from nde.diffusion import (
    BridgeInterpolant,
    EDMSchedule,
    EncodingDecodingInterpolant,
    LinearFlow,
    LinearInterpolant,
    log_snr_times,
    PREDICTIONS,
    SubVariancePreserving,
    TrigonometricInterpolant,
    VarianceExploding,
    VariancePreserving,
)
from nde.fields import MixerField, ResidualField
from nde.models import reflow_pairs, straightness
from nde.objectives import (
    independent_pairs,
    LogitNormalTimes,
    LogSNRTimes,
    Matching,
    optimal_assignment,
    transport_pairs,
    UniformTimes,
    UShapedTimes,
)

KEY = jax.random.key(0)
KEYS = jax.random.split(KEY, 1500)
MEAN, STD = jnp.array([1.0, -0.5]), jnp.array([0.8, 1.5])
INTERPOLANTS = [
    LinearInterpolant(), TrigonometricInterpolant(), BridgeInterpolant(1.3), EncodingDecodingInterpolant(0.9)
]  # fmt: skip


class GaussianFlow(eqx.Module):
    """The exact velocity and denoiser from N(0, 1) to N(MEAN, STD^2), independent of each other."""

    interpolant: nde.diffusion.AbstractInterpolant

    def velocity(self, t, x, args=None):
        (a, b, c), (da, db, dc) = self.interpolant.coefficients(t), self.interpolant.rates(t)
        variance = a**2 + b**2 * STD**2 + c**2
        return db * MEAN + (a * da + b * db * STD**2 + c * dc) / variance * (x - b * MEAN)

    def denoiser(self, t, x, args=None):
        a, b, c = self.interpolant.coefficients(t)
        return c / (a**2 + b**2 * STD**2 + c**2) * (x - b * MEAN)

    def model(self, **options):
        denoiser = self.denoiser if self.interpolant.is_noisy else None
        return nde.InterpolantModel(self.velocity, 2, self.interpolant, denoiser=denoiser, **options)


def exact_prediction(schedule, predicts):
    """Of data that are N(MEAN, STD^2)."""

    def prediction(t, x, args=None):
        a, s = schedule.alpha(t), schedule.sigma(t)
        score = -(x - a * MEAN) / (a**2 * STD**2 + s**2)
        return nde.diffusion.convert(score, "score", predicts, schedule, t, x)

    return prediction


def exact_model(schedule, predicts="noise", **options):
    return nde.DiffusionModel(
        exact_prediction(schedule, predicts), 2, schedule, predicts=predicts, scale=None, **options
    )


def gaussian_log_prob(x):
    return stats.norm(np.asarray(MEAN), np.asarray(STD)).logpdf(x).sum(-1)


# Interpolants.


@pytest.mark.parametrize("interpolant", INTERPOLANTS, ids=lambda x: type(x).__name__)
def test_an_interpolant_begins_at_the_source_and_ends_at_the_target(interpolant):
    for t, expected in ((0.0, (1, 0, 0)), (1.0, (0, 1, 0))):
        np.testing.assert_allclose(interpolant.coefficients(t), expected, atol=1e-12)
        assert np.isfinite(np.asarray(interpolant.rates(t))).all()
    h = 1e-6
    for t in (0.2, 0.7):
        slopes = (np.array(interpolant.coefficients(t + h)) - np.array(interpolant.coefficients(t - h))) / (2 * h)
        np.testing.assert_allclose(interpolant.rates(t), slopes, atol=1e-8)


def test_the_bridge_is_a_brownian_bridge_in_the_time_of_its_target():
    u = BridgeInterpolant(1.3).beta(0.3)
    a, _, gamma = BridgeInterpolant(1.3).coefficients(0.3)
    np.testing.assert_allclose([a, gamma**2], [1 - u, 1.3**2 * u * (1 - u)], rtol=1e-12)


@pytest.mark.parametrize("interpolant", INTERPOLANTS[:2], ids=lambda x: type(x).__name__)
def test_from_a_normal_source_an_interpolant_is_a_schedule(interpolant):
    schedule = interpolant.schedule
    for t in (0.1, 0.6):
        a, b, _ = interpolant.coefficients(1 - t)
        np.testing.assert_allclose([schedule.alpha(t), schedule.sigma(t)], [b, a], rtol=1e-12)
        np.testing.assert_allclose(schedule.time(schedule.gamma(t)), t, rtol=1e-9)


# The loss: its minimiser and its gradient.


@pytest.mark.parametrize("interpolant", INTERPOLANTS, ids=lambda x: type(x).__name__)
def test_the_least_loss_is_at_the_exact_velocity_and_denoiser(interpolant):
    model = GaussianFlow(interpolant).model()
    keys, t = jax.random.split(KEY, 20000), 0.3

    def moved(shift, slope):
        def off(f):
            return lambda t, x, args: f(t, x, args) + shift + slope * x

        return eqx.tree_at(
            lambda m: (m.velocity, m.denoiser),
            model,
            (off(model.velocity), None if model.denoiser is None else off(model.denoiser)),
            is_leaf=lambda x: x is None,
        )

    def each(p, key):
        x1 = MEAN + STD * jax.random.normal(key, (2,))
        residuals = moved(p[:2], p[2:]).residuals(t, x1, key=jax.random.fold_in(key, 1))
        return jnp.stack([jnp.sum(r**2) for r in residuals])

    slopes = jax.jit(jax.vmap(jax.jacrev(each), (None, 0)))(jnp.zeros(4), keys)  # (keys, residuals, 4)
    errors = slopes.std(0) / np.sqrt(len(keys))
    assert (np.abs(slopes.mean(0)) < 4.5 * errors).all()


@pytest.mark.parametrize("schedule", [VariancePreserving(), VarianceExploding(0.1, 5.0), LinearFlow()], ids=str)
@pytest.mark.parametrize("error", PREDICTIONS)
def test_the_least_loss_is_at_the_exact_prediction_in_whatever_unit_the_error_is(schedule, error):
    keys, t = jax.random.split(KEY, 4000), 0.4
    exact = exact_prediction(schedule, "noise")

    def each(p, key):
        x1 = MEAN + STD * jax.random.normal(key, (2,))

        def network(t, x, args):
            return exact(t, x) + p[:2] + p[2:] * x

        model = nde.DiffusionModel(network, 2, schedule, predicts="noise", error=error, scale=None)
        return jnp.sum(model.residuals(t, x1, key=jax.random.fold_in(key, 1))[0] ** 2)

    slopes = jax.jit(jax.vmap(jax.grad(each), (None, 0)))(jnp.zeros(4), keys)
    assert (np.abs(slopes.mean(0)) < 4.5 * slopes.std(0) / np.sqrt(len(keys))).all()


def test_errors_are_of_the_noise_times_what_the_docstring_says():
    schedule, t = SubVariancePreserving(), 0.3
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    alpha_rate, sigma_rate = schedule.rates(t)
    factors = {"data": -sigma / alpha, "score": -1 / sigma, "velocity": sigma_rate - sigma * alpha_rate / alpha}
    of = {
        error: exact_model(schedule, error=error).residuals(t, jnp.array([0.3, 2.0]), key=KEY)[0]
        for error in PREDICTIONS
    }
    for error, factor in factors.items():
        np.testing.assert_allclose(of[error], factor * of["noise"], rtol=1e-9)


def test_the_gradient_of_the_loss_is_that_of_finite_differences():
    model = nde.InterpolantModel(
        ResidualField(2, 8, 1, key=KEY), 2, BridgeInterpolant(), denoiser=ResidualField(2, 8, 1, key=KEY)
    )
    flat, structure = jax.flatten_util.ravel_pytree(eqx.filter(model, eqx.is_inexact_array))
    rest = eqx.filter(model, eqx.is_inexact_array, inverse=True)

    @jax.jit
    def loss(flat):
        return Matching(metric="pseudo_huber")(eqx.combine(structure(flat), rest), MEAN, STD, key=KEY).loss

    direction = jax.random.normal(jax.random.key(1), flat.shape)
    slope = (loss(flat + 1e-6 * direction) - loss(flat - 1e-6 * direction)) / 2e-6
    np.testing.assert_allclose(jnp.vdot(jax.grad(loss)(flat), direction), slope, rtol=1e-6)


def test_metrics_are_their_formulas():
    model = nde.InterpolantModel(lambda t, x, args: jnp.zeros(2), 2)
    options = {"key": KEY}
    square = Matching()(model, MEAN, STD, **options).loss
    np.testing.assert_allclose(square, jnp.mean((MEAN - STD) ** 2), rtol=1e-12)
    huber = Matching(metric="pseudo_huber", huber=0.5)(model, MEAN, STD, **options).loss
    np.testing.assert_allclose(huber, jnp.sqrt(square + 0.25) - 0.5, rtol=1e-12)


def test_labels_are_hidden_as_often_as_asked():
    model = nde.InterpolantModel(lambda t, x, args: jnp.where(args < 0, 1.0, 0.0) + 0 * x, 2)
    zero = jnp.zeros(2)
    losses = jax.jit(jax.vmap(lambda key: Matching(drop=0.25)(model, zero, zero, jnp.array(3), key=key).loss))(
        jax.random.split(KEY, 4000)
    )
    assert abs(float(losses.mean()) - 0.25) < 0.03


# Times.


@pytest.mark.parametrize(
    ("times", "law"),
    [
        (UniformTimes(), lambda u: u),
        (LogitNormalTimes(0.3, 0.7), lambda u: stats.norm.cdf((np.log(u / (1 - u)) - 0.3) / 0.7)),
        (UShapedTimes(4.0), lambda u: (np.sinh(4 * (2 * u - 1)) / np.sinh(4) + 1) / 2),
    ],
    ids=["uniform", "logit-normal", "U-shaped"],
)
def test_times_have_their_law(times, law):
    drawn = jax.vmap(lambda key: times.draw((1.0, 3.0), None, key=key))(jax.random.split(KEY, 4000))
    assert stats.kstest((np.asarray(drawn) - 1) / 2, law).pvalue > 1e-3


def test_log_snr_times_are_even_in_it():
    schedule = VariancePreserving()
    keys = jax.random.split(KEY, 4000)
    drawn = jax.vmap(lambda key: LogSNRTimes().draw(schedule.ends, schedule, key=key))(keys)
    low, high = sorted(float(schedule.log_snr(t)) for t in schedule.ends)
    shares = (np.asarray(schedule.log_snr(drawn)) - low) / (high - low)
    assert stats.kstest(shares, lambda u: u).pvalue > 1e-3


# Diffusion models.


@pytest.mark.parametrize("predicts", PREDICTIONS)
@pytest.mark.parametrize(
    "schedule", [VariancePreserving(), EDMSchedule(), LinearFlow()], ids=lambda x: type(x).__name__
)
def test_a_scaled_network_of_zero_is_the_exact_prediction_of_gaussian_data(schedule, predicts):
    model = nde.DiffusionModel(lambda t, x, args: 0 * x, 2, schedule, predicts=predicts, scale=0.7)
    t, x = 0.3, jnp.array([0.4, -1.1])
    score = -x / (schedule.alpha(t) ** 2 * 0.49 + schedule.sigma(t) ** 2)
    np.testing.assert_allclose(model.score(t, x), score, rtol=1e-9)


def test_a_scaled_network_means_the_same_whatever_it_predicts():
    schedule, x = VariancePreserving(), jnp.array([0.4, -1.1])
    network = ResidualField(2, 8, 1, key=KEY)
    scores = [nde.DiffusionModel(network, 2, schedule, predicts=p, scale=0.7).score(0.3, x) for p in PREDICTIONS]
    for score in scores[1:]:
        np.testing.assert_allclose(score, scores[0], rtol=1e-9)


@pytest.mark.parametrize(
    "schedule",
    [VariancePreserving(), SubVariancePreserving(), VarianceExploding(0.01, 20.0)],
    ids=lambda x: type(x).__name__,
)
def test_the_log_density_by_the_ode_is_that_of_the_law(schedule):
    tight = nde.PIDController(rtol=1e-8, atol=1e-8)
    model = exact_model(schedule, controller=tight)
    points = jnp.array([[0.2, 0.3], [2.0, -2.0]])
    found = jax.jit(jax.vmap(model.log_prob))(points)
    first, last = schedule.ends
    a, s = (np.asarray(f(first)) for f in (schedule.alpha, schedule.sigma))
    near = (
        stats.norm(a * np.asarray(MEAN), np.sqrt(a**2 * np.asarray(STD) ** 2 + s**2)).logpdf(np.asarray(points)).sum(1)
    )
    # what is left is the start: noise alone for what at the last time is noise with a trace of the data
    trace = float(schedule.alpha(last) / schedule.sigma(last))
    np.testing.assert_allclose(found, near, atol=1e-6 + 4 * trace)
    np.testing.assert_allclose(near, gaussian_log_prob(points), atol=2e-3)
    assert trace < 0.06


def test_hutchinsons_estimate_is_the_exact_log_density_on_average():
    model = exact_model(VariancePreserving(), probes=1)
    sheared = eqx.tree_at(
        lambda m: m.network, model, lambda t, x, args: model.network(t, x, args) + 0.2 * jnp.tanh(x[::-1])
    )
    one = nde.DiffusionModel(sheared.network, 2, sheared.schedule, scale=None)
    x = jnp.array([0.2, 0.3])
    drawn = jax.jit(jax.vmap(lambda key: sheared.log_prob(x, key=key)))(jax.random.split(KEY, 400))
    assert drawn.std() > 1e-3
    assert abs(drawn.mean() - one.log_prob(x)) < 4 * drawn.std() / 20
    with pytest.raises(ValueError, match="DiffusionModel with probes=1 draws them and needs a key"):
        sheared.log_prob(x)


def moments_fit(samples, tolerance=4.5):
    count = len(samples)
    mean, std = np.asarray(MEAN), np.asarray(STD)
    assert (np.abs(samples.mean(0) - mean) < tolerance * std / np.sqrt(count) + 0.01).all()
    assert (np.abs(samples.std(0) - std) < tolerance * std / np.sqrt(2 * count) + 0.02).all()


@pytest.mark.parametrize(("predicts", "noise"), [("data", 1.0), ("noise", 0.5), ("score", 0.0), ("velocity", 1.0)])
def test_samples_have_the_law_with_any_amount_of_noise(predicts, noise):
    model = exact_model(VariancePreserving(), predicts)
    times = log_snr_times(model.schedule, 60)
    draw = jax.vmap(lambda key: model.sample(key=key, noise=noise, steps=times, solver=nde.Heun()))
    moments_fit(np.asarray(jax.jit(draw)(KEYS)))


def test_a_sample_takes_the_steps_and_the_solver_that_are_asked_for():
    model = exact_model(VariancePreserving())
    times = log_snr_times(model.schedule, 7)
    solved = model.draw(key=KEY, steps=times, solver=nde.Heun())
    assert int(solved.stats["num_steps"]) == 7
    assert int(solved.stats["num_field_evaluations"]) == 14


def test_corrections_mend_what_too_few_steps_do():
    model = exact_model(VariancePreserving())
    times = log_snr_times(model.schedule, 12)

    def width(corrections):
        draw = jax.vmap(lambda key: model.sample_corrected(key=key, times=times, corrections=corrections, ratio=0.5))
        return np.abs(np.asarray(jax.jit(draw)(KEYS)).std(0) / np.asarray(STD) - 1).max()

    assert width(3) < 0.5 * width(0)


def test_a_model_of_another_centre_samples_around_it():
    schedule = nde.diffusion.MeanReverting(VariancePreserving(), MEAN)
    model = nde.DiffusionModel(lambda t, x, args: 0 * x, 2, schedule, predicts="data", scale=0.5)
    samples = np.asarray(jax.jit(jax.vmap(lambda key: model.sample(key=key)))(KEYS))
    np.testing.assert_allclose(samples.mean(0), MEAN, atol=0.1)
    np.testing.assert_allclose(samples.std(0), 0.5, atol=0.06)
    found = model.log_prob(MEAN + jnp.array([0.3, -0.2]))
    np.testing.assert_allclose(found, -np.log(2 * np.pi * 0.25) - 0.13 / 0.5, atol=5e-3)


# Flows.


@pytest.mark.parametrize("interpolant", INTERPOLANTS[2:], ids=lambda x: type(x).__name__)
@pytest.mark.parametrize("noise", [0.0, 0.5, 1.5])
def test_a_flow_has_one_law_for_every_amount_of_noise_both_ways(interpolant, noise):
    model = GaussianFlow(interpolant).model()
    keys = KEYS
    samples = jax.jit(jax.vmap(lambda key: model.sample(key=key, noise=noise)))(keys)
    moments_fit(np.asarray(samples))
    x1 = MEAN[None] + STD[None] * jax.random.normal(KEY, (1500, 2))
    starts = np.asarray(jax.jit(jax.vmap(lambda x, key: model.backward(x, noise=noise, key=key)))(x1, keys))
    moments_fit(starts * np.asarray(STD) + np.asarray(MEAN))


def test_a_linear_flow_is_a_diffusion_model_of_any_noise():
    model = GaussianFlow(LinearInterpolant()).model()
    as_diffusion = model.as_diffusion()
    moments_fit(np.asarray(jax.jit(jax.vmap(lambda k: as_diffusion.sample(key=k, noise=1.0)))(KEYS)))
    t, x = 0.3, jnp.array([0.4, -1.1])
    a, s = as_diffusion.schedule.alpha(t), as_diffusion.schedule.sigma(t)
    np.testing.assert_allclose(as_diffusion.score(t, x), -(x - a * MEAN) / (a**2 * STD**2 + s**2), rtol=1e-9)


@pytest.mark.parametrize("interpolant", INTERPOLANTS, ids=lambda x: type(x).__name__)
def test_the_log_density_of_a_flow_is_that_of_the_law(interpolant):
    model = GaussianFlow(interpolant).model(controller=nde.PIDController(rtol=1e-9, atol=1e-9))
    points = jnp.array([[0.2, 0.3], [2.0, -2.0]])
    np.testing.assert_allclose(jax.jit(jax.vmap(model.log_prob))(points), gaussian_log_prob(points), atol=1e-6)


def test_a_flow_takes_points_there_and_back():
    model = GaussianFlow(BridgeInterpolant()).model(controller=nde.PIDController(rtol=1e-10, atol=1e-10))
    x = jnp.array([0.4, -1.1])
    np.testing.assert_allclose(model.backward(model.forward(x)), x, atol=1e-8)
    np.testing.assert_allclose(model.forward(x), MEAN + STD * x, rtol=1e-8)  # monotone: the map of transport


def test_reflow_pairs_are_the_flows_own_and_straightness_is_its_integral():
    model = GaussianFlow(TrigonometricInterpolant()).model()
    x0 = jax.random.normal(KEY, (64, 2))
    again, x1 = reflow_pairs(model, x0)
    assert again is x0
    np.testing.assert_allclose(x1, MEAN[None] + STD[None] * x0, atol=2e-3)
    straight = nde.InterpolantModel(lambda t, x, args: MEAN, 2)
    np.testing.assert_allclose(straightness(straight, x0), 0.0, atol=1e-20)
    # b = 2 t in each entry: x1 - x0 = 1, and the integral of 2 (1 - 2 t)^2 is 2 / 3
    bent = nde.InterpolantModel(lambda t, x, args: jnp.full_like(x, 2 * t), 2)
    np.testing.assert_allclose(straightness(bent, x0, steps=200), 2 / 3, rtol=1e-4)


# Couplings.


def test_the_assignment_is_scipys():
    x0, x1 = np.random.default_rng(0).standard_normal((2, 40, 3))
    cost = ((x0[:, None] - x1[None]) ** 2).sum(-1)
    np.testing.assert_array_equal(optimal_assignment(x0, x1), linear_sum_assignment(cost)[1])


def test_transport_pairs_are_cheaper_and_use_every_row_once():
    generator = np.random.default_rng(0)
    x0, x1 = generator.standard_normal((2, 300, 2))
    rows0, rows1 = transport_pairs(x0, x1, batch=64)
    for rows in (rows0, rows1):
        np.testing.assert_array_equal(np.sort(rows), np.arange(300))
    assert ((x0[rows0] - x1[rows1]) ** 2).sum(1).mean() < 0.2 * ((x0 - x1) ** 2).sum(1).mean()
    np.testing.assert_array_equal(transport_pairs(x0, x1, batch=64)[0], rows0)


def test_with_labels_each_class_sees_the_whole_source():
    generator = np.random.default_rng(0)
    x0 = generator.standard_normal((2000, 1))
    labels = generator.integers(2, size=2000)
    x1 = np.where(labels == 1, 5.0, -5.0)[:, None] + 0.1 * generator.standard_normal((2000, 1))
    blind = transport_pairs(x0, x1, batch=100)
    assert x0[blind[0]][labels[blind[1]] == 1].mean() > 0.7  # half of a normal law
    aware = transport_pairs(x0, x1, batch=100, labels=labels)
    for label in (0, 1):
        here = x0[aware[0]][labels[aware[1]] == label]
        assert stats.kstest(here[:, 0], stats.norm.cdf).pvalue > 1e-3
        across = x1[aware[1]][labels[aware[1]] == label]
        assert np.corrcoef(here[:, 0], across[:, 0])[0, 1] > 0.9  # and is coupled within


def test_independent_pairs_are_uncorrelated_and_use_all_rows_alike():
    rows0, rows1 = independent_pairs(50, 80, 1000)
    assert np.ptp(np.bincount(rows0, minlength=50)) <= 1 and np.ptp(np.bincount(rows1, minlength=80)) <= 1
    assert abs(np.corrcoef(rows0, rows1)[0, 1]) < 0.1


# Networks.


def test_networks_tell_classes_apart_and_know_none():
    field = ResidualField(2, 8, 2, classes=3, key=KEY)
    x = jnp.ones(2)
    outs = [field(0.5, x, label) for label in (0, jnp.array(1), None)]
    assert not np.allclose(outs[0], outs[1]) and not np.allclose(outs[0], outs[2])
    np.testing.assert_array_equal(field(0.5, x, -1), field(0.5, x))
    assert not np.allclose(field(0.1, x), field(0.5, x))


def test_a_mixer_keeps_the_places_of_an_image():
    field = MixerField((4, 6), 8, 0, key=KEY)
    x = jnp.arange(24.0)
    moved = field(0.5, x.at[7].add(1.0)) - field(0.5, x)  # row 1, column 1: the patch of rows and columns 0 and 1
    changed = np.flatnonzero(np.abs(np.asarray(moved)) > 1e-9)
    np.testing.assert_array_equal(changed, [0, 1, 6, 7])
    mixed = MixerField((4, 6), 8, 1, key=KEY)
    assert (np.abs(np.asarray(mixed(0.5, x.at[7].add(1.0)) - mixed(0.5, x))) > 1e-9).all()


# What is refused.


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BridgeInterpolant(0.0), r"BridgeInterpolant needs scale > 0, but got scale=0.0; without noise"),
        (lambda: EncodingDecodingInterpolant(-1.0), "EncodingDecodingInterpolant needs scale > 0"),
        (lambda: Matching(metric="huber"), 'metric must be "square" or "pseudo_huber", but got \'huber\''),
        (lambda: Matching(huber=0.0), "Matching needs huber > 0"),
        (lambda: Matching(drop=1.0), "Matching needs huber > 0 and 0 <= drop < 1"),
        (lambda: LogitNormalTimes(std=0.0), "LogitNormalTimes needs std > 0"),
        (lambda: UShapedTimes(0.0), "UShapedTimes needs rate > 0"),
        (lambda: LogSNRTimes().draw((0, 1), None, key=KEY), "LogSNRTimes needs a model with a schedule"),
        (lambda: nde.DiffusionModel(None, 2, predicts="image"), "predicts must be one of data, noise, score, velocity"),
        (lambda: nde.DiffusionModel(None, 2, error="image"), "error must be one of data, noise, score, velocity"),
        (lambda: nde.DiffusionModel(None, 0), "DiffusionModel needs size >= 1"),
        (lambda: nde.DiffusionModel(None, 2, scale=0.0), "scale > 0 or None"),
        (
            lambda: exact_model(VariancePreserving()).residuals(0.5, MEAN, MEAN, key=KEY),
            "takes no source points; nde.models.InterpolantModel does",
        ),
        (lambda: exact_model(VariancePreserving()).log_prob(jnp.ones(3)), r"needs a point of shape \(2,\), but got"),
        (lambda: nde.InterpolantModel(None, 0), "InterpolantModel needs size >= 1"),
        (lambda: nde.InterpolantModel(None, 2, denoiser=lambda: 0), "LinearInterpolant has no noise for a denoiser"),
        (lambda: nde.InterpolantModel(None, 2, normal=False).sample(key=KEY), "has a source of its own and can not"),
        (lambda: nde.InterpolantModel(None, 2, normal=False).log_prob(MEAN), "can not have a log-density"),
        (lambda: nde.InterpolantModel(None, 2).forward(jnp.ones(3)), r"needs a point of shape \(2,\)"),
        (lambda: nde.InterpolantModel(None, 2).forward(MEAN, noise=1.0, key=KEY), "needs a denoiser, or as_diffusion"),
        (
            lambda: nde.InterpolantModel(None, 2, BridgeInterpolant(), denoiser=print).forward(MEAN, noise=1.0),
            "needs a key for noise above zero",
        ),
        (
            lambda: nde.InterpolantModel(None, 2, BridgeInterpolant()).as_diffusion(),
            "normal=True and BridgeInterpolant",
        ),
        (lambda: optimal_assignment(np.ones((3, 2)), np.ones((4, 2))), "as many points of one size on either side"),
        (lambda: transport_pairs(np.ones((3, 2)), np.ones((4, 2))), "as many points of one size on either side"),
        (lambda: transport_pairs(np.ones((3, 2)), np.ones((3, 2)), labels=np.ones(2)), r"labels \(2,\)"),
        (lambda: transport_pairs(np.ones((3, 2)), np.ones((3, 2)), batch=0), "needs batch >= 1"),
        (lambda: independent_pairs(0, 1, 1), "independent_pairs needs points and pairs"),
        (lambda: MixerField((5, 4), 8, 1, key=KEY), r"multiples of patch=2, but got shape=\(5, 4\)"),
        (lambda: ResidualField(2, 8, 1, classes=-1, key=KEY), "classes"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_source_of_its_own_must_be_given_to_the_loss():
    model = nde.InterpolantModel(lambda t, x, args: x, 2, normal=False)
    with pytest.raises(ValueError, match="give source points"):
        Matching()(model, MEAN, key=KEY)
    assert np.isfinite(Matching()(model, MEAN, STD, key=KEY).loss)
