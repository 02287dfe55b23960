"""The solver's estimates as outputs: each sum and each row, and its gradient, against a loop over diffrax's steps."""

import re

import diffrax
import jax
import jax.flatten_util
import jax.numpy as jnp
import jax.random as jr
import lineax as lx
import numpy as np
import optimistix
import pytest
from chex import assert_trees_all_close
from diffrax import ODETerm, PIDController, StepTo, Tsit5

import nde
from nde.steppers import QUANTITIES

PID = PIDController(rtol=1e-4, atol=1e-5)
EXACT = optimistix.Newton(1e-11, 1e-11)
W = jnp.array([3.0, -2.0])
Y0 = jnp.array([0.5, -1.0])
TERM = ODETerm(lambda t, y, w: jnp.sin(w * y[::-1] + 2 * t) - 0.4 * y)
FEW = {"max_steps": 24}


def solve(w, y0, solver, names, t0=0.0, t1=2.2, dt0=1.2, controller=PID, **options):
    return nde.diffeqsolve(
        TERM, solver, t0, t1, dt0, y0, w, stepsize_controller=controller, heuristics=names, **(FEW | options)
    )


def over_steps(term, solver, times, w, y0, names, controller, stages=None):
    """By diffrax's own steps over given times: of each quantity its total, integral, squares and rows, in a row."""
    term = term(w) if callable(term) else term

    def step(carry, ends):
        y, state = carry
        t0, t1 = ends
        y1, error, dense, state, _ = solver.step(term, t0, t1, y, w, state, False)
        scale = controller.atol + controller.rtol * jnp.maximum(jnp.abs(y), jnp.abs(y1))
        every = {"error": rms(error / scale), "unscaled_error": rms(error)}
        if "stiffness" in names:
            every["stiffness"] = stiffness(term, solver, t0, t1, y, w, dense, *stages)
        return (y1, state), jnp.stack([every[name] for name in names])

    start = (y0, solver.init(term, times[0], times[1], y0, w))
    _, rows = jax.lax.scan(step, start, (times[:-1], times[1:]))
    lengths = jnp.abs(times[1:] - times[:-1])[:, None]
    sums = jnp.stack([rows.sum(0), (rows * lengths).sum(0), (rows**2).sum(0)])
    return jnp.ravel(jnp.concatenate([sums, rows]).T)


def rms(x):
    return jnp.sqrt(jnp.mean(jnp.abs(x) ** 2))


def stiffness(term, solver, t0, t1, y, w, dense, a, b):
    """By the definition: the field at two stages' values over the distance of these."""
    tableau = solver.tableau

    def value(i):
        return y + sum(c * k for c, k in zip(tableau.a_lower[i - 1], dense["k"], strict=False))

    ya, yb, t = value(a), value(b), t0 + tableau.c[b - 1] * (t1 - t0)
    return rms(term.vf(t, ya, w) - term.vf(t, yb, w)) / rms(ya - yb)


CLIPPED = diffrax.ClipStepSizeController(PID, step_ts=[0.3, 1.0])
CASES = {
    "Tsit5": (Tsit5(), CLIPPED, QUANTITIES, (5, 6)),
    "Dopri8": (diffrax.Dopri8(), PIDController(rtol=1e-7, atol=1e-7), ("stiffness",), (12, 13)),
    "Bosh3": (diffrax.Bosh3(), PIDController(rtol=1e-2, atol=1e-3), ("error",), None),
    "Heun": (diffrax.Heun(), PIDController(rtol=1e-1, atol=3e-2), ("unscaled_error",), None),
    "Kvaerno5": (diffrax.Kvaerno5(root_finder=EXACT), PID, ("error",), None),
}


