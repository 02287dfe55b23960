"""The latent SDE: what its noise, its control and its context do."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chex import assert_trees_all_close, assert_trees_all_equal
from scipy import integrate, stats

from nde.models import BackwardEncoder, LatentSDE
from nde.models.latent_sde import normal_kl
from nde.objectives import ELBO, GaussianLikelihood
from nde.paths import BrownianGrid

TIMES = jnp.array([0.0, 0.3, 0.9, 1.5, 2.0, 2.0])
VALUES = jnp.array([[1.0, 2.0], [0.5, 0.0], [0.0, -1.0], [0.3, 0.2], [0.4, 0.1], [0.0, 0.0]])
MASK = jnp.array([[1, 1], [1, 0], [0, 1], [1, 1], [1, 1], [0, 0]], bool)


def make(**options):
    options = {"horizon": 2.0, "dt0": 0.1, "width": 4, "control_width": 5, "encoder_size": 6} | options
    return LatentSDE(2, 3, key=jax.random.key(0), **options)


def steer(model, u):
    """The model with a control of `u` in each state, whatever it has seen."""
    bias = jnp.full(3, u)
    return eqx.tree_at(lambda m: m.control.layers[-1].bias, model, bias)


@eqx.filter_jit
def posterior(model, times, values, mask, ts, keys):
    return jax.vmap(lambda key: model.posterior(times, values, mask, ts, key=key))(keys)


def keys(count):
    return jax.random.split(jax.random.key(1), count)


@pytest.mark.parametrize("last", [4, 2])
def test_path_kl_of_a_constant_control_is_girsanovs(last):
    # KL = 1/2 |u|^2 T up to the last observation, which here falls on the solver's grid
    mask = MASK & (jnp.arange(6) <= last)[:, None]
    path = posterior(steer(make(), 0.7), TIMES, VALUES, mask, TIMES, keys(3))
    assert_trees_all_close(path.kl_path, jnp.full(3, 0.5 * 3 * 0.7**2 * TIMES[last]), rtol=1e-12)


def test_untrained_control_is_silent():
    path = posterior(make(), TIMES, VALUES, MASK, TIMES, keys(2))
    assert_trees_all_equal(path.kl_path, jnp.zeros(2))


def test_prior_has_the_moments_of_its_ornstein_uhlenbeck_process():
    model = make(width=0, dt0=0.05)
    zs = jax.vmap(lambda key: model.prior(jnp.array([1.0, 2.0]), key=key))(keys(20_000))
    # Euler-Maruyama's own moments: dz = -0.1 z dt + 0.3 dW from N(0, 1)
    decay, steps = 1 - 0.1 * 0.05, np.array([20, 40])
    variance = decay ** (2 * steps) + 0.3**2 * 0.05 * (1 - decay ** (2 * steps)) / (1 - decay**2)
    np.testing.assert_allclose(np.var(zs, axis=0), np.repeat(variance[:, None], 3, 1), rtol=0.04)
    np.testing.assert_allclose(np.mean(zs, axis=0), 0, atol=0.03)
    exact = np.exp(-0.2 * np.array([1, 2])) + 0.3**2 / 0.2 * (1 - np.exp(-0.2 * np.array([1, 2])))
    np.testing.assert_allclose(variance, exact, rtol=0.01)


def test_control_moves_the_path_by_diffusion_times_control():
    free, steered = (posterior(steer(make(width=0), u), TIMES, VALUES, MASK, TIMES, keys(2)).zs for u in (0.0, 0.7))
    # the difference of two solves on the same noise is the ODE d' = -0.1 d + 0.3 u
    expected = 0.3 * 0.7 * (1 - (1 - 0.1 * 0.1) ** 20) / 0.1
    assert_trees_all_close((steered - free)[:, 4], jnp.full((2, 3), expected), rtol=1e-9)


def test_what_the_mask_hides_leaves_no_trace():
    model = steer(make(), 0.4)
    hidden = MASK & (jnp.arange(6) < 3)[:, None]
    asked = jnp.array([0.1, 1.0, 2.0])
    first = posterior(model, TIMES, VALUES, hidden, asked, keys(2))
    other_values = jnp.where(hidden, VALUES, 99.0).at[4].set(jnp.nan)
    other_times = TIMES.at[3:].set(jnp.array([1.1, 1.7, 1.9]))
    assert_trees_all_equal(first, posterior(model, other_times, other_values, hidden, asked, keys(2)))


def test_times_asked_for_do_not_change_the_path():
    model = make()
    many = posterior(model, TIMES, VALUES, MASK, jnp.linspace(0, 2, 9), keys(2)).zs
    few = posterior(model, TIMES, VALUES, MASK, jnp.array([0.0, 1.0, 2.0]), keys(2)).zs
    assert_trees_all_close(many[:, ::4], few, rtol=1e-12)


def test_series_may_start_at_any_time():
    here = posterior(steer(make(), 0.4), TIMES, VALUES, MASK, TIMES, keys(2))
    later = posterior(steer(make(), 0.4), TIMES + 8, VALUES, MASK, TIMES + 8, keys(2))
    assert_trees_all_close(here, later, rtol=1e-9)


def test_series_without_observations_follows_the_prior():
    path = posterior(steer(make(), 0.4), TIMES, VALUES, jnp.zeros_like(MASK), TIMES, keys(2))
    assert_trees_all_equal(path.kl_path, jnp.zeros(2))
    assert np.isfinite(path.zs).all()


def test_without_diffusion_the_path_is_an_ode():
    model = steer(make(diffusion_scale=None), 0.4)
    path = posterior(model, TIMES, VALUES, MASK, TIMES, keys(1))
    decayed = path.zs[0, 0] * (1 - 0.1 * 0.1) ** 20
    assert_trees_all_close(path.zs[0, 4], decayed, rtol=1e-12)
    assert_trees_all_equal(path.kl_path, jnp.zeros(1))


def test_single_precision_stays_single():
    model = jax.tree.map(lambda x: x.astype(jnp.float32) if eqx.is_inexact_array(x) else x, make())
    path = posterior(
        model, TIMES.astype(jnp.float32), VALUES.astype(jnp.float32), MASK, TIMES.astype(jnp.float32), keys(1)
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(path)} == {jnp.dtype("float32")}


def test_initial_kl_is_the_integral():
    def integrand(x):
        q = stats.norm(0.3, np.exp(-0.5))
        return q.pdf(x) * (q.logpdf(x) - stats.norm.logpdf(x, -0.2, np.exp(0.4)))

    expected, _ = integrate.quad(integrand, -10, 10, epsabs=1e-12)
    found = normal_kl(*(jnp.array([x]) for x in (0.3, -0.5, -0.2, 0.4)))
    assert float(found) == pytest.approx(expected, rel=1e-8)


def test_elbo_gradient_is_that_of_finite_differences():
    model = steer(make(), 0.2)
    parameters, rest = eqx.partition(model, eqx.is_inexact_array)
    leaves, structure = jax.tree.flatten(parameters)
    generator = np.random.default_rng(0)
    directions = [jnp.asarray(generator.standard_normal(x.shape)) for x in leaves]

    @jax.jit
    def loss(size):
        moved = jax.tree.unflatten(structure, [x + size * d for x, d in zip(leaves, directions, strict=True)])
        terms = ELBO(samples=2, predictive=0.5)(
            eqx.combine(moved, rest), TIMES, VALUES, MASK, MASK & (TIMES < 1)[:, None], key=jax.random.key(3)
        )
        return terms.loss(0.7)

    exact = jax.jit(jax.grad(loss))(0.0)
    step = 1e-5
    differences = (loss(step) - loss(-step)) / (2 * step)
    assert float(exact) == pytest.approx(float(differences), rel=1e-7)


def test_elbo_lies_below_the_exact_likelihood_of_a_linear_model():
    model = make(width=0, likelihood=GaussianLikelihood(2), dt0=0.1)
    times = jnp.array([0.0, 0.5, 1.0, 2.0])
    values, mask = VALUES[:4], jnp.ones((4, 2), bool)
    # Euler-Maruyama's law at the grid: z_n Gaussian, cov(z_m, z_n) = var(z_m) decay^(n - m)
    decay, steps = 0.99, np.array([0, 5, 10, 20])
    variance = decay ** (2 * steps) + 0.09 * 0.1 * (1 - decay ** (2 * steps)) / (1 - decay**2)
    first = np.minimum(steps[:, None], steps)
    covariance = variance[np.searchsorted(steps, first)] * decay ** np.abs(steps[:, None] - steps)
    c = np.asarray(model.decoder.weight)
    joint = np.kron(covariance, c @ c.T) + np.kron(np.eye(4), np.diag(np.asarray(model.likelihood.scale) ** 2))
    mean = np.tile(np.asarray(model.decoder.bias), 4)
    exact = stats.multivariate_normal(mean, joint).logpdf(np.asarray(values).ravel())

    def bound(model):
        return -ELBO(samples=2000)(model, times, values, mask, mask, key=jax.random.key(5)).loss()

    # shown the prior as posterior, the bound is the prior's expected log-likelihood; known in closed form
    prior = eqx.tree_at(lambda m: (m.initial.weight, m.initial.bias), model, replace_fn=jnp.zeros_like)
    scale = np.asarray(model.likelihood.scale)
    spread = np.outer(variance, np.diag(c @ c.T)) + (np.asarray(values) - np.asarray(model.decoder.bias)) ** 2
    expected = (stats.norm.logpdf(0, 0, scale) - spread / (2 * scale**2)).sum()
    found = float(eqx.filter_jit(bound)(prior))
    assert found == pytest.approx(expected, rel=0.05)
    assert found < exact


def test_encoder_reads_later_rows_only():
    encoder = BackwardEncoder(2, 6, key=jax.random.key(0))
    context = encoder(TIMES, VALUES, MASK)
    changed = encoder(TIMES, VALUES.at[0].set(7.0), MASK)
    assert_trees_all_equal(context.features[1:], changed.features[1:])
    assert np.abs(np.asarray(context.features[0] - changed.features[0])).max() > 1e-3
    np.testing.assert_array_equal(context.next_time, [0, 0.3, 0.9, 1.5, 2, np.inf])


def test_encoder_takes_nan_for_missing_and_refuses_what_does_not_fit():
    encoder = BackwardEncoder(2, 6, key=jax.random.key(0))
    hidden = np.where(MASK, VALUES, np.nan)
    assert_trees_all_equal(encoder(TIMES, hidden, np.ones_like(hidden)), encoder(TIMES, VALUES, MASK))
    with pytest.raises(ValueError, match=r"BackwardEncoder needs ts .* \(rows, 2\), .* mask of shape \(6, 1\)"):
        encoder(TIMES, VALUES, MASK[:, :1])


def test_context_looks_to_the_next_observation():
    context = BackwardEncoder(2, 6, key=jax.random.key(0))(TIMES, VALUES, MASK)
    between, at, past = (context.after(jnp.asarray(t)) for t in (0.5, 0.9, 2.0))
    assert_trees_all_equal(between.features, context.features[2])
    assert float(between.wait) == pytest.approx(0.4)
    assert_trees_all_equal(at.features, context.features[3])
    assert bool(at.active) and not bool(past.active)
    assert float(past.wait) == 0


def test_brownian_grid_has_independent_steps_of_the_right_variance():
    path = BrownianGrid(1.0, 3.0, 8, (5000,), jax.random.key(0))
    steps = np.stack([path.evaluate(1 + 0.25 * n, 1.25 + 0.25 * n) for n in range(8)])
    assert stats.kstest(steps.ravel() / 0.5, "norm").pvalue > 0.01
    np.testing.assert_allclose(np.corrcoef(steps), np.eye(8), atol=0.06)
    assert_trees_all_equal(path.evaluate(1.5, 1.75), path.evaluate(1.5, 1.75))


def test_bad_sizes_are_refused():
    with pytest.raises(ValueError, match=r"0 < dt0 <= horizon, but got dt0=3.0 and horizon=2.0"):
        make(dt0=3.0)
    with pytest.raises(ValueError, match=r"0 < scale < largest, but got scale=5.0"):
        make(diffusion_scale=5.0)
    with pytest.raises(ValueError, match=r"t0 < t1 and num_steps > 0"):
        BrownianGrid(1.0, 1.0, 4, (2,), jax.random.key(0))


def test_hidden_nan_reaches_no_gradient():
    values = jnp.where(MASK, VALUES, jnp.nan)

    def loss(model, values):
        return ELBO(samples=2)(model, TIMES, values, MASK, MASK, key=jax.random.key(3)).loss()

    clean = eqx.filter_jit(eqx.filter_grad(loss))(make(), VALUES)
    dirty = eqx.filter_jit(eqx.filter_grad(loss))(make(), values)
    assert_trees_all_equal(eqx.filter(clean, eqx.is_inexact_array), eqx.filter(dirty, eqx.is_inexact_array))


def test_the_horizon_itself_may_be_asked_for():
    horizon = 14.277202191850778
    model = make(horizon=horizon, dt0=horizon / 100)
    assert np.isfinite(model.prior(jnp.array([0.0, horizon]), key=jax.random.key(0))).all()
