"""Rex: its linear part exact, its steps undone, its order, its noise and its gradient, on mixtures of Gaussians."""

import diffrax
import jax
import jax.flatten_util
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from chex import assert_trees_all_close
from diffrax import Heun, ODETerm, PIDController, SaveAt, StepTo, Tsit5

import nde
from nde.diffusion import VariancePreserving
from nde.solvers import AbstractVariables, SemilinearTerm, undo

SCHEDULE = VariancePreserving(0.1, 8.0)
MEANS, WEIGHTS, VARIANCE = jnp.array([[-1.0, 0.5], [1.5, 0.2], [0.3, -1.2]]), jnp.array([0.2, 0.5, 0.3]), 0.15
X0 = jnp.array([0.6, -0.9])
TS = jnp.array([0.9, 0.71, 0.55, 0.3, 0.1])


def data(schedule):
    """The expectation of a mixture's example given its noisy version; `means` are `args`."""

    def prediction(t, x, means):
        alpha, total = schedule.alpha(t), schedule.alpha(t) ** 2 * VARIANCE + schedule.sigma(t) ** 2
        apart = x[None] - alpha * means
        each = jax.nn.softmax(jnp.log(WEIGHTS) - jnp.sum(apart**2, axis=1) / (2 * total))
        return each @ (means + alpha * VARIANCE / total * apart)

    return prediction


def noise(schedule):
    def prediction(t, x, means):
        return (x - schedule.alpha(t) * data(schedule)(t, x, means)) / schedule.sigma(t)

    return prediction


def mixture(predicts, path=None, schedule=SCHEDULE):
    prediction = {"data": data, "noise": noise}[predicts](schedule)
    return nde.diffusion_model_term(prediction, schedule, predicts, path)


def solve(term, solver, ts, x0=X0, means=MEANS, adjoint=None, **options):
    return nde.diffeqsolve(
        term,
        solver,
        ts[0],
        ts[-1],
        None,
        x0,
        means,
        stepsize_controller=StepTo(ts),
        adjoint=adjoint or nde.CheckpointAdjoint(),
        **options,
    )


def gamma(t):
    return SCHEDULE.alpha(t) / SCHEDULE.sigma(t)


def clocked(noise_times, predicts):
    """The times t at which the Brownian motion's time is the given."""
    return SCHEDULE.time(noise_times ** (0.5 if predicts == "data" else -0.5))


class Rotated(AbstractVariables):
    """x' = cos(t) x + f."""

    def scale(self, t):
        return jnp.exp(jnp.sin(t))

    def clock(self, t):
        return t

    def time(self, s):
        return s


def test_the_linear_part_is_exact_at_any_step():
    term = SemilinearTerm(lambda t, x, args: jnp.zeros_like(x), Rotated())
    for ts in (jnp.array([0.0, 3.0, 7.0]), jnp.array([2.0, -4.0])):
        expected = X0 * jnp.exp(jnp.sin(ts[-1]) - jnp.sin(ts[0]))
        assert_trees_all_close(solve(term, nde.Rex(Heun()), ts).ys[0], expected, rtol=1e-14)


@pytest.mark.parametrize("predicts", ["data", "noise"])
def test_a_constant_prediction_is_exact(predicts):
    # One example, or one noise: the other is what the start says.
    constant = jnp.array([0.4, -2.0])
    term, ts = nde.diffusion_model_term(lambda t, x, args: constant, SCHEDULE, predicts), jnp.array([0.99, 0.4, 0.01])
    (a0, s0), (a1, s1) = ((SCHEDULE.alpha(t), SCHEDULE.sigma(t)) for t in (ts[0], ts[-1]))
    if predicts == "data":
        expected = a1 * constant + s1 * (X0 - a0 * constant) / s0
    else:
        expected = a1 * (X0 - s0 * constant) / a0 + s1 * constant
    assert_trees_all_close(solve(term, nde.Rex(Heun()), ts).ys[0], expected, rtol=1e-12)


