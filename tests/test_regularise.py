"""Regularisers against closed forms and against sums over known steps; and that the solve beside them is the same."""

import re

import diffrax
import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import jax.random as jr
import lineax as lx
import numpy as np
import optimistix
import pytest
import scipy.linalg
from chex import assert_max_traces, assert_trees_all_close
from diffrax import ConstantStepSize, ODETerm, PIDController, SaveAt, SubSaveAt, Tsit5

import nde
from nde.models import position_norm
from nde.regularise import (
    EndTime,
    ErrorEstimate,
    JacobianNorm,
    KineticEnergy,
    LearnedEndTime,
    LocalErrorEstimate,
    RandomEndTime,
    solve,
    StiffnessEstimate,
    TaylorDerivative,
    Together,
    weight_schedule,
)

A = jnp.array([[-0.3, 1.5], [-1.1, 0.2]])
Y0 = jnp.array([1.0, -0.5])
LINEAR = ODETerm(lambda t, y, a: a @ y)
BENT = ODETerm(lambda t, y, a: jnp.tanh(a @ y) - 0.3 * jnp.cos(2 * t) * y)
PID = PIDController(rtol=1e-4, atol=1e-4)
KEY = jr.key(0)


def penalty(regulariser, a, y0=Y0, t0=0.0, t1=2.0, dt0=0.05, term=LINEAR, solver=None, key=KEY, **options):
    return solve(regulariser, term, solver or Tsit5(), t0, t1, dt0, y0, a, key=key, **options)[1]


def integral_of_derivative(order):
    """The integral of |A^order exp(A t) y0|^2 over (0, 2), by Gauss and Legendre."""
    points, weights = np.polynomial.legendre.leggauss(20)
    power = np.linalg.matrix_power(np.asarray(A), order)
    values = [np.sum((power @ scipy.linalg.expm(np.asarray(A) * t) @ np.asarray(Y0)) ** 2) for t in points + 1]
    return np.sum(weights * np.array(values))


def test_integrals_along_a_linear_equation():
    rates = (KineticEnergy(), TaylorDerivative(1), TaylorDerivative(2), TaylorDerivative(3))
    options = {"dt0": 0.02, "solver": diffrax.Bosh3()}
    each = jax.jit(jax.vmap(lambda weights: penalty(Together(rates, list(weights)), A, **options)))(jnp.eye(4))
    exact = [integral_of_derivative(order) for order in (1, 1, 2, 3)]
    assert_trees_all_close(each, jnp.array(exact), rtol=1e-5)
    # Backward along the same solution it is the same.
    end = jax.scipy.linalg.expm(2 * A) @ Y0
    assert penalty(rates[0], A, end, 2.0, 0.0, -0.02, solver=diffrax.Bosh3()) == pytest.approx(exact[0], rel=1e-5)


def test_time_counts_in_a_taylor_derivative():
    # y = sin(t), by a field that has it from t: y'' = -sin(t).
    found = penalty(TaylorDerivative(2), None, jnp.zeros(1), term=ODETerm(lambda t, y, a: jnp.cos(t) + 0 * y))
    assert found == pytest.approx(1.0 - np.sin(4.0) / 4, rel=1e-7)


def test_the_jacobian_norm_is_frobenius_in_the_mean():
    # Of a linear equation it is the same everywhere, and no solver errs.
    def found(regulariser, a, key=KEY):
        return penalty(regulariser, a, dt0=1.0, solver=diffrax.Euler(), key=key)

    diagonal = jnp.diag(jnp.array([1.0, -2.0]))  # of which every probe gives all
    assert found(JacobianNorm(), diagonal) == pytest.approx(2 * 5.0, rel=1e-9)
    each = jax.vmap(lambda key: found(JacobianNorm(), A, key))(jr.split(KEY, 400))
    exact = 2.0 * float(jnp.sum(A**2))
    assert abs(each.mean() - exact) < 3 * each.std() / 20
    assert found(JacobianNorm(4000), A) == pytest.approx(exact, rel=0.05)


