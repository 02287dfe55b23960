"""Gradients through the engine: the exact ones of the discrete solve, in every composition and in bounded memory."""

import re

import diffrax
import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optimistix
import pytest
from chex import assert_trees_all_close
from diffrax import ODETerm, PIDController, SaveAt, StepTo, Tsit5

import nde
from nde.adjoints import RecordSize

PID = PIDController(rtol=1e-4, atol=1e-4)
TS = jnp.array([0.0, 0.4, 1.1, 2.0])
W = jr.normal(jr.key(0), (2, 2))
Y0 = jnp.array([0.5, -1.0])


def field(t, y, w):
    return jnp.tanh(w @ y) - 0.2 * y * jnp.cos(t)


def solve(w, y0, t0=0.0, t1=2.0, ts=TS, controller=PID, dt0=0.3, adjoint=None, **options):
    return nde.diffeqsolve(
        ODETerm(field), Tsit5(), t0, t1, dt0, y0, w, saveat=SaveAt(ts=ts), stepsize_controller=controller,
        adjoint=adjoint or nde.CheckpointAdjoint(), **options,
    )  # fmt: skip


def loss(w, y0, **options):
    return jnp.sum(solve(w, y0, **options).ys ** 2)


def accepted_times(w, y0, t0=0.0, t1=2.0, ts=TS):
    solution = nde.diffeqsolve(
        ODETerm(field), Tsit5(), t0, t1, 0.3, y0, w, saveat=SaveAt(t0=True, steps=True), stepsize_controller=PID,
        max_steps=64,
    )  # fmt: skip
    return solution.ts[jnp.isfinite(solution.ts)]


def differences(function, x, h=1e-6):
    """Central differences of a scalar function."""
    flat, unravel = jax.flatten_util.ravel_pytree(x)
    function = jax.jit(function)
    rows = [(function(unravel(flat + h * e)) - function(unravel(flat - h * e))) / (2 * h) for e in np.eye(len(flat))]
    return unravel(jnp.stack(rows))


@pytest.fixture(scope="module")
def single():
    """The gradient of one solve in the parameters and the start, which the compositions are held to."""
    return jax.jit(jax.grad(loss, (0, 1)))


def test_the_gradient_is_that_of_the_frozen_grid(single):
    times = accepted_times(W, Y0)
    assert len(times) > 4

    def frozen(inputs):
        return loss(*inputs, controller=StepTo(times), dt0=None)

    assert_trees_all_close(single(W, Y0), differences(frozen, (W, Y0)), rtol=1e-7, atol=1e-8)


def test_times_carry_gradients():
    # The ends and the save times move; what lies between does not.
    def of_times(times):
        t0, t1, ts = times
        return jnp.sum(solve(W, Y0, t0=t0, t1=t1, ts=ts).ys ** 2)

    ts = jnp.array([0.1, 0.9, 1.9])
    grid = accepted_times(W, Y0, 0.05, 1.95)

    def frozen(times):
        t0, t1, ts = times
        moved = grid.at[0].set(t0).at[-1].set(t1)
        return jnp.sum(solve(W, Y0, t0=t0, t1=t1, ts=ts, controller=StepTo(moved), dt0=None).ys ** 2)

    ends = (jnp.array(0.05), jnp.array(1.95), ts)
    assert_trees_all_close(jax.jit(jax.grad(of_times))(ends), differences(frozen, ends), rtol=1e-7, atol=1e-8)


BATCH = jnp.stack([Y0, 2 * Y0, Y0[::-1]])


def stacked(single, ws, ys):
    return jax.tree.map(lambda *x: jnp.stack(x), *[single(w, y) for w, y in zip(ws, ys, strict=True)])


def test_the_gradient_of_a_batch_with_shared_parameters(single):
    both = jax.jit(jax.grad(lambda w, ys: jnp.sum(jax.vmap(loss, (None, 0))(w, ys)), (0, 1)))(W, BATCH)
    each = stacked(single, [W] * 3, BATCH)
    assert_trees_all_close(both, (each[0].sum(0), each[1]), rtol=1e-9)


def test_per_example_gradients(single):
    each = jax.jit(jax.vmap(jax.grad(loss, (0, 1)), (None, 0)))(W, BATCH)
    assert_trees_all_close(each, stacked(single, [W] * 3, BATCH), rtol=1e-9)