class Pulled:
    """A function with its gradients, compiled once: `values, aux = function(inputs)`, and each value's gradient."""

    def __init__(self, function):
        def pulled(x, cotangent):
            values, pull, aux = jax.vjp(function, x, has_aux=True)
            return values, aux, jax.flatten_util.ravel_pytree(pull(cotangent)[0])[0]

        self.shape, self.pulled = jax.eval_shape(function, (W, Y0))[0], jax.jit(pulled)

    def __call__(self, x):
        return self.pulled(x, jnp.zeros(self.shape.shape))[:2]

    def gradients(self, x, places):
        """An input a row, a value a column."""
        basis = jnp.eye(len(jnp.zeros(self.shape.shape)))
        return np.stack([self.pulled(x, basis[i])[2] for i in places], axis=1)

    def differences(self, x, h=1e-5):
        """The same by central differences."""
        flat, unravel = jax.flatten_util.ravel_pytree(x)
        ends = [(self(unravel(flat + h * e))[0], self(unravel(flat - h * e))[0]) for e in np.eye(len(flat))]
        return np.stack([(a - b) / (2 * h) for a, b in ends])


def assert_columns_close(found, expected, tolerance):
    """Each value's gradient up to a share of its largest entry."""
    far = np.abs(found - expected).max(0) / (np.abs(expected).max(0) + 1e-5)
    assert far.max() <= tolerance, far


@pytest.mark.parametrize("name", CASES)
def test_sums_and_rows_and_their_gradients_are_those_of_diffraxs_steps(name):
    solver, controller, names, stages = CASES[name]

    def solved(inputs):
        stats = solve(*inputs, solver, (*names, "steps"), controller=controller).stats
        found = [stats["heuristics"].of(name) for name in names]
        return jnp.concatenate([jnp.stack([q.total, q.integral, q.squares, *q.steps]) for q in found]), stats

    mine = Pulled(solved)
    values, stats = mine((W, Y0))
    heuristics, count = stats["heuristics"], int(stats["num_accepted_steps"])
    assert stats["num_rejected_steps"] > 0
    assert heuristics.lengths[count - 1] < heuristics.lengths[count - 2]  # the end cuts the last step
    times = jnp.concatenate([jnp.zeros(1), heuristics.ts[:count]])
    assert times[-1] == 2.2
    assert_trees_all_close(heuristics.lengths[:count], jnp.diff(times), rtol=1e-12)
    assert jnp.all(jnp.isinf(heuristics.ts[count:])) and jnp.all(heuristics.lengths[count:] == 0)

    places = np.arange(len(values)).reshape(len(names), -1)
    used, rest = places[:, : 3 + count].ravel(), places[:, 3 + count :]
    assert jnp.all(values[rest] == 0)
    loop = Pulled(lambda x: (over_steps(TERM, solver, times, *x, names, controller, stages), None))
    # An estimate is a small difference of stages, whose last digits are rounding.
    assert_trees_all_close(values[used], loop((W, Y0))[0], rtol=2e-5, atol=1e-9)
    exact = loop.gradients((W, Y0), range(len(used)))
    assert_columns_close(mine.gradients((W, Y0), used), exact, 1e-5)
    assert_columns_close(loop.differences((W, Y0)), exact, 1e-3)


KNOWN = PIDController(rtol=1e-3, atol=1e-3)


def sums(w, y0, **options):
    """Something of every sum."""
    found = solve(w, y0, diffrax.Bosh3(), "error", controller=KNOWN, dt0=0.3, **options).stats["heuristics"].error
    return found.total + found.integral**2 + jnp.sin(found.squares)


BATCH = jnp.stack([Y0, 2 * Y0, Y0[::-1]])


def test_batches_and_their_gradients():
    single = jax.jit(jax.value_and_grad(sums, (0, 1)))
    values, each = jax.tree.map(lambda *x: jnp.stack(x), *[single(W, y) for y in BATCH])
    assert_trees_all_close(jax.jit(jax.vmap(sums, (None, 0)))(W, BATCH), values, rtol=1e-9)
    inside = jax.jit(jax.grad(lambda w, ys: jnp.sum(jax.vmap(sums, (None, 0))(w, ys)), (0, 1)))(W, BATCH)
    assert_trees_all_close(inside, (each[0].sum(0), each[1]), rtol=1e-7)
    outside = jax.jit(jax.vmap(jax.grad(sums, (0, 1)), (None, 0)))(W, BATCH)
    assert_trees_all_close(outside, each, rtol=1e-7)