GRIDS = {"data": (0.01, 20.0), "noise": (0.05, 100.0)}  # of the Brownian time


@pytest.mark.parametrize("predicts, noisy", [("data", True), ("noise", False)])
def test_the_round_trip(predicts, noisy):
    # Few and long steps: the way back undoes their errors too.
    low, high = GRIDS[predicts]
    path = nde.VirtualBrownianTree(low, high, 1e-3, (2,), jr.key(0)) if noisy else None
    term, ts = mixture(predicts, path), jnp.linspace(0.85, 0.1, 26)
    for times in (ts, ts[::-1]):
        end = solve(term, nde.Rex(Heun()), times, saveat=SaveAt(t1=True, solver_state=True))
        assert jnp.max(jnp.abs(end.ys[0] - X0)) > 0.1
        start, z = undo(nde.Rex(Heun()), term, times, end.ys[0], end.solver_state, MEANS)
        assert_trees_all_close(start, X0, atol=1e-10, rtol=0)


@pytest.fixture(scope="module")
def exact():
    """At `TS`: the same equation written out, by another method."""
    options = dict(saveat=SaveAt(ts=TS), stepsize_controller=PIDController(rtol=1e-12, atol=1e-12))
    return nde.diffeqsolve(mixture("data"), Tsit5(), 0.9, 0.1, -0.01, X0, MEANS, **options).ys


ORDERS = [
    (diffrax.Euler(), "data", 128),
    (Heun(), "noise", 64),
    (Tsit5(), "data", 32),
]


@pytest.mark.parametrize("inner, predicts, steps", ORDERS)
def test_the_order_is_that_of_the_wrapped_method(inner, predicts, steps, exact):
    term = mixture(predicts)

    @jax.jit
    def end(dt0):
        return nde.diffeqsolve(term, nde.Rex(inner), 0.9, 0.1, dt0, X0, MEANS, max_steps=300).ys[0]

    coarse, fine = (float(jnp.linalg.norm(end(-0.8 / n) - exact[-1])) for n in (steps, 2 * steps))
    assert abs(np.log2(coarse / fine) - inner.order(term)) < 0.2


def test_it_saves_inside_of_its_steps(exact):
    @jax.jit
    def saved(dt0):
        return nde.diffeqsolve(mixture("data"), nde.Rex(Tsit5()), 0.9, 0.1, dt0, X0, MEANS, saveat=SaveAt(ts=TS),
                               max_steps=100).ys  # fmt: skip

    for steps, within in ((17, 1e-3), (67, 1e-6)):
        assert jnp.max(jnp.abs(saved(-0.8 / steps) - exact)) < within


@pytest.mark.parametrize("predicts, inner", [("data", Heun()), ("noise", diffrax.Euler())], ids=["data", "noise"])
def test_the_sde_ends_in_the_mixture_with_strong_order_one(predicts, inner):
    low, high, most, count = 0.3, 10.0, 256, 1024
    ts = clocked(jnp.linspace(low, high, most + 1), predicts)
    ts = ts if predicts == "data" else ts[::-1]
    start, end = ts[0], ts[-1]

    def sample(key):
        which, spread, path = jr.split(key, 3)
        x0 = jr.choice(which, MEANS, p=WEIGHTS) * SCHEDULE.alpha(start)
        total = SCHEDULE.alpha(start) ** 2 * VARIANCE + SCHEDULE.sigma(start) ** 2
        x0 = x0 + jnp.sqrt(total) * jr.normal(spread, (2,))
        term = mixture(predicts, nde.BrownianGrid(low, high, most, (2,), path))
        plain = solve(term, Heun(), ts, x0).ys[0]
        return [solve(term, nde.Rex(inner), ts[::every], x0).ys[0] for every in (1, 4, 8)] + [plain]

    finest, fine, coarse, plain = jax.jit(jax.vmap(sample))(jr.split(jr.key(3), count))

    def error(ys):
        return float(jnp.sqrt(jnp.mean((ys - finest) ** 2)))

    assert abs(np.log2(error(coarse) / error(fine)) - 1) < 0.25
    assert error(plain) < error(fine)
    alpha = SCHEDULE.alpha(end)
    mean = alpha * WEIGHTS @ MEANS
    variance = alpha**2 * (VARIANCE + WEIGHTS @ MEANS**2) + SCHEDULE.sigma(end) ** 2 - mean**2
    assert jnp.max(jnp.abs(finest.mean(0) - mean) / jnp.sqrt(variance / count)) < 4
    assert jnp.max(jnp.abs(finest.var(0) / variance - 1)) < 4 * np.sqrt(2 / count)


