"""Stochastic Runge–Kutta methods, unrolled: diffrax's own steps forward in time, and right backward."""

import diffrax
import jax
import jax.numpy as jnp
import jax.random as jr
import lineax as lx
import pytest
from chex import assert_trees_all_close
from diffrax import ControlTerm, MultiTerm, ODETerm, PIDController, SaveAt

import nde
from nde.steppers import make_stepper, StochasticRKStepper

ADDITIVE = [diffrax.SEA(), diffrax.SRA1(), diffrax.ShARK()]
GENERAL = [diffrax.GeneralShARK(), diffrax.SPaRK(), diffrax.SlowRK()]
MIX = jr.normal(jr.key(5), (3, 3))


def drift(t, y, a):
    return jnp.sin(a * y) * jnp.cos(t) - y[::-1]


# One a kind of noise: the diffusion, which of them are additive, and the shape of the noise.
DIFFUSIONS = {
    "additive matrix": (lambda t, y, a: a * jnp.cos(t) * MIX[:, :2], True, (2,)),
    "additive diagonal": (lambda t, y, a: lx.DiagonalLinearOperator((1 + t) * MIX[0]), True, (3,)),
    "scalar": (lambda t, y, a: jnp.sin(a * y + t), False, ()),
    "diagonal": (lambda t, y, a: lx.DiagonalLinearOperator(jnp.sin(a * y) + t), False, (3,)),
    "general": (lambda t, y, a: jnp.tanh(a * MIX * y[::-1, None] + t), False, (3,)),
}
AREA = diffrax.SpaceTimeLevyArea
Y0 = jnp.array([0.5, -1.0, 0.3])


def terms_of(name, path):
    return MultiTerm(ODETerm(drift), ControlTerm(DIFFUSIONS[name][0], path))


PAIRS = [(s, n) for n in DIFFUSIONS for s in (ADDITIVE if DIFFUSIONS[n][1] else GENERAL)]


@pytest.mark.parametrize(("solver", "noise"), PAIRS, ids=lambda x: x if isinstance(x, str) else type(x).__name__)
def test_a_step_is_that_of_diffrax(solver, noise):
    shape = DIFFUSIONS[noise][2]
    terms = terms_of(noise, nde.VirtualBrownianTree(0.0, 1.0, 1e-3, shape, jr.key(1), AREA))
    kernel = make_stepper(solver, terms, 0.7, 0.2, 0.3, Y0)
    assert isinstance(kernel, StochasticRKStepper)

    def both(y):
        mine = kernel.step(0.2, 0.3, y, None, None)
        y1, error, dense, _, _ = solver.step(terms, 0.2, 0.3, y, 0.7, None, False)
        return (mine.y, mine.error, mine.dense), (y1, error, dense)

    assert_trees_all_close(*jax.jit(both)(Y0), rtol=1e-13, atol=1e-14)


def test_what_the_tableau_ignores_is_not_evaluated():
    calls = []

    def counted(name, value):
        def field(t, y, args):
            calls.append(name)
            return value * y

        return field

    path = nde.BrownianGrid(0.0, 1.0, 10, (), jr.key(0), levy_area=AREA)
    terms = MultiTerm(ODETerm(counted("f", 0.5)), ControlTerm(counted("g", 0.3), path))
    counts = {}
    for solver in GENERAL:
        kernel = make_stepper(solver, terms, None, 0.0, 0.1, jnp.ones(2))
        calls.clear()
        kernel.step(0.0, 0.1, jnp.ones(2), None, None)
        counts[type(solver).__name__] = (calls.count("f"), calls.count("g"))
        assert kernel.count_evaluations(7) == 7 * calls.count("f")
    assert counts == {"GeneralShARK": (2, 3), "SPaRK": (3, 3), "SlowRK": (2, 5)}


def gbm(path):
    """Stratonovich geometric Brownian motion."""
    return MultiTerm(ODETerm(lambda t, y, a: 0.4 * y), ControlTerm(lambda t, y, a: 0.6 * y, path))


def additive(path):
    """dy = (cos t - y) dt + (1 + t) dW."""
    return MultiTerm(ODETerm(lambda t, y, a: jnp.cos(t) - y), ControlTerm(lambda t, y, a: 1.0 + t, path))


