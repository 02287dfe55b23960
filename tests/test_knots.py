"""Controlled equations that step from row to row of a series."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nde
from nde.paths import INTERPOLATIONS, series_path

TIMES = np.array([5.0, 5.2, 5.9, 6.0, 7.5])
VALUES = np.array([[0.3, 1.0], [np.nan, 0.4], [0.9, -0.2], [0.5, np.nan], [-0.4, 0.8]])


class TimedField(eqx.Module):
    """A matrix that depends on time and state."""

    weight: jax.Array

    def __call__(self, t, y, args=None):
        return jnp.tanh(jnp.einsum("ijk,k->ij", self.weight, y) + 0.1 * t)


def model(**keywords) -> nde.NeuralCDE:
    keys = jax.random.split(jax.random.key(0), 3)
    start, readout = eqx.nn.Linear(5, 4, key=keys[0]), eqx.nn.Linear(4, 2, key=keys[1])
    return nde.NeuralCDE(start, TimedField(0.3 * jax.random.normal(keys[2], (4, 5, 4))), readout, **keywords)


def padded(rows: int):
    times = np.concatenate([TIMES, np.full(rows, TIMES[-1])])
    return times, np.concatenate([VALUES, np.full((rows, 2), np.nan)])


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_a_step_a_row_is_the_step_from_time_to_time(interpolation):
    """The midpoint rule written out, with the derivative of the path's own piece at both stages."""
    net = model(interpolation=interpolation, solver=nde.Midpoint(), steps_per_row=1)
    path = series_path(TIMES, VALUES, interpolation=interpolation, scaled=True)
    y = net.initial(path.evaluate(path.t0))
    for t0, t1 in zip(path.ts[:-1], path.ts[1:], strict=True):
        middle = (t0 + t1) / 2
        inside = y + (t1 - t0) / 2 * net.field(t0, y) @ path.derivative(t0, left=False)
        y = y + (t1 - t0) * net.field(middle, inside) @ path.derivative(middle)
    np.testing.assert_allclose(net(TIMES, VALUES), net.readout(y), rtol=1e-12)


@pytest.mark.parametrize(("solver", "order"), [(nde.Heun(), 2), (nde.Tsit5(), 5)])
def test_steps_a_row_converge_at_the_solvers_order_though_the_path_bends_at_every_row(solver, order):
    """As they would not if a stage at a row took the slope of the wrong side."""

    def end(each):
        return model(interpolation="rectilinear", solver=solver, steps_per_row=each)(TIMES, VALUES)

    ends = [end(each) for each in (1, 2, 4)]
    errors = [float(jnp.abs(one - ends[-1]).max()) for one in ends[:-1]]
    assert np.log2(errors[0] / errors[1]) > order - 0.3


def test_rows_of_padding_change_nothing_and_series_on_their_own_times_share_a_batch():
    net = model(solver=nde.Midpoint(), steps_per_row=2)
    times, values = padded(3)
    short = (np.concatenate([[0.0, 0.1], np.full(6, 0.1)]), np.concatenate([VALUES[:2], np.full((6, 2), np.nan)]))
    batch = [jnp.stack(x) for x in zip((times, values), short, strict=True)]

    def loss(net, *series):
        return jnp.sum(net(*series) ** 2)

    got = jax.vmap(eqx.filter_value_and_grad(loss), in_axes=(None, 0, 0))(net, *batch)
    alone = [eqx.filter_value_and_grad(loss)(net, *x) for x in ((TIMES, VALUES), (short[0][:2], short[1][:2]))]
    for i, expected in enumerate(alone):
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a[i], b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("interpolation", ["hermite", "rectilinear"])
def test_a_trajectory_by_rows_is_that_of_fine_steps(interpolation):
    net = model(interpolation=interpolation, solver=nde.Tsit5(), steps_per_row=4)
    path = series_path(TIMES, VALUES, interpolation=interpolation, scaled=True)
    controller = diffrax.ClipStepSizeController(nde.PIDController(rtol=1e-8, atol=1e-8), jump_ts=path.ts)
    exact = model(interpolation=interpolation, controller=controller).trajectory(TIMES, VALUES)
    found = net.trajectory(TIMES, VALUES)
    np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found[-1], net(TIMES, VALUES), rtol=1e-12)


