"""The times of a solve: how many steps there are, how the last one ends, times that are no numbers."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optimistix
import pytest
from diffrax import ODETerm

import nde
from nde.engine.fixed import count_steps

GRIDS = ((0.0, 59, 0.1), (10.0, 60, 0.01), (100.0, 402, 0.001), (-3.0, 30, 0.1), (2020.0, 12, 1 / 12))


@pytest.mark.parametrize(("t0", "steps", "dt"), GRIDS)
def test_a_number_of_steps_that_rounding_makes_uneven_is_whole(t0, steps, dt):
    for dtype in (jnp.float32, jnp.float64):
        assert count_steps(diffrax.ConstantStepSize(), t0, t0 + steps * dt, dt, dtype) == steps
        assert count_steps(diffrax.ConstantStepSize(), t0 + steps * dt, t0, -dt, dtype) == steps
        assert count_steps(diffrax.ConstantStepSize(), t0, t0 + (steps + 0.4) * dt, dt, dtype) == steps + 1


def test_traced_ends_make_as_many_steps_as_numbers():
    @jax.jit
    def steps(t0, t1, dt):
        term = ODETerm(lambda t, y, a: -y)
        return nde.diffeqsolve(term, diffrax.Euler(), t0, t1, dt, jnp.float32(1.0)).stats["num_steps"]

    for t0, number, dt in GRIDS:
        for sign in (1, -1):
            assert steps(*jnp.array([t0, t0 + sign * number * dt, sign * dt], jnp.float32)) == number


def test_the_number_of_steps_that_a_refusal_names_is_taken():
    def solve(steps, dt):
        path = nde.BrownianGrid(10.0, 10.6, steps, (), jr.key(0))
        terms = diffrax.MultiTerm(
            ODETerm(lambda t, y, a: 0.0 * y), diffrax.ControlTerm(lambda t, y, a: jnp.ones_like(y), path)
        )
        return nde.diffeqsolve(terms, diffrax.Euler(), 10.0, 10.6, dt, jnp.float32(0)).ys[-1], path.evaluate(10.0, 10.6)

    with pytest.raises(ValueError, match=r"num_steps=60, or take"):
        solve(59, 0.01)
    np.testing.assert_allclose(*solve(60, 0.01), rtol=1e-4)
    with pytest.raises(ValueError, match=r"num_steps=3, and dt0=0\.1999\d*, or take"):
        solve(3, 0.25)
    np.testing.assert_allclose(*solve(3, 0.19999999999999987), rtol=1e-4)


def test_a_solve_to_a_late_time_in_single_precision_ends():
    # Steps of some ten units in the last place of the end: each solve once tried one step of them for ever.
    @jax.jit
    @jax.vmap
    def solve(t0, t1, w):
        controller = diffrax.PIDController(rtol=1e-4, atol=1e-5)
        solution = nde.diffeqsolve(
            ODETerm(lambda t, y, w: w * jnp.stack([y[1], -y[0]])), diffrax.Tsit5(), t0, t1, None,
            jnp.array([0.0, 1.0], jnp.float32), w, stepsize_controller=controller, max_steps=300, throw=False,
        )  # fmt: skip
        return solution.ys[-1, 0], solution.result == diffrax.RESULTS.successful

    numbers = np.random.default_rng(0)
    t0 = np.float32(numbers.choice([-2020, 100, 2020, 1e4], 64))
    t1 = t0 + np.float32(numbers.choice([-1, 1], 64) * np.abs(t0) * 10 ** numbers.uniform(-5, -4, 64))
    w = np.float32(numbers.uniform(1, 5, 64) / (t1 - t0))
    ys, ended = solve(t0, t1, w)
    assert np.all(ended)
    np.testing.assert_allclose(ys, np.sin(w * (t1 - t0)), atol=2e-3)


def test_ordered_callbacks_in_a_field_are_made_as_diffrax_makes_them():
    seen = []

    def field(t, y, a):
        jax.debug.callback(lambda t: seen.append(float(t)), t, ordered=True)
        return -y

    def calls(solve):
        seen.clear()
        controller = diffrax.PIDController(rtol=1e-3, atol=1e-4)
        jax.jit(lambda y: solve(ODETerm(field), diffrax.Heun(), 0.0, 1.0, 0.1, y, stepsize_controller=controller).ys)(
            jnp.ones(())
        )
        jax.effects_barrier()
        return list(seen)

    np.testing.assert_allclose(calls(nde.diffeqsolve), calls(diffrax.diffeqsolve), rtol=1e-9)


def test_times_that_are_known_to_be_no_numbers_are_refused():
    term, ts = ODETerm(lambda t, y, a: -y), jnp.array([0.2, jnp.nan, 0.8])
    with pytest.raises(ValueError, match="ts holds NaN"):
        nde.diffeqsolve(term, diffrax.Heun(), 0.0, 1.0, 0.1, 1.0, saveat=diffrax.SaveAt(ts=ts))
    with pytest.raises(ValueError, match="t1 holds NaN"):
        nde.diffeqsolve(term, diffrax.Heun(), 0.0, float("nan"), 0.1, 1.0)


def test_an_end_that_is_an_array_outside_is_known_inside_jit():
    t1 = jnp.array(0.5)
    solve = jax.jit(lambda y0: nde.diffeqsolve(ODETerm(lambda t, y, a: -y), diffrax.Heun(), 0.0, t1, 0.1, y0).ys[-1])
    np.testing.assert_allclose(solve(1.0), np.exp(-0.5), rtol=2e-3)


@pytest.mark.parametrize("which", ["t0", "t1", "dt0", "ts"])
@pytest.mark.parametrize("known", [True, False])
def test_a_time_that_turns_out_to_be_nan_is_a_failure(which, known):
    """Of times that are traced: no comparison with NaN is true, and a solve would end at once without a word."""

    def solve(nan, throw):
        times = {"t0": 0.0, "t1": 1.0, "dt0": 0.25, "ts": jnp.array([0.5, 0.75])}
        times[which] = times[which] * nan
        controller = diffrax.ConstantStepSize() if known else diffrax.PIDController(rtol=1e-3, atol=1e-3)
        saveat = diffrax.SaveAt(ts=times.pop("ts"))
        options = {"saveat": saveat, "stepsize_controller": controller, "throw": throw}
        term = diffrax.ODETerm(lambda t, y, args: -y)
        return nde.diffeqsolve(term, diffrax.Heun(), y0=jnp.ones(1), **times, **options)

    failed = eqx.filter_jit(solve)(jnp.array(jnp.nan), False)
    assert failed.result == diffrax.RESULTS.promote(optimistix.RESULTS.nonfinite)
    assert not jnp.any(jnp.isfinite(failed.ys))
    with pytest.raises(Exception, match="onfinite|not finite|NaN|nan"):
        jax.block_until_ready(eqx.filter_jit(solve)(jnp.array(jnp.nan), True).ys)
