"""Exponential solvers of semilinear equations: orders, published steps, noise, gradients, and what is refused."""

import math

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

import nde
from nde.diffusion import (
    convert,
    diffusion_model_term,
    EDMSchedule,
    LinearFlow,
    log_snr_times,
    MeanReverting,
    noise_span,
    VarianceExploding,
    VariancePreserving,
)
from nde.solvers import ExponentialTableau
from nde.terms import AbstractVariables, SemilinearTerm

VP, VE = VariancePreserving(), VarianceExploding(0.02, 100.0)
MEANS, VARIANCE = jnp.array([[-1.0, 0.5], [1.0, -0.7]]), 0.15
START = jnp.array([0.4, -1.3])


def mixture(schedule, predicts, means=MEANS):
    """The exact prediction of two Gaussians."""

    def prediction(t, x, args):
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        spread = alpha**2 * VARIANCE + sigma**2
        away = x[None] - alpha * means
        share = jax.nn.softmax(-jnp.sum(away**2, -1) / (2 * spread))
        return convert(share @ (means + alpha * VARIANCE / spread * away), "data", predicts, schedule, t, x)

    return prediction


@eqx.filter_jit
def end(solver, times, schedule=VP, form="data", x=START, means=MEANS):
    term = diffusion_model_term(mixture(schedule, form, means), schedule, form)
    steps = nde.StepTo(times)
    size = schedule.sigma(times[0]) * x
    return nde.diffeqsolve(term, solver, times[0], times[-1], None, size, stepsize_controller=steps, max_steps=500).ys[
        -1
    ]


def exact(schedule, form="data"):
    return end(nde.Dopri8(), log_snr_times(schedule, 400), schedule, form)


ORDERS = {
    "DPM-Solver-1": ("noise", nde.Exponential(1), 1),
    "DPM-Solver-2": ("noise", nde.Exponential(2), 2),
    "DPM-Solver-3": ("noise", nde.Exponential(3), 3),
    "DPM-Solver++ 2S": ("data", nde.Exponential(2), 2),
    "DPM-Solver++ 2M": ("data", nde.ExponentialAdams(2, weights="mean"), 2),
    "3M": ("data", nde.ExponentialAdams(3), 3),
    "tAB-DEIS 1": ("noise", nde.ExponentialAdams(2, "time"), 2),
    "tAB-DEIS 2": ("noise", nde.ExponentialAdams(3, "time"), 3),
    "ρAB-DEIS 1": ("noise", nde.ExponentialAdams(2, "clock"), 2),
    "ρRK-DEIS 2": ("noise", nde.Lawson(diffrax.Heun()), 2),
    "ρRK-DEIS 3": ("noise", nde.Lawson(diffrax.Bosh3()), 3),
    "PNDM": ("noise", nde.ExponentialAdams(4, "time", weights="mean"), 2),
    "2 with a corrector": ("data", nde.ExponentialAdams(2, corrector=True), 3),
    "UniPC-2, B1": ("data", nde.ExponentialAdams(2, weights="B1", corrector=True), 3),
    "UniPC-2, B2": ("noise", nde.ExponentialAdams(2, weights="B2", corrector=True), 3),
    "UniPC-3, B2": ("data", nde.ExponentialAdams(3, weights="B2", corrector=True), 4),
}


@pytest.mark.parametrize("schedule", [VP, VE], ids=["VP", "VE"])
@pytest.mark.parametrize("method", ORDERS)
def test_error_falls_with_the_order(method, schedule):
    form, solver, order = ORDERS[method]
    steps = (160, 320)
    coarse, fine = (
        jnp.linalg.norm(end(solver, log_snr_times(schedule, n), schedule, form) - ENDS[schedule]) for n in steps
    )
    assert float(jnp.log2(coarse / fine)) > order - 0.15
    assert float(fine) > 1e-12


ENDS = {schedule: exact(schedule) for schedule in (VP, VE)}


def two(form):
    """Two times, the state at the first, and the prediction there."""
    times = jnp.array([0.7, 0.3])
    x = VP.sigma(times[0]) * START
    return times, x, mixture(VP, form)(times[0], x, None)