def test_local_estimates_have_the_sum_for_a_mean():
    def both(key):
        regularisers = (ErrorEstimate(), LocalErrorEstimate(biased=True), LocalErrorEstimate())
        options = {"dt0": 0.1, "solver": diffrax.Heun(), "stepsize_controller": PID, "max_steps": 128}
        return jnp.stack([penalty(r, A, term=BENT, key=key, **options) for r in regularisers])

    total, biased, unbiased = jax.jit(jax.vmap(both))(jr.split(KEY, 400)).T
    assert jnp.all(total == total[0])
    assert abs(biased.mean() - total[0]) < 3 * biased.std() / 20
    assert 0.5 < unbiased.mean() / total[0] < 1.5


@pytest.mark.parametrize("detached", [False, True])
def test_the_gradient_of_a_local_estimate_is_that_of_one_step(detached):
    options = {"stepsize_controller": PID, "max_steps": 64}
    solver = diffrax.Bosh3()
    regulariser = LocalErrorEstimate(biased=True, detached=detached)
    saveat = SaveAt(t0=True, steps=True)
    found = nde.diffeqsolve(BENT, solver, 0.0, 2.0, 0.1, Y0, A, saveat=saveat, **options)
    grid = found.ts[jnp.isfinite(found.ts)]
    number = int(jr.uniform(KEY) * (len(grid) - 1))
    before, t0, t1 = grid[: number + 1], grid[number], grid[number + 1]
    assert number > 0

    def one_step(a, start):
        y = start
        if not detached:
            y = nde.diffeqsolve(
                BENT, solver, before[0], t0, None, Y0, a, stepsize_controller=diffrax.StepTo(before)
            ).ys[0]
        y1, error, *_ = solver.step(BENT, t0, t1, y, a, solver.init(BENT, t0, t1, y, a), False)
        scale = 1e-4 + 1e-4 * jnp.maximum(jnp.abs(y), jnp.abs(y1))
        return (len(grid) - 1) * (t1 - t0) * optimistix.rms_norm(error / scale)

    mine = jax.jit(jax.value_and_grad(lambda a: penalty(regulariser, a, term=BENT, dt0=0.1, solver=solver, **options)))
    other = jax.jit(jax.value_and_grad(one_step))(A, found.ys[number])
    assert_trees_all_close(mine(A), other, rtol=1e-7)


def test_gradients_on_a_fixed_grid():
    regulariser = Together([KineticEnergy(), JacobianNorm(2), TaylorDerivative(2)], [1.0, 0.5, 2.0])
    pulled = jax.jit(jax.value_and_grad(lambda a: penalty(regulariser, a, term=BENT, dt0=0.5, solver=diffrax.Heun())))
    _, gradient = pulled(A)
    for i, j in np.ndindex(2, 2):
        step = jnp.zeros((2, 2)).at[i, j].set(1e-5)
        assert gradient[i, j] == pytest.approx(float(pulled(A + step)[0] - pulled(A - step)[0]) / 2e-5, rel=1e-6)


def test_each_of_several_has_its_weight_its_key_and_its_integral():
    options = {"term": BENT, "dt0": 0.5, "solver": diffrax.Heun()}
    parts, weights = [JacobianNorm(), KineticEnergy(), JacobianNorm()], [2.0, 5.0, 7.0]
    key = jr.key(1)

    @jax.jit
    def both():
        each = [penalty(r, A, key=k, **options) for r, k in zip(parts, jr.split(key, 3), strict=True)]
        return penalty(Together(parts, weights), A, key=key, **options), jnp.stack(each)

    together, each = both()
    assert each[0] != each[2]  # two draws
    assert_trees_all_close(together, jnp.array(weights) @ each, rtol=1e-9)


def test_those_that_move_the_end_are_asked_first_wherever_they_stand():
    moved, kinetic, options = RandomEndTime(0.3), KineticEnergy(), {"dt0": 0.5, "solver": diffrax.Heun()}
    found = jnp.stack([penalty(Together(order), A, **options) for order in ([moved, kinetic], [kinetic, moved])])
    ends = [solve(moved, LINEAR, t0=0.0, t1=2.0, y0=Y0, args=A, key=key, **options)[0].ts[-1] for key in jr.split(KEY)]
    expected = jax.vmap(lambda end: penalty(kinetic, A, t1=end, **options))(jnp.stack(ends))
    assert_trees_all_close(found, expected, rtol=1e-9)


