"""The engine: the same solves as diffrax's own, and gradients that are those of the discrete solve."""

import warnings

import diffrax
import jax
import jax.numpy as jnp
import jax.random as jr
import optimistix
import pytest
from chex import assert_trees_all_close
from diffrax import SaveAt
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

import nde
from nde.loop.vectors_first import vectors_first

PID = diffrax.PIDController(rtol=1e-5, atol=1e-5)
TS = jnp.linspace(0.0, 3.0, 7)
Y0 = jnp.array([1.0, 2.0])


def lotka_volterra(t, y, a):
    prey, predator = y[0], y[1]
    return jnp.stack([a * prey - 0.4 * prey * predator, 0.3 * prey * predator * jnp.cos(0.1 * t) - 0.5 * predator])


TERM = diffrax.ODETerm(lotka_volterra)


def brownian_terms(levy_area=diffrax.BrownianIncrement):
    path = diffrax.VirtualBrownianTree(0.0, 3.0, 1e-2, (2,), jr.key(0), levy_area=levy_area)
    return diffrax.MultiTerm(TERM, diffrax.ControlTerm(lambda t, y, a: jnp.diag(0.1 * a * y), path))


def control_term():
    path = diffrax.LinearInterpolation(jnp.linspace(0, 3, 9), jnp.cumsum(jr.normal(jr.key(1), (9, 2)), 0))
    return diffrax.ControlTerm(lambda t, y, a: jnp.sin(a * y)[:, None] * jnp.ones((2, 2)), path)


def crossing(t, y, args, **kwargs):
    return y[0] - 0.5


def late(t, y, args, **kwargs):
    return t > 2.5


NEWTON = optimistix.Newton(1e-8, 1e-8)
JUMPS = diffrax.ClipStepSizeController(PID, jump_ts=jnp.array([0.7, 1.9]), step_ts=jnp.array([1.1]))

# One row a solve: every term, solver, controller, SaveAt and event is met, each with several of the others.
SOLVES = {
    "Tsit5, constant, ts": dict(saveat=SaveAt(ts=TS)),
    "Heun, constant, steps": dict(solver=diffrax.Heun(), saveat=SaveAt(t0=True, steps=4, ts=TS), max_steps=50),
    "Dopri8, PID, t1": dict(solver=diffrax.Dopri8(), stepsize_controller=PID),
    "Tsit5, PID, all of SaveAt": dict(
        saveat=SaveAt(t0=True, t1=True, ts=TS, steps=3, solver_state=True, controller_state=True, made_jump=True),
        stepsize_controller=PID,
        max_steps=100,
    ),
    "Dopri5, PID, dense": dict(
        solver=diffrax.Dopri5(), saveat=SaveAt(dense=True), stepsize_controller=PID, max_steps=100
    ),
    "Tsit5, constant, dense": dict(saveat=SaveAt(dense=True, ts=TS, steps=True), max_steps=64),
    "Bosh3, clip with jumps, fn": dict(
        solver=diffrax.Bosh3(), saveat=SaveAt(ts=TS, fn=lambda t, y, a: a * t * y[0]), stepsize_controller=JUMPS
    ),
    "Tsit5, clip with memory, subs": dict(
        saveat=SaveAt(subs=[diffrax.SubSaveAt(ts=TS), diffrax.SubSaveAt(t1=True, fn=lambda t, y, a: y**2)]),
        stepsize_controller=diffrax.ClipStepSizeController(PID, jump_ts=jnp.array([0.7]), store_rejected_steps=10),
    ),
    "Tsit5, StepTo": dict(
        dt0=None, saveat=SaveAt(ts=TS), stepsize_controller=diffrax.StepTo(ts=jnp.array([0.0, 0.3, 1.0, 1.4, 3.0]))
    ),
    "Tsit5, PID, backward": dict(
        t0=3.0, t1=0.0, dt0=-0.1, saveat=SaveAt(ts=TS[::-1], steps=2), stepsize_controller=PID, max_steps=100
    ),
    "Heun, constant, backward": dict(t0=3.0, t1=0.0, dt0=-0.1, solver=diffrax.Heun(), saveat=SaveAt(ts=TS[::-1])),
    "no time at all": dict(t0=1.0, t1=1.0, saveat=SaveAt(t0=True, t1=True, ts=jnp.ones(3)), stepsize_controller=PID),
    "Kvaerno3, PID": dict(solver=diffrax.Kvaerno3(), saveat=SaveAt(ts=TS), stepsize_controller=PID),
    "KenCarp4, PID": dict(
        terms=diffrax.MultiTerm(TERM, diffrax.ODETerm(lambda t, y, a: -y)),
        solver=diffrax.KenCarp4(),
        stepsize_controller=PID,
    ),
    "HalfSolver, PID": dict(
        solver=diffrax.HalfSolver(diffrax.Euler()), stepsize_controller=diffrax.PIDController(rtol=1e-2, atol=1e-2)
    ),
    "event, boolean": dict(
        saveat=SaveAt(t1=True, ts=TS), event=diffrax.Event(lambda t, y, a, **kw: y[0] > 1.2), stepsize_controller=PID
    ),
    "event, located": dict(
        saveat=SaveAt(t1=True, ts=TS), event=diffrax.Event(crossing, NEWTON), stepsize_controller=PID
    ),
    "events, directions, steps": dict(
        saveat=SaveAt(t1=True, steps=1),
        event=diffrax.Event([crossing, late], NEWTON, direction=[False, None]),
        stepsize_controller=PID,
        max_steps=50,
    ),
    "event, steady state": dict(
        t1=jnp.inf,
        terms=diffrax.ODETerm(lambda t, y, a: -a * y),
        event=diffrax.Event(diffrax.steady_state_event(1e-3, 1e-3)),
        stepsize_controller=PID,
    ),
    "steps run out": dict(saveat=SaveAt(ts=TS), max_steps=4, throw=False, stepsize_controller=PID),
    "steps run out, constant": dict(saveat=SaveAt(ts=TS, steps=1), max_steps=4, throw=False),
    "complex": dict(
        y0=jnp.array([1 + 1j, 0.5]),
        terms=diffrax.ODETerm(lambda t, y, a: 1j * a * y),
        saveat=SaveAt(ts=TS),
        stepsize_controller=PID,
    ),
    "a tree": dict(
        y0={"a": jnp.array(1.0), "b": (jnp.ones((2, 2)),)},
        terms=diffrax.ODETerm(lambda t, y, a: jax.tree.map(lambda x: -a * x, y)),
        saveat=SaveAt(ts=TS),
        stepsize_controller=PID,
    ),
    "SDE, Heun": dict(terms=brownian_terms(), solver=diffrax.Heun(), saveat=SaveAt(ts=TS)),
    "SDE, EulerHeun": dict(terms=brownian_terms(), solver=diffrax.EulerHeun(), saveat=SaveAt(steps=True), max_steps=40),
    "SDE, reversible Heun": dict(terms=brownian_terms(), solver=diffrax.ReversibleHeun(), saveat=SaveAt(ts=TS)),
    "SDE, SPaRK, PID": dict(
        terms=brownian_terms(diffrax.SpaceTimeLevyArea),
        solver=diffrax.SPaRK(),
        saveat=SaveAt(ts=TS),
        stepsize_controller=diffrax.PIDController(rtol=1e-2, atol=1e-2),
    ),
    "CDE, PID": dict(terms=control_term(), saveat=SaveAt(ts=TS), stepsize_controller=PID),
    "symplectic": dict(
        terms=(diffrax.ODETerm(lambda t, y, a: a * y), diffrax.ODETerm(lambda t, y, a: -y)),
        y0=(jnp.ones(2), jnp.zeros(2)),
        solver=diffrax.SemiImplicitEuler(),
    ),
}