def test_the_reversible_adjoint_refuses():
    def total(w, y0):
        found = solve(w, y0, nde.Reversible(Tsit5()), "stiffness", adjoint=nde.ReversibleAdjoint())
        return found.stats["heuristics"].stiffness.total

    with pytest.raises(ValueError, match="ReversibleAdjoint can not differentiate a solve with heuristics"):
        jax.grad(total)(W, Y0)
    checkpointed = solve(W, Y0, nde.Reversible(Tsit5()), "stiffness").stats["heuristics"].stiffness.total
    assert total(W, Y0) == pytest.approx(float(checkpointed), rel=1e-12)


def test_the_continuous_adjoint_refuses():
    with pytest.raises(ValueError, match="heuristics of the solver, which are of the discrete solve"):
        jax.grad(sums)(W, Y0, adjoint=nde.ContinuousAdjoint())
    # Times and lengths are constants, and no reason to.
    found = solve(W, Y0, Tsit5(), "steps", adjoint=nde.ContinuousAdjoint())
    assert jnp.sum(found.stats["heuristics"].lengths) == pytest.approx(2.2)


GRID = jnp.linspace(0.0, 2.2, 8)


def on_grid(inputs):
    w, y0, t0, t1 = inputs
    grid = GRID.at[0].set(t0).at[-1].set(t1)
    controller, measure = StepTo(grid), nde.HeuristicSpec(("error",), PIDController(rtol=0.1, atol=0.1))
    solution = nde.diffeqsolve(
        TERM, diffrax.Bosh3(), t0, t1, None, y0, w, stepsize_controller=controller, heuristics=measure
    )
    error = solution.stats["heuristics"].error
    return jnp.stack([error.total, error.integral, error.squares])


def test_a_fixed_grid_has_errors_and_every_derivative():
    inputs = (W, Y0, jnp.array(0.0), jnp.array(2.2))
    flat, unravel = jax.flatten_util.ravel_pytree(inputs)
    weights = jnp.array([1.0, -0.5, 0.3])
    value = jax.jit(on_grid)
    gradient = jax.jit(jax.grad(lambda x: on_grid(unravel(x)) @ weights))
    expected = over_steps(TERM, diffrax.Bosh3(), GRID, W, Y0, ("error",), PIDController(rtol=0.1, atol=0.1))[:3]
    assert_trees_all_close(value(inputs), expected, rtol=1e-9)
    basis = 1e-5 * np.eye(len(flat))
    moved = [(value(unravel(flat + e)) - value(unravel(flat - e))) @ weights / 2e-5 for e in basis]
    assert_trees_all_close(gradient(flat), jnp.stack(moved), rtol=1e-6, atol=1e-7)
    direction = jr.normal(jr.key(2), flat.shape)
    twice = jax.jit(lambda x: jax.jvp(gradient, (x,), (direction,))[1])(flat)
    ahead, behind = gradient(flat + 1e-5 * direction), gradient(flat - 1e-5 * direction)
    assert_trees_all_close(twice, (ahead - behind) / 2e-5, rtol=1e-5, atol=1e-5)


def test_ends_that_move_a_step_have_gradients_in_an_adaptive_solve():
    controller = PIDController(rtol=1.0, atol=1.0)

    def one_step(ends):
        found = solve(W, Y0, diffrax.Bosh3(), "error", t0=ends[0], t1=ends[1], controller=controller)
        return found.stats["heuristics"].error.integral, found.stats

    ends = jnp.array([0.1, 0.25])
    pulled = jax.jit(jax.value_and_grad(one_step, has_aux=True))
    (_, stats), gradient = pulled(ends)
    assert stats["num_accepted_steps"] == 1
    moved = [(pulled(ends + 1e-5 * e)[0][0] - pulled(ends - 1e-5 * e)[0][0]) / 2e-5 for e in np.eye(2)]
    assert_trees_all_close(gradient, jnp.stack(moved), rtol=1e-6)


