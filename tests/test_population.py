"""Populations: Laplace's approximation against closed forms, quadrature and differences, and what is read of them."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import nde
from nde.models import known_parameters, Population
from nde.objectives import LaplaceMarginal, posterior_mode
from nde.paths import Doses, Inputs
from nde.report import individual_fits, plot_predictive_check, predictive_check, weighted_residuals
from nde.report.population import replaced

TS, SEEN = jnp.array([0.0, 1.0, 2.5, 4.0]), jnp.ones((4, 1), bool).at[2].set(False)
NUMERICS = {"steps_per_row": 2, "solver": nde.Midpoint()}


def level(effects=("level",), **options):
    """A line that goes up by a slope, from a level: linear in both."""
    field = nde.KnownField(
        lambda t, y, p: p.slope * jnp.ones(1), {"level": nde.Parameter(1.0), "slope": nde.Parameter(0.5)}
    )
    return Population(
        nde.NeuralODE(field, **NUMERICS), nde.GaussianLikelihood(1, scale=0.4), effects,
        observe=lambda t, y, p: y, start=lambda p: p.level[None], **options,
    )  # fmt: skip


VALUES = jnp.array([[1.4], [2.1], [99.0], [3.9]])


def test_linear_population_has_the_marginal_likelihood_of_its_normal_law_with_its_gradient():
    model = level(("level", "slope"), spread=[0.6, 0.3], correlated=True)
    model = eqx.tree_at(lambda m: m.raw_correlation, model, jnp.array([0.4]))

    def closed_form(model):
        rows = np.array([0, 1, 3])
        design = jnp.stack([jnp.ones(3), TS[rows]], 1)
        parameters = known_parameters(model.ode.field)
        mean = design @ jnp.stack([parameters["level"].value, parameters["slope"].value])
        covariance = design @ model.covariance @ design.T + model.likelihood.scale[0] ** 2 * jnp.eye(3)
        return jax.scipy.stats.multivariate_normal.logpdf(VALUES[rows, 0], mean, covariance)

    individual = (TS, VALUES, SEEN, None)
    laplace = eqx.filter_jit(eqx.filter_value_and_grad(lambda m: LaplaceMarginal(3).log_marginal(m, individual)))
    found, gradient = laplace(model)
    exact, expected = eqx.filter_value_and_grad(closed_form)(model)
    np.testing.assert_allclose(found, exact, rtol=1e-10)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-9), gradient, expected)


def decaying(raw=0.2, spread=0.5):
    field = nde.KnownField(lambda t, y, p: -p.rate * y, {"rate": nde.Parameter(float(np.exp(raw)), log=True)})
    return Population(
        nde.NeuralODE(field, steps_per_row=16, solver=nde.Bosh3()), nde.GaussianLikelihood(1, scale=0.1), ["rate"],
        observe=lambda t, y, p: y, start=jnp.ones(1), spread=spread,
    )  # fmt: skip


DECAYED = jnp.array([[1.05], [0.12], [99.0], [0.01]])


def test_nonlinear_population_is_near_quadrature_and_its_gradient_is_that_of_differences():
    individual = (TS, DECAYED, SEEN, None)
    model = decaying()
    log_marginal = eqx.filter_jit(lambda m: LaplaceMarginal().log_marginal(m, individual))

    def joint(eta):
        seen = np.exp(-np.exp(0.2 + eta)[:, None] * np.array([0.0, 1.0, 4.0]))
        return stats.norm.logpdf(DECAYED[np.array([0, 1, 3]), 0], seen, 0.101).sum(1) + stats.norm.logpdf(eta, 0, 0.5)

    etas = np.linspace(-3, 4, 70_001)
    logs = joint(etas)
    best = etas[np.argmax(logs)]
    below, at, above = joint(best + np.array([-1e-3, 0, 1e-3]))
    laplace = at + 0.5 * np.log(2 * np.pi) - 0.5 * np.log((2 * at - below - above) / 1e-6)
    assert float(log_marginal(model)) == pytest.approx(laplace, abs=1e-3)
    assert float(log_marginal(model)) == pytest.approx(np.log(np.trapezoid(np.exp(logs), etas)), abs=0.1)
    gradient = eqx.filter_jit(eqx.filter_grad(log_marginal))(model)
    for where in (
        lambda m: m.ode.field.parameters["rate"].raw, lambda m: m.raw_spread, lambda m: m.likelihood.raw_scale,
    ):  # fmt: skip
        ends = [float(log_marginal(eqx.tree_at(where, model, where(model) + h))) for h in (1e-5, -1e-5)]
        np.testing.assert_allclose(np.sum(where(gradient)), (ends[0] - ends[1]) / 2e-5, rtol=1e-5)
    assert len(jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))) == 3  # the numbers of a start are not learned
    mode, decrement = eqx.filter_jit(posterior_mode)(model, individual)
    assert abs(float(mode[0]) - best) < 1e-3
    assert float(decrement) < 1e-8


def test_effect_that_is_no_parameter_is_read_as_an_input_and_doses_are_given():
    field = nde.KnownField(lambda t, y, p: -p.rate * y * jnp.exp(p.own), {"rate": nde.Parameter(0.5, log=True)})
    model = Population(
        nde.NeuralODE(field, steps_per_row=20, solver=nde.Bosh3()), nde.GaussianLikelihood(1), ["own"],
        observe=lambda t, y, p: y / p.volume, start=jnp.zeros(1),
    )  # fmt: skip
    inputs = Inputs(Doses([1.0], [8.0], [0], states=1), constants={"volume": 4.0})
    found = model.locations(TS, inputs, jnp.array([np.log(2.0)]))[:, 0]
    np.testing.assert_allclose(found, [0, 0, 2 * np.exp(-1.5), 2 * np.exp(-3.0)], rtol=1e-4)


def test_weighted_residuals_are_standard_normal_and_the_check_covers_its_own_law():
    model, generator = level(spread=0.7), np.random.default_rng(0)
    count = 400
    eta, noise = 0.7 * generator.standard_normal(count), 0.401 * generator.standard_normal((count, 4, 1))
    values = 1.0 + eta[:, None, None] + 0.5 * np.asarray(TS)[None, :, None] + noise
    mask, ts = np.ones(values.shape, bool), np.tile(TS, (count, 1))
    mask[::3, 1] = False
    found = weighted_residuals(model, (ts, values, mask, None))
    assert np.isnan(found[::3, 1]).all()
    kept = found[mask]
    assert abs(kept.mean()) < 0.1 and kept.std() == pytest.approx(1, abs=0.06)
    assert abs(np.corrcoef(found[1::3, 0, 0], found[1::3, 3, 0])[0, 1]) < 0.2  # whitened, where raw ones go together
    check = predictive_check(
        model, (ts, values, mask, None), edges=[-0.5, 0.5, 2.0, 5.0], repeats=200, key=jax.random.key(0)
    )
    inside = (check.low <= check.observed) & (check.observed <= check.high)
    assert inside.mean() > 0.7
    shifted = predictive_check(
        model, (ts, values + 1.5, mask, None), edges=[-0.5, 0.5, 2.0, 5.0], repeats=200, key=jax.random.key(0)
    )
    assert not ((shifted.low <= shifted.observed) & (shifted.observed <= shifted.high)).any()


def test_weighted_residuals_are_about_the_mean_of_a_skewed_law():
    """Whose location is its median: by that they would be 0.3 too high."""
    model, generator = level(spread=1e-3), np.random.default_rng(0)
    scale = 0.6
    model = eqx.tree_at(lambda m: m.likelihood, model, nde.objectives.LogNormalLikelihood(1, scale=scale - 1e-3))
    values = (1.0 + 0.5 * np.asarray(TS))[None, :, None] * np.exp(scale * generator.standard_normal((500, 4, 1)))
    found = weighted_residuals(model, (np.tile(TS, (500, 1)), values, np.ones(values.shape, bool), None))
    assert abs(found.mean()) < 0.08 and found.std() == pytest.approx(1, abs=0.1)


def test_check_is_drawn_with_its_bands_and_the_values():
    model, values = level(spread=0.7), np.tile(np.array([1.4, 2.1, 2.0, 3.9])[None, :, None], (6, 1, 1))
    values = values + 0.3 * np.arange(6)[:, None, None]
    data = (np.tile(TS, (6, 1)), values, np.ones(values.shape, bool), None)
    check = predictive_check(model, data, edges=[-0.5, 0.5, 2.0, 5.0], repeats=20, key=jax.random.key(0))
    figure = plot_predictive_check(check, data, names=["level"], time="time (h)")
    (axes,) = figure.axes
    assert len(axes.collections) == 3 and axes.get_xlabel() == "time (h)" and axes.get_ylabel() == "level"
    assert [text.get_text() for text in axes.texts] == ["5%", "50%", "95%"] and check.failed == 0
    with pytest.raises(ValueError, match="no value between the times 5.0 and 6.0"):
        predictive_check(model, data, edges=[-0.5, 5.0, 6.0], key=jax.random.key(0))


def test_individuals_are_fitted_and_those_without_values_are_typical():
    model = level(spread=0.7)
    mask = np.stack([np.asarray(SEEN), np.zeros(SEEN.shape, bool)])
    fits = individual_fits(model, (np.stack([TS, TS]), np.stack([VALUES, VALUES]), mask, None))
    # of a normal law: the mean residual, shrunk by the share of the variance that is the individual's
    residual = np.asarray(VALUES)[[0, 1, 3], 0] - (1.0 + 0.5 * np.asarray(TS)[[0, 1, 3]])
    expected = residual.sum() * 0.7**2 / (3 * 0.7**2 + 0.401**2)
    np.testing.assert_allclose(fits.effects[:, 0], [expected, 0.0], rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(
        fits.individual - fits.population, fits.effects[:, None, :] * np.ones((2, 4, 1)), atol=1e-9
    )


def test_bad_populations_are_refused():
    with pytest.raises(ValueError, match="each once, but got"):
        level(("level", "level"))
    with pytest.raises(ValueError, match="positive spread"):
        level(spread=0.0)
    with pytest.raises(ValueError, match="holds one KnownField, but MLPField has 0"):
        known_parameters(nde.MLPField(1, 4, 1, key=jax.random.key(0)))
    with pytest.raises(ValueError, match="LaplaceMarginal takes no regulariser"):
        LaplaceMarginal()(level(), TS, VALUES, SEEN, regulariser=nde.regularise.ErrorEstimate())
    field = nde.KnownField(lambda t, y, p: -p.rate * y, {"rate": nde.Parameter(1.0, fixed=True)})
    with pytest.raises(ValueError, match="'rate' is a fixed parameter"):
        Population(
            nde.NeuralODE(field), nde.GaussianLikelihood(1), ["rate"], observe=lambda t, y, p: y, start=jnp.ones(1)
        )


def test_what_is_seen_may_be_infinite_where_no_value_is_and_gradients_are_those_of_the_rows_with_values():
    """The logarithm of a concentration, in a row before the dose."""
    field = nde.KnownField(lambda t, y, p: -p.rate * y, {"rate": nde.Parameter(0.5, log=True)})
    model = Population(
        nde.NeuralODE(field, steps_per_row=20, solver=nde.Bosh3()), nde.GaussianLikelihood(1, scale=0.3), ["rate"],
        observe=lambda t, y, p: jnp.log(y), start=jnp.zeros(1),
    )  # fmt: skip
    inputs = Inputs(Doses([0.0], [8.0], [0], states=1))
    mask = jnp.ones((4, 1), bool).at[0].set(False)
    values = jnp.log(8.0) - 0.6 * TS[:, None]

    @eqx.filter_jit
    def both(curvature):
        objective = LaplaceMarginal(8, curvature)
        return eqx.filter_value_and_grad(lambda m: objective.log_marginal(m, (TS, values, mask, inputs)))(model)

    for curvature in ("observed", "expected"):
        value, gradient = both(curvature)
        assert np.isfinite(value) and all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))
        assert abs(float(gradient.ode.field.parameters["rate"].raw)) > 1e-3


def test_draws_that_failed_are_replaced_by_others_of_the_same_individual():
    located = np.arange(12.0).reshape(4, 3)[..., None, None] * np.ones((1, 1, 2, 1))
    solved = np.array([[1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 0, 0]], bool)
    found = replaced(located, solved)[:, :, 0, 0]
    np.testing.assert_array_equal(found[:, 0], [0, 3, 6, 9])
    np.testing.assert_array_equal(found[:, 1], [4, 4, 7, 7])
    np.testing.assert_array_equal(found[:, 2], [8, 8, 8, 8])


def test_a_saddle_is_no_mode():
    class Saddle:
        raw_spread = jnp.zeros(2)

        def log_joint(self, individual, eta):
            return jnp.sum(eta**2) * 0.5 * individual

    found = LaplaceMarginal(1).log_marginal(Saddle(), 1.0)  # a minimum: two negative eigenvalues
    assert float(found) == -np.inf
