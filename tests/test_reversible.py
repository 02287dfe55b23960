"""Reversible methods and their adjoint: steps that are undone, and the gradients that replaying them gives."""

import diffrax
import jax
import jax.flatten_util
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optimistix
import pytest
from chex import assert_trees_all_close
from diffrax import ControlTerm, Heun, MultiTerm, ODETerm, PIDController, ReversibleHeun, SaveAt, StepTo, Tsit5

import nde
from nde.solvers import inverse_step_of
from nde.solvers.reversible import amplification

W = 0.7 * jr.normal(jr.key(0), (2, 2))
Y0 = jnp.array([0.5, -1.0])
TS = jnp.array([0.0, 0.31, 0.32, 1.0, 1.7, 2.0])
PID = PIDController(rtol=1e-3, atol=1e-3)
EVEN = diffrax.ConstantStepSize()


def field(t, y, w):
    return jnp.tanh(w @ y) - 0.2 * y * jnp.cos(t)


def ode(w):
    del w
    return ODETerm(field)


def sde(path):
    """Diagonal noise, in proportion to the state, with parameters of its own."""

    def noise(t, y, w):
        return jnp.diag((0.2 + w[0]) * jnp.sin(y + t))

    return lambda w: MultiTerm(ODETerm(field), ControlTerm(noise, path))


def cde(w):
    """A path that is learned, its coefficients closed over."""
    knots = jnp.linspace(0.0, 2.0, 5)
    values = jnp.stack([jnp.sin(w[0, 0] * knots), w[1, 1] * knots**2], axis=1)
    path = diffrax.CubicInterpolation(knots, diffrax.backward_hermite_coefficients(knots, values))
    return ControlTerm(lambda t, y, w: jnp.tanh(w * y[0]) + 0.3 * jnp.outer(y, y) * jnp.cos(t), path)


GRID = nde.BrownianGrid(0.0, 2.0, 20, (2,), jr.key(1))
TREE = nde.VirtualBrownianTree(0.0, 2.0, 2.0**-12, (2,), jr.key(2))
SAVES = {
    "t1": SaveAt(t0=True, t1=True),
    "ts": SaveAt(ts=TS, fn=lambda t, y, w: (t * y**2, w[0] @ y)),
    "steps": SaveAt(subs=[diffrax.SubSaveAt(steps=3), diffrax.SubSaveAt(ts=TS[2:5])]),
}


def solve(w, y0, solver, terms=ode, controller=EVEN, saveat=SAVES["ts"], adjoint=None, t0=0.0, t1=2.0, dt0=0.1):  # noqa: PLR0913  (a table of cases)
    return nde.diffeqsolve(
        terms(w), solver, t0, t1, dt0, y0, w, saveat=saveat, stepsize_controller=controller, max_steps=64,
        adjoint=adjoint or nde.ReversibleAdjoint(),
    )  # fmt: skip


def loss(w, y0, solver, **options):
    ys = jax.tree.leaves(solve(w, y0, solver, **options).ys)
    return sum(jnp.sum(jnp.where(jnp.isfinite(x), x, 0) ** 2) for x in ys)


def by_both(loss_of, *inputs, argnums=(0, 1)):
    """The value and gradient of `loss_of(adjoint)` by the reversible adjoint, and by the checkpoint adjoint."""
    return [
        jax.jit(jax.value_and_grad(loss_of(adjoint), argnums))(*inputs)
        for adjoint in (nde.ReversibleAdjoint(), nde.CheckpointAdjoint())
    ]