def test_a_field_that_multiplies_itself_is_asked_to():
    class Doubling(TimedField):
        def product(self, t, y, dx, args=None):
            return 2 * (self(t, y, args) @ dx)

    plain = model(solver=nde.Midpoint(), steps_per_row=1)
    asked = eqx.tree_at(lambda m: m.field, plain, Doubling(plain.field.weight))
    twice = eqx.tree_at(lambda m: m.field, plain, lambda t, y, args: 2 * plain.field(t, y))
    np.testing.assert_allclose(asked(TIMES, VALUES), twice(TIMES, VALUES), rtol=1e-12)
    scales = [0.5, 1.0, 2.0, 1.0, 3.0]
    scaled = eqx.tree_at(lambda m: m.field, plain, nde.fields.PathScaledField(plain.field, scales))
    by_hand = eqx.tree_at(lambda m: m.field, plain, lambda t, y, args: plain.field(t, y) * jnp.asarray(scales)[None])
    np.testing.assert_allclose(scaled(TIMES, VALUES), by_hand(TIMES, VALUES), rtol=1e-12)


def test_time_may_run_backward_along_the_knots():
    path = series_path(TIMES, VALUES, interpolation="linear")
    term = nde.terms.KnotTerm(TimedField(0.1 * jnp.ones((4, 5, 4))), path)
    end = nde.diffeqsolve(term, nde.Tsit5(), 0.0, 4.0, 0.125, jnp.ones(4)).ys[-1]
    back = nde.diffeqsolve(term, nde.Tsit5(), 4.0, 0.0, -0.125, end).ys[-1]
    np.testing.assert_allclose(back, jnp.ones(4), rtol=1e-6)


def test_what_cannot_step_from_row_to_row_says_so():
    with pytest.raises(ValueError, match="steps_per_row or dt0, and not both"):
        nde.Numerics(dt0=0.1, steps_per_row=1)
    with pytest.raises(ValueError, match="steps_per_row of nde.Numerics is a whole number above zero, but is 0"):
        nde.Numerics(steps_per_row=0)
    with pytest.raises(ValueError, match="for models that a series drives"):
        nde.models.NeuralODE(lambda t, y, args: -y, steps_per_row=1)(jnp.arange(3.0), jnp.ones(2))
    with pytest.raises(ValueError, match="its products alone"):
        model(solver=nde.ReversibleHeun(), steps_per_row=1)(TIMES, VALUES)
    with pytest.raises(TypeError, match="the pieces between knots are those of .*, but got Polynomial"):
        nde.terms.KnotTerm(lambda t, y, args: y, np.polynomial.Polynomial([1.0]))


@pytest.mark.parametrize("interpolation", ["linear", "rectilinear"])
def test_adaptive_steps_end_where_the_slope_of_a_path_jumps(interpolation):
    """Steps past its corners gave 2.40 for 1.14 along this rectilinear path, at any tolerance."""
    keys = jax.random.split(jax.random.key(3), 3)
    ts, values = jnp.sort(jax.random.uniform(keys[0], (12,), maxval=5.0)), jax.random.normal(keys[1], (12, 2))
    keys = jax.random.split(keys[2], 3)
    field = nde.CDEField(4, 5, width=8, depth=1, key=keys[1])
    parts = eqx.nn.Linear(5, 4, key=keys[0]), field, eqx.nn.Linear(4, 1, key=keys[2])
    tight = {"controller": diffrax.PIDController(rtol=1e-8, atol=1e-10), "interpolation": interpolation}
    by_rows = nde.NeuralCDE(*parts, interpolation=interpolation, solver=diffrax.Tsit5(), steps_per_row=8)
    adaptive = nde.NeuralCDE(*parts, **tight)

    def output(model, ts):
        return model(ts, values)[0]

    found, by_times = jax.value_and_grad(output, argnums=1)(adaptive, ts)
    wanted, wanted_by_times = jax.value_and_grad(output, argnums=1)(by_rows, ts)
    np.testing.assert_allclose(found, wanted, rtol=1e-7)
    np.testing.assert_allclose(by_times, wanted_by_times, atol=1e-6)
    windows = nde.paths.RowWindows(3)
    logs = [
        nde.LogNCDE(*parts, windows=windows, solver=diffrax.Tsit5(), **{**options, "interpolation": interpolation})
        for options in ({"controller": tight["controller"]}, {"controller": diffrax.ConstantStepSize(), "dt0": 1 / 16})
    ]
    np.testing.assert_allclose(output(logs[0], ts), output(logs[1], ts), rtol=1e-6)
