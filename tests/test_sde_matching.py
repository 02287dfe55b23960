"""SDE Matching: the marginals of a posterior, the control that follows from them, and the bound without simulation."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from chex import assert_trees_all_close, assert_trees_all_equal
from scipy import stats

import nde
from nde.config import ConfigError, load_config, SeriesFacts
from nde.models import Normal, posterior_control
from nde.objectives import ContextELBO
from nde.regularise import KineticEnergy

KEY = jax.random.key(0)
TIMES = jnp.array([0.0, 0.3, 0.9, 1.5, 2.0, 2.0])
VALUES = jnp.array([[1.0, 2.0], [0.5, 0.0], [0.0, -1.0], [0.3, 0.2], [0.4, 0.1], [0.0, 0.0]])
MASK = jnp.array([[1, 1], [1, 0], [0, 1], [1, 1], [1, 1], [0, 0]], bool)


def make(**options):
    options = {"horizon": 2.0, "dt0": 0.1, "width": 4, "control_width": 5, "encoder_size": 6} | options
    return nde.LatentSDE(2, 3, posterior="marginals", key=KEY, **options)


def stirred(model):
    """The model with no layer silent and a diffusion that depends on the state."""
    leaves, structure = jax.tree.flatten(model, is_leaf=eqx.is_inexact_array)
    generator = np.random.default_rng(0)
    moved = [x + 0.2 * generator.standard_normal(x.shape) if eqx.is_inexact_array(x) else x for x in leaves]
    return jax.tree.unflatten(structure, moved)


MODEL = stirred(make())


@eqx.filter_jit
def marginals_at(model, times, values, mask, ts):
    return jax.vmap(model.marginal_path(times, values, mask).at)(ts)


def test_control_makes_the_marginals_solve_the_fokker_planck_equation():
    """d q/dt = -d/dz (f + s u) q + 1/2 d2/dz2 s^2 q, with s a function of the state, at some points."""

    def marginal(t):
        return Normal(jnp.sin(t)[None], jnp.exp(0.3 * t)[None])

    def drift(t, z):
        return -(z**3)

    def diffusion(t, z):
        return 0.5 + 0.3 * jnp.tanh(z + t)

    def density(t, z):
        law = marginal(t)
        return jax.scipy.stats.norm.pdf(z, law.mean[0], law.std[0])

    def flux(t, z):
        u = posterior_control(marginal, drift, diffusion, t, z[None])[0]
        return (drift(t, z) + diffusion(t, z) * u) * density(t, z)

    def spread(t, z):
        return 0.5 * diffusion(t, z) ** 2 * density(t, z)

    for t, z in ((0.2, 0.3), (1.1, -0.8), (0.5, 2.0)):
        t, z = jnp.asarray(t), jnp.asarray(z)
        change = jax.grad(density)(t, z)
        assert float(change) == pytest.approx(
            float(-jax.grad(flux, 1)(t, z) + jax.grad(jax.grad(spread, 1), 1)(t, z)), abs=1e-13
        )


def test_control_of_an_ornstein_uhlenbeck_bridge_is_doobs():
    """From N(0, 1) at 0 to the point 2 at T: u = s d/dz log p(2, T | z, t)."""
    rate, sigma, end, target = 0.7, 0.5, 1.0, 2.0

    def kernel(h):  # mean factor and variance of a transition over a time of h
        return jnp.exp(-rate * h), sigma**2 * (1 - jnp.exp(-2 * rate * h)) / (2 * rate)

    def marginal(t):
        decay, spread = kernel(t)
        prior = decay**2 + spread  # of z_t
        to_go, rest = kernel(end - t)
        gain = prior * to_go / (to_go**2 * prior + rest)
        return Normal((gain * target)[None], jnp.sqrt(prior - gain * to_go * prior)[None])

    t, z = jnp.asarray(0.6), jnp.array([0.4])
    to_go, rest = kernel(end - t)
    found = posterior_control(marginal, lambda t, z: -rate * z, lambda t, z: jnp.full(1, sigma), t, z)
    # the start is not N(0, 1) given the end, but the posterior's, which is the same Doob transform
    assert_trees_all_close(found, sigma * to_go * (target - to_go * z) / rest, rtol=1e-12)


def test_marginals_are_continuous_with_kinks_at_the_observations():
    observed = TIMES[:5]
    at, left, right = (
        marginals_at(MODEL, TIMES, VALUES, MASK, t) for t in (observed, observed[1:] - 1e-9, observed[:4] + 1e-9)
    )
    rows = eqx.filter_jit(lambda m: m.marginal_path(TIMES, VALUES, MASK).at_rows(jnp.arange(6)))(MODEL)
    assert_trees_all_close(at, jax.tree.map(lambda x: x[:5], rows), rtol=1e-12)
    assert_trees_all_close(jax.tree.map(lambda x: x[:4], left), jax.tree.map(lambda x: x[1:], at), rtol=1e-6)
    assert_trees_all_close(jax.tree.map(lambda x: x[:4], right), jax.tree.map(lambda x: x[:4], at), rtol=1e-6)
    steps = (at.mean[1:4] - left.mean[:3]) / 1e-9, (right.mean[1:4] - at.mean[1:4]) / 1e-9
    assert np.abs(steps[1] - steps[0]).min() > 1e-3


def test_untrained_marginals_are_those_of_brownian_motion_between_ends_of_which_equally_much_is_known():
    precision, spread = 30.0, 0.6 * 0.3**2  # of what is known of either end; of the motion over the gap
    known = np.linalg.inv(np.array([[precision + 1 / spread, -1 / spread], [-1 / spread, precision + 1 / spread]]))
    linear = lambda m: (m.marginals.law.weight, m.marginals.law.bias)  # noqa: E731
    law = jnp.zeros_like(make().marginals.law.weight), jnp.full(6, 0.5 * np.log(known[0, 0])).at[:3].set(2.0)
    found = marginals_at(eqx.tree_at(linear, make(), law), TIMES, VALUES, MASK, jnp.array([0.9, 1.05, 1.5, 0.0, 0.0]))
    weights = np.array([0.75, 0.25])
    assert_trees_all_close(found.mean[:3], jnp.full((3, 3), 2.0), rtol=1e-12)
    assert_trees_all_close(found.std[0], jnp.full(3, known[0, 0] ** 0.5), rtol=1e-12)
    expected = weights @ known @ weights + 0.75 * 0.25 * spread
    assert_trees_all_close(found.std[1] ** 2, jnp.full(3, expected), rtol=1e-6)


@eqx.filter_jit
def drawn(model, times, values, mask, ts, keys):
    return jax.vmap(lambda key: model.posterior(times, values, mask, ts, key=key))(keys)


def test_what_the_mask_hides_and_padding_leave_no_trace():
    hidden, asked = MASK & (jnp.arange(6) < 3)[:, None], jnp.array([0.1, 0.5, 0.9])
    first = marginals_at(MODEL, TIMES, VALUES, hidden, asked)
    other_values = jnp.where(hidden, VALUES, 99.0).at[4].set(jnp.nan)
    other_times = TIMES.at[3:].set(jnp.array([1.1, 1.7, 1.9]))
    assert_trees_all_equal(first, marginals_at(MODEL, other_times, other_values, hidden, asked))
    longer = [jnp.concatenate([x, x[-1:]]) for x in (TIMES, VALUES, hidden)]
    assert_trees_all_equal(first, marginals_at(MODEL, *longer, asked))
    between = jnp.insert(TIMES, 1, 0.2), jnp.insert(VALUES, 1, 9.0, 0), jnp.insert(hidden, 1, False, 0)
    assert_trees_all_equal(first, marginals_at(MODEL, *between, asked))


def test_series_may_start_at_any_time_and_hold_nothing():
    keys = jax.random.split(KEY, 2)
    here, later = (drawn(MODEL, TIMES + shift, VALUES, MASK, TIMES + shift, keys) for shift in (0, 8))
    assert_trees_all_close(here, later, rtol=1e-9)
    nothing = drawn(MODEL, TIMES, VALUES, jnp.zeros_like(MASK), TIMES, keys)
    assert_trees_all_equal(nothing.kl_path, jnp.zeros(2))
    assert np.isfinite(nothing.zs).all()


def test_forecast_follows_the_prior_from_the_last_marginal():
    mask = MASK & (jnp.arange(6) < 3)[:, None]  # up to 0.9
    model = make(width=0, dt0=0.02)
    zs = drawn(model, TIMES, VALUES, mask, jnp.array([0.9, 1.9]), jax.random.split(KEY, 4000)).zs
    law = jax.tree.map(lambda x: x[0], marginals_at(model, TIMES, VALUES, mask, jnp.array([0.9])))
    decay = np.exp(-0.1)  # dz = -0.1 z dt + 0.3 dW over a time of one
    np.testing.assert_allclose(zs[:, 0].std(0), law.std, rtol=0.04)
    np.testing.assert_allclose(zs[:, 1].mean(0), decay * law.mean, atol=0.02)
    np.testing.assert_allclose(zs[:, 1].var(0), (decay * law.std) ** 2 + 0.09 * (1 - decay**2) / 0.2, rtol=0.08)


class Simulated(eqx.Module):
    """A model whose posterior is solved from the first row on."""

    model: nde.LatentSDE

    def __getattr__(self, name):
        return getattr(self.model, "simulated_posterior" if name == "posterior" else name)


@eqx.filter_jit
def terms_of(bound, model, key, values=VALUES, context=MASK):
    return bound(model, TIMES, values, MASK, context, key=key)


def test_simulated_bound_of_the_same_model_is_the_matching_bound():
    model = make(dt0=0.004, likelihood=nde.GaussianLikelihood(2, scale=1.0))
    where = lambda m: (m.diffusion.slope, m.marginals.law.bias)  # noqa: E731
    model = eqx.tree_at(where, model, (jnp.full(3, 0.5), jnp.array([0.1, -0.2, 0.3, -1.6, -1.6, -1.6])))
    matched = terms_of(nde.SDEMatching(samples=40_000), model, KEY)
    solved = terms_of(nde.ELBO(samples=400), Simulated(model), KEY)
    drawn = terms_of(nde.ELBO(samples=4000), model, KEY)
    assert float(matched.kl_path) > 1.0
    for one in (solved, drawn):
        assert float(one.kl_path) == pytest.approx(float(matched.kl_path), rel=0.05)
        assert float(one.log_likelihood) == pytest.approx(float(matched.log_likelihood), rel=0.03)
        assert float(one.kl_initial) == pytest.approx(float(matched.kl_initial), rel=1e-9)


def moved(size):
    """The model whose arrays are moved along one direction."""
    leaves, structure = jax.tree.flatten(MODEL, is_leaf=eqx.is_inexact_array)
    generator = np.random.default_rng(0)
    change = [size * generator.standard_normal(x.shape) if eqx.is_inexact_array(x) else 0 for x in leaves]
    return jax.tree.unflatten(
        structure, [x + d if eqx.is_inexact_array(x) else x for x, d in zip(leaves, change, strict=True)]
    )


def check_slope(function, exact=None):
    exact, step = jax.jit(jax.grad(function if exact is None else exact))(0.0), 1e-6
    function = jax.jit(function)
    assert float(exact) == pytest.approx(float((function(step) - function(-step)) / (2 * step)), rel=1e-6)


@pytest.mark.parametrize("predictive", [0.0, 0.5])
def test_gradient_of_the_likelihood_is_that_of_finite_differences(predictive):
    bound = nde.SDEMatching(samples=3, predictive=predictive)
    context = MASK & (TIMES < 1)[:, None]
    check_slope(lambda size: bound(moved(size), TIMES, VALUES, MASK, context, key=KEY).loss(0.0))


@pytest.mark.parametrize("place", [0.1, 0.45, 0.99])
def test_gradient_of_the_divergence_is_that_at_the_time_that_was_drawn(place):
    """Where a time is drawn depends on the model; the density that it is divided by is no part of the gradient."""
    noise = jnp.array([0.3, -1.2, 0.8])

    def square(size, t):
        path = moved(size).marginal_path(TIMES, VALUES, MASK)
        return 0.5 * jnp.sum(path(t, path.state(t, noise)) ** 2)

    def estimate(size):
        return moved(size).marginal_path(TIMES, VALUES, MASK).kl(jnp.asarray(place), noise)

    t, value = estimate(0.0)
    weight = value / square(0.0, t)
    check_slope(lambda size: weight * square(size, t), lambda size: estimate(size)[1])
    check_slope(lambda size: moved(size).kl_initial(moved(size).marginal_path(TIMES, VALUES, MASK)))


def test_times_drawn_for_the_divergence_weigh_it_to_its_integral():
    """The mean over all places against quadrature over time, at one noise."""
    path, noise = MODEL.marginal_path(TIMES, VALUES, MASK), jnp.array([0.3, -1.2, 0.8])
    nodes, weights = np.polynomial.legendre.leggauss(60)
    rows = np.asarray(TIMES[:5])
    ts = jnp.asarray(rows[:-1, None] + np.diff(rows)[:, None] * (nodes + 1) / 2)
    values = jax.vmap(jax.vmap(lambda t: 0.5 * jnp.sum(path(t, path.state(t, noise)) ** 2)))(ts)
    exact = float(np.diff(rows) @ np.asarray(values) @ weights / 2)
    drawn = jax.jit(jax.vmap(lambda place: path.kl(place, noise)[1]))(jnp.asarray((np.arange(20000) + 0.5) / 20000))
    assert float(drawn.mean()) == pytest.approx(exact, rel=1e-4)


def test_bound_reaches_the_exact_likelihood_of_a_linear_gaussian_model():
    """A stationary OU process seen with noise at irregular times; the prior fixed, one series' marginals learned."""
    times, sigma = np.array([0.0, 0.4, 0.5, 1.3, 2.0, 3.5]), 0.4
    model = nde.LatentSDE(
        1,
        1,
        posterior="marginals",
        width=0,
        control_width=16,
        encoder_size=8,
        diffusion_scale=1.0,
        likelihood=nde.GaussianLikelihood(1, scale=sigma),
        horizon=4.0,
        dt0=0.1,
        key=KEY,
    )
    exact = (-0.5 * jnp.eye(1), jnp.ones((1, 1)), jnp.zeros(1))
    model = eqx.tree_at(lambda m: (m.drift.matrix, m.decoder.weight, m.decoder.bias), model, exact)
    covariance = np.exp(-0.5 * np.abs(times[:, None] - times)) + sigma**2 * np.eye(6)
    values = np.linalg.cholesky(covariance) @ np.random.default_rng(1).standard_normal(6)
    likelihood = stats.multivariate_normal(np.zeros(6), covariance).logpdf(values)
    data = jnp.asarray(times), jnp.asarray(values)[:, None], jnp.ones((6, 1), bool)

    def loss(marginals, samples, key):
        own = eqx.tree_at(lambda m: m.marginals, model, marginals)
        return nde.SDEMatching(samples=samples)(own, *data, data[2], key=key).loss()

    steps = 1500
    optimiser = optax.adam(optax.cosine_decay_schedule(2e-2, steps))

    @eqx.filter_jit
    def train(marginals):
        def step(carry, key):
            parameters, state = carry
            gradient = jax.grad(lambda p: loss(eqx.combine(p, rest), 64, key))(parameters)
            with jax.numpy_dtype_promotion("standard"):  # optax counts in whole numbers
                change, state = optimiser.update(gradient, state)
            return (optax.apply_updates(parameters, change), state), None

        parameters, rest = eqx.partition(marginals, eqx.is_inexact_array)
        carry, _ = jax.lax.scan(step, (parameters, optimiser.init(parameters)), jax.random.split(KEY, steps))
        trained = eqx.combine(carry[0], rest)
        return loss(marginals, 40_000, KEY), loss(trained, 40_000, KEY)

    before, after = train(model.marginals)
    assert likelihood - 0.05 < -float(after) < likelihood + 0.01
    assert -float(before) < likelihood - 1