def test_first_order_steps_are_those_that_were_published():
    """DDIM by either prediction (DPM-Solver, equation 3.7; DPM-Solver++, equation 4.1)."""
    for form in ("noise", "data"):
        times, x, value = two(form)
        (alpha0, alpha1), (sigma0, sigma1) = VP.alpha(times), VP.sigma(times)
        h = jnp.log(alpha1 / sigma1) - jnp.log(alpha0 / sigma0)
        by_noise = alpha1 / alpha0 * x - sigma1 * jnp.expm1(h) * value
        by_data = sigma1 / sigma0 * x - alpha1 * jnp.expm1(-h) * value
        expected = by_noise if form == "noise" else by_data
        for solver in (nde.Exponential(1), nde.ExponentialAdams(1), nde.Lawson(diffrax.Euler())):
            np.testing.assert_allclose(end(solver, times, VP, form), expected, rtol=1e-12)


def test_second_order_steps_are_those_that_were_published():
    """DPM-Solver-2 (algorithm 1) and DPM-Solver++ 2M (algorithm 2)."""
    times, x, value = two("noise")
    lam = jnp.log(VP.gamma(times))
    h, middle = lam[1] - lam[0], VP.time(jnp.exp(lam.mean()))
    u = VP.alpha(middle) / VP.alpha(times[0]) * x - VP.sigma(middle) * jnp.expm1(h / 2) * value
    value = mixture(VP, "noise")(middle, u, None)
    expected = VP.alpha(times[1]) / VP.alpha(times[0]) * x - VP.sigma(times[1]) * jnp.expm1(h) * value
    np.testing.assert_allclose(end(nde.Exponential(2), times, VP, "noise"), expected, rtol=1e-12)
    times, data = jnp.array([0.7, 0.5, 0.2]), mixture(VP, "data")
    x0, lam = VP.sigma(times[0]) * START, jnp.log(VP.gamma(times))
    first = data(times[0], x0, None)
    x1 = VP.sigma(times[1]) / VP.sigma(times[0]) * x0 - VP.alpha(times[1]) * jnp.expm1(lam[0] - lam[1]) * first
    ratio = (lam[1] - lam[0]) / (lam[2] - lam[1])
    both = (1 + 1 / (2 * ratio)) * data(times[1], x1, None) - 1 / (2 * ratio) * first
    x2 = VP.sigma(times[2]) / VP.sigma(times[1]) * x1 - VP.alpha(times[2]) * jnp.expm1(lam[1] - lam[2]) * both
    np.testing.assert_allclose(end(nde.ExponentialAdams(2, weights="mean"), times, VP, "data"), x2, rtol=1e-12)


def unipc(times, order, form, kind):
    """UniPC by a linear system for the weights of the differences D_m = (f_m - f_0) / r_m, as it was published.

    x_1 = l x_0 - c (exp(k) - 1) f_0 - c B sum_m a_m D_m with k = -h for data and h for noise, l and c those of the step
    of order one; sum_m r_m^(i-1) a_m = i! k phi_{i+1}(k) / B for i = 1, 2, ..., and a_1 = 1/2 where it is alone.
    """
    alpha, sigma, lam = VP.alpha(times), VP.sigma(times), jnp.log(VP.gamma(times))
    prediction, x = mixture(VP, form), VP.sigma(times[0]) * START
    values = [prediction(times[0], x, None)]
    for n in range(len(times) - 1):
        h = float(lam[n + 1] - lam[n])
        k, linear = (-h, sigma[n + 1] / sigma[n]) if form == "data" else (h, alpha[n + 1] / alpha[n])
        outer = alpha[n + 1] if form == "data" else sigma[n + 1]
        B = k if kind == "B1" else np.expm1(k)

        def step(known, x=x, n=n, h=h, k=k, linear=linear, outer=outer, B=B):
            r = np.array([(lam[m] - lam[n]) / h for m in known], float)
            phis = [np.expm1(k) / k]
            for i in range(len(known)):
                phis.append((phis[-1] - 1 / math.factorial(i + 1)) / k)
            b = [math.factorial(i + 1) * k * phis[i + 1] / B for i in range(len(known))]
            rows = np.array([r**i for i in range(len(known))])
            a = [0.5] if len(known) == 1 else np.linalg.solve(rows, b) if known else []
            rise = sum((w * (values[m] - values[n]) / q for w, m, q in zip(a, known, r, strict=True)), 0.0)
            return linear * x - outer * np.expm1(k) * values[n] - outer * B * rise

        known = list(range(n - 1, max(n - order, -1), -1))
        values.append(prediction(times[n + 1], step(known), None))
        x = step([*known, n + 1])
    return x