def test_backward_in_time():
    backward = solve(W, Y0, Tsit5(), (*QUANTITIES, "steps"), t0=2.2, t1=0.0, dt0=-0.5).stats
    turned = nde.diffeqsolve(
        ODETerm(lambda s, y, w: -TERM.vf(2.2 - s, y, w)), Tsit5(), 0.0, 2.2, 0.5, Y0, W, stepsize_controller=PID,
        heuristics=(*QUANTITIES, "steps"), **FEW,
    ).stats  # fmt: skip
    mine, other = backward["heuristics"], turned["heuristics"]
    assert_trees_all_close([mine.of(n) for n in QUANTITIES], [other.of(n) for n in QUANTITIES], rtol=1e-6)
    count = int(turned["num_accepted_steps"])
    assert_trees_all_close(mine.ts[:count], 2.2 - other.ts[:count], atol=1e-12)
    assert_trees_all_close(mine.lengths, other.lengths, rtol=1e-10)


def test_float32_stays_float32():
    one = np.float32
    y0, w = Y0.astype(one), W.astype(one)

    def found(w, y0, t0, t1, dt0, rate):
        controller = PIDController(rtol=rate, atol=rate)
        return solve(w, y0, Tsit5(), ("error", "steps"), t0, t1, dt0, controller).stats["heuristics"]

    small = found(w, y0, one(0), one(2.2), one(0.3), one(1e-3))
    large = found(W, Y0, 0.0, 2.2, 0.3, 1e-3)
    assert {x.dtype for x in jax.tree.leaves(small)} == {jnp.dtype(jnp.float32)}
    assert_trees_all_close(small, jax.tree.map(lambda x: x.astype(one), large), rtol=2e-3, atol=1e-6)


def test_a_complex_state_has_the_heuristics_of_its_two_parts():
    # The root mean square over a complex entry is that over its parts, times the root of two; tolerances alike.
    rate = jnp.array(-0.5 + 2.0j)
    matrix = jnp.array([[-0.5, -2.0], [2.0, -0.5]])
    measure = nde.HeuristicSpec(("unscaled_error", "stiffness"), PID)
    grid = StepTo(jnp.linspace(0.0, 1.0, 4))

    def found(field, y0):
        return nde.diffeqsolve(
            ODETerm(field), Tsit5(), 0.0, 1.0, None, y0, stepsize_controller=grid, heuristics=measure
        ).stats["heuristics"]

    with pytest.warns(UserWarning, match="Complex dtype"):
        mine = found(lambda t, y, args: rate * y, jnp.array([1.0 + 0.5j]))
    parts = found(lambda t, y, args: matrix @ y, jnp.array([1.0, 0.5]))
    assert_trees_all_close(mine.unscaled_error.total, jnp.sqrt(2) * parts.unscaled_error.total, rtol=1e-9)
    assert_trees_all_close(mine.stiffness.total, parts.stiffness.total, rtol=1e-9)


def test_where_nothing_moves_all_is_zero_and_so_are_gradients():
    def loss(w, y0):
        solution = nde.diffeqsolve(
            ODETerm(lambda t, y, w: w * y), Tsit5(), 0.0, 1.0, 0.1, y0, w, stepsize_controller=PID,
            heuristics=(*QUANTITIES, "steps"), **FEW,
        )  # fmt: skip
        return sum(jnp.sum(x) for x in jax.tree.leaves([solution.stats["heuristics"].of(n) for n in QUANTITIES]))

    value, gradient = jax.jit(jax.value_and_grad(loss, (0, 1)))(jnp.zeros(2), Y0)  # a zero field
    assert value == 0
    assert_trees_all_close(gradient, (jnp.zeros(2), jnp.zeros(2)))