def test_an_ensemble_of_models_on_a_batch(single):
    ws = jnp.stack([W, 0.5 * W])
    on_batch = jax.vmap(loss, (None, 0))
    nested = jax.jit(jax.grad(lambda ws, ys: jnp.sum(jax.vmap(on_batch, (0, None))(ws, ys)), (0, 1)))(ws, BATCH)
    each = [stacked(single, [w] * 3, BATCH) for w in ws]
    expected = (jnp.stack([e[0].sum(0) for e in each]), each[0][1] + each[1][1])
    assert_trees_all_close(nested, expected, rtol=1e-9)
    swapped = jax.jit(jax.grad(lambda ws: jnp.sum(jax.vmap(lambda y: jax.vmap(loss, (0, None))(ws, y))(BATCH))))(ws)
    assert_trees_all_close(swapped, expected[0], rtol=1e-9)


def test_gradients_mixed_with_vmap_on_both_sides(single):
    # The gradient of a batch, for each of an ensemble.
    ws = jnp.stack([W, 0.5 * W])
    mixed = jax.jit(jax.vmap(jax.grad(lambda w: jnp.sum(jax.vmap(loss, (None, 0))(w, BATCH)))))(ws)
    assert_trees_all_close(mixed, jnp.stack([stacked(single, [w] * 3, BATCH)[0].sum(0) for w in ws]), rtol=1e-9)


def test_what_a_field_closes_over_has_gradients(single):
    def closed(w, y0):
        term = ODETerm(lambda t, y, args: jnp.tanh(w @ y) - 0.2 * y * jnp.cos(t))
        saveat = SaveAt(ts=TS, fn=lambda t, y, args: y * w[0, 0])
        return jnp.sum(
            nde.diffeqsolve(term, Tsit5(), 0.0, 2.0, 0.3, y0, saveat=saveat, stepsize_controller=PID).ys ** 2
        )

    gradient, _ = single(W, Y0)
    value = jax.jit(loss)(W, Y0)
    expected = W[0, 0] ** 2 * gradient + jnp.zeros_like(W).at[0, 0].set(2 * W[0, 0] * value)
    assert_trees_all_close(jax.jit(jax.grad(closed))(W, Y0), expected, rtol=1e-9)
    batch = jax.jit(jax.vmap(jax.grad(closed), (None, 0)))(W, jnp.stack([Y0, Y0]))
    assert_trees_all_close(batch, jnp.stack([expected] * 2), rtol=1e-9)


def test_arguments_some_shared_some_of_each_example():
    def one(shared, own, y0):
        term = ODETerm(lambda t, y, args: jnp.tanh(args[0] @ y) - args[1] * y)
        return jnp.sum(
            nde.diffeqsolve(term, Tsit5(), 0.0, 1.0, 0.3, y0, (shared, own), stepsize_controller=PID).ys ** 2
        )

    owns = jnp.array([0.1, 0.2, 0.3])
    both = jax.jit(jax.grad(lambda s, o: jnp.sum(jax.vmap(one, (None, 0, 0))(s, o, BATCH)), (0, 1)))(W, owns)
    each = jax.jit(jax.grad(one, (0, 1)))
    rows = [each(W, o, y) for o, y in zip(owns, BATCH, strict=True)]
    assert_trees_all_close(both, (sum(r[0] for r in rows), jnp.stack([r[1] for r in rows])), rtol=1e-9)


@pytest.mark.parametrize("checkpoints", [2, 4, "all"])
def test_a_short_record_changes_no_gradient(checkpoints, single):
    adjoint = nde.CheckpointAdjoint(checkpoints)

    def batch(w, ys):
        return jnp.sum(jax.vmap(lambda y: loss(w, y, adjoint=adjoint, max_steps=300))(ys))

    gradient = jax.jit(jax.grad(batch, (0, 1)))(W, BATCH)
    each = stacked(single, [W] * 3, BATCH)
    assert_trees_all_close(gradient, (each[0].sum(0), each[1]), rtol=1e-9)


def test_a_record_that_is_thinned_often():
    # 300 steps and more in 64 rows; at 1e-9 the grid's own derivative no longer shows.
    def long(w, adjoint):
        term = ODETerm(lambda t, y, w: jnp.stack([y[1], -w * y[0]]))
        controller = PIDController(rtol=1e-9, atol=1e-9)
        saveat = SaveAt(ts=jnp.linspace(0, 30.0, 5))
        return nde.diffeqsolve(term, Tsit5(), 0.0, 30.0, None, jnp.array([1.0, 0.0]), w, saveat=saveat,
                               stepsize_controller=controller, adjoint=adjoint)  # fmt: skip

    gradient = jax.jit(jax.grad(lambda w: jnp.sum(long(w, nde.CheckpointAdjoint(64)).ys[:, 0])))(1.3)
    assert long(1.3, nde.CheckpointAdjoint(64)).stats["num_accepted_steps"] > 300
    exact = jax.grad(lambda w: jnp.sum(jnp.cos(jnp.sqrt(w) * jnp.linspace(0, 30.0, 5))))(1.3)
    assert_trees_all_close(gradient, exact, rtol=1e-6)


