"""Times, states and what is saved in dtypes of their own, under strict promotion."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optimistix
import pytest
from diffrax import Bosh3, ConstantStepSize, Event, Heun, ODETerm, SaveAt, SubSaveAt, Tsit5

import nde
from nde.diffusion import diffusion_model_term, VariancePreserving

W = jnp.array([0.5, 1.0])
PID = nde.PIDController(rtol=1e-3, atol=1e-3)
ADJOINTS = {
    "checkpoint": (nde.CheckpointAdjoint(), Tsit5()),
    "reversible": (nde.ReversibleAdjoint(), nde.Reversible(Bosh3())),
    "continuous": (nde.ContinuousAdjoint(), Tsit5()),
}


def decay(t, y, w):
    return -w * y


def solved(adjoint, solver, w, *, term=None, ends=(0.0, 1.0), dt0=0.25, times=jnp.float64, **options):
    t0, t1, dt0 = (jnp.asarray(x, times) for x in (*ends, dt0))
    return nde.diffeqsolve(
        term or ODETerm(decay), solver, t0, t1, dt0, jnp.ones_like(w), w, adjoint=adjoint, max_steps=64, **options
    )


def value_and_gradient(total):
    return jax.jit(jax.value_and_grad(total))(W)


@pytest.mark.parametrize(("adjoint", "names"), [("reversible", ()), ("checkpoint", ("error", "stiffness"))])
def test_a_reversible_solve_of_a_state_wider_than_its_times(adjoint, names):
    ts = jnp.array([0.125, 0.75])

    def total(w):
        spec = nde.HeuristicSpec(names, PID)
        options = {"times": jnp.float32, "saveat": SaveAt(ts=ts.astype(jnp.float32)), "heuristics": spec}
        solution = solved(ADJOINTS[adjoint][0], nde.Reversible(Tsit5()), w, **options)
        measured = solution.stats["heuristics"].stiffness.total.astype(w.dtype) if names else 0.0
        return jnp.sum(solution.ys**2) + 0.0 * measured

    found = value_and_gradient(total)
    exact = value_and_gradient(lambda w: jnp.sum(jnp.exp(-2 * w[None] * ts[:, None])))
    np.testing.assert_allclose(found[0], exact[0], rtol=1e-5)
    np.testing.assert_allclose(found[1], exact[1], rtol=1e-5)
    assert found[1].dtype == jnp.float64


def test_a_semilinear_solve_of_a_state_wider_than_its_times():
    def total(w, dtype):
        term = diffusion_model_term(lambda t, x, w: w * x, VariancePreserving())
        saveat = SaveAt(ts=jnp.asarray([0.5, 0.25], dtype))
        options = {"term": term, "ends": (0.875, 0.125), "dt0": -0.125, "times": dtype, "saveat": saveat}
        return jnp.sum(solved(nde.ReversibleAdjoint(), nde.Rex(Bosh3()), w, **options).ys ** 2)

    single, double = (value_and_gradient(lambda w, d=dtype: total(w, d)) for dtype in (jnp.float32, jnp.float64))
    np.testing.assert_allclose(single[0], double[0], rtol=1e-4)
    np.testing.assert_allclose(single[1], double[1], rtol=1e-4)


@pytest.mark.parametrize("path_dtype", [jnp.float32, jnp.float64])
def test_noise_of_a_semilinear_term_has_the_dtype_of_the_state(path_dtype):
    shape = jax.ShapeDtypeStruct((2,), path_dtype)
    path = nde.VirtualBrownianTree(0.0, 2000.0, tol=1.0, shape=shape, key=jax.random.key(0))
    term = diffusion_model_term(lambda t, x, w: w * x, VariancePreserving(), path=path)
    options = {"term": term, "ends": (0.875, 0.125), "dt0": -0.25}
    assert solved(nde.CheckpointAdjoint(), Heun(), W, **options).ys.dtype == jnp.float64


def test_an_event_of_a_state_wider_than_its_times_is_where_it_is():
    event = Event(lambda t, y, args, **_: y[0] - 0.9, optimistix.Newton(1e-5, 1e-5))

    def end(w):
        options = {"times": jnp.float32, "event": event, "stepsize_controller": PID}
        return solved(nde.CheckpointAdjoint(), Tsit5(), w, **options).ts[-1].astype(w.dtype)

    found, gradient = value_and_gradient(end)
    np.testing.assert_allclose(found, -np.log(0.9) / 0.5, rtol=1e-4)
    np.testing.assert_allclose(gradient, [np.log(0.9) / 0.25, 0.0], rtol=1e-4)


def test_a_complex_state_is_interpolated_in_a_reversible_step():
    w = jnp.array([1j, 0.5 - 1j])
    saveat = SaveAt(ts=jnp.array([0.125, 0.75]))
    with pytest.warns(UserWarning, match="Complex dtype"):  # diffrax's own
        ys = solved(nde.CheckpointAdjoint(), nde.Reversible(Tsit5()), w, saveat=saveat, dt0=0.0625).ys
    np.testing.assert_allclose(ys, np.exp(-np.asarray(w) * np.array([[0.125], [0.75]])), rtol=1e-4)


@pytest.mark.parametrize("name", ADJOINTS)
def test_whole_numbers_and_truths_beside_what_is_saved_change_no_gradient(name):
    adjoint, solver = ADJOINTS[name]

    def total(w, extra):
        def fn(t, y, args):
            return (y, (y > 0.7, (10 * t).astype(jnp.int32))) if extra else (y, None)

        subs = [SubSaveAt(ts=jnp.array([0.25, 0.75]), fn=fn), SubSaveAt(steps=2, fn=fn)]
        solution = solved(adjoint, solver, w, saveat=SaveAt(subs=subs), stepsize_controller=PID)
        ys = [jnp.where(jnp.isfinite(y), y, 0.0) for y, _ in solution.ys]
        return sum(jnp.sum(y**2) for y in ys), [rest for _, rest in solution.ys]

    def gradient(extra):
        return jax.jit(jax.grad(lambda w: total(w, extra), has_aux=True))(W)

    with pytest.warns(RuntimeWarning, match="invalid value"):  # diffrax's own empty rows are infinite
        found, ((truths, numbers), (some, _)) = gradient(True)
    np.testing.assert_allclose(found, gradient(False)[0], rtol=1e-12)
    assert (truths.dtype, numbers.dtype, some.dtype) == (jnp.bool_, jnp.int32, jnp.bool_)
    np.testing.assert_array_equal(numbers, [2, 7])
    np.testing.assert_array_equal(truths, [[True, True], [False, False]])
    assert not np.any(some[-1])  # a row that holds nothing


def test_rows_past_an_event_hold_nothing():
    def fn(t, y, args):
        return t < 2.0, y

    event = Event(lambda t, y, args, **_: t - 0.6, optimistix.Newton(1e-8, 1e-8))
    saveat = SaveAt(subs=SubSaveAt(ts=jnp.array([0.5, 0.7, 0.9]), fn=fn))
    before, ys = solved(nde.CheckpointAdjoint(), Tsit5(), W, saveat=saveat, event=event, dt0=1.0).ys
    np.testing.assert_array_equal(before, [True, False, False])
    np.testing.assert_array_equal(np.isinf(ys[:, 0]), [False, True, True])


@pytest.mark.parametrize(("dtype", "start"), [(jnp.float16, 0.0), (jnp.float32, 0.1), (jnp.float64, 0.1)])
def test_constant_steps_are_the_same_to_the_last_bit_in_a_scan_and_in_a_loop(dtype, start):
    def ts(t0, t1, dt0):
        return nde.diffeqsolve(
            ODETerm(decay), diffrax.Euler(), t0, t1, dt0, jnp.ones((), dtype), jnp.ones((), dtype),
            saveat=SaveAt(steps=True), max_steps=16, stepsize_controller=ConstantStepSize(),
        ).ts  # fmt: skip

    times = [jnp.asarray(x, dtype) for x in (start, 3.7, 0.28)]
    np.testing.assert_array_equal(ts(*times), jax.jit(ts)(*times))  # only out of jit is their number known


@pytest.mark.filterwarnings("ignore:Complex dtype")  # diffrax's own
@pytest.mark.parametrize(
    ("dtype", "name"), [(jnp.float16, "checkpoint"), (jnp.bfloat16, "reversible"), (jnp.complex64, "continuous")]
)
def test_times_state_and_gradient_stay_in_a_dtype_that_is_not_the_default(dtype, name):
    adjoint, solver = ADJOINTS[name]
    times = jnp.finfo(dtype).dtype

    def total(w):
        options = {"times": times, "saveat": SaveAt(ts=jnp.array([0.25, 0.75], times), t1=True)}
        controller = nde.PIDController(rtol=1e-2, atol=1e-2)
        solution = solved(adjoint, solver, w, stepsize_controller=controller, **options)
        return jnp.sum(solution.ys * solution.ys.conj()).real, solution

    w = jnp.asarray([0.5, 1.0], dtype) * (1 + 1j if dtype == jnp.complex64 else 1)
    (_, solution), found = jax.jit(jax.value_and_grad(total, has_aux=True))(w)
    ts = np.array([[0.25], [0.75], [1.0]])
    exact = np.exp(-ts * np.array([0.5, 1.0]))
    near = {"rtol": 0.03, "atol": 0.03}
    assert (solution.ys.dtype, solution.ts.dtype, found.dtype) == (dtype, times, dtype)
    np.testing.assert_allclose(np.abs(solution.ys.astype(complex)), exact, **near)
    np.testing.assert_allclose(found.astype(complex), np.sum(-2 * ts * exact**2, axis=0), **near)


TIMES = {
    "whole numbers": (0, 2, 1),
    "NumPy's numbers": (np.float64(0), np.float32(1), np.float32(0.125)),
    "a whole array": (jnp.int32(0), 1, 0.125),
    "backward": (1, np.array(0.0), -0.125),
    "half precision": (np.float16(0), np.float16(1), np.float16(0.125)),
    "two precisions": (0, jnp.float16(1), jnp.float32(0.125)),
}


@pytest.mark.parametrize("name", TIMES)
def test_a_solution_has_the_dtypes_that_it_has_in_diffrax(name):
    t0, t1, dt0 = TIMES[name]
    term = ODETerm(lambda t, y, w: -y * (w * t).astype(y.dtype))

    def dtypes(solve, y0, controller):
        def values():
            saveat = SaveAt(subs=[SubSaveAt(t0=True, steps=2), SubSaveAt(ts=np.array([0, 1]))])
            solution = solve(term, Tsit5(), t0, t1, dt0, y0, 1.0, stepsize_controller=controller, saveat=saveat)
            stats = {k: v for k, v in solution.stats.items() if k != "num_field_evaluations"}
            return solution.ts, solution.ys, stats

        return jax.tree.map(lambda x: (x.shape, x.dtype), jax.eval_shape(values))

    for case in [(jnp.ones(2, jnp.float16), PID), (1, PID), (jnp.float32(1), ConstantStepSize())]:
        assert dtypes(nde.diffeqsolve, *case) == dtypes(diffrax.diffeqsolve, *case)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.float32])
def test_a_progress_meter_takes_times_that_are_not_in_the_default_precision(dtype):
    options = {"times": dtype, "progress_meter": diffrax.TextProgressMeter(), "stepsize_controller": PID}
    ys = jax.eval_shape(lambda: solved(nde.CheckpointAdjoint(), Tsit5(), jnp.ones(2, dtype), **options).ys)
    assert ys.dtype == dtype