def there_and_back(terms_of, solver, steps):
    """How far from its start a solve forward and then backward on the same path ends, with so many steps."""

    def one(key):
        path = nde.BrownianGrid(0.0, 1.0, steps, (), key, levy_area=AREA)
        terms, y0 = terms_of(path), jnp.array(1.0)
        y1 = nde.diffeqsolve(terms, solver, 0.0, 1.0, 1 / steps, y0).ys[0]
        return nde.diffeqsolve(terms, solver, 1.0, 0.0, -1 / steps, y1).ys[0] - y0

    return jnp.sqrt(jnp.mean(jax.jit(jax.vmap(one))(jr.split(jr.key(0), 200)) ** 2))


@pytest.mark.parametrize("solver", ADDITIVE + GENERAL, ids=lambda s: type(s).__name__)
def test_a_solve_backward_in_time_undoes_one_forward(solver):
    # diffrax's own stays at an error of order one, whatever the steps.
    problem = additive if solver.tableau.is_additive_noise() else gbm
    coarse, fine = (there_and_back(problem, solver, steps) for steps in (16, 128))
    assert fine < 8**-0.8 * coarse  # the order is at least one
    assert fine < 0.02


@pytest.mark.parametrize("solver", GENERAL, ids=lambda s: type(s).__name__)
def test_a_solve_backward_in_time_follows_the_closed_form(solver):
    path = nde.VirtualBrownianTree(0.0, 1.0, 1e-3, (), jr.key(3), AREA)
    ts = jnp.array([0.75, 0.5, 0.0])  # at steps' ends: in between the interpolation is linear
    exact = jax.vmap(lambda t: jnp.exp(0.4 * t + 0.6 * path.evaluate(0.0, t)))(ts)
    end = jnp.exp(0.4 + 0.6 * path.evaluate(0.0, 1.0))
    solution = nde.diffeqsolve(gbm(path), solver, 1.0, 0.0, -1 / 256, end, saveat=SaveAt(ts=ts))
    assert_trees_all_close(solution.ys, exact, rtol=3e-3)


@pytest.mark.parametrize("end", [1.0, 0.0])
def test_an_adaptive_solve_tries_again_on_the_same_path(end):
    # over some paths: on one of them, rounding may turn a rejection, and with it the grid and its error
    def error(key, tol):
        path = nde.VirtualBrownianTree(0.0, 1.0, 2.0**-16, (), key, AREA)

        def exact(t):
            return jnp.exp(0.4 * t + 0.6 * path.evaluate(0.0, t))

        controller = PIDController(rtol=tol, atol=tol, pcoeff=0.1, icoeff=0.3, dtmin=2.0**-14)
        solution = nde.diffeqsolve(
            gbm(path), diffrax.SPaRK(), 1 - end, end, None, exact(1 - end), stepsize_controller=controller,
            max_steps=10_000,
        )  # fmt: skip
        return solution.ys[0] - exact(end), solution.stats["num_rejected_steps"]

    run = jax.jit(jax.vmap(error, (0, None)))
    found, rejected = zip(*(run(jr.split(jr.key(4), 64), tol) for tol in (1e-2, 1e-4)), strict=True)
    assert all(jnp.any(each > 0) for each in rejected)
    coarse, fine = (jnp.median(jnp.abs(each)) for each in found)  # a step that looks good by chance makes long tails
    assert coarse < 0.03
    assert fine < 0.3 * coarse


def test_the_gradient_of_an_adaptive_solve_is_that_of_its_grid():
    path = nde.VirtualBrownianTree(0.0, 1.0, 2.0**-10, (3,), jr.key(4), AREA)
    controller = PIDController(rtol=1e-2, atol=1e-2, pcoeff=0.1, icoeff=0.3, dtmin=2.0**-9)

    def solve(a, controller, dt0):
        terms = terms_of("diagonal", path)
        saveat = SaveAt(t0=True, steps=True)
        return nde.diffeqsolve(
            terms, diffrax.SPaRK(), 0.0, 1.0, dt0, Y0, a, saveat=saveat, stepsize_controller=controller, max_steps=200
        )

    times = solve(0.7, controller, 0.1).ts
    times = times[jnp.isfinite(times)]
    assert len(times) > 5

    def loss(a, controller, dt0):
        ys = solve(a, controller, dt0).ys
        return jnp.sum(jnp.where(jnp.isfinite(ys), ys, 0) ** 2)

    mine = jax.jit(jax.grad(lambda a: loss(a, controller, 0.1)))(0.7)
    frozen = jax.jit(lambda a: loss(a, nde.StepTo(times), None))
    assert_trees_all_close(mine, (frozen(0.7 + 1e-6) - frozen(0.7 - 1e-6)) / 2e-6, rtol=1e-6)