def test_a_first_step_at_rest_has_finite_gradients():
    # The field sleeps until t = 1, the first step's end, and is smooth in w after it.
    def loss(w):
        term = ODETerm(lambda t, y, w: w * jnp.maximum(t - 1.0, 0.0) * (1.0 - y))
        controller = diffrax.ClipStepSizeController(PID, step_ts=[1.0])
        solution = nde.diffeqsolve(
            term, Tsit5(), 0.0, 2.0, 1.0, jnp.zeros(2), w, stepsize_controller=controller,
            heuristics=(*QUANTITIES, "steps"), **FEW,
        )  # fmt: skip
        found = solution.stats["heuristics"]
        return found.error.integral + found.stiffness.total, found

    (value, found), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(2.0)
    assert found.error.steps[0] == found.stiffness.steps[0] == 0
    assert value > 0
    assert jnp.isfinite(gradient) and gradient != 0


def test_stiffness_tends_to_the_dominant_eigenvalue():
    # At a tolerance that stability rules; the eigenvectors are not orthogonal.
    basis, eigenvalues = jnp.array([[1.0, 0.6], [0.3, 1.0]]), jnp.array([-1000.0, -1.0])
    matrix = basis @ jnp.diag(eigenvalues) @ jnp.linalg.inv(basis)
    for solver in (Tsit5(), diffrax.Dopri5(), diffrax.Dopri8()):
        solution = nde.diffeqsolve(
            ODETerm(lambda t, y, args: matrix @ y), solver, 0.0, 1.0, None, jnp.ones(2),
            stepsize_controller=PIDController(rtol=1e-3, atol=1e-6), heuristics=("stiffness", "steps"), max_steps=1000,
        )  # fmt: skip
        count = int(solution.stats["num_accepted_steps"])
        rows = solution.stats["heuristics"].stiffness.steps[count // 2 : count - 1]
        assert jnp.median(jnp.abs(rows - 1000.0)) < 10.0


PATH = nde.VirtualBrownianTree(0.0, 1.0, 2**-8, (2,), jr.key(3), levy_area=diffrax.SpaceTimeLevyArea)


def noisy(w):
    def diffusion(t, y, args):
        return lx.DiagonalLinearOperator(0.3 * w[0] * jnp.cos(y))

    return diffrax.MultiTerm(TERM, diffrax.ControlTerm(diffusion, PATH))


def test_an_sde_has_errors():
    controller = PIDController(rtol=1e-2, atol=1e-2)

    def solved(inputs):
        w, y0 = inputs
        stats = nde.diffeqsolve(
            noisy(w), diffrax.SPaRK(), 0.0, 1.0, 0.5, y0, w, stepsize_controller=controller,
            heuristics=("error", "steps"), max_steps=200,
        ).stats  # fmt: skip
        error = stats["heuristics"].error
        return jnp.stack([error.total, error.integral, error.squares]), stats

    mine = Pulled(solved)
    values, stats = mine((W, Y0))
    assert stats["num_rejected_steps"] > 0
    times = jnp.concatenate([jnp.zeros(1), stats["heuristics"].ts[: int(stats["num_accepted_steps"])]])
    loop = Pulled(lambda x: (over_steps(noisy, diffrax.SPaRK(), times, *x, ("error",), controller)[:3], None))
    assert_trees_all_close(values, loop((W, Y0))[0], rtol=1e-9)
    assert_columns_close(mine.gradients((W, Y0), range(3)), loop.gradients((W, Y0), range(3)), 1e-8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"names": "curvature"}, "no heuristics 'curvature': give some of error, unscaled_error, stiffness, steps"),
        ({"controller": diffrax.ConstantStepSize()}, "needs a step-size controller with tolerances, but got Constant"),
        (
            {"solver": diffrax.Euler(), "names": "unscaled_error", "controller": diffrax.ConstantStepSize()},
            "needs a solver that estimates it, but got Euler: take an embedded method",
        ),
        ({"solver": diffrax.Bosh3(), "names": "stiffness"}, "equal abscissa, but Bosh3 has none: take nde.Tsit5"),
        ({"solver": diffrax.Kvaerno5(), "names": "stiffness"}, "equal abscissa, but Kvaerno5 has none"),
        ({"adjoint": diffrax.RecursiveCheckpointAdjoint()}, "by its own adjoints alone, but got RecursiveCheckpointAd"),
        ({"names": "steps", "max_steps": None}, "heuristics='steps' needs a bound of their number: give max_steps"),
    ],
)
def test_what_can_not_be_given_is_refused(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        solve(W, Y0, **({"solver": Tsit5(), "names": "error", "dt0": 0.1} | options))


def test_an_sde_has_no_stiffness():
    with pytest.raises(ValueError, match="two stages with equal abscissa, but SDEs have none"):
        nde.diffeqsolve(noisy(W), diffrax.Heun(), 0.0, 1.0, 0.1, Y0, W, stepsize_controller=PID, heuristics="stiffness")


def test_nothing_asked_is_nothing_carried():
    replay = nde.CheckpointAdjoint(parallel=False)  # the same loops with heuristics and without

    def carried(names):
        text = jax.jit(jax.grad(lambda w: jnp.sum(solve(w, Y0, Tsit5(), names, adjoint=replay).ys))).lower(W).as_text()
        return [line.count("%iterArg") for line in text.splitlines() if "stablehlo.while" in line]

    def bare(w):
        options = {"stepsize_controller": PID, "adjoint": replay, **FEW}
        return jnp.sum(nde.diffeqsolve(TERM, Tsit5(), 0.0, 2.2, 1.2, Y0, w, **options).ys)

    plain, asked = carried(()), carried("error")
    text = jax.jit(jax.grad(bare)).lower(W).as_text()
    assert plain == [line.count("%iterArg") for line in text.splitlines() if "stablehlo.while" in line]
    assert len(plain) == len(asked) and sum(asked) > sum(plain)
    assert "heuristics" not in solve(W, Y0, Tsit5(), ()).stats


def jumping(w, **options):
    """A field that reads `w` after a jump only, solved in long steps to either side of it."""
    term = ODETerm(lambda t, y, w: jnp.where(t < 0.5, jnp.sin(y + t), -3 * w * y))
    loose = PIDController(rtol=1e2, atol=1e2)
    controller = diffrax.ClipStepSizeController(loose, jump_ts=jnp.array([0.5]))
    return nde.diffeqsolve(
        term, options.pop("solver", Tsit5()), 0.0, 1.0, 0.5, jnp.ones(1), w, stepsize_controller=controller,
        max_steps=8, **options,
    )  # fmt: skip


def test_what_lies_before_a_jump_knows_nothing_of_what_lies_after_it():
    def before(w):
        solution = jumping(w, heuristics=("unscaled_error", "steps"), saveat=diffrax.SaveAt(ts=jnp.array([0.4])))
        return solution.stats["heuristics"].unscaled_error.steps[0] + solution.ys[0, 0]

    assert jax.jit(jax.grad(before))(1.0) == 0.0


def test_the_gradient_goes_over_a_jump():
    def after(w):
        solution = jumping(w, solver=nde.Reversible(Tsit5()), heuristics="unscaled_error")
        return solution.stats["heuristics"].unscaled_error.total

    eps = 1e-6
    moved = [after(1.0 + e) for e in (eps, -eps)]  # the steps are as long as can be
    assert_trees_all_close(jax.jit(jax.grad(after))(1.0), (moved[0] - moved[1]) / (2 * eps), rtol=1e-6)


def test_times_that_are_integers_leave_the_sums_whole():
    def total(ts):
        measure = nde.HeuristicSpec(("error",), PID)
        solution = nde.diffeqsolve(
            TERM, Tsit5(), 0, 3, None, Y0, W, stepsize_controller=StepTo(ts=ts), heuristics=measure
        )
        return solution.stats["heuristics"].error.total

    with jax.numpy_dtype_promotion("standard"):  # diffrax adds them to floats
        whole = total(jnp.arange(4))
    assert_trees_all_close(whole, total(jnp.arange(4.0)), rtol=1e-12)
