"""Paths through partly missing series: what they go through, what they know, and what they do not see."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.interpolate import CubicSpline

import nde
from nde.paths import CAUSAL, INTERPOLATIONS, series_path

TIMES = np.array([2.0, 2.4, 2.5, 3.1, 3.6, 4.0, 4.7])
NAN = np.nan
VALUES = np.array([
    [0.3, NAN, NAN], [0.8, 1.0, NAN], [NAN, 0.4, NAN], [0.1, NAN, NAN], [-0.5, -0.2, NAN], [0.9, 0.7, NAN],
    [0.2, NAN, NAN],
])  # fmt: skip
SEEN = ~np.isnan(VALUES)
ASKED = np.linspace(2.0, 4.7, 28)


@pytest.fixture(scope="module", params=INTERPOLATIONS)
def traced(request):
    """Of an interpolation its name, and the jitted values and slopes of its path at the times asked for."""

    @jax.jit
    def trace(ts, values, mask=None, asked=ASKED):
        path = series_path(ts, values, mask, interpolation=request.param)
        return jax.vmap(lambda t: (path.evaluate(t), path.derivative(t)))(asked)

    return request.param, trace


def pad(rows=3, times=TIMES, values=VALUES):
    return np.pad(times, (0, rows), mode="edge"), np.pad(values, ((0, rows), (0, 0)), constant_values=NAN)


def test_it_goes_through_what_was_observed_and_counts_it(traced):
    knots = np.asarray(traced[1](TIMES, VALUES, asked=TIMES)[0])
    np.testing.assert_allclose(knots[:, 0], TIMES, rtol=1e-14)
    np.testing.assert_allclose(knots[:, 1:4][SEEN], VALUES[SEEN], rtol=1e-12)
    np.testing.assert_allclose(knots[:, 4:], np.cumsum(SEEN, axis=0), atol=1e-12)
    # zero before the first observation and where there is none at all, the last value after the last observation
    np.testing.assert_allclose(knots[[0, -1], 2], [0, 0.7], rtol=1e-12)
    np.testing.assert_array_equal(knots[:, 3], np.zeros(7))


def test_padding_and_what_the_mask_hides_leave_no_bit(traced):
    plain = traced[1](TIMES, VALUES)
    times, values = pad()
    for filled in (NAN, 5.0, np.inf):
        found = traced[1](times, np.where(np.isnan(values), filled, values), ~np.isnan(values))
        assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), plain, found))


def test_a_row_without_observations_only_bends_the_counts(traced):
    dropped = np.delete(TIMES, 2), np.delete(VALUES, 2, axis=0)
    hidden = VALUES.copy()
    hidden[2] = NAN
    # at the rows where the rectilinear path stands still; between them its corners move
    asked = dropped[0] if traced[0] == "rectilinear" else ASKED
    with_row, without = (traced[1](*data, asked=asked)[0] for data in ((TIMES, hidden), dropped))
    np.testing.assert_allclose(with_row[:, :4], without[:, :4], atol=1e-12)


def test_gradients_in_values_are_those_of_differences_and_none_where_missing(traced):
    times, values = pad()

    @jax.jit
    def loss(values):
        return jnp.sum(jnp.sin(traced[1](times, values)[0]))

    gradient = np.asarray(jax.jit(jax.grad(loss))(values))
    seen = ~np.isnan(values)
    np.testing.assert_array_equal(gradient[~seen], 0)
    direction = np.random.default_rng(0).standard_normal(values.shape)
    differences = (loss(values + 1e-5 * direction) - loss(values - 1e-5 * direction)) / 2e-5
    assert float(np.sum(gradient[seen] * direction[seen])) == pytest.approx(float(differences), rel=1e-7)
    assert np.isfinite(jax.jit(jax.grad(lambda t: jnp.sum(traced[1](t, values)[0])))(times)).all()


def test_natural_cubics_are_scipys():
    path = jax.jit(lambda t, x: series_path(t, x, interpolation="natural_cubic"))(*pad())
    found = np.asarray(jax.vmap(path.evaluate)(ASKED))
    for channel in (0, 1):
        seen = np.where(SEEN[:, channel])[0]
        known = np.union1d([0], seen)
        spline = CubicSpline(TIMES[known], np.nan_to_num(VALUES[known, channel]), bc_type="natural")
        expected = spline(np.minimum(ASKED, TIMES[seen[-1]]))
        np.testing.assert_allclose(found[:, 1 + channel], expected, atol=1e-13)


def test_linear_paths_are_diffraxs():
    path = series_path(TIMES, VALUES, interpolation="linear")
    values = diffrax.linear_interpolation(
        jnp.asarray(TIMES), jnp.asarray(VALUES), replace_nans_at_start=0.0, fill_forward_nans_at_end=True
    )
    # whose replacement of a missing first value holds until the first observation; ours goes there from zero
    np.testing.assert_allclose(path.ys[:, 1], values[:, 0], atol=1e-14)
    np.testing.assert_allclose(path.ys[1:, 2], values[1:, 1], atol=1e-14)


def test_rectilinear_corners_are_diffraxs():
    path = series_path(TIMES, VALUES, interpolation="rectilinear")
    times, values = diffrax.rectilinear_interpolation(jnp.asarray(TIMES), jnp.asarray(VALUES), jnp.zeros(3))
    np.testing.assert_array_equal(path.ys[:, 0], times)
    np.testing.assert_array_equal(path.ys[:, 1:4], values)
    np.testing.assert_allclose(path.ts[1::2], (TIMES[1:] + TIMES[:-1]) / 2, rtol=1e-15)


@pytest.mark.parametrize("name", INTERPOLATIONS)
def test_the_future_changes_nothing_before_in_those_said_to_be_causal_and_something_in_the_others(name):
    later = VALUES.copy()
    later[5:] = [[3.0, NAN, 4.0], [NAN, -2.0, 5.0]]
    moved = np.append(TIMES[:5], [4.4, 6.0])

    def up_to_row_four(times, values):
        path = series_path(times, values, interpolation=name)
        return np.stack([path.evaluate(t) for t in np.linspace(2.0, 3.6, 17)])

    same = (up_to_row_four(TIMES, VALUES) == up_to_row_four(moved, later)).all()
    assert same == (name in CAUSAL)


def linear_field(t, y, args):
    """The matrix of an equation whose rows do not commute, so that the order of the corners counts."""
    turn = jnp.array([[0.0, 1.0], [-1.0, 0.0]]) @ y
    return jnp.stack([0.3 * y, turn, jnp.flip(y), 0 * y, 0.1 * turn, 0.2 * y, 0 * y], axis=1)


def test_a_neural_cde_on_a_rectilinear_path_is_a_product_of_exponentials():
    """Along a straight stretch the linear equation is a matrix exponential: of the clock's step, then the values'."""
    tight = diffrax.PIDController(rtol=1e-9, atol=1e-11)
    model = nde.NeuralCDE(
        lambda x: 1 + x[:2], linear_field, lambda y: y, scaled=False, interpolation="rectilinear", controller=tight
    )
    corners = series_path(TIMES, VALUES, interpolation="rectilinear").ys
    columns = jax.jacobian(lambda y: linear_field(0.0, y, None))(jnp.zeros(2))
    y, expected = 1 + corners[0, :2], []
    for change in jnp.diff(corners, axis=0):
        y = jax.scipy.linalg.expm(jnp.einsum("ikj,k->ij", columns, change)) @ y
        expected.append(y)
    found = eqx.filter_jit(model.trajectory)(TIMES, VALUES)
    np.testing.assert_allclose(found[1:], expected[1::2], atol=2e-5)


def test_the_states_of_a_causal_model_do_not_know_the_future_and_others_have_none():
    options = {"scaled": False, "solver": nde.Heun()}
    model = nde.NeuralCDE(
        lambda x: 1 + x[:2], linear_field, lambda y: y, interpolation="rectilinear", steps_per_row=1, **options
    )
    states = eqx.filter_jit(model.states)
    later = VALUES.copy()
    later[5:] = [[3.0, NAN, 4.0], [NAN, -2.0, 5.0]]
    before, after = states(TIMES, VALUES), states(np.append(TIMES[:5], [4.4, 6.0]), later)
    np.testing.assert_array_equal(before[:5], after[:5])
    assert (before[5] != after[5]).all()
    with pytest.raises(ValueError, match=r"does not look ahead: .* has interpolation='hermite', steps_per_row=1"):
        nde.NeuralCDE(lambda x: x, linear_field, lambda y: y, steps_per_row=1, **options).states(TIMES, VALUES)
    with pytest.raises(ValueError, match=r"steps_per_row=None, time_scale=None and scaled=True"):
        nde.NeuralCDE(lambda x: x, linear_field, lambda y: y, interpolation="rectilinear").states(TIMES, VALUES)


def test_bad_series_are_refused():
    with pytest.raises(ValueError, match=r"no interpolation 'cubic'; there are hermite, linear, rectilinear, natural"):
        series_path(TIMES, VALUES, interpolation="cubic")
    with pytest.raises(ValueError, match="no interpolation 'spline'"):
        nde.NeuralCDE(lambda x: x, linear_field, lambda y: y, interpolation="spline")
    with pytest.raises(ValueError, match=r"two rows or more, .* but got ts of shape \(1,\)"):
        series_path(TIMES[:1], VALUES[:1])
    with pytest.raises(ValueError, match=r"values of shape \(7, 3\) and mask of shape \(7, 2\)"):
        series_path(TIMES, VALUES, SEEN[:, :2])
    with pytest.raises(eqx.EquinoxRuntimeError, match="a row lies before another"):
        series_path(TIMES[::-1], VALUES)
    with pytest.raises(eqx.EquinoxRuntimeError, match="rows without observations that repeat the last time"):
        series_path(np.append(TIMES[:-1], TIMES[-2]), VALUES)