ALL = Together([KineticEnergy(), LocalErrorEstimate(biased=True), ErrorEstimate()])
FIRST = PIDController(rtol=1e-4, atol=1e-4, norm=lambda y: jnp.abs(y[0]))
CASES = {
    "steps, times and the start": (
        PID, {"saveat": SaveAt(t0=True, steps=True, ts=jnp.array([0.5, 1.5]), fn=lambda t, y, args: y[0])}
    ),
    "several": (
        PID, {"saveat": SaveAt(subs={"a": SubSaveAt(t0=True, t1=True), "b": SubSaveAt(ts=jnp.array([0.3]))})}
    ),
    "nothing": (PID, {"saveat": SaveAt(subs=[])}),
    "a norm of its own, wrapped": (diffrax.ClipStepSizeController(FIRST, step_ts=[0.7]), {}),
    "an event": (
        PID, {"event": diffrax.Event(lambda t, y, args, **kw: y[0] - 0.2, optimistix.Newton(1e-8, 1e-8))}
    ),
    "a steady state": (PID, {"event": diffrax.Event(diffrax.steady_state_event(rtol=0.0, atol=0.4))}),
    "heuristics of the caller's": (PID, {"heuristics": nde.HeuristicSpec(("error",), FIRST)}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_solution_is_that_of_the_solve_alone(name):
    controller, options = CASES[name]
    options = {"stepsize_controller": controller, "max_steps": 128} | options
    where = (BENT, diffrax.Heun(), 0.0, 2.0, 0.1, Y0, A)
    alone = nde.diffeqsolve(*where, **options)
    beside, found = solve(ALL, *where, key=KEY, **options)
    assert found > 0
    assert_trees_all_close((beside.ts, beside.ys), (alone.ts, alone.ys), rtol=1e-12)
    assert beside.stats["num_steps"] == alone.stats["num_steps"]
    assert beside.result == alone.result
    if "heuristics" in options:
        assert_trees_all_close(beside.stats["heuristics"].error.total, alone.stats["heuristics"].error.total, rtol=1e-9)


def test_a_fixed_grid_has_heuristics_of_the_state_alone():
    asked = {"heuristics": ("unscaled_error", "stiffness"), "saveat": SaveAt(t1=True)}
    where = (BENT, Tsit5(), 0.0, 2.0, 0.5, Y0, A)
    alone = nde.diffeqsolve(*where, **asked).stats["heuristics"]
    beside = solve(KineticEnergy(), *where, **asked)[0].stats["heuristics"]
    assert_trees_all_close(beside, alone, rtol=1e-9)


def test_the_continuous_and_the_reversible_adjoint_differentiate_what_is_beside_the_state():
    def gradient(regulariser, adjoint, solver, **options):
        options |= {"term": BENT, "solver": solver, "adjoint": adjoint, "t1": 1.0, "max_steps": 256}
        return jax.jit(jax.grad(lambda a: penalty(regulariser, a, **options)))(A)

    both = Together([KineticEnergy(), LocalErrorEstimate(biased=True)])
    options = {"dt0": None, "stepsize_controller": PID}
    exact = gradient(both, nde.CheckpointAdjoint(), diffrax.Heun(), **options)
    assert_trees_all_close(gradient(both, nde.ContinuousAdjoint(), diffrax.Heun(), **options), exact, rtol=1e-2)
    solver = nde.Reversible(diffrax.Heun())
    exact = gradient(KineticEnergy(), nde.CheckpointAdjoint(), solver)
    assert_trees_all_close(gradient(KineticEnergy(), nde.ReversibleAdjoint(), solver), exact, rtol=1e-9)


def test_a_neural_ode_has_the_penalty_of_its_solve():
    controller = PIDController(rtol=1e-6, atol=1e-6)
    model = nde.NeuralODE(lambda t, y, a: a @ y, solver=diffrax.Bosh3(), controller=controller)
    ts = jnp.linspace(0.0, 2.0, 5)
    ys, found = model.solve(ts, Y0, A, regulariser=KineticEnergy())[:2]
    assert_trees_all_close(ys, model(ts, Y0, A), rtol=1e-12)
    assert found == pytest.approx(integral_of_derivative(1), rel=1e-4)


@pytest.mark.parametrize(("solver", "tolerance"), [(diffrax.Euler(), 1e-9), (diffrax.SPaRK(), 0.5)])
def test_a_neural_sde_has_the_sum_of_its_drift_at_each_step(solver, tolerance):
    model = nde.NeuralSDE(lambda t, y, a: a @ y, lambda t, y, a: 0.3 * jnp.cos(y), solver=solver, dt0=0.25)
    ts = jnp.linspace(0.0, 1.0, 5)
    ys, found = model.solve(ts, Y0, A, regulariser=KineticEnergy(), key=KEY)[:2]
    assert_trees_all_close(ys, model(ts, Y0, A, key=KEY), rtol=1e-12)
    assert found == pytest.approx(float(0.25 * jnp.sum((ys[:-1] @ A.T) ** 2)), rel=tolerance)


def test_a_neural_cde_has_the_sum_of_its_drift_at_each_step():
    matrix = jr.normal(jr.key(1), (2, 3))
    model = nde.NeuralCDE(
        lambda x: x[:2], lambda t, y, args: jnp.tanh(y)[:, None] * matrix, lambda y: y, solver=diffrax.Euler(),
        controller=ConstantStepSize(), dt0=0.5, scaled=False,
    )  # fmt: skip
    ts, values = jnp.array([0.0, 1.0, 2.0]), jnp.array([[0.5], [1.0], [-0.3]])
    out, found = model.solve(ts, values, regulariser=KineticEnergy())[:2]
    assert_trees_all_close(out, model(ts, values), rtol=1e-12)
    path, total = nde.models.series_path(ts, values), 0.0
    y = path.evaluate(0.0)[:2]
    for t in (0.0, 0.5, 1.0, 1.5):
        f = jnp.tanh(y) * (matrix @ path.derivative(t, left=False))
        y, total = y + 0.5 * f, total + 0.5 * float(jnp.sum(f**2))
    assert found == pytest.approx(total, rel=1e-6)
    moved, _ = model.solve(ts, values, regulariser=RandomEndTime(0.5), key=jr.key(5))[:2]
    assert jnp.all(jnp.isfinite(moved))


def test_a_flow_regularises_its_position_alone():
    flow = nde.ContinuousNormalizingFlow(
        lambda t, y, args: A @ y, 2, t1=2.0, controller=PIDController(rtol=1e-7, atol=1e-7, norm=position_norm)
    )
    end = jax.scipy.linalg.expm(2 * A) @ Y0
    log_prob, found = flow.solve(end, regulariser=Together([KineticEnergy(), JacobianNorm(4000)], [1.0, 0.0]), key=KEY)[
        :2
    ]
    assert log_prob == pytest.approx(float(flow.log_prob(end)), rel=1e-12)
    assert found == pytest.approx(integral_of_derivative(1), rel=1e-5)
    found = flow.solve(end, regulariser=JacobianNorm(), key=KEY)[:2][1]
    probe = np.array([[1, 1], [1, -1]]) @ np.asarray(A)
    assert min(abs(found - 2 * (row**2).sum()) for row in probe) < 1e-6


def test_a_latent_sde_regularises_its_state_alone():
    times = jnp.array([0.0, 0.5, 1.0])
    values, mask = jr.normal(KEY, (3, 1)), jnp.ones((3, 1), bool)
    asked = jnp.linspace(0.0, 1.0, 5)

    @eqx.filter_jit
    def paths(model):
        return [model.posterior(times, values, mask, asked, key=KEY, regulariser=r) for r in (None, KineticEnergy())]

    noisy = nde.LatentSDE(1, 2, horizon=1.0, dt0=0.25, key=KEY)
    plain, path = paths(noisy)
    assert_trees_all_close((path.zs, path.kl_path), (plain.zs, plain.kl_path), rtol=1e-9)
    drifts = jax.vmap(lambda z: noisy.drift(0.0, z))(path.zs[:-1])  # the control is silent to begin with
    assert path.penalty == pytest.approx(float(0.25 * jnp.sum(drifts**2)), rel=1e-6)


def test_a_random_end_keeps_the_order_of_times():
    ts = jnp.array([0.0, 0.5, 0.6, 1.5, 2.0, 2.0, 2.0])

    def moved(key):
        solution, _ = solve(
            RandomEndTime(), LINEAR, diffrax.Heun(), 0.0, 2.0, 0.5, Y0, A, key=key, saveat=SaveAt(ts=ts), throw=False
        )
        return solution.ts

    found = np.asarray(jax.jit(jax.vmap(moved))(jr.split(KEY, 200)))
    assert np.all(np.diff(found) >= 0)
    assert np.all(found[:, [0, 4, 5, 6]] == np.array([0.0, 2.0, 2.0, 2.0]))
    room = np.array([0.1, 0.1, 0.5])  # to the nearer neighbour
    share = (found[:, 1:4] - np.asarray(ts)[1:4]) / room
    assert np.all(np.abs(share) <= 0.5) and np.all(share.max(0) > 0.45) and np.all(share.min(0) < -0.45)


def test_a_random_end_is_solved_to_and_costs_nothing():
    def one(key):
        solution, found = solve(RandomEndTime(0.25), LINEAR, Tsit5(), 2.0, 0.0, -0.1, Y0, A, key=key)
        return solution.ts[0], solution.ys[0], found

    ends, ys, found = jax.jit(jax.vmap(one))(jr.split(KEY, 100))
    assert jnp.all(jnp.abs(ends) <= 0.5) and ends.min() < -0.45 and ends.max() > 0.45
    assert_trees_all_close(ys[0], jax.scipy.linalg.expm(A * (ends[0] - 2.0)) @ Y0, rtol=1e-5)
    assert jnp.all(found == 0)
    small = solve(RandomEndTime(), ODETerm(lambda t, y, a: -y), Tsit5(), np.float32(0), np.float32(1), np.float32(0.1),
                  jnp.float32(1), key=KEY)[0]  # fmt: skip
    assert small.ts.dtype == small.ys.dtype == jnp.float32


def test_no_time_moves_past_the_end_of_a_path():
    path = diffrax.LinearInterpolation(jnp.array([0.0, 2.0]), jnp.array([0.0, 1.0]))
    term = diffrax.ControlTerm(lambda t, y, args: -y, path).to_ode()

    def end(key):
        return solve(RandomEndTime(), term, Tsit5(), 0.0, 2.0, 0.5, jnp.array(1.0), key=key)[0].ts[-1]

    ends = jax.jit(jax.vmap(end))(jr.split(KEY, 100))
    assert jnp.all(ends <= 2.0) and ends.min() < 1.2


def test_a_learned_end_is_an_end_of_time():
    field = LearnedEndTime(BENT.vector_field, t0=0.5, start=1.7)
    solution, found = solve(EndTime(), ODETerm(field), Tsit5(), 0.5, 1.5, 0.05, Y0, A)
    assert_trees_all_close(solution.ys, nde.diffeqsolve(BENT, Tsit5(), 0.5, 2.2, 0.05, Y0, A).ys, rtol=1e-6)
    assert found == pytest.approx(1.7)

    def loss(log_span):
        learned = eqx.tree_at(lambda f: f.log_span, field, log_span)
        solution, span = solve(EndTime(), ODETerm(learned), diffrax.Heun(), 0.5, 1.5, 0.25, Y0, A)
        return jnp.sum(solution.ys**2) + span

    pulled = jax.jit(jax.value_and_grad(loss))
    moved = (pulled(0.5 + 1e-5)[0] - pulled(0.5 - 1e-5)[0]) / 2e-5
    assert pulled(0.5)[1] == pytest.approx(float(moved), rel=1e-7)


def test_the_weight_stays_or_falls():
    constant, falling = weight_schedule(3.0), weight_schedule(100.0, 10.0, 50)
    assert [constant(step) for step in (0, 7, 1000)] == [3.0] * 3
    weights = [float(falling(step)) for step in (0, 25, 50, 80)]
    assert weights == pytest.approx([100.0, np.sqrt(1000.0), 10.0, 10.0], rel=1e-5)


def test_a_step_of_training_is_traced_once_for_a_batch_with_keys():
    regulariser = Together([RandomEndTime(0.2), LocalErrorEstimate()])

    @jax.jit
    @assert_max_traces(1)
    def gradient(a, ys, keys):
        def one(y, key):
            return penalty(regulariser, a, y, term=BENT, solver=diffrax.Heun(), dt0=None, t1=1.0, key=key,
                           stepsize_controller=PIDController(rtol=1e-2, atol=1e-2), max_steps=64)  # fmt: skip

        return jnp.mean(jax.vmap(one)(ys, keys))

    ys = jr.normal(KEY, (4, 2))
    first, second = (gradient(A, ys, jr.split(jr.key(seed), 4)) for seed in (0, 1))
    assert first != second and first > 0


def test_what_can_not_be_is_refused():
    def refused(message, regulariser, term=LINEAR, **options):
        with pytest.raises(ValueError, match=re.escape(message)):
            penalty(regulariser(), A, term=term, **options)

    refused("form must be 'integral' or 'squares', not 'cubes'", lambda: ErrorEstimate("cubes"))
    refused("needs probes >= 1, but got probes=0", lambda: JacobianNorm(0))
    refused("needs order >= 1, but got order=0", lambda: TaylorDerivative(0))
    refused("a spread in (0, 1/2], but got spread=0.7", lambda: RandomEndTime(0.7))
    refused("a weight for each of its 1 regularisers, but got 2", lambda: Together([KineticEnergy()], [1, 2]))
    refused("needs a start above zero, but got start=0", lambda: LearnedEndTime(None, start=0))
    refused("start=-1", lambda: weight_schedule(-1))
    refused("end and steps above zero, but got start=1, end=0.1, steps=0", lambda: weight_schedule(1, 0.1))
    for name in (JacobianNorm, LocalErrorEstimate, RandomEndTime):
        refused(f"{name.__name__} draws at random and needs a key, but got key=None", name, key=None)
    refused("with tolerances, but got ConstantStepSize", ErrorEstimate)
    refused("with tolerances, but got ConstantStepSize", LocalErrorEstimate)
    refused("but Bosh3 has none", StiffnessEstimate, solver=diffrax.Bosh3())
    refused("but the terms have none: wrap the field as nde.regularise.LearnedEndTime", EndTime)
    grid = diffrax.StepTo(jnp.array([0.0, 2.0]))
    refused("RandomEndTime moves the end of time, but got StepTo", RandomEndTime, dt0=None, stepsize_controller=grid)
    event = diffrax.Event(lambda t, y, args, **kw: y[0])
    refused("with an event this is not known: give biased=True", LocalErrorEstimate, event=event)
    refused("can not be used with SaveAt(dense=True)", KineticEnergy, saveat=SaveAt(dense=True))
    refused("can not be used with SaveAt(solver_state=True)", KineticEnergy, saveat=SaveAt(t1=True, solver_state=True))
    control = diffrax.ControlTerm(
        lambda t, y, a: a @ y, diffrax.LinearInterpolation(jnp.array([0.0, 2.0]), jnp.array([0.0, 1.0]))
    )
    refused("but got ControlTerm: for a smooth control take ControlTerm(...).to_ode()", KineticEnergy, control)
    unknown = ODETerm(lambda t, y, a: jax.scipy.special.gammaln(2 + y**2))
    refused("all of whose operations jax.experimental.jet knows, but", lambda: TaylorDerivative(2), unknown)


def test_checks_of_the_equation_are_made_beside_an_integral_too():
    path = nde.VirtualBrownianTree(0.0, 1.0, 1e-2, jax.ShapeDtypeStruct((2,), Y0.dtype), KEY)
    noise = diffrax.ControlTerm(lambda t, y, args: lx.DiagonalLinearOperator(0.5 * y), path)
    terms = nde.to_stratonovich(nde.MultiTerm(ODETerm(lambda t, y, args: -y), noise))
    with pytest.raises(ValueError, match="right for the Stratonovich reading, but Euler"):
        solve(KineticEnergy(), terms, nde.Euler(), 0.0, 1.0, 0.1, Y0)
    terms = nde.MultiTerm(ODETerm(lambda t, y, args: -y), ODETerm(lambda t, y, args: y))
    with pytest.raises(ValueError, match="the others must be noise, but got ODETerm"):
        solve(KineticEnergy(), terms, nde.Tsit5(), 0.0, 1.0, 0.1, Y0)


def test_one_that_moves_the_end_is_asked_first_wherever_it_is_nested():
    inner = Together([RandomEndTime(0.5)])
    assert inner.changes_call and Together([LocalErrorEstimate(), inner]).changes_call
    assert not Together([LocalErrorEstimate()]).changes_call


def test_a_local_estimate_of_a_solve_that_failed_is_no_number():
    wild = ODETerm(lambda t, y, args: 50 * jnp.sin(50 * t) * y)
    solution, found = solve(
        LocalErrorEstimate(), wild, Tsit5(), 0.0, 10.0, 0.1, Y0, key=KEY, stepsize_controller=PID, max_steps=8,
        throw=False,
    )  # fmt: skip
    assert solution.result != diffrax.RESULTS.successful and jnp.isnan(found)
