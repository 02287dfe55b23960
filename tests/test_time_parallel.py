"""The backward pass that is parallel in time: the gradient of the sequential replay, to rounding."""

import diffrax
import jax
import jax.numpy as jnp
import jax.random as jr
import optimistix
import pytest
from chex import assert_trees_all_close
from diffrax import Event, ODETerm, PIDController, SaveAt, SubSaveAt

import nde
from nde.adjoints.time_parallel import TimeParallelSweep

PID = PIDController(rtol=1e-4, atol=1e-4)
TS = jnp.array([0.0, 0.4, 0.41, 0.42, 0.43, 0.44, 0.45, 1.1, 2.0])
W = jr.normal(jr.key(0), (2, 2))
Y0 = jnp.array([0.5, -1.0])


def field(t, y, w):
    return jnp.tanh(3.0 * w @ y) - 0.2 * y * jnp.cos(4 * t)


def solve(p, parallel, checkpoints=None, solver=diffrax.Tsit5(), term=ODETerm(field), **options):  # noqa: B008
    options = {"saveat": SaveAt(ts=TS), "stepsize_controller": PID, "max_steps": 256} | options
    times = {"t0": 0.0, "t1": 2.0, "dt0": 0.05} | {k: p[k] for k in ("t0", "t1", "dt0") if k in p}
    adjoint = nde.CheckpointAdjoint(checkpoints=checkpoints, parallel=parallel)
    return nde.diffeqsolve(term, solver, y0=p["y0"], args=p["w"], adjoint=adjoint, **times, **options)


def saves(p, parallel):
    """Save times with a function that closes over parameters, many in one step; every second step; all times move."""

    def decode(t, y, args):
        return jnp.sin(p["w"] @ y) * t

    subs = [SubSaveAt(ts=p["ts"], t0=True, steps=2, fn=decode), SubSaveAt(t1=True), SubSaveAt(steps=1)]
    ys, ts = (lambda s: (s.ys, s.ts))(solve(p, parallel, saveat=SaveAt(subs=subs)))
    return sum(jnp.sum(jnp.where(jnp.isfinite(x), x, 0) ** 2) for x in jax.tree.leaves((ys, ts)))


def thinned(p, parallel):
    """A record of 4 states, the sum of the heuristics and those of each step, and the solver's state at the end."""
    options = {"saveat": SaveAt(ts=TS, solver_state=True), "heuristics": ("error", "stiffness", "steps")}
    solution = solve(p, parallel, checkpoints=4, **options)
    found = solution.stats["heuristics"]
    return (
        jnp.sum(solution.ys**2)
        + found.error.total
        + jnp.sum(found.error.steps**2)
        + 1e-2 * found.stiffness.integral
        + jnp.sum(solution.solver_state[1])
    )


def event(p, parallel):
    """An event that is located, and dense output before it."""
    stop = Event(lambda t, y, args, **_: y[0] + y[1] - 0.1 * t - 0.3, optimistix.Newton(1e-8, 1e-8))
    solution = solve(p, parallel, event=stop, saveat=SaveAt(t1=True, dense=True))
    return jnp.sum(solution.ys[-1] ** 2) + jnp.sum(solution.evaluate(0.3)) + solution.ts[-1]


def jumps(p, parallel):
    """A field that jumps at times that are differentiated, and one at which steps end."""

    def dosed(t, y, w):
        return field(t, y, w) + jnp.where(t > p["ts"][3], 1.0, 0.0)

    controller = diffrax.ClipStepSizeController(PID, step_ts=p["ts"][1:2], jump_ts=p["ts"][3:5])
    return jnp.sum(solve(p, parallel, term=ODETerm(dosed), stepsize_controller=controller).ys ** 2)


def tree(p, parallel):
    """A state that is a tree, by a method that carries no stage, in steps of constant length with moving ends."""

    def pair(t, y, w):
        return (w @ y[0] - y[0] * y[1], -y[1] * jnp.sum(y[0]))

    p = p | {"y0": (p["y0"], p["y0"][0])}
    options = {"solver": diffrax.Heun(), "stepsize_controller": diffrax.ConstantStepSize()}
    solution = solve(p, parallel, term=ODETerm(pair), **options)
    return sum(jnp.sum(x**2) for x in jax.tree.leaves(solution.ys))


def noise(p, parallel):
    """An SDE in steps of constant length, whose number is not known when it is traced."""
    p = p | {"t1": jax.lax.stop_gradient(p["t1"])}
    path = diffrax.UnsafeBrownianPath((2,), jr.key(1))
    terms = diffrax.MultiTerm(ODETerm(field), diffrax.ControlTerm(lambda t, y, w: jnp.diag(0.1 + 0.1 * y), path))
    options = {"solver": diffrax.EulerHeun(), "stepsize_controller": diffrax.ConstantStepSize()}
    return jnp.sum(solve(p, parallel, term=terms, saveat=SaveAt(t1=True), **options).ys ** 2)


def batch(p, parallel):
    """Two starts at the same parameters."""

    def one(w, y0):
        return jnp.sum(solve(p | {"w": w, "y0": y0}, parallel).ys ** 2)

    return jnp.sum(jax.vmap(one, (None, 0))(p["w"], jnp.stack([p["y0"], 2 + p["y0"]])))


MOVING = {"w": W, "y0": Y0, "t0": jnp.array(0.0), "t1": jnp.array(2.0), "ts": TS}
CASES = {
    saves: MOVING,
    thinned: {"w": W, "y0": Y0},
    event: {"w": W, "y0": Y0, "t0": jnp.array(0.0)},
    jumps: MOVING,
    tree: {"w": W, "y0": Y0, "t0": jnp.array(0.0), "t1": jnp.array(2.0), "dt0": jnp.array(0.05)},
    noise: {"w": W, "y0": Y0, "t1": jnp.array(2.0)},
    batch: {"w": W, "y0": Y0},
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_is_the_gradient_of_the_replay(case):
    parallel, sequential = (jax.jit(jax.grad(lambda p, x=x: case(p, x)))(CASES[case]) for x in (True, False))
    assert_trees_all_close(parallel, sequential, rtol=1e-9, atol=1e-11)


def test_is_taken_for_one_trajectory_of_a_small_state_and_a_field_without_products(monkeypatch):
    taken = []
    run = TimeParallelSweep.run
    monkeypatch.setattr(TimeParallelSweep, "run", lambda self: taken.append(self) or run(self))

    def prey(t, y, w):
        return y * (w[0, 0] - w[0, 1] * y[::-1])

    def is_taken(gradient, field, y0):
        def loss(w, y0):
            return jnp.sum(solve({"w": w, "y0": y0}, None, term=ODETerm(field)).ys ** 2)

        taken.clear()
        jax.eval_shape(gradient(loss), W, y0)
        return bool(taken)

    assert is_taken(jax.grad, prey, Y0)
    assert not is_taken(jax.grad, field, Y0)
    assert not is_taken(jax.grad, prey, jnp.ones(8))
    starts = jnp.stack([Y0, Y0])
    assert not is_taken(lambda loss: jax.vmap(jax.grad(loss), (None, 0)), prey, starts)


@pytest.mark.filterwarnings("ignore:Complex dtype")
def test_a_complex_state_is_refused():
    def loss(w):
        p = {"w": w, "y0": w[0].astype(complex)}
        return jnp.sum(jnp.abs(solve(p, True, term=ODETerm(lambda t, y, w: -y)).ys))

    with pytest.raises(ValueError, match="parallel=True"):
        jax.eval_shape(jax.grad(loss), W)