def test_a_future_is_left_out_unless_it_is_asked_for():
    context = MASK & (TIMES < 1)[:, None]
    without, scored = (terms_of(nde.SDEMatching(predictive=p), MODEL, KEY, context=context) for p in (0.0, 0.5))
    assert (int(without.count), int(scored.count)) == (int(context.sum()), int(MASK.sum()))
    assert float(scored.kl_path) == pytest.approx(float(without.kl_path), rel=1e-12)
    assert float(scored.log_likelihood) < float(without.log_likelihood)
    dirty = terms_of(nde.SDEMatching(), MODEL, KEY, jnp.where(context, VALUES, jnp.nan), context)
    assert_trees_all_equal(dirty, without)
    objective = ContextELBO(nde.SDEMatching(), whole=1.0, kl_weight=0.8, anneal_steps=8)
    terms = eqx.filter_jit(objective)(MODEL, TIMES, VALUES, MASK, step=jnp.asarray(3), key=KEY)
    assert float(terms.per_example()) == pytest.approx(float(terms.elbo.loss(0.4)))


def test_a_draw_of_rows_stands_for_all_of_them():
    whole, part = (nde.SDEMatching(samples=64, rows=rows) for rows in (None, 2))
    keys = jax.random.split(KEY, 2000)
    found = jax.vmap(lambda key: terms_of(part, MODEL, key).log_likelihood)(keys)
    expected = jax.vmap(lambda key: terms_of(whole, MODEL, key).log_likelihood)(keys[:200])
    assert found.std() > 4 * expected.std()
    assert float(found.mean()) == pytest.approx(float(expected.mean()), abs=4 * float(found.std()) / 2000**0.5)
    single = jax.tree.map(lambda x: x.astype(jnp.float32) if eqx.is_inexact_array(x) else x, (MODEL, TIMES, VALUES))
    terms = part(*single, MASK, MASK, key=KEY)
    assert {x.dtype for x in jax.tree.leaves(terms)} == {jnp.dtype("float32")}
    assert int(terms.count) == 8