def test_the_record_of_a_batch_of_large_states_is_bounded():
    def rows(*size, **more):
        return nde.CheckpointAdjoint().num_checkpoints(RecordSize(*size, **more))

    assert rows(40, 4096, batch_size=1) == rows(40, 4096, batch_size=1000) == 512
    assert rows(40, 4096, batch_size=1000, cheap_steps=True) == 210  # of 8 MiB; a network's steps are dear to replay
    assert rows(520, 4096, batch_size=10) == 256
    assert rows(520, 4096, batch_size=1000) == 130  # of 64² steps, from one to the next of which there are 32


def test_an_event_time_and_what_it_depends_on():
    # y = y0 exp(-w t) meets 0.3 at t = log(y0 / 0.3) / w.
    def event_time(w, y0, level):
        event = diffrax.Event(lambda t, y, args, **kw: y - level, optimistix.Newton(1e-10, 1e-10))
        controller = PIDController(rtol=1e-9, atol=1e-9)
        solution = nde.diffeqsolve(ODETerm(lambda t, y, w: -w * y), Tsit5(), 0.0, 10.0, None, y0, w, event=event,
                                   stepsize_controller=controller)  # fmt: skip
        return solution.ts[-1]

    arguments = (jnp.array(0.8), jnp.array(2.0), jnp.array(0.3))
    mine = jax.jit(jax.value_and_grad(event_time, (0, 1, 2)))(*arguments)
    exact = jax.value_and_grad(lambda w, y0, level: jnp.log(y0 / level) / w, (0, 1, 2))(*arguments)
    assert_trees_all_close(mine, exact, rtol=1e-6)
    batch = jax.jit(jax.grad(lambda w, ys: jnp.sum(jax.vmap(event_time, (None, 0, None))(w, ys, 0.3))))
    ys = jnp.array([2.0, 0.7])
    assert_trees_all_close(batch(0.8, ys), -jnp.sum(jnp.log(ys / 0.3)) / 0.64, rtol=1e-6)


def blow_up(t, y, w):
    return w * y**2  # infinite at t = 1 / (w y0)


@pytest.mark.parametrize("controller", [PID, diffrax.ConstantStepSize()])
def test_a_failed_solve_raises_in_a_compiled_gradient(controller):
    def one(w):
        y0 = jnp.array(1.0)
        return nde.diffeqsolve(ODETerm(blow_up), Tsit5(), 0.0, 3.0, 0.2, y0, w, stepsize_controller=controller,
                               max_steps=40).ys[0]  # fmt: skip

    gradient = jax.jit(jax.grad(one))
    assert jnp.isfinite(gradient(0.1))
    with pytest.raises((RuntimeError, ValueError), match="maximum number of solver steps|Nonfinite"):
        gradient(2.0).block_until_ready()


@pytest.mark.parametrize("controller", [PID, diffrax.ConstantStepSize()])
def test_a_failed_solve_that_the_loss_masks_adds_nothing(controller):
    def one(w, y0):
        solution = nde.diffeqsolve(ODETerm(blow_up), Tsit5(), 0.0, 3.0, 0.2, y0, w, stepsize_controller=controller,
                                   max_steps=40, throw=False)  # fmt: skip
        return jnp.where(solution.result == diffrax.RESULTS.successful, solution.ys[0], 0.0)

    gradient = jax.jit(jax.grad(lambda w, ys: jnp.sum(jax.vmap(one, (None, 0))(w, ys)), (0, 1)))
    good, mixed = gradient(0.1, jnp.array([0.5, 1.0])), gradient(0.1, jnp.array([0.5, 1.0, 50.0, jnp.nan]))
    assert_trees_all_close(mixed[0], good[0], rtol=1e-12)
    assert_trees_all_close(mixed[1], jnp.array([*good[1], 0.0, 0.0]), rtol=1e-12)


def test_a_nan_at_constant_steps_is_a_failure():
    solution = nde.diffeqsolve(ODETerm(blow_up), Tsit5(), 0.0, 3.0, 0.2, 50.0, 1.0, throw=False)
    assert solution.result == diffrax.RESULTS.nonfinite


def fixed(w, y0=Y0, ts=TS):
    return jnp.sum(solve(w, y0, controller=diffrax.ConstantStepSize(), ts=ts).ys ** 2)


