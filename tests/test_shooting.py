"""Multiple shooting and the growing horizon against the exact solution of a linear oscillator."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nde
from nde.objectives import growing_horizon, multiple_shooting, segment_knots, solve_within

TS = jnp.linspace(0.0, 4.0, 9)
KNOTS = segment_knots(TS, 3)


class Oscillator(eqx.Module):
    """dy/dt = w (y_1, -y_0)."""

    w: jax.Array

    def __call__(self, t, y, args):
        return self.w * jnp.stack([y[1], -y[0]])


def exact(ts, w=2.0):
    return jnp.stack([jnp.sin(w * ts), jnp.cos(w * ts)], axis=1)


def model(w=2.0):
    return nde.NeuralODE(Oscillator(jnp.asarray(w)), controller=diffrax.PIDController(rtol=1e-9, atol=1e-9))


def test_segments_of_one_trajectory_give_it_back_without_gaps():
    shots = multiple_shooting(model(), TS, KNOTS, exact(KNOTS))
    np.testing.assert_allclose(shots.ys, exact(TS), atol=1e-7)
    np.testing.assert_allclose(shots.gaps, np.zeros((2, 2)), atol=1e-7)


def test_wrong_start_changes_its_own_segment_and_the_gap_before_it():
    starts = exact(KNOTS)
    moved = multiple_shooting(model(), TS, KNOTS, starts.at[1, 0].add(0.5))
    own = (KNOTS[1] <= TS) & (KNOTS[2] > TS)
    changed = jnp.abs(moved.ys - exact(TS)).max(axis=1) > 1e-3
    np.testing.assert_array_equal(changed, own)
    np.testing.assert_allclose(moved.gaps[0], jnp.array([-0.5, 0.0]), atol=1e-7)
    size = 0.5**2 * (1 + 1)  # the flow is a rotation: the next gap is as large
    np.testing.assert_allclose(moved.penalty(), size, rtol=1e-6)


def test_gradients_of_shots_agree_with_the_closed_form():
    # y_s(t) = R(w (t - tau_s)) z_s; with exact starts, d y_0(t) / dw = (t - tau_s) cos(w t)
    def last(w):
        return multiple_shooting(model(w), TS, KNOTS, exact(KNOTS)).ys[-1, 0]

    expected = (TS[-1] - KNOTS[-1]) * jnp.cos(2.0 * TS[-1])
    np.testing.assert_allclose(jax.grad(last)(2.0), expected, rtol=1e-5)


def test_rows_before_the_horizon_are_solved_and_those_after_repeat_its_state():
    ys, seen = solve_within(model(), TS, exact(TS[:1])[0], 1.7)
    np.testing.assert_array_equal(seen, TS <= 1.7)
    np.testing.assert_allclose(ys, exact(jnp.minimum(TS, 1.7)), atol=1e-7)


def test_a_state_within_a_horizon_may_be_a_pytree():
    pair = nde.NeuralODE(lambda t, y, args: {"sin": 2.0 * y["cos"], "cos": -2.0 * y["sin"]})
    ys, _ = solve_within(pair, TS, {"sin": 0, "cos": 1}, 1.7)
    np.testing.assert_allclose(ys["sin"], exact(jnp.minimum(TS, 1.7))[:, 0], atol=2e-3)


def test_horizon_grows_from_its_first_share_to_the_whole_span():
    ts = jnp.array([1.0, 2.0, 5.0])
    horizons = [float(growing_horizon(ts, step, first=0.25, steps=10)) for step in (0, 5, 10, 99)]
    np.testing.assert_allclose(horizons, [2.0, 3.5, 5.0, 5.0])


def test_knots_share_the_rows_out():
    np.testing.assert_array_equal(segment_knots(jnp.arange(7.0), 3), [0.0, 2.0, 4.0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: multiple_shooting(model(), TS, KNOTS, exact(TS)), r"as many starts, but got \(9,\), \(3,\) and"),
        (lambda: segment_knots(TS, 10), r"segments must be in 1 … 9, the number of rows, but is 10"),
        (lambda: growing_horizon(TS, 0, first=0.0, steps=3), r"first in \(0, 1\] and steps >= 1, but got 0.0 and 3"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