@pytest.mark.parametrize("form", ["data", "noise"])
@pytest.mark.parametrize(("order", "kind"), [(2, "B1"), (2, "B2"), (3, "B1")])
def test_unipc_is_that_which_was_published(order, kind, form):
    times = log_snr_times(VP, 8)[:6]
    found = end(nde.ExponentialAdams(order, weights=kind, corrector=True), times, VP, form)
    np.testing.assert_allclose(found, unipc(times, order, form, kind), rtol=1e-12)
    exactly = end(nde.ExponentialAdams(order, corrector=True), times, VP, form)
    assert float(jnp.abs(found - exactly).max()) > 1e-8  # of the lines through two evaluations


def test_b2_is_the_second_step_of_2m():
    times = log_snr_times(VP, 8)
    found = end(nde.ExponentialAdams(2, weights="B2"), times)
    np.testing.assert_allclose(found, end(nde.ExponentialAdams(2, weights="mean"), times), rtol=1e-12)


def test_constants_of_even_times_are_those_of_adams_and_bashforth():
    """PNDM's: (55, -59, 37, -9) / 24, after three steps with fewer."""
    times = jnp.linspace(0.9, 0.3, 5)
    alpha, chi = VP.alpha(times), 1 / VP.gamma(times)
    y, past = VP.sigma(times[0]) * START / alpha[0], []
    for n, constants in enumerate(
        [(1,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24)]
    ):
        past.insert(0, mixture(VP, "noise")(times[n], alpha[n] * y, None))
        y += (chi[n + 1] - chi[n]) * sum(c * f for c, f in zip(constants, past, strict=True))
    found = end(nde.ExponentialAdams(4, "time", weights="mean"), times, VP, "noise")
    np.testing.assert_allclose(found, alpha[-1] * y, rtol=1e-12)


class Polynomial(AbstractVariables):
    """$m = 1$ and $s = t + t^2$."""

    def scale(self, t):
        return jnp.ones_like(t)

    def clock(self, t):
        return t + t**2

    def time(self, s):
        return jnp.sqrt(0.25 + s) - 0.5


@pytest.mark.parametrize(("order", "degree"), [(1, 0), (2, 1), (3, 2), (4, 3)])
def test_a_field_that_is_a_polynomial_is_integrated_exactly(order, degree):
    """The integrals of a field of constant, linear, ... values in closed form, once the past is there."""
    term = SemilinearTerm(lambda t, x, args: t[None] ** degree, Polynomial())
    times = jnp.array([0.2, 0.3, 0.45, 0.7, 1.0, 1.2])

    def at(first):
        return sum(c * times[first] ** (degree + p) / (degree + p) for c, p in ((1, 1), (2, 2)))

    solver = nde.ExponentialAdams(order, "time")
    saveat = nde.SaveAt(steps=True, t0=True)
    controller = nde.StepTo(times)
    ys = nde.diffeqsolve(
        term,
        solver,
        times[0],
        times[-1],
        None,
        jnp.zeros(1),
        saveat=saveat,
        stepsize_controller=controller,
        max_steps=8,
    ).ys[:6, 0]
    for first in range(order - 1, 5):
        assert float(ys[first + 1] - ys[first]) == pytest.approx(float(at(first + 1) - at(first)), rel=1e-13)


