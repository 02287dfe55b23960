"""The neural CDE by log-ODE steps: closed forms of linear equations, orders, windows, and what it refuses."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import expm

import nde
from nde.config import MODELS, SeriesFacts, SolverConfig
from nde.models import LogNCDE
from nde.paths import log_signature_path, RowWindows, series_path, TimeWindows

ROWS = 13
TIMES = np.cumsum(np.random.default_rng(0).uniform(0.1, 0.3, ROWS))
VALUES = np.stack([np.sin(3 * TIMES), np.cos(2 * TIMES)], axis=1)
SEEN = np.random.default_rng(1).uniform(size=VALUES.shape) > 0.2
FINE = {"solver": diffrax.Dopri8(), "controller": diffrax.ConstantStepSize(), "dt0": 0.5}
HEUN = {"solver": diffrax.Heun(), "dt0": 1.0}


class Linear(eqx.Module):
    """`f(y) dx = sum_k dx_k A_k y`."""

    matrices: jax.Array

    def __call__(self, t, y, args):
        return jnp.einsum("kij,j->ik", self.matrices, y)


class Curved(eqx.Module):
    """A smooth field whose columns do not commute, and which does not count observations."""

    weights: jax.Array

    def __call__(self, t, y, args):
        matrix = jnp.tanh(jnp.einsum("kij,j->ik", self.weights, y) + jnp.cos(y)[:, None])
        return matrix * jnp.array([[1.0, 1.0, 1.0, 0.0, 0.0]], y.dtype)


def ones(first):
    return jnp.ones(3, first.dtype) + 0 * first[0]


def matrices(seed, upper=False):
    found = np.random.default_rng(seed).standard_normal((5, 3, 3))
    return jnp.asarray(np.triu(found, 1) if upper else 0.3 * found)


def by_exponentials(field):
    """The solution of a linear equation along the straight lines of the path, one after another."""
    points = series_path(TIMES, VALUES, SEEN, interpolation="linear").ys
    y = np.ones(3)
    for step in np.diff(points, axis=0):
        y = expm(np.einsum("kij,k->ij", field.matrices, step)) @ y
    return y


def model(field, windows, depth, **options):
    options = FINE | options
    return LogNCDE(ones, field, lambda y: y, windows=windows, depth=depth, scaled=False, **options)


@pytest.mark.parametrize(("windows", "depth"), [(RowWindows(12), 2), (RowWindows(5), 2), (TimeWindows(0.7, 4), 3)])
def test_where_brackets_of_three_vanish_depth_two_is_exact_in_windows_of_any_length(windows, depth):
    field = Linear(matrices(0, upper=True))
    found = eqx.filter_jit(model(field, windows, depth))(TIMES, VALUES, SEEN)
    np.testing.assert_allclose(found, by_exponentials(field), rtol=1e-9)
    first = eqx.filter_jit(model(field, windows, 1))(TIMES, VALUES, SEEN)
    assert np.abs(first - by_exponentials(field)).max() > 0.05


def test_of_a_linear_field_a_window_is_the_exponential_of_its_log_signature():
    field = Linear(matrices(1))
    logs = np.asarray(jnp.diff(log_signature_path(
        series_path(TIMES, VALUES, SEEN, interpolation="linear"), RowWindows(6), 3
    ).ys, axis=0))  # fmt: skip
    y = np.ones(3)
    a = np.asarray(field.matrices)
    for log in logs:  # the first letter of a word acts first
        one, two, three = np.split(log, [5, 30])
        total = np.einsum("kij,k->ij", a, one) + np.einsum("bij,ajk,ab->ik", a, a, two.reshape(5, 5))
        y = expm(total + np.einsum("cij,bjk,akl,abc->il", a, a, a, three.reshape(5, 5, 5))) @ y
    np.testing.assert_allclose(
        eqx.filter_jit(model(field, RowWindows(6), 3, dt0=0.125))(TIMES, VALUES, SEEN), y, rtol=1e-7
    )


@pytest.mark.parametrize(("depth", "order", "close"), [(1, 2, 0.05), (2, 4, 4e-4), (3, 4, 2e-4)])
def test_windows_that_shrink_converge_to_the_equation_with_the_order_of_the_depth(depth, order, close):
    """Along a smooth path a depth leaves an error of the order above it, and of an even one by symmetry."""
    ts = np.linspace(0.0, 1.0, 193)
    curve = np.stack([np.sin(5 * ts), np.cos(4 * ts) + ts**2], axis=1)
    field = Curved(matrices(2))

    @eqx.filter_jit
    def end(windows):
        return model(field, windows, depth, solver=diffrax.Tsit5())(ts, curve)

    fine = nde.diffeqsolve(
        diffrax.ControlTerm(field, series_path(ts, curve, interpolation="linear")),
        diffrax.Tsit5(), 0.0, 1.0, None, jnp.ones(3), stepsize_controller=diffrax.StepTo(ts),
    ).ys[-1]  # fmt: skip
    errors = [float(jnp.linalg.norm(end(RowWindows(rows)) - fine)) for rows in (16, 8)]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.2)
    assert errors[0] < close


def test_windows_of_time_are_those_of_rows_where_rows_lie_evenly():
    ts = np.arange(9.0)
    curve = np.stack([np.sin(ts), np.cos(2 * ts)], axis=1)
    paths = [
        log_signature_path(series_path(ts, curve, interpolation="linear"), windows, 3)
        for windows in (RowWindows(2), TimeWindows(2.0, 6))
    ]
    np.testing.assert_allclose(paths[1].ys[:5], paths[0].ys, atol=1e-12)
    np.testing.assert_array_equal(paths[1].ys[5:], paths[1].ys[np.array([4, 4])])  # two windows after the end
    np.testing.assert_array_equal(paths[1].ts, [0, 2, 4, 6, 8, 8, 8])


@pytest.mark.parametrize("interpolation", ["linear", "rectilinear"])
@pytest.mark.parametrize("windows", [RowWindows(4), TimeWindows(0.7, 5)])
def test_padding_and_what_the_mask_hides_leave_no_trace(windows, interpolation):
    end = eqx.filter_jit(model(Curved(matrices(2)), windows, 2, interpolation=interpolation, **HEUN))
    plain = end(TIMES, VALUES, SEEN)
    rows = ((0, 5), (0, 0))
    padded = []
    for hidden in (np.nan, 7.0):
        values = np.pad(np.where(SEEN, VALUES, hidden), rows, constant_values=hidden)
        padded.append(end(np.pad(TIMES, (0, 5), mode="edge"), values, np.pad(SEEN, rows)))
    np.testing.assert_array_equal(*padded)
    np.testing.assert_allclose(padded[0], plain, rtol=1e-13)  # another program, which adds in another order


def test_gradients_are_those_of_differences():
    def loss(weights, values):
        return jnp.sum(jnp.sin(model(Curved(weights), RowWindows(4), 2, **HEUN)(TIMES, values, SEEN)))

    point = (matrices(3), jnp.asarray(VALUES))
    value, gradient = jax.jit(jax.value_and_grad(loss, (0, 1)))(*point)
    generator = np.random.default_rng(0)
    direction = [generator.standard_normal(x.shape) for x in point]
    ahead, behind = (loss(*(x + h * d for x, d in zip(point, direction, strict=True))) for h in (1e-5, -1e-5))
    along = sum(float(jnp.vdot(g, d)) for g, d in zip(gradient, direction, strict=True))
    assert along == pytest.approx(float(ahead - behind) / 2e-5, rel=1e-6)
    assert np.isfinite(value) and (gradient[1][~SEEN] == 0).all()


@pytest.mark.parametrize("keys", [{"window": 4}, {"interval": 0.7, "interpolation": "rectilinear"}])
def test_a_config_builds_it(keys):
    facts = SeriesFacts(channels=2, horizon=2.5, until=3.0, observations=10.0, classes=4)
    section = MODELS["log_ncde"](state_size=4, width=5, **keys)
    built = section.build(facts, SolverConfig(name="midpoint", dt0=0.01), key=jax.random.key(0))
    assert (built.dt0, type(built.solver)) == (1.0, diffrax.Midpoint)  # a step a window, whatever [solver] says
    assert eqx.filter_jit(built)(TIMES - TIMES[0], VALUES, SEEN).shape == (4,)


def test_bad_input_is_refused():
    field = Curved(matrices(2))
    with pytest.raises(ValueError, match="a series of 13 rows is shorter than a window, which has 13"):
        model(field, RowWindows(13), 2)(TIMES, VALUES)
    with pytest.raises(eqx.EquinoxRuntimeError, match=r"longer than 2 windows of 0.7, 1.4; give it more"):
        model(field, TimeWindows(0.7, 2), 2)(TIMES, VALUES)
    with pytest.raises(ValueError, match="a depth from 1 to 3, but got 4"):
        model(field, RowWindows(2), 4)
    with pytest.raises(ValueError, match="'linear' or 'rectilinear', but got 'hermite'"):
        model(field, RowWindows(2), 2, interpolation="hermite")
    with pytest.raises(ValueError, match="one row or more a window, but got 0"):
        RowWindows(0)
    with pytest.raises(ValueError, match="length=0.0 and number=3"):
        TimeWindows(0.0, 3)
    with pytest.raises(TypeError, match="not a CubicInterpolation"):
        log_signature_path(series_path(TIMES, VALUES), RowWindows(2), 2)
    with pytest.raises(ValueError, match=r"LogNCDE needs a field that returns a matrix .* = 7"):
        model(field, RowWindows(2), 2)(TIMES, VALUES[:, [0, 1, 1]])
    with pytest.raises(ValueError, match="needs window, in rows, or interval"):
        MODELS["log_ncde"](window=2, interval=0.5)
    with pytest.raises(ValueError, match="a depth of one or more, but got 0"):
        nde.terms.LogODEField(field, 0)
