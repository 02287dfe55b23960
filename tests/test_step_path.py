"""An input held between its times: what it holds, and a solve that steps onto its jumps, with gradients."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nde
from nde.paths import StepPath

TIMES = jnp.array([0.5, 1.0, 2.2, 3.0])
VALUES = jnp.array([[2.0, jnp.nan], [5.0, 1.0], [jnp.nan, 4.0], [-1.0, jnp.nan]])


def test_it_holds_what_was_given_last():
    path = StepPath(TIMES, VALUES)
    found = jax.vmap(path.evaluate)(jnp.array([0.0, 0.5, 0.99, 1.0, 2.2, 2.9, 3.0, 9.0]))
    np.testing.assert_array_equal(found[:, 0], [2, 2, 2, 5, 5, 5, -1, -1])
    np.testing.assert_array_equal(found[:, 1], [0, 0, 0, 1, 4, 4, 4, 4])
    np.testing.assert_array_equal(path.evaluate(1.0, left=True), [2, 0])
    np.testing.assert_array_equal(path.evaluate(0.7, 2.5), [3, 4])
    np.testing.assert_array_equal(path.derivative(1.5), [0, 0])


def test_padding_and_what_the_mask_hides_leave_no_bit():
    seen = ~jnp.isnan(VALUES)
    padded = StepPath(
        jnp.pad(TIMES, (0, 2), mode="edge"), jnp.pad(jnp.where(seen, VALUES, 7.0), ((0, 2), (0, 0))),
        jnp.pad(seen, ((0, 2), (0, 0))),
    )  # fmt: skip
    for t in np.linspace(0, 4, 17):
        np.testing.assert_array_equal(padded.evaluate(t), StepPath(TIMES, VALUES).evaluate(t))


def given(ts, values, told=True):
    """What flows out of a vessel by the time 4, which is filled at the held rate: closed form below."""
    path = StepPath(ts, values)
    control = diffrax.PIDController(rtol=1e-9, atol=1e-11)
    if told:
        control = diffrax.ClipStepSizeController(control, jump_ts=path.jump_ts)
    term = diffrax.ODETerm(lambda t, y, path: path.evaluate(t) - y)
    return nde.diffeqsolve(
        term, diffrax.Tsit5(), ts[0], 4.0, None, jnp.zeros(1), path, stepsize_controller=control, max_steps=256
    ).ys[-1, 0]


def closed_form(ts, values):
    ends = jnp.append(ts[1:], 4.0)
    return jnp.sum(values[:, 0] * (jnp.exp(ends - 4) - jnp.exp(ts - 4)))


def test_a_solve_steps_onto_its_jumps_with_the_gradient_of_the_closed_form_in_values_and_times():
    values = jnp.array([[2.0], [5.0], [0.5], [-1.0]])
    found, gradient = jax.jit(jax.value_and_grad(given, (0, 1)))(TIMES, values)
    expected, exact = jax.value_and_grad(closed_form, (0, 1))(TIMES, values)
    np.testing.assert_allclose(found, expected, rtol=1e-8)
    np.testing.assert_allclose(gradient[1], exact[1], rtol=1e-7)
    np.testing.assert_allclose(gradient[0], exact[0], rtol=1e-6)
    with pytest.raises(ValueError, match="no gradient in the times ts of an interpolated path"):
        jax.grad(given)(TIMES, values, False)


def test_padding_has_no_share_in_the_gradient_by_the_last_time():
    values = jnp.array([[2.0], [5.0], [0.5], [-1.0]])
    exact = jax.grad(closed_form)(TIMES, values)
    again = jnp.concatenate([values, jnp.full((2, 1), jnp.nan)])
    found = jax.jit(jax.grad(given))(jnp.append(TIMES, TIMES[-1:].repeat(2)), again)
    np.testing.assert_allclose(found, [*exact, 0, 0], rtol=1e-6, atol=1e-12)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"got ts of shape \(4,\), values of shape \(4,\)"):
        StepPath(TIMES, VALUES[:, 0])
    with pytest.raises(eqx.EquinoxRuntimeError, match="times ts that increase"):
        StepPath(TIMES[::-1], VALUES)
    with pytest.raises(eqx.EquinoxRuntimeError, match="rows without values that repeat the last time"):
        StepPath(TIMES.at[3].set(2.2), VALUES)