@pytest.mark.parametrize("schedule", [VP, VE, EDMSchedule(), LinearFlow()], ids=["VP", "VE", "EDM", "flow"])
def test_ends_meet_those_of_scipy(schedule):
    """The probability-flow ODE written out, by an implementation that knows nothing of ours."""
    times = log_snr_times(schedule, 60, ends=(schedule.time(20.0), schedule.time(0.05)))
    score, x = mixture(schedule, "score"), schedule.sigma(times[0]) * START

    @jax.jit
    def velocity(t, x):
        return schedule.drift_rate(t) * x - schedule.squared_diffusion(t) / 2 * score(t, x, None)

    span = float(times[0]), float(times[-1])
    wanted = integrate.solve_ivp(velocity, span, np.asarray(x), rtol=1e-8, atol=1e-10).y[:, -1]
    for form, solver in (("data", nde.ExponentialAdams(3)), ("noise", nde.Exponential(3))):
        np.testing.assert_allclose(end(solver, times, schedule, form), wanted, atol=2e-3)


def test_a_centre_shifts_the_whole_solution():
    centre, times = jnp.array([3.0, -2.0]), log_snr_times(VP, 12)
    around = MeanReverting(VP, centre)

    def moved(t, x, args):
        return mixture(VP, "data")(t, x - centre, None) + centre

    for solver in (nde.ExponentialAdams(2), nde.Exponential(2), nde.Rex(nde.Heun()), nde.Heun()):
        term = diffusion_model_term(moved, around)
        x = centre + VP.sigma(times[0]) * START
        controller = nde.StepTo(times)
        found = nde.diffeqsolve(term, solver, times[0], times[-1], None, x, stepsize_controller=controller).ys[-1]
        np.testing.assert_allclose(found, end(solver, times) + centre, atol=1e-12)


def test_dense_output_is_of_the_order_of_the_method():
    times, fine, inner = log_snr_times(VP, 60), log_snr_times(VP, 400), jnp.array([0.8, 0.31, 0.05])
    term, x = diffusion_model_term(mixture(VP, "data"), VP), VP.sigma(times[0]) * START

    def at_inner(solver, times):
        options = {"saveat": nde.SaveAt(ts=inner), "stepsize_controller": nde.StepTo(times), "max_steps": 500}
        return nde.diffeqsolve(term, solver, times[0], times[-1], None, x, **options).ys

    solvers = nde.ExponentialAdams(3), nde.Exponential(2), nde.Lawson(nde.Heun())
    found, wanted = jax.jit(lambda: ([at_inner(solver, times) for solver in solvers], at_inner(nde.Tsit5(), fine)))()
    for one in found:
        np.testing.assert_allclose(one, wanted, atol=3e-3)


@pytest.mark.parametrize(
    "solver",
    [
        nde.ExponentialAdams(2, weights="mean"),
        nde.ExponentialAdams(3, "time", orders=(1, 2, 3, 2)),
        nde.ExponentialAdams(2, corrector=True),
        nde.Exponential(3),
        nde.Lawson(nde.Heun()),
    ],
    ids=["2M", "tAB3", "corrector", "3S", "ρRK"],
)
def test_gradients_are_those_of_finite_differences(solver):
    """In the start, the prediction's parameters, the times and the schedule."""
    times = log_snr_times(VP, 5, ends=(0.02, 0.98))

    def loss(inputs):
        x, means, times, betas = inputs
        return jnp.sum(jnp.sin(end(solver, times, VariancePreserving(*betas), "data", x, means=means)))

    point = START, MEANS, times, jnp.array([0.1, 20.0])
    flat, unravel = jax.flatten_util.ravel_pytree(point)
    function, step = jax.jit(jax.value_and_grad(lambda x: loss(unravel(x)))), 1e-6
    differences = [
        (function(flat + change)[0] - function(flat - change)[0]) / (2 * step) for change in step * np.eye(len(flat))
    ]
    np.testing.assert_allclose(function(flat)[1], differences, atol=2e-7)