def solve(diffeqsolve, a, terms=TERM, solver=None, t0=0.0, t1=3.0, dt0=0.1, y0=Y0, **options):
    return diffeqsolve(terms, solver or diffrax.Tsit5(), t0, t1, dt0, y0, a, **options)


def seen(solution):
    """All that a solution holds, as arrays."""
    stats = {k: solution.stats[k] for k in ("num_steps", "num_accepted_steps", "num_rejected_steps")}
    inside = None
    if solution.interpolation is not None:
        inside = jax.vmap(solution.evaluate)(jnp.linspace(0.1, 2.9, 5))
    states = (solution.solver_state, solution.controller_state, solution.made_jump, solution.event_mask)
    return (solution.ts, solution.ys, inside), (stats, states, solution.result._value)


def square(tree):
    return sum(jnp.sum(jnp.where(jnp.isfinite(x), jnp.abs(x) ** 2, 0)) for x in jax.tree.leaves(tree))


@pytest.mark.parametrize("name", SOLVES)
def test_a_solve_and_its_gradient_are_those_of_diffrax(name):
    # diffrax's gradient holds step sizes fixed where ours holds times fixed: they agree but in the ends' own gradients.
    options = SOLVES[name]

    def both(diffeqsolve):
        def loss(a):
            found, rest = seen(solve(diffeqsolve, a, **options))
            return square(found), (found, rest)

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(0.9)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (_, mine), my_gradient = both(nde.diffeqsolve)
        (_, theirs), their_gradient = both(diffrax.diffeqsolve)
    assert_trees_all_close(mine, theirs, rtol=1e-6, atol=1e-8)
    assert_trees_all_close(my_gradient, their_gradient, rtol=1e-5)


@pytest.mark.parametrize("ts", [[1.0, 1.4, 4.0], [0.0, 1.4, 2.0]])
def test_a_grid_that_does_not_meet_the_ends_is_an_error(ts):
    # Nothing else than the check depends on the first step that it hangs on.
    with pytest.raises(RuntimeError, match="t1==ts"):
        solve(nde.diffeqsolve, 0.9, dt0=None, stepsize_controller=diffrax.StepTo(jnp.array(ts)))


def test_a_batch_of_matrix_vector_products_is_not_transposed():
    @jax.jit
    def network(matrix, y):
        return y + jax.lax.cond(y[0] > 0, jnp.tanh, jnp.sin, jnp.dot(matrix, jnp.abs(matrix @ y), precision="highest"))

    def traced(function):
        return jax.make_jaxpr(jax.vmap(function, (None, 0)))(matrix, ys)

    matrix, ys = jr.normal(jr.key(0), (3, 3)), jr.normal(jr.key(1), (5, 3))
    closed = jax.make_jaxpr(network)(matrix, ys[0])
    exchanged = jaxpr_as_fun(ClosedJaxpr(vectors_first(closed.jaxpr), closed.consts))
    assert "transpose" in str(traced(network))
    assert "transpose" not in str(traced(exchanged))
    found = jax.vmap(exchanged, (None, 0))(matrix, ys)[0]
    assert_trees_all_close(found, jax.vmap(network, (None, 0))(matrix, ys), rtol=1e-12)
