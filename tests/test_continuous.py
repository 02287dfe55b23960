"""The continuous adjoint: its gradients tend to the true ones, for ODEs, Stratonovich SDEs and CDEs."""

import re

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import lineax as lx
import pytest
from chex import assert_trees_all_close
from diffrax import ControlTerm, MultiTerm, ODETerm, PIDController, SaveAt, StepTo, SubSaveAt, Tsit5

import nde

TIGHT = PIDController(rtol=1e-10, atol=1e-10)
TS = jnp.array([0.0, 0.4, 1.1, 2.0])
W = jr.normal(jr.key(0), (2, 2))
Y0 = jnp.array([0.5, -1.0])
BATCH = jnp.stack([Y0, 2 * Y0, Y0[::-1]])
CONTINUOUS = nde.ContinuousAdjoint()


def field(t, y, w):
    return jnp.tanh(w @ y) - 0.2 * y * jnp.cos(t)


def solve(w, y0, t0=0.0, t1=2.0, ts=TS, adjoint=CONTINUOUS, controller=TIGHT, dt0=None, saveat=None, **options):
    return nde.diffeqsolve(
        ODETerm(field), Tsit5(), t0, t1, dt0, y0, w, saveat=saveat or SaveAt(ts=ts), adjoint=adjoint,
        stepsize_controller=controller, **options,
    )  # fmt: skip


def loss(w, y0, *times, **options):
    return jnp.sum(solve(w, y0, *times, **options).ys ** 2)


def test_an_ode_has_the_gradient_of_its_closed_form():
    # y = y0 exp(a (t - t0) + b (t**2 - t0**2) / 2), saved on the way and at the end; b is closed over.
    def exact(a, b, y0, t0, t1, ts):
        return y0 * jnp.exp(a * (jnp.append(ts, t1) - t0) + b * (jnp.append(ts, t1) ** 2 - t0**2) / 2)

    def solved(a, b, y0, t0, t1, ts):
        term = ODETerm(lambda t, y, a: (a + b * t) * y)
        saveat = SaveAt(ts=ts, t1=True)
        return nde.diffeqsolve(
            term, Tsit5(), t0, t1, None, y0, a, saveat=saveat, stepsize_controller=TIGHT, adjoint=CONTINUOUS
        ).ys

    def weighed(function):
        return jax.jit(jax.grad(lambda x: jnp.sum(jnp.sin(function(*x)) * jnp.arange(1.0, 5.0))))

    inputs = (0.3, -0.5, 1.2, 0.1, 1.7, jnp.array([0.1, 0.5, 1.4]))
    assert_trees_all_close(weighed(solved)(inputs), weighed(exact)(inputs), rtol=1e-7)
    backward = (0.3, -0.5, 1.2, 1.7, 0.1, jnp.array([1.4, 0.5, 0.1]))
    assert_trees_all_close(weighed(solved)(backward), weighed(exact)(backward), rtol=1e-7)


def test_gradients_tend_to_the_discrete_ones_as_the_tolerance_falls():
    def gradient(adjoint, tol):
        controller = PIDController(rtol=tol, atol=tol)
        return jax.jit(jax.grad(lambda w, y: loss(w, y, adjoint=adjoint, controller=controller), (0, 1)))(W, Y0)

    errors = []
    for tol in (1e-4, 1e-7):
        both = gradient(CONTINUOUS, tol), gradient(nde.CheckpointAdjoint(), tol)
        errors.append(max(jax.tree.leaves(jax.tree.map(lambda a, b: float(jnp.max(jnp.abs(a - b))), *both))))
    assert errors[0] < 1e-2
    assert errors[1] < 2e-5
    assert errors[1] < 0.01 * errors[0]


def reference(w, y0):
    return jax.grad(lambda w, y: loss(w, y, adjoint=nde.CheckpointAdjoint()), (0, 1))(w, y0)


@pytest.fixture(scope="module")
def single():
    return jax.jit(reference)


def stacked(single, ws, ys):
    return jax.tree.map(lambda *x: jnp.stack(x), *[single(w, y) for w, y in zip(ws, ys, strict=True)])