def test_weights_in_an_array_are_trained():
    """Rows of Adams and Bashforth give the method, and the gradient in them is that of finite differences."""
    times = jnp.linspace(0.9, 0.1, 5)
    rows = jnp.array([[1.0, 0.0], [1.5, -0.5]])
    by_rows = end(nde.ExponentialAdams(2, "time", weights=rows), times, VP, "noise")
    np.testing.assert_allclose(
        by_rows, end(nde.ExponentialAdams(2, "time", weights="mean"), times, VP, "noise"), rtol=1e-12
    )

    def loss(rows):
        return jnp.sum(end(nde.ExponentialAdams(2, weights=rows), times, VP, "noise") ** 2)

    found, step = jax.grad(loss)(rows), 1e-6
    for i, j in np.ndindex(2, 2):
        change = jnp.zeros((2, 2)).at[i, j].set(step)
        difference = (loss(rows + change) - loss(rows - change)) / (2 * step)
        assert float(found[i, j]) == pytest.approx(float(difference), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("noise", [0.5, 1.5])
def test_any_amount_of_noise_leaves_the_law(noise):
    """Moments of a Gaussian of variance 0.15 after 40 steps, by the SDE; others in test_samplers.py."""
    schedule = VarianceExploding(0.02, 5.0)
    times = log_snr_times(schedule, 40)
    ends = noise_span(schedule, "data", noise, (times[0], times[-1]))

    def data(t, x, args):
        return VARIANCE / (VARIANCE + schedule.sigma(t) ** 2) * x

    def draw(key):
        start, motion = jax.random.split(key)
        path = nde.VirtualBrownianTree(*ends, tol=(ends[1] - ends[0]) * 1e-9, shape=(8,), key=motion)
        x = schedule.sigma(times[0]) * jax.random.normal(start, (8,))
        term = diffusion_model_term(data, schedule, path=path, noise=noise)
        controller = nde.StepTo(times)
        return nde.diffeqsolve(
            term, nde.ExponentialAdams(2), times[0], times[-1], None, x, stepsize_controller=controller
        ).ys[-1]

    drawn = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), 2500))
    wanted = VARIANCE + 0.02**2
    assert float(jnp.mean(drawn)) == pytest.approx(0, abs=4 * (wanted / 20000) ** 0.5)
    assert float(jnp.var(drawn)) == pytest.approx(wanted, rel=0.05)


def test_float32_follows_float64():
    times = log_snr_times(VP, 10)
    for solver in (nde.Exponential(3), nde.ExponentialAdams(2, corrector=True)):
        exact = end(solver, times, VP, "data")
        single = end(
            solver, times.astype(jnp.float32), VP, "data", START.astype(jnp.float32), means=MEANS.astype(jnp.float32)
        )
        assert single.dtype == jnp.float32
        np.testing.assert_allclose(single, exact, rtol=2e-4)


@pytest.mark.parametrize("solver", [nde.ExponentialAdams(2, corrector=True), nde.ExponentialAdams(3)])
def test_steps_may_be_chosen_by_the_error(solver):
    """From a first step that is far too long: without a past there is an estimate as well."""
    term, x = diffusion_model_term(mixture(VP, "data"), VP), VP.sigma(1.0) * START
    controller = nde.PIDController(rtol=1e-5, atol=1e-6)
    solution = nde.diffeqsolve(term, solver, 1.0, 1e-3, -0.9, x, stepsize_controller=controller, max_steps=4096)
    np.testing.assert_allclose(solution.ys[-1], ENDS[VP], atol=1e-4)
    assert int(solution.stats["num_rejected_steps"]) > 0