SCHEDULED = jnp.array([0.1, 8.0]), jnp.array([0.88, 0.7, 0.6, 0.45, 0.35, 0.22, 0.1])  # beta, and the steps' times
PID, SAVED = PIDController(rtol=1e-3, atol=1e-3), jnp.array([0.65, 0.3])


def learned(inputs, adjoint, predicts="data", controller=None, path=None):
    means, x0, betas, ts = inputs if len(inputs) == 4 else (*inputs, *SCHEDULED)
    term, saveat = mixture(predicts, path, VariancePreserving(*betas)), SaveAt(ts=SAVED, t1=True)
    solution = nde.diffeqsolve(term, nde.Rex(Heun()), ts[0], ts[-1], -0.04 if controller else None, x0, means,
                               adjoint=adjoint, stepsize_controller=controller or StepTo(ts), saveat=saveat,
                               max_steps=64)  # fmt: skip
    return jnp.sum(solution.ys**2)


GRADIENTS = {"ODE, adaptive": ("data", PID, False), "SDE": ("noise", None, True)}


@pytest.mark.parametrize("case", GRADIENTS)
def test_the_gradient_is_that_of_the_checkpoint_adjoint(case):
    predicts, controller, noisy = GRADIENTS[case]
    path = nde.VirtualBrownianTree(*GRIDS[predicts], 1e-2, (2,), jr.key(1)) if noisy else None
    inputs = (MEANS, X0) if noisy else (MEANS, X0, *SCHEDULED)  # a Brownian motion has no derivative by time
    mine, theirs = (
        jax.jit(jax.value_and_grad(lambda x, by=by: learned(x, by, predicts, controller, path)))(inputs)
        for by in (nde.ReversibleAdjoint(), nde.CheckpointAdjoint())
    )
    assert_trees_all_close(mine, theirs, rtol=1e-9, atol=1e-12)


def test_the_gradient_is_that_of_finite_differences():
    flat, unravel = jax.flatten_util.ravel_pytree((MEANS, X0, *SCHEDULED))
    function = jax.jit(jax.value_and_grad(lambda x: learned(unravel(x), nde.ReversibleAdjoint(), "noise")))
    steps = 1e-6 * np.eye(len(flat))
    expected = [(function(flat + step)[0] - function(flat - step)[0]) / 2e-6 for step in steps]
    assert_trees_all_close(function(flat)[1], jnp.stack(expected), rtol=1e-6, atol=1e-8)


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match="explicit Runge-Kutta"):
        nde.Rex(diffrax.Kvaerno3())
    with pytest.raises(ValueError, match="coupling"):
        nde.Rex(Heun(), coupling=1.5)
    with pytest.raises(ValueError, match="SemilinearTerm"):
        solve(ODETerm(lambda t, x, args: -x), nde.Rex(Heun()), TS)
    with pytest.raises(ValueError, match="predicts"):
        nde.diffusion_model_term(data(SCHEDULE), SCHEDULE, "image")
    with pytest.raises(ValueError, match="Brownian"):
        mixture("data", path=jr.key(0))
    with pytest.raises(ValueError, match="undo"):
        undo(Heun(), mixture("data"), TS, X0, None)