def test_every_order_of_grad_and_vmap(single):
    each = stacked(single, [W] * 3, BATCH)
    of_batch = jax.jit(jax.grad(lambda w, ys: jnp.sum(jax.vmap(loss, (None, 0))(w, ys)), (0, 1)))(W, BATCH)
    assert_trees_all_close(of_batch, (each[0].sum(0), each[1]), rtol=1e-6)
    of_each = jax.jit(jax.vmap(jax.grad(loss, (0, 1)), (None, 0)))(W, BATCH)
    assert_trees_all_close(of_each, each, rtol=1e-6)
    ws = jnp.stack([W, 0.5 * W])
    mixed = jax.jit(jax.vmap(jax.grad(lambda w: jnp.sum(jax.vmap(loss, (None, 0))(w, BATCH)))))(ws)
    assert_trees_all_close(mixed, jnp.stack([stacked(single, [w] * 3, BATCH)[0].sum(0) for w in ws]), rtol=1e-6)


def test_what_is_saved_has_its_part():
    # Rows of several kinds, functions of them with parameters of their own, and steps.
    def total(w, adjoint):
        subs = [
            SubSaveAt(t0=True, ts=TS[1:], fn=lambda t, y, w: {"a": w[0] * y, "t": t * y[0]}),
            SubSaveAt(t1=True, steps=3, fn=lambda t, y, w: jnp.sin(y)),
        ]
        found = solve(w, Y0, adjoint=adjoint, saveat=SaveAt(subs=subs), controller=StepTo(jnp.linspace(0, 2.0, 41)))
        return sum(jnp.sum(jnp.where(jnp.isfinite(x), x, 0) ** 2) for x in jax.tree.leaves(found.ys))

    mine, exact = (jax.jit(jax.grad(lambda w, a=a: total(w, a)))(W) for a in (CONTINUOUS, nde.CheckpointAdjoint()))
    assert_trees_all_close(mine, exact, rtol=1e-4)


def test_the_way_back_has_a_solver_and_a_controller_of_its_own(single):
    adjoint = nde.ContinuousAdjoint(controller=PIDController(rtol=1e-9, atol=1e-9), solver=diffrax.Dopri8())
    mine = jax.jit(jax.grad(lambda w, y: loss(w, y, adjoint=adjoint), (0, 1)))(W, Y0)
    assert_trees_all_close(mine, single(W, Y0), rtol=1e-6)


def sde_error(solver, make_path, controller=None, dt0=None, ts=None, paths=32):
    """The root mean square error of the gradient of a Stratonovich SDE with diagonal noise, y_i = exp(a_i t + b_i W_i).

    It is taken over paths, in units of the gradient's own.
    """

    def solved(a, b, y0, path):
        terms = MultiTerm(
            ODETerm(lambda t, y, args: args[0] * y),
            ControlTerm(lambda t, y, args: lx.DiagonalLinearOperator(args[1] * y), path),
        )
        options = {} if controller is None else {"stepsize_controller": controller}
        return nde.diffeqsolve(
            terms, solver, 0.0, 1.0, dt0, y0, (a, b), saveat=SaveAt(ts=ts), adjoint=CONTINUOUS, **options
        ).ys

    def exact(a, b, y0, path):
        w = jax.vmap(lambda t: path.evaluate(0.0, t))(ts)
        return y0[None] * jnp.exp(a[None] * ts[:, None] + b[None] * w)

    inputs = (jnp.array([0.3, -0.2]), jnp.array([0.5, 0.8]), jnp.array([1.0, 0.7]))

    def gradients(key):
        def of(function):
            gradient = jax.grad(lambda x: jnp.sum(function(*x, make_path(key)) ** 2))(inputs)
            return jnp.concatenate(gradient)

        return of(solved), of(exact)

    mine, true = jax.jit(jax.vmap(gradients))(jr.split(jr.key(3), paths))
    return jnp.sqrt(jnp.mean((mine - true) ** 2) / jnp.mean(true**2))


