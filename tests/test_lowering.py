"""Solves and their gradients lower for every platform, and with `throw=False` they call no host back."""

import re
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from diffrax import ControlTerm, MultiTerm, ODETerm, PIDController, SaveAt

import nde

PLATFORMS = ["cpu", "cuda", "rocm", "tpu"]
F32 = np.float32
START, END, STEP = F32(0), F32(1), F32(0.1)
TS = jnp.linspace(0, 1, 4, dtype=F32)
W, STARTS = jax.ShapeDtypeStruct((2, 2), F32), jax.ShapeDtypeStruct((3, 2), F32)


def drift(t, y, w):
    return jnp.tanh(w @ y)


def ode(w, y0, t0=START, t1=END, dt0: Any = STEP, ts=TS, controller=None, solver=None, throw=False):
    controller = controller or PIDController(rtol=1e-3, atol=1e-3)
    return nde.diffeqsolve(
        ODETerm(drift), solver or diffrax.Tsit5(), t0, t1, dt0, y0, w, saveat=SaveAt(ts=ts),
        stepsize_controller=controller, max_steps=64, throw=throw,
    ).ys  # fmt: skip


def sde(w, y0):
    path = nde.BrownianGrid(0.0, 1.0, 8, jax.ShapeDtypeStruct((2,), jnp.float32), jr.key(0))
    terms = MultiTerm(ODETerm(drift), ControlTerm(lambda t, y, w: 0.1 * jnp.diag(y), path))
    return nde.diffeqsolve(terms, diffrax.EulerHeun(), 0.0, 1.0, 0.125, y0, w, saveat=SaveAt(ts=TS), throw=False).ys


def cde(w, y0):
    path = diffrax.LinearInterpolation(TS, jnp.outer(TS, y0))
    term = ControlTerm(lambda t, y, w: jnp.tanh(w @ jnp.diag(y)), path)
    controller = PIDController(rtol=1e-3, atol=1e-3)
    return nde.diffeqsolve(
        term, diffrax.Heun(), START, END, None, y0, w, stepsize_controller=controller, max_steps=64, throw=False
    ).ys


# Times that are traced, so that nothing can be known of them; and a grid.
def traced_times(w, y0):
    return ode(w, y0, y0[0], y0[0] + 1, 0.1 * y0[1] ** 2, y0[0] + TS)


def traced_grid(w, y0):
    grid = y0[0] + TS
    return ode(w, y0, grid[0], grid[-1], None, grid[1:], diffrax.StepTo(grid))


SOLVES = {"ode": ode, "sde": sde, "cde": cde, "traced times": traced_times, "traced grid": traced_grid}


def loss(solve):
    return lambda w, ys: jnp.sum(jax.vmap(solve, (None, 0))(w, ys) ** 2)


def exported(function):
    return jax.export.export(jax.jit(function), platforms=PLATFORMS)(W, STARTS)


def calls(module):
    return set(re.findall(r"custom_call @(\w+)", module))


@pytest.mark.parametrize("name", SOLVES)
def test_a_solve_and_its_gradient_lower_for_every_platform(name):
    # jax.export refuses a host callback for more than one platform.
    value = exported(loss(SOLVES[name]))
    gradient = exported(jax.value_and_grad(loss(SOLVES[name]), (0, 1)))
    assert value.platforms == gradient.platforms == tuple(PLATFORMS)
    assert [x.dtype for x in value.out_avals + gradient.out_avals] == [jnp.float32] * 4
    assert "while" in value.mlir_module()
    assert not any("callback" in call for call in calls(value.mlir_module()) | calls(gradient.mlir_module()))


def test_a_solve_that_may_throw_calls_back():
    # So that the tests above can fail.
    module = jax.jit(loss(lambda w, y0: ode(w, y0, throw=True))).lower(W, STARTS).as_text()
    assert any("callback" in call for call in calls(module))


def test_what_is_exported_runs():
    w, ys = jnp.asarray([[0.1, -0.5], [0.4, 0.2]], jnp.float32), jnp.ones((3, 2), jnp.float32)
    assert exported(loss(ode)).call(w, ys) == jax.jit(loss(ode))(w, ys)


@pytest.mark.parametrize("name", ["ode", "backward", "grid", "reversible Heun"])
def test_a_solve_is_the_same_whether_it_may_throw_or_not(name):
    # The times of the one hang on diffrax's checks, those of the other are as they were given.
    options = {
        "ode": {},
        "backward": dict(t0=F32(1), t1=F32(0), dt0=F32(-0.1), ts=TS[::-1]),
        "grid": dict(controller=diffrax.StepTo(TS), dt0=None),
        "reversible Heun": dict(t0=0, t1=1, solver=diffrax.ReversibleHeun(), controller=diffrax.ConstantStepSize()),
    }[name]
    w, y0 = jnp.asarray([[0.1, -0.5], [0.4, 0.2]], jnp.float32), jnp.ones(2, jnp.float32)
    both = [jax.jit(lambda w, y0, throw=throw: ode(w, y0, throw=throw, **options))(w, y0) for throw in (True, False)]
    assert both[0].dtype == both[1].dtype
    # To rounding: the two are different programs, whose operations the compiler may contract differently.
    assert jnp.allclose(*both, rtol=0, atol=4 * jnp.finfo(jnp.float32).eps)


BAD_TIMES = {
    "first step": (dict(dt0=-0.1), "t1 - t0. . dt0 >= 0"),
    "order": (dict(ts=jnp.array([0.5, 0.2])), "increasing or decreasing"),
    "order, backward": (dict(t0=1.0, t1=0.0, dt0=-0.1, ts=jnp.array([0.2, 0.5])), "increasing or decreasing"),
    "place": (dict(ts=jnp.array([0.5, 1.2])), "must lie between t0 = 0.0 and t1 = 1.0"),
    "grid's order": (dict(dt0=None, controller=diffrax.StepTo([0.0, 0.7, 0.6, 1.0])), "strictly increasing"),
    "grid's place": (dict(dt0=None, controller=diffrax.StepTo([0.0, 0.7])), "t1==ts.-1."),
}


@pytest.mark.parametrize("name", BAD_TIMES)
def test_wrong_times_are_errors_when_a_solve_that_may_not_throw_is_traced(name):
    options, message = BAD_TIMES[name]
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda w, y0: ode(w, y0, **options), W, jax.ShapeDtypeStruct((2,), F32))


def test_save_times_that_turn_back_are_an_error_whatever_the_ends():
    ts = jnp.array([0.5, 0.2, 0.3])
    with pytest.raises(ValueError, match="increasing or decreasing"):
        jax.eval_shape(lambda w, y0: ode(w, y0, y0[0], ts=ts), W, jax.ShapeDtypeStruct((2,), F32))