def test_learned_weights_have_no_estimate_of_their_error():
    term, controller = diffusion_model_term(mixture(VP, "data"), VP), nde.PIDController(rtol=1e-5, atol=1e-6)
    with pytest.raises(RuntimeError, match="adaptive step"):
        nde.diffeqsolve(
            term, nde.ExponentialAdams(1, weights=[[1.0]]), 1.0, 1e-3, -0.1, START, stepsize_controller=controller
        )


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match="orders 1, 2 and 3"):
        nde.Exponential(4)
    with pytest.raises(ValueError, match="order from 1 to 4"):
        nde.ExponentialAdams(5)
    with pytest.raises(ValueError, match="order from 1 to 4"):
        nde.ExponentialAdams(2, orders=(1, 3))
    for solver in (nde.Exponential, nde.ExponentialAdams):
        with pytest.raises(ValueError, match="abscissa must be one of log_clock, time, clock, but got 'snr'"):
            solver(2, "snr")
    with pytest.raises(ValueError, match="one of exact, mean, B1, B2, or an array"):
        nde.ExponentialAdams(weights="published")
    with pytest.raises(ValueError, match=r"shape \(steps, order\), here \(steps, 2\), but got \(3,\)"):
        nde.ExponentialAdams(weights=jnp.ones(3))
    with pytest.raises(ValueError, match="no corrector and are no orders"):
        nde.ExponentialAdams(weights=jnp.ones((3, 2)), corrector=True)
    for solver in (nde.Exponential(), nde.ExponentialAdams(), nde.Lawson(nde.Heun())):
        with pytest.raises(ValueError, match=f"{type(solver).__name__} solves an nde.terms.SemilinearTerm"):
            nde.diffeqsolve(nde.ODETerm(lambda t, x, args: -x), solver, 0.0, 1.0, 0.1, START)


def test_a_tableau_of_ones_own():
    """Ralston's places give order two as well."""
    tableau = ExponentialTableau((0.0, 2 / 3), ((0,), (0, 1)), 2)
    coarse, fine = (jnp.linalg.norm(end(nde.Exponential(tableau), log_snr_times(VP, n)) - ENDS[VP]) for n in (100, 200))
    assert float(jnp.log2(coarse / fine)) == pytest.approx(2, abs=0.15)


@pytest.mark.parametrize(
    ("solver", "form", "tolerance"),
    [
        (nde.Exponential(3), "data", 1e-4),
        (nde.ExponentialAdams(2, corrector=True), "noise", 5e-3),
        (nde.Lawson(nde.Heun()), "noise", 2e-3),
    ],
    ids=["Exponential", "Adams", "Lawson"],
)
def test_costate_is_solved_in_the_variables_without_the_linear_part(solver, form, tolerance):
    """The continuous adjoint's gradient in the start and the parameters, against that of the discrete solve."""
    times = log_snr_times(VP, 120)

    def loss(inputs, adjoint):
        x, means = inputs
        term = diffusion_model_term(mixture(VP, form, means), VP, form)
        options = {"stepsize_controller": nde.StepTo(times), "adjoint": adjoint, "max_steps": 200}
        size = VP.sigma(times[0]) * x
        saveat = nde.SaveAt(ts=times[jnp.array([60])], t1=True)
        ys = nde.diffeqsolve(term, solver, times[0], times[-1], None, size, saveat=saveat, **options).ys
        return jnp.sum(jnp.sin(ys))

    point = START, MEANS
    found, exact = (jax.jit(jax.grad(lambda x, a=a: loss(x, a)))(point) for a in (nde.ContinuousAdjoint(), CHECKPOINT))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True):
        np.testing.assert_allclose(one, other, atol=tolerance * float(jnp.max(jnp.abs(other))))


CHECKPOINT = nde.CheckpointAdjoint()


def test_costate_of_an_sde_is_solved_along_the_same_path():
    times = log_snr_times(VE, 200, ends=(0.2, 0.8))
    ends = noise_span(VE, "data", 1.0, (times[0], times[-1]))

    def loss(x, adjoint):
        path = nde.VirtualBrownianTree(*ends, tol=1e-3, shape=(2,), key=jax.random.key(3))
        term = diffusion_model_term(mixture(VE, "data"), VE, path=path)
        options = {"stepsize_controller": nde.StepTo(times), "adjoint": adjoint, "max_steps": 300}
        return jnp.sum(nde.diffeqsolve(term, nde.Exponential(2), times[0], times[-1], None, x, **options).ys ** 2)

    found, exact = (jax.jit(jax.grad(lambda x, a=a: loss(x, a)))(START) for a in (nde.ContinuousAdjoint(), CHECKPOINT))
    np.testing.assert_allclose(found, exact, rtol=0.02)