def test_what_can_not_be_matched_is_refused():
    data = TIMES, VALUES, MASK, MASK
    control = nde.LatentSDE(2, 3, horizon=2.0, dt0=0.1, width=4, key=KEY)
    with pytest.raises(ValueError, match=r"posterior='control' has no marginals; make it with 'marginals'"):
        nde.SDEMatching()(control, *data, key=KEY)
    with pytest.raises(ValueError, match=r"such as LatentSDE\(posterior='marginals'\), and not a float"):
        nde.SDEMatching()(1.0, *data, key=KEY)
    with pytest.raises(ValueError, match="solves nothing that could be regularised, unless it has predictive > 0"):
        nde.SDEMatching()(MODEL, *data, key=KEY, regulariser=KineticEnergy())
    with pytest.raises(ValueError, match=r"rows >= 1 or None, and .* but got samples=4, rows=None and predictive=2.0"):
        nde.SDEMatching(predictive=2.0)
    with pytest.raises(ValueError, match="takes posterior='control', or .* got posterior='marginals' and diffusion_sc"):
        make(diffusion_scale=None)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "the latent SDE has none: give a latent_sde with posterior = 'marginals'"),
        (
            ["model.posterior=marginals", "objective.predictive=0", "regularise.penalties.kinetic=1"],
            "solves nothing that .regularise. could make cheaper",
        ),
        (["model.posterior=marginals", "model.diffusion_scale=0"], "'marginals' needs noise: a diffusion_scale above"),
        (["objective.name=elbo", "objective.rows=3"], "objective.rows is of objective.name = 'sde_matching'; the elbo"),
        (["model.posterior=magic"], "Input should be 'control' or 'marginals', but is 'magic'"),
    ],
)
def test_configs_that_can_not_be_matched_are_refused_in_one_line(overrides, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_config("configs/latent_sde_pbc.toml", ["objective.name=sde_matching", *overrides])
    assert "\n" not in str(caught.value)


def test_the_shipped_config_builds_what_it_names():
    config = load_config("configs/sde_matching_lorenz.toml", ["objective.rows=8"])
    bound = config.objective.build().elbo
    assert isinstance(bound, nde.SDEMatching) and (bound.samples, bound.rows, bound.predictive) == (2, 8, 0.0)
    model = config.model[0].build(SeriesFacts(3, 10.0, 10.0), config.solver, key=KEY)
    assert model.marginals is not None and model.control is None and model.num_steps == 160