@pytest.mark.parametrize("solver", [diffrax.Heun(), diffrax.SlowRK()], ids=lambda s: type(s).__name__)
def test_an_sde_on_a_grid(solver):
    # Multiplicative noise with parameters in it; the path is asked again backward, saved times included.
    def error(steps):
        def path(key):
            return nde.BrownianGrid(0.0, 1.0, steps, (2,), key, levy_area=diffrax.SpaceTimeLevyArea)

        return sde_error(solver, path, dt0=1 / steps, ts=jnp.array([0.25, 0.5, 1.0]))

    coarse, fine = error(16), error(256)
    assert fine < coarse * 16**-0.8  # the order is one
    assert fine < 0.01


def test_an_sde_with_steps_that_adapt():
    def path(key):
        return nde.VirtualBrownianTree(0.0, 1.0, 2.0**-14, (2,), key, diffrax.SpaceTimeLevyArea)

    controller = PIDController(rtol=1e-3, atol=1e-3, pcoeff=0.1, icoeff=0.3, dtmin=2.0**-12)
    assert sde_error(diffrax.SPaRK(), path, controller, ts=jnp.array([0.3, 1.0]), paths=8) < 0.03


@pytest.mark.parametrize("controller", [TIGHT, diffrax.ConstantStepSize()], ids=lambda c: type(c).__name__)
def test_a_cde_whose_path_is_learned(controller):
    ts = jnp.linspace(0.0, 2.0, 5)

    def total(values, w, adjoint):
        coefficients = diffrax.backward_hermite_coefficients(ts, values)
        term = ControlTerm(
            lambda t, y, w: jnp.outer(jnp.tanh(w @ y), jnp.array([1.0, 0.5])),
            diffrax.CubicInterpolation(ts, coefficients),
        ).to_ode()
        dt0 = None if controller is TIGHT else 0.01
        return jnp.sum(
            nde.diffeqsolve(
                term, Tsit5(), 0.0, 2.0, dt0, Y0, w, saveat=SaveAt(ts=ts), stepsize_controller=controller,
                adjoint=adjoint,
            ).ys
            ** 2
        )  # fmt: skip

    values = jnp.cumsum(jr.normal(jr.key(1), (5, 2)), 0)
    mine, exact = (
        jax.jit(jax.grad(lambda v, w, a=a: total(v, w, a), (0, 1)))(values, W)
        for a in (CONTINUOUS, nde.CheckpointAdjoint())
    )
    assert_trees_all_close(mine, exact, rtol=1e-5, atol=1e-7)


def test_a_control_term_driven_by_increments():
    # dy = w y dx with x(t) = c t**2 on a fine linear interpolation: y(1) = y0 exp(w c).
    ts = jnp.linspace(0.0, 1.0, 65)

    def end(w, c, y0):
        term = ControlTerm(lambda t, y, w: w * y, diffrax.LinearInterpolation(ts, c * ts**2))
        return nde.diffeqsolve(
            term, Tsit5(), 0.0, 1.0, None, y0, w, stepsize_controller=StepTo(ts), adjoint=CONTINUOUS
        ).ys[0]

    mine = jax.jit(jax.grad(end, (0, 1, 2)))(0.7, 1.3, 0.5)
    assert_trees_all_close(mine, jax.grad(lambda w, c, y: y * jnp.exp(w * c), (0, 1, 2))(0.7, 1.3, 0.5), rtol=1e-8)


def test_a_failed_solve_that_the_loss_masks_adds_nothing():
    def one(w, y0):
        term = ODETerm(lambda t, y, w: w * y**2)
        solution = nde.diffeqsolve(
            term, Tsit5(), 0.0, 3.0, 0.2, y0, w, stepsize_controller=PIDController(rtol=1e-6, atol=1e-6), max_steps=60,
            throw=False, adjoint=CONTINUOUS,
        )  # fmt: skip
        return jnp.where(solution.result == diffrax.RESULTS.successful, solution.ys[0], 0.0)

    gradient = jax.jit(jax.grad(lambda w, ys: jnp.sum(jax.vmap(one, (None, 0))(w, ys)), (0, 1)))
    good, mixed = gradient(0.1, jnp.array([0.5, 1.0])), gradient(0.1, jnp.array([0.5, 1.0, 50.0, jnp.nan]))
    assert_trees_all_close(good[1], jnp.array([1 / (1 - 0.15) ** 2, 1 / (1 - 0.3) ** 2]), rtol=1e-5)
    assert_trees_all_close(mixed[0], good[0], rtol=1e-12)
    assert_trees_all_close(mixed[1], jnp.array([*good[1], 0.0, 0.0]), rtol=1e-12)