TSIT5, HEUN, REVERSIBLE_HEUN = nde.Reversible(Tsit5()), nde.Reversible(Heun(), coupling=0.99), ReversibleHeun()
ROUGH = PIDController(rtol=1e-1, atol=1e-1, dtmin=2.0**-10)
CASES = {
    "ODE, Tsit5, adaptive": (TSIT5, ode, PID, "ts"),
    "SDE on a grid, reversible Heun": (REVERSIBLE_HEUN, sde(GRID), EVEN, "ts"),
    "SDE on a tree, Heun, adaptive": (HEUN, sde(TREE), ROUGH, "t1"),
    "SDE on a tree, reversible Heun, even": (REVERSIBLE_HEUN, sde(TREE), EVEN, "steps"),
    "CDE, Heun, even": (HEUN, cde, EVEN, "t1"),
    "CDE, reversible Heun, adaptive": (REVERSIBLE_HEUN, cde, PID, "t1"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_gradient_is_that_of_the_checkpoint_adjoint(case):
    solver, terms, controller, saves = CASES[case]

    def loss_of(adjoint):
        return lambda w, y0: loss(
            w, y0, solver, terms=terms, controller=controller, saveat=SAVES[saves], adjoint=adjoint
        )

    mine, theirs = by_both(loss_of, W, Y0)
    assert_trees_all_close(mine, theirs, rtol=1e-10)


def test_the_gradient_is_that_of_finite_differences():
    def one(inputs):
        return loss(*inputs, HEUN, terms=sde(GRID), saveat=SAVES["t1"])

    flat, unravel = jax.flatten_util.ravel_pytree((W, Y0))
    function, h = jax.jit(lambda x: one(unravel(x))), 1e-6
    expected = [(function(flat + h * e) - function(flat - h * e)) / (2 * h) for e in np.eye(len(flat))]
    assert_trees_all_close(jax.jit(jax.grad(function))(flat), jnp.stack(expected), rtol=1e-7)


def closed(w, y0, adjoint=None):
    """Parameters that the field closes over, and times that are traced."""
    term = ODETerm(lambda t, y, args: field(t, y, w))
    solution = nde.diffeqsolve(
        term, nde.Reversible(diffrax.Euler()), 0.0, 2.0 + 0 * y0[0], 0.1, y0, adjoint=adjoint or nde.ReversibleAdjoint()
    )
    return jnp.sum(solution.ys**2)


def test_batches():
    batch = jnp.stack([Y0, 2 * Y0, Y0[::-1]])
    each = jax.jit(jax.vmap(jax.grad(closed, (0, 1)), (None, 0)))(W, batch)
    single = jax.jit(jax.grad(lambda w, y: closed(w, y, nde.CheckpointAdjoint()), (0, 1)))
    expected = jax.tree.map(lambda *x: jnp.stack(x), *[single(W, y) for y in batch])
    assert_trees_all_close(each, expected, rtol=1e-10)
    both = jax.jit(jax.grad(lambda w, ys: jnp.sum(jax.vmap(closed, (None, 0))(w, ys)), (0, 1)))(W, batch)
    assert_trees_all_close(both, (expected[0].sum(0), expected[1]), rtol=1e-10)


@pytest.mark.parametrize("solver", [nde.Reversible(diffrax.Euler()), REVERSIBLE_HEUN], ids=["Euler", "reversible Heun"])
def test_times_carry_gradients(solver):
    # The ends, those of a grid in between, and, forward in time and backward, the save times.
    def loss_of(adjoint):
        def of_times(times):
            grid, ts = times
            return loss(W, Y0, solver, controller=StepTo(grid), saveat=SaveAt(ts=ts), adjoint=adjoint, t0=grid[0],
                        t1=grid[-1], dt0=None)  # fmt: skip

        return of_times

    times = jnp.array([1.9, 1.2, 0.8, 0.1]), jnp.array([1.5, 0.8, 0.3])
    mine, theirs = by_both(loss_of, times, argnums=0)
    assert_trees_all_close(mine, theirs, rtol=1e-10)


def test_a_failed_solve_that_the_loss_masks_adds_nothing():
    def one(w, y0):
        term = ODETerm(lambda t, y, w: w * y**2)  # infinite at t = 1 / (w y0)
        solution = nde.diffeqsolve(term, HEUN, 0.0, 3.0, 0.2, y0, w, stepsize_controller=PID, max_steps=60,
                                   throw=False, adjoint=nde.ReversibleAdjoint())  # fmt: skip
        return jnp.where(solution.result == diffrax.RESULTS.successful, solution.ys[0], 0.0)

    gradient = jax.jit(jax.grad(lambda w, ys: jnp.sum(jax.vmap(one, (None, 0))(w, ys)), (0, 1)))
    good, mixed = (gradient(0.1, jnp.array([*ys, 0.5, 1.0])) for ys in ([0.7, 0.7], [50.0, jnp.nan]))
    assert_trees_all_close(mixed[1], jnp.array([0.0, 0.0, *good[1][2:]]), rtol=1e-12)
    only = jax.grad(lambda w: jnp.sum(jax.vmap(one, (None, 0))(w, jnp.array([0.5, 1.0]))))(0.1)
    assert_trees_all_close(mixed[0], only, rtol=1e-12)


@pytest.mark.parametrize("solver, traced", [(HEUN, False), (REVERSIBLE_HEUN, True)], ids=["Heun", "reversible Heun"])
def test_memory_does_not_grow_with_the_steps(solver, traced):
    def temporary(steps):
        def one(w, t1):
            return jnp.sum(nde.diffeqsolve(ODETerm(field), solver, 0.0, t1, 2.0 / steps, jnp.ones(2), w,
                                           max_steps=steps, adjoint=nde.ReversibleAdjoint()).ys ** 2)  # fmt: skip

        ends = [jnp.array(2.0)] * traced
        gradient = jax.jit(jax.grad(lambda w, *ends: one(w, *(ends or [2.0]))))
        return gradient.lower(W, *ends).compile().memory_analysis().temp_size_in_bytes

    assert temporary(4096) <= 1.05 * temporary(256)


def taken_back(solver, term, y0, end, steps):
    """To `end` in so many steps, and back to the start."""
    ts = jnp.linspace(0.0, end, steps + 1)
    inverse_step = inverse_step_of(solver, term, None)
    state = solver.init(term, 0.0, ts[1], y0, None)
    sub_functions = inverse_step.sub_functions(0.0, ts[1], y0, state)

    def call(name, t0, t1, *arguments):
        return sub_functions[name].function(t0, t1, *arguments), None

    def ahead(place, times):
        y, _, _, state, _ = solver.step(term, *times, place[0], None, place[1], False)
        return (y, state), None

    def back(reverse_state, times):
        step = inverse_step.step_back(call, *times, reverse_state, True)
        return step.reverse_state, step.dense["y0"]

    (y1, state), _ = jax.lax.scan(ahead, (y0, state), (ts[:-1], ts[1:]))
    reverse_state = inverse_step.init_reverse(call, 0.0, ts[1], y1, state)
    return y1, jax.lax.scan(back, reverse_state, (ts[:-1], ts[1:]), reverse=True)[1][0]


@pytest.mark.parametrize("solver", [TSIT5, REVERSIBLE_HEUN], ids=["Tsit5", "reversible Heun"])
def test_the_round_trip_of_an_undamped_oscillator(solver):
    term, y0 = ODETerm(lambda t, y, args: jnp.stack([y[1], -y[0]])), jnp.array([1.0, 0.3])
    y1, again = taken_back(solver, term, y0, 10.0, 1000)
    assert jnp.max(jnp.abs(y1 - y0)) > 0.1
    assert jnp.max(jnp.abs(again - y0)) < 1e-12


ORDERS = [(Heun(), 160, 0.1), (diffrax.Bosh3(), 40, 0.1), (Tsit5(), 20, 0.5)]  # the last is near rounding errors


@pytest.mark.parametrize("inner, steps, within", ORDERS, ids=["Heun", "Bosh3", "Tsit5"])
def test_the_order_is_that_of_the_wrapped_method(inner, steps, within):
    # An oscillator backward in time: at the end and, by dense output, inside of a step.
    term = ODETerm(lambda t, y, args: jnp.stack([y[1], -y[0]]))
    ts = jnp.array([-1.01, -2.0])

    def error(solver, steps):
        start = jnp.array([1.0, 0.0])
        ys = nde.diffeqsolve(term, solver, 0.0, -2.0, -2.0 / steps, start, saveat=SaveAt(ts=ts)).ys
        return np.linalg.norm(ys - jnp.stack([jnp.cos(ts), -jnp.sin(ts)], axis=1), axis=1)

    inside, end = np.log2(error(nde.Reversible(inner), steps) / error(nde.Reversible(inner), 2 * steps))
    assert abs(end - inner.order(term)) < within
    assert inside > np.log2(error(inner, steps) / error(inner, 2 * steps))[0] - 0.2


def test_it_runs_in_diffrax():
    options = dict(saveat=SaveAt(ts=TS), stepsize_controller=PID, max_steps=64)
    mine, theirs = (
        solve(ODETerm(field), TSIT5, 0.0, 2.0, 0.1, Y0, W, **options)
        for solve in (nde.diffeqsolve, diffrax.diffeqsolve)
    )
    assert_trees_all_close(mine.ys, theirs.ys, rtol=1e-12)
    assert mine.stats["num_steps"] == theirs.stats["num_steps"]


def test_stability():
    # Where the docstrings say it ends.
    grown = amplification(Tsit5(), 0.999, np.array([-0.0009, -0.002, 0.66j, 0.69j]))
    assert list(grown <= 1 + 1e-9) == [True, False, True, False]
    for z, stable in ((0.99j, True), (1.01j, False), (-0.01, False)):
        step = np.array([[1 + z, z**2 / 2], [2, z - 1]])  # of (y, ŷ) on y' = z y, h = 1
        assert (np.max(np.abs(np.linalg.eigvals(step))) <= 1 + 1e-12) == stable


def test_what_a_solver_says_of_itself():
    assert isinstance(HEUN, diffrax.AbstractStratonovichSolver)
    assert isinstance(nde.Reversible(diffrax.Euler()), diffrax.AbstractItoSolver)
    assert solve(W, Y0, TSIT5).stats["num_field_evaluations"] == 20 * 13
    assert solve(W, Y0, REVERSIBLE_HEUN).stats["num_field_evaluations"] == 21


ADDITIVE = MultiTerm(ODETerm(field), ControlTerm(lambda t, y, w: jnp.diag(jnp.cos(t) * jnp.ones_like(y)), GRID))


def test_ito_noise_that_reads_the_state_is_refused():
    euler = nde.Reversible(diffrax.Euler())
    assert jnp.all(jnp.isfinite(solve(W, Y0, euler, terms=lambda w: ADDITIVE).ys[1]))
    with pytest.raises(ValueError, match="Euler converges to the Itô solution"):
        solve(W, Y0, euler, terms=sde(GRID))


@pytest.mark.parametrize("inner", [diffrax.Kvaerno3(), diffrax.HalfSolver(Heun()), diffrax.SPaRK(), REVERSIBLE_HEUN])
def test_what_can_not_be_made_reversible(inner):
    with pytest.raises(ValueError, match=f"explicit Runge-Kutta method.*{type(inner).__name__}"):
        nde.Reversible(inner)


@pytest.mark.parametrize("coupling", [0.0, 1.1, -0.5])
def test_a_wrong_coupling(coupling):
    with pytest.raises(ValueError, match=r"coupling must lie in \(0, 1\]"):
        nde.Reversible(Heun(), coupling=coupling)


JUMPS = diffrax.ClipStepSizeController(PID, jump_ts=jnp.array([0.7]))
REFUSED = {
    "a solver": (dict(solver=Tsit5()), r"wrap it as nde.Reversible\(Tsit5\(\)\)"),
    "an event": (dict(event=diffrax.Event(lambda t, y, args, **kw: y[0], optimistix.Newton(1e-3, 1e-3))), "an event"),
    "dense": (dict(saveat=SaveAt(dense=True)), "dense output"),
    "jumps": (dict(solver=REVERSIBLE_HEUN, stepsize_controller=JUMPS), "over a jump"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_adjoint_refuses(case):
    options, message = REFUSED[case]
    options = dict(solver=TSIT5, adjoint=nde.ReversibleAdjoint()) | options
    with pytest.raises(ValueError, match=message):
        nde.diffeqsolve(ODETerm(field), t0=0.0, t1=2.0, dt0=0.1, y0=Y0, args=W, **options)


def test_only_an_adaptive_gradient_needs_a_bound_on_the_steps():
    def one(w, controller):
        return nde.diffeqsolve(ODETerm(field), HEUN, 0.0, 2.0, 0.1, Y0, w, stepsize_controller=controller,
                               max_steps=None, adjoint=nde.ReversibleAdjoint()).ys[0, 0]  # fmt: skip

    assert jnp.all(jnp.isfinite(jax.jit(jax.grad(one), static_argnums=1)(W, EVEN)))
    with pytest.raises(ValueError, match="max_steps=None can not be differentiated backward"):
        jax.grad(one)(W, PID)