def test_a_known_grid_has_every_derivative():
    direction = jr.normal(jr.key(1), W.shape)
    gradient = jax.jit(jax.grad(fixed))
    assert_trees_all_close(gradient(W), differences(fixed, W), rtol=1e-7)
    moved = jax.jit(lambda w, d: jax.jvp(fixed, (w,), (d,))[1])(W, direction)
    assert_trees_all_close(moved, jnp.sum(gradient(W) * direction), rtol=1e-9)
    twice = jax.jit(jax.grad(lambda w: jnp.sum(jax.grad(fixed)(w) * direction)))
    assert_trees_all_close(twice(W), differences(lambda w: jnp.sum(gradient(w) * direction), W), rtol=1e-6)


def test_a_long_known_grid_is_walked_in_stretches():
    def long(w, adjoint):
        return jnp.sum(solve(w, Y0, controller=diffrax.ConstantStepSize(), dt0=0.011, adjoint=adjoint).ys ** 2)

    short, whole = (
        jax.jit(jax.grad(lambda w, a=a: long(w, a)))(W)
        for a in (nde.CheckpointAdjoint(10), nde.CheckpointAdjoint("all"))
    )
    assert_trees_all_close(short, whole, rtol=1e-10)


def test_forward_mode_of_an_adaptive_solve_is_refused():
    with pytest.raises(TypeError, match=r"nde\.diffeqsolve has no forward mode .*adjoint=diffrax\.ForwardMode"):
        jax.jvp(lambda w: loss(w, Y0), (W,), (W,))


def test_a_solve_without_bound_on_its_steps_is_not_differentiated():
    assert jnp.isfinite(loss(W, Y0, max_steps=None))
    with pytest.raises(ValueError, match="max_steps=None can not be differentiated backward"):
        jax.grad(loss)(W, Y0, max_steps=None)


def test_no_loop_carries_a_parameter_gradient_an_example():
    width, batch = 48, 7
    mlp = eqx.nn.MLP(2, 2, width, 2, key=jr.key(0))

    def total(mlp, ys):
        term = ODETerm(lambda t, y, m: m(y))

        def run(y):
            return nde.diffeqsolve(term, Tsit5(), 0.0, 1.0, 0.1, y, mlp, stepsize_controller=PID).ys

        return jnp.sum(jax.vmap(run)(ys) ** 2)

    ys = jr.normal(jr.key(1), (batch, 2))
    weights, rest = eqx.partition(mlp, eqx.is_array)
    text = jax.jit(jax.grad(lambda w, ys: total(eqx.combine(w, rest), ys))).lower(weights, ys).compile().as_text()
    loops = [line for line in text.splitlines() if " while(" in line]
    assert any(f"[{width},{width}]" in line for line in loops)
    assert not any(re.search(rf"\[{batch},{width},{width}\]", line) for line in loops)


def test_a_batch_of_none():
    ys = jnp.zeros((0, 2))

    def one(w, y):
        return loss(w, y, throw=False)  # equinox's check of a result wants at least one

    value, gradient = jax.jit(jax.value_and_grad(lambda w: jnp.sum(jax.vmap(one, (None, 0))(w, ys))))(W)
    assert value == 0
    assert_trees_all_close(gradient, jnp.zeros_like(W))


def test_float32_stays_float32():
    y0, w = Y0.astype(jnp.float32), W.astype(jnp.float32)
    f32 = np.float32
    value, gradient = jax.jit(jax.value_and_grad(lambda w: jnp.sum(
        solve(w, y0, t0=f32(0), t1=f32(2), dt0=f32(0.3), ts=TS.astype(f32)).ys ** 2)))(w)  # fmt: skip
    assert value.dtype == gradient.dtype == jnp.float32
    assert_trees_all_close(gradient, jax.jit(jax.grad(loss))(W, Y0).astype(f32), rtol=2e-3)


@pytest.mark.parametrize("checkpoints", [0, 1, "some", 2.5])
def test_a_wrong_number_of_checkpoints(checkpoints):
    with pytest.raises(ValueError, match="checkpoints must be an integer of at least 2"):
        nde.CheckpointAdjoint(checkpoints)


def test_our_adjoint_in_diffrax_says_where_it_belongs():
    with pytest.raises(ValueError, match="CheckpointAdjoint belongs to nde.diffeqsolve"):
        diffrax.diffeqsolve(ODETerm(field), Tsit5(), 0.0, 1.0, 0.1, Y0, W, adjoint=nde.CheckpointAdjoint())