def test_a_way_back_that_does_not_end_has_no_gradient():
    adjoint = nde.ContinuousAdjoint(controller=PIDController(rtol=1e-12, atol=1e-12), solver=diffrax.Bosh3())
    gradient = jax.jit(jax.grad(lambda w: loss(w, Y0, adjoint=adjoint, max_steps=100)))(W)
    assert jnp.all(jnp.isnan(gradient))


def test_no_loop_carries_a_parameter_gradient_an_example():
    width, batch = 48, 7
    mlp = eqx.nn.MLP(2, 2, width, 2, key=jr.key(0))
    weights, rest = eqx.partition(mlp, eqx.is_array)

    def total(weights, ys):
        term = ODETerm(lambda t, y, m: eqx.combine(m, rest)(y))
        controller = PIDController(rtol=1e-4, atol=1e-4)

        def run(y):
            return nde.diffeqsolve(
                term, Tsit5(), 0.0, 1.0, 0.1, y, weights, stepsize_controller=controller, adjoint=CONTINUOUS
            ).ys

        return jnp.sum(jax.vmap(run)(ys) ** 2)

    text = jax.jit(jax.grad(total)).lower(weights, jr.normal(jr.key(1), (batch, 2))).compile().as_text()
    loops = [line for line in text.splitlines() if " while(" in line]
    assert any(f"[{width},{width}]" in line for line in loops)
    assert not any(re.search(rf"\[{batch},{width},{width}\]", line) for line in loops)


def brownian(solver, t1=1.0):
    path = nde.BrownianGrid(0.0, 1.0, 4, (), jr.key(0))
    terms = MultiTerm(ODETerm(lambda t, y, a: a * y), ControlTerm(lambda t, y, a: y, path))
    return lambda a: nde.diffeqsolve(terms, solver, 0.0, t1, 0.25, 1.0, a, adjoint=CONTINUOUS).ys[0]


EVENT = diffrax.Event(lambda t, y, args, **kw: y[0] > 3.0)
REFUSED = {
    "Itô": (brownian(diffrax.Euler()), "SDE solved by Euler, which does not converge to the Stratonovich.*to_strat"),
    "event": (lambda a: jnp.sum(solve(a * W, Y0, event=EVENT, saveat=SaveAt(t1=True)).ys), "a solve with an event"),
    "dense": (lambda a: jnp.sum(solve(a * W, Y0, saveat=SaveAt(dense=True)).evaluate(0.3)), "dense output"),
    "state": (lambda a: solve(a * W, Y0, saveat=SaveAt(t1=True, solver_state=True)).ys[0, 0], "a saved state of the "),
    "solver": (brownian(diffrax.ReversibleHeun()), "a solve by ReversibleHeun, which takes more of a term"),
    "two solutions": (brownian(nde.Reversible(diffrax.Heun())), "a solve by Reversible, which takes more of a term"),
    "times": (lambda t: brownian(diffrax.Heun(), t)(0.3), "no gradient in the times of an SDE"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_continuous_adjoint_is_refused(name):
    function, message = REFUSED[name]
    assert jnp.isfinite(function(1.0))  # without a gradient it is solved
    with pytest.raises(ValueError, match=message):
        jax.grad(function)(1.0)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="slack must be positive, not -1"):
        nde.ContinuousAdjoint(slack=-1)
    with pytest.raises(ValueError, match="controller must choose steps by their error.*not ConstantStepSize"):
        nde.ContinuousAdjoint(controller=diffrax.ConstantStepSize())
