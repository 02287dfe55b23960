"""Neural ODE, SDE, CDE and normalising flow: closed forms, gradients, what they cost and what they refuse."""

import io
from typing import ClassVar

import chex
import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chex import assert_trees_all_close, assert_trees_all_equal
from scipy import stats
from scipy.linalg import expm

import nde
from nde.models import ContinuousNormalizingFlow, NeuralCDE, NeuralODE, NeuralSDE, series_path
from nde.paths import BrownianGrid, VirtualBrownianTree

A = jnp.array([[-0.5, 1.3], [-1.1, 0.2]])
# Euler's method is exact to write down, and diffrax compiles it in a fraction of the time of any other.
EULER = {"solver": diffrax.Euler(), "controller": diffrax.ConstantStepSize(), "dt0": 0.1}
SDE = {"solver": diffrax.Euler(), "dt0": 0.1}
TIGHT = diffrax.PIDController(rtol=1e-10, atol=1e-10)

TIMES = jnp.array([0.0, 0.4, 0.5, 1.1, 1.6, 2.0])
VALUES = jnp.array(
    [[0.3, 9.0, 9.0], [0.8, 1.0, 9.0], [9.0, 0.4, 9.0], [0.1, 9.0, 9.0], [-0.5, -0.2, 9.0], [0.2, 9.0, 9.0]]
)
MASK = VALUES < 9


class Linear(eqx.Module):
    """The field `matrix @ y`."""

    matrix: jax.Array

    def __call__(self, t, y, args):
        return self.matrix @ y


class Network(eqx.Module):
    """A small field with an output of any shape, in the type of its state."""

    mlp: eqx.nn.MLP
    shape: tuple = eqx.field(static=True)

    def __init__(self, shape, seed=0):
        self.mlp = eqx.nn.MLP(2, int(np.prod(shape)), 4, 1, activation=jnp.tanh, key=jax.random.key(seed))
        self.shape = shape

    def __call__(self, t, y, args):
        return self.mlp(y).reshape(self.shape)


def take_two(x):
    return x[:2]


def identity(y):
    return y


def make(kind, wrap=identity, **options):
    """One model of each kind, on states of two, and a call of it."""
    if kind == "ode":
        model = NeuralODE(wrap(Network((2,))), **options)
        return model, lambda model, x, key: model(TIMES.astype(x.dtype), x, key=key)
    if kind == "sde":
        options = SDE | options
        model = NeuralSDE(wrap(Network((2,))), wrap(Network((2,), seed=1)), **options)
        return model, lambda model, x, key: model(TIMES.astype(x.dtype), x, key=key)
    if kind == "cde":
        model = NeuralCDE(take_two, wrap(Network((2, 5))), identity, **({"scaled": False} | options))
        series = jnp.outer(jnp.cos(TIMES), jnp.ones(2))
        return model, lambda model, x, key: model(TIMES.astype(x.dtype), x[None] * series.astype(x.dtype), key=key)
    model = ContinuousNormalizingFlow(wrap(Network((2,))), 2, **({"t1": 2.0} | options))
    return model, lambda model, x, key: model.log_prob(x, key=key)


KINDS = ["ode", "sde", "cde", "flow"]
X = jnp.array([0.7, -0.3])


def along(point, gradient, loss, step=1e-5):
    """The derivative of a loss along a random direction: by its gradient, and by central differences."""
    leaves, structure = jax.tree.flatten(eqx.filter(point, eqx.is_inexact_array))
    generator = np.random.default_rng(0)
    directions = [generator.standard_normal(x.shape) for x in leaves]
    inner = sum(np.vdot(*pair) for pair in zip(jax.tree.leaves(gradient), directions, strict=True))
    ahead, behind = (
        loss(eqx.apply_updates(point, jax.tree.unflatten(structure, [h * d for d in directions])))
        for h in (step, -step)
    )
    return float(inner), float(ahead - behind) / (2 * step)


# All of them


def reload(model):
    """The model, saved and loaded into one of the same structure whose parameters are zero; and that one."""
    file = io.BytesIO()
    eqx.tree_serialise_leaves(file, model)
    file.seek(0)
    blank = jax.tree.map(lambda x: jnp.zeros_like(x) if eqx.is_array(x) else x, model)
    return eqx.tree_deserialise_leaves(file, blank), blank


class Counted(eqx.Module):
    """A field that reports each evaluation of its value to the host, whatever it is compiled into."""

    field: Network
    calls: list = eqx.field(static=True)

    def __call__(self, t, y, args):
        return self.field(t, self.tick(y), args)

    def tick(self, y):
        def count(y):
            self.calls.append(None)
            return y

        @jax.custom_jvp
        def ticking(y):
            # its result is what the field reads, so that it is neither dropped nor merged with another
            return jax.pure_callback(count, jax.ShapeDtypeStruct(y.shape, y.dtype), y, vmap_method="expand_dims")

        ticking.defjvp(lambda primals, tangents: (ticking(*primals), *tangents))
        return ticking(y)


class Calls(list):
    """A list that is hashed by identity, as static members are."""

    __hash__ = object.__hash__
    __eq__ = object.__eq__


# Two units of time in steps of 0.1, forward and in the replay that the gradient is pulled through, and no more; the SDE
# has two fields. Tsit5 has six new stages a step, and one before the first.
EVALUATIONS = [
    ("ode", diffrax.Tsit5(), 2 * 20 * 6 + 1),
    ("sde", diffrax.Euler(), 2 * 2 * 20),
    ("cde", diffrax.Euler(), 2 * 20),
    ("flow", diffrax.Euler(), 2 * 20),
]


@pytest.mark.parametrize(("kind", "solver", "evaluations"), EVALUATIONS)
def test_compiled_training_step(kind, solver, evaluations):
    """It compiles once, evaluates the field for the stages only, has the gradient of finite differences, and gives the
    same bits for a model that was saved and loaded."""
    chex.clear_trace_counter()
    calls = Calls()
    model, call = make(kind, lambda field: Counted(field, calls), **(EULER | {"solver": solver}))

    def loss(model, xs, keys):
        return jnp.mean(jax.vmap(lambda x, key: jnp.sum(call(model, x, key) ** 2))(xs, keys))

    @eqx.filter_jit
    @chex.assert_max_traces(n=1)
    def step(model, xs, keys):
        return eqx.filter_value_and_grad(loss)(model, xs, keys)

    xs, values = jnp.stack([X, -X, 2 * X]), []
    for seed in range(2):
        calls.clear()
        keys = jax.random.split(jax.random.key(seed), 3)
        _, gradient = jax.block_until_ready(step(model, seed + xs, keys))
        assert len(calls) == evaluations
        moved = eqx.apply_updates(model, jax.tree.map(lambda g: -0.01 * g, gradient))
        values.append([float(step(each, seed + xs, keys)[0]) for each in (model, moved)])
    assert all(after < before for before, after in values)
    loaded, blank = reload(model)
    assert_trees_all_equal(step(loaded, seed + xs, keys), step(model, seed + xs, keys))
    assert step(blank, seed + xs, keys)[0] != values[-1][0]
    exact, differences = along(model, gradient, eqx.filter_jit(lambda model: loss(model, seed + xs, keys)))
    assert exact == pytest.approx(differences, rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_single_precision_stays_single(kind):
    model, call = make(kind)
    model = jax.tree.map(lambda x: x.astype(jnp.float32) if eqx.is_inexact_array(x) else x, model)
    shape = eqx.filter_eval_shape(call, model, X.astype(jnp.float32), jax.random.key(0))
    assert shape.dtype == jnp.float32


def test_flow_samples_in_the_precision_of_its_field():
    flow = ContinuousNormalizingFlow(Linear(A.astype(jnp.float32)), 2)
    assert eqx.filter_eval_shape(flow.sample, key=jax.random.key(0)).dtype == jnp.float32


# Neural ODE


def test_ode_of_a_linear_field_is_the_matrix_exponential_both_ways():
    solve = eqx.filter_jit(NeuralODE(Linear(A), controller=TIGHT, dt0=0.1))
    for ts in (TIMES, 1.0 - TIMES):
        expected = np.stack([expm(float(t - ts[0]) * np.asarray(A)) @ np.asarray(X) for t in ts])
        np.testing.assert_allclose(solve(ts, X), expected, atol=1e-8)


def test_ode_of_a_pytree_under_vmap():
    model = NeuralODE(lambda t, y, args: {"q": y["p"], "p": -(args**2) * y["q"]}, **EULER)
    q0 = jnp.array([1.0, -2.0])
    ys = jax.jit(jax.vmap(lambda q: model(TIMES, {"q": q, "p": 0 * q}, 3.0)))(q0)
    # Euler's own spiral: the step multiplies q - i p / 3 by 1 + 0.3 i
    spiral = np.outer(q0, (1 + 0.3j) ** np.array([0, 4, 5, 11, 16, 20]))
    assert_trees_all_close(ys, {"q": spiral.real, "p": -3 * spiral.imag}, rtol=1e-12)


def test_numerics_are_swapped_by_tree_at_and_models_are_batched_by_filter_vmap():
    ensemble = eqx.filter_vmap(lambda matrix: NeuralODE(Linear(matrix)))(jnp.stack([A, -A]))
    ensemble = eqx.tree_at(lambda m: (m.solver, m.controller), ensemble, (EULER["solver"], EULER["controller"]))
    ensemble = eqx.tree_at(lambda m: m.dt0, ensemble, EULER["dt0"], is_leaf=lambda x: x is None)
    ys = eqx.filter_vmap(lambda model: model(TIMES, X))(ensemble)
    expected = np.stack([np.linalg.matrix_power(np.eye(2) + 0.1 * m, 20) @ X for m in (np.asarray(A), -np.asarray(A))])
    assert_trees_all_close(ys[:, -1], expected, rtol=1e-12)


def test_numerics_are_given_whole_or_in_parts_and_none_is_the_default():
    numerics = nde.Numerics(**EULER)
    model = NeuralODE(Linear(A), numerics=numerics)
    assert_trees_all_close(model(TIMES, X), NeuralODE(Linear(A), **EULER)(TIMES, X), rtol=0)
    assert NeuralODE(Linear(A), solver=None, controller=None, adjoint=None).numerics == nde.Numerics()
    with pytest.raises(TypeError, match="NeuralODE takes numerics, or dt0 by keyword, and not both"):
        NeuralODE(Linear(A), numerics=numerics, dt0=0.1)
    with pytest.raises(TypeError, match="NeuralODE has no argument 'tolerance'; those of its numerics are solver, con"):
        NeuralODE(Linear(A), tolerance=0.1)
    with pytest.raises(TypeError, match="NeuralSDE has no default solver and step"):
        NeuralSDE(zeros, ones, solver=None, dt0=0.1)
    with pytest.raises(ValueError, match="NeuralSDE draws its noise by the step, but got numerics with dt0=None"):
        NeuralSDE(zeros, ones, numerics=nde.Numerics(diffrax.Heun()))


def test_numerics_mark_what_a_failed_solve_did_not_reach_in_each_part_that_is_saved():
    numerics = nde.Numerics(**EULER, max_steps=3, throw=False)
    saveat = diffrax.SaveAt(subs={"end": diffrax.SubSaveAt(t1=True), "start": diffrax.SubSaveAt(t0=True)})
    ys = numerics.solve(diffrax.ODETerm(Linear(A)), 0.0, 1.0, X, saveat=saveat).ys
    assert np.isinf(ys["end"]).all() and np.isfinite(ys["start"]).all()


# Neural SDE


def keys(count, seed=1):
    return jax.random.split(jax.random.key(seed), count)


def zeros(t, y, args):
    return jnp.zeros_like(y)


def ones(t, y, args):
    return jnp.ones_like(y)


class Proportional(eqx.Module):
    """Diagonal noise in proportion to the state."""

    noise: ClassVar = "diagonal"
    spread: jax.Array

    def __call__(self, t, y, args):
        return self.spread * y


def test_sde_with_a_matrix_has_the_moments_of_its_ornstein_uhlenbeck_process():
    sigma = jnp.array([[0.5, 0.2, 0.0], [-0.3, 0.1, 0.7]])
    model = NeuralSDE(lambda t, y, args: -0.8 * (y - args), lambda t, y, args: sigma, solver=diffrax.Euler(), dt0=0.1)
    ts = jnp.array([0.0, 0.5, 2.0])
    ys = jax.jit(jax.vmap(lambda key: model(ts, X, 1.5, key=key)))(keys(10_000))
    # Euler-Maruyama's own moments
    decay, steps = 1 - 0.8 * 0.1, np.array([5, 20])
    mean = 1.5 + (np.asarray(X) - 1.5) * decay ** steps[:, None]
    np.testing.assert_allclose(np.mean(ys[:, 1:], axis=0), mean, atol=0.025)
    variance = 0.1 * (1 - decay ** (2 * steps)) / (1 - decay**2)
    growth = np.array([[variance[0], variance[0] * decay**15], [variance[0] * decay**15, variance[1]]])
    covariance = np.cov(ys[:, 1:].reshape(-1, 4).T)
    np.testing.assert_allclose(covariance, np.kron(growth, sigma @ sigma.T), atol=0.015)


def test_sde_is_read_as_its_solver_says():
    # geometric Brownian motion, in closed form on the very path that the key draws
    drift, spread, ts = 0.4, jnp.array([0.6, 0.9]), jnp.array([0.0, 0.5, 1.0])

    @jax.jit
    @jax.vmap
    def errors(key):
        path = VirtualBrownianTree(0.0, 1.0, 1 / 128, (2,), key)
        w = jax.vmap(path.evaluate)(ts)
        found = []
        for solver, correction in ((diffrax.ItoMilstein(), 0.5), (diffrax.Heun(), 0.0)):
            model = NeuralSDE(lambda t, y, args: drift * y, Proportional(spread), solver=solver, dt0=1 / 64)
            rate = drift - correction * spread**2
            exact = X[None] * jnp.exp(rate[None] * ts[:, None] + spread[None] * w)
            found.append(model(ts, X, key=key) - exact)
        return jnp.stack(found)

    assert np.sqrt(np.mean(errors(keys(30)) ** 2, axis=(0, 2, 3))).max() < 0.01


def test_sde_of_a_key_is_one_path():
    model = NeuralSDE(
        lambda t, y, args: jax.tree.map(jnp.negative, y), lambda t, y, args: y, solver=diffrax.Euler(), dt0=0.1
    )
    sample = jax.jit(lambda ts, key: model(ts, {"a": X, "b": 1.0}, key=key))
    ts = jnp.linspace(0, 2, 5)
    once, again, other = (sample(ts, jax.random.key(seed)) for seed in (4, 4, 5))
    assert_trees_all_equal(once, again)
    assert once["a"].shape == (5, 2) and once["b"].shape == (5,)
    assert np.abs(once["b"][-1] - other["b"][-1]) > 1e-3
    # the times in between choose what is shown, not what happens
    coarser = sample(ts.at[1].set(0.1).at[3].set(1.3), jax.random.key(4))
    assert_trees_all_close(*(jax.tree.map(lambda y: y[::2], each) for each in (coarser, once)), rtol=1e-12)


def test_sde_on_a_grid_has_its_path_with_and_without_jit_whatever_part_a_series_sees():
    model = NeuralSDE(
        lambda t, y, args: 0 * y, lambda t, y, args: 0 * y + 1, **SDE | {"dt0": 0.01}, grid=(1.0, 41.0, 4000)
    )
    ts, key = jnp.array([2.0, 2.5, 40.5], jnp.float32), jax.random.key(0)
    bare = model(ts, X.astype(jnp.float32), key=key)
    assert_trees_all_close(eqx.filter_jit(model)(ts, X.astype(jnp.float32), key=key), bare, rtol=1e-5, atol=1e-5)
    path = BrownianGrid(1.0, 41.0, 4000, jax.ShapeDtypeStruct((2,), jnp.float32), key)
    exact = jax.vmap(lambda t: path.evaluate(ts[0], t))(ts)
    np.testing.assert_allclose(bare - bare[:1], exact, atol=1e-4)
    with pytest.raises(eqx.EquinoxRuntimeError, match=r"points of its grid, .*: 4000 steps from 1.0 to 41.0, each of"):
        model(ts.at[0].set(2.004), X, key=key)
    with pytest.raises(
        ValueError, match=r"a grid .* a controller of constant steps, but got grid=\(0.0, 1.0, 10\) and P"
    ):
        NeuralSDE(zeros, ones, solver=diffrax.SPaRK(), dt0=0.1, grid=(0.0, 1.0, 10), controller=TIGHT)


@pytest.mark.parametrize("solver", [diffrax.SPaRK(), diffrax.SlowRK(), diffrax.HalfSolver(diffrax.SPaRK())])
def test_sde_gives_its_solver_the_levy_area_that_it_needs(solver):
    model = NeuralSDE(zeros, Proportional(X), solver=solver, dt0=0.1)
    assert eqx.filter_eval_shape(model, TIMES, X, key=jax.random.key(0)).shape == (6, 2)


# Neural CDE


@jax.jit
def trace(ts, values, mask, asked):
    """A series' path at the times asked for, and its slopes from either side."""
    path = series_path(ts, values, mask)
    left, right = (jax.vmap(lambda t, left=left: path.derivative(t, left=left))(asked) for left in (True, False))
    return jax.vmap(path.evaluate)(asked), left, right


def test_path_holds_time_values_and_counts():
    knots, left, right = map(np.asarray, trace(TIMES, VALUES, MASK, TIMES))
    np.testing.assert_allclose(knots[:, 0], TIMES, rtol=1e-12)
    observed = np.asarray(MASK)
    np.testing.assert_allclose(knots[:, 1:4][observed], np.asarray(VALUES)[observed], rtol=1e-12)
    np.testing.assert_allclose(knots[:, 4:], np.cumsum(observed, axis=0), atol=1e-12)
    # starts from zero where missing at first, keeps the last value where missing at last, is zero where never seen
    np.testing.assert_allclose(knots[[0, -1], 2], [0, -0.2], rtol=1e-12)
    np.testing.assert_array_equal(knots[:, 3], np.zeros(6))
    # at an observation the slope looks back to the observation before, and is the same from both sides
    expected = [0.5 / 0.4, -0.7 / 0.7, -0.6 / 0.5, 0.7 / 0.4]
    np.testing.assert_allclose(left[[1, 3, 4, 5], 1], expected, rtol=1e-10)
    np.testing.assert_allclose(right[[1, 3, 4], 1], expected[:3], rtol=1e-10)


def test_path_of_a_complete_series_is_diffraxs():
    values = jnp.stack([jnp.sin(3 * TIMES), TIMES**2], axis=1)
    expected = jax.jit(diffrax.backward_hermite_coefficients)(TIMES, values)
    found = [c[:, 1:3] for c in jax.jit(series_path)(TIMES, values).coeffs]
    assert_trees_all_close(found, list(expected), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("gap", [0.2, 1e-3, 1e-7])
def test_path_stays_near_the_values_however_close_two_rows_lie(gap):
    values = jnp.array([[0.0], [1.0], [1.1], [1.0]])
    path = series_path(jnp.array([0.0, 1.0, 1.0 + gap, 3.0]), values)
    between = jax.vmap(path.evaluate)(jnp.linspace(1.0 + gap, 3.0, 50))[:, 1]
    assert (between >= 1.0 - 0.3 * 0.2).all()
    assert (between <= 1.1 + 0.3 * 0.2).all()


def test_a_row_without_observations_does_not_bend_the_values():
    asked, mask = jnp.array([0.1, 0.45, 0.6, 0.85, 1.0, 1.8]), MASK.at[2].set(False)
    early, late = (trace(TIMES.at[2].set(t), VALUES, mask, asked)[0][:, :4] for t in (0.5, 0.9))
    assert_trees_all_close(early, late, atol=1e-12)


def test_nan_is_missing_with_or_without_a_mask():
    masked = trace(TIMES, VALUES, MASK, TIMES)
    holes = jnp.where(MASK, VALUES, jnp.nan)
    assert_trees_all_equal(masked, trace(TIMES, holes, jnp.ones_like(MASK), TIMES))
    assert_trees_all_close(masked, trace(TIMES, holes, None, TIMES), atol=1e-12)


WEIGHTS = jnp.array([0.3, -0.5, 0.4, 0.2, 0.1, -0.2, 0.3])


def exponential(t, y, args):
    """The matrix of dy = y (w . dX), whose solution is y0 exp(w . (X - X0))."""
    return jnp.outer(y, WEIGHTS)


def bounded(t, y, args):
    return jnp.tanh(exponential(t, y, args))


def test_cde_of_a_linear_field_is_the_exponential_of_its_path():
    model = NeuralCDE(lambda x: 1 + x[:2], exponential, lambda y: 2 * y, controller=TIGHT, scaled=False)
    found = eqx.filter_jit(model.trajectory)(*pad(TIMES, VALUES, MASK, 2))
    knots = trace(TIMES, VALUES, MASK, TIMES)[0]
    growth = jnp.exp((knots - knots[:1]) @ WEIGHTS)
    assert_trees_all_close(found[:6], 2 * growth[:, None] * jnp.array([[1.0, 1.3]]), rtol=1e-7)
    # by hand, at the end and on the padding after it
    by_hand = 0.3 * 2 - 0.5 * (0.2 - 0.3) + 0.4 * -0.2 + 0.1 * 4 - 0.2 * 3
    assert_trees_all_close(found[5:, 0], jnp.full(3, 2 * np.exp(by_hand)), rtol=1e-7)


def pad(times, values, mask, rows):
    extra = ((0, rows), (0, 0))
    return jnp.pad(times, (0, rows), mode="edge"), jnp.pad(values, extra, constant_values=jnp.nan), jnp.pad(mask, extra)


def test_padding_and_what_the_mask_hides_change_nothing():
    model = NeuralCDE(lambda x: 1 + x[:2], bounded, identity, scaled=False, **EULER)
    plain = eqx.filter_jit(model)(TIMES, VALUES, MASK)
    hidden = (pad(TIMES, jnp.where(MASK, VALUES, other), MASK, 3) for other in (9.0, -70.0, jnp.nan))
    padded = eqx.filter_jit(eqx.filter_vmap(model))(*(jnp.stack(part) for part in zip(*hidden, strict=True)))
    assert_trees_all_close(padded, jnp.tile(plain[None], (3, 1)), rtol=1e-12)
    assert_trees_all_equal(padded[0], padded[1])
    assert_trees_all_equal(padded[0], padded[2])


def test_path_gradient_is_that_of_finite_differences_and_none_where_hidden():
    times, values, mask = pad(TIMES, VALUES, MASK, 2)

    def loss(values):
        return jnp.sum(jnp.sin(trace(times, values, mask, jnp.linspace(0, 2, 6))[0]))

    gradient = np.asarray(jax.jit(jax.grad(loss))(values))
    np.testing.assert_array_equal(gradient[~np.asarray(mask)], 0)
    assert (np.abs(gradient[np.asarray(mask)]) > 1e-6).all()
    exact, differences = along(values, gradient, jax.jit(loss))
    assert exact == pytest.approx(differences, rel=1e-7)


# Continuous normalising flow

POINTS = jnp.array([[0.0, 0.0], [1.0, -0.5], [-2.0, 1.5]])


def test_flow_of_a_linear_field_is_a_normal_distribution():
    flow = ContinuousNormalizingFlow(Linear(A), 2, t1=1.5, controller=TIGHT)
    value = jax.jit(jax.vmap(flow.log_prob))(POINTS)
    spread = expm(1.5 * np.asarray(A))
    expected = stats.multivariate_normal(np.zeros(2), spread @ spread.T).logpdf(POINTS)
    np.testing.assert_allclose(value, expected, atol=1e-8)


def test_flow_carries_its_samples_from_the_base():
    flow = ContinuousNormalizingFlow(Linear(A), 2, **EULER)
    carried = np.linalg.matrix_power(np.eye(2) + 0.1 * np.asarray(A), 10) @ jax.random.normal(jax.random.key(2), (2,))
    np.testing.assert_allclose(flow.sample(key=jax.random.key(2)), carried, rtol=1e-12)


def test_hutchinsons_trace_is_unbiased():
    flow = ContinuousNormalizingFlow(Linear(A), 2, probes=4, **EULER)
    back = np.linalg.matrix_power(np.eye(2) - 0.1 * np.asarray(A), 10) @ np.asarray(POINTS[1])
    exact = stats.norm.logpdf(back).sum() - np.trace(A)
    found = jax.jit(jax.vmap(lambda key: flow.log_prob(POINTS[1], key=key)))(keys(1000))
    # v^T A v = tr A + (A_01 + A_10) v_0 v_1 where v_0 v_1 is 1 or -1: the mean of four is one of five values
    error = np.asarray(found - exact) / float(A[0, 1] + A[1, 0])
    np.testing.assert_allclose(2 * error, np.round(2 * error), atol=1e-9)
    assert abs(np.mean(error)) < 4 * 0.5 / np.sqrt(1000)
    assert np.var(error) == pytest.approx(1 / 4, rel=0.2)


class Curved(eqx.Module):
    """A field that depends on time and bends the plane."""

    def __call__(self, t, y, args):
        return jnp.tanh(A @ y + t) + 0.3 * y


def test_flow_density_integrates_to_one_and_is_the_change_of_variables_of_its_map():
    flow = ContinuousNormalizingFlow(Curved(), 2, controller=TIGHT)
    shifts = 1e-4 * jnp.concatenate([jnp.zeros((1, 2)), jnp.eye(2), -jnp.eye(2)])
    xs = jax.jit(jax.vmap(flow.forward))((POINTS[:, None] + shifts[None]).reshape(-1, 2)).reshape(3, 5, 2)
    axis = jnp.linspace(-9, 9, 61)
    grid = jnp.stack(jnp.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    both = jax.jit(jax.vmap(lambda x: (flow.inverse(x), flow.log_prob(x))))
    back, found = map(np.asarray, both(jnp.concatenate([xs[:, 0], grid])))
    np.testing.assert_allclose(back[:3], POINTS, atol=1e-7)
    volume = np.linalg.slogdet((xs[:, 1:3] - xs[:, 3:]) / 2e-4)[1]
    np.testing.assert_allclose(found[:3], stats.norm.logpdf(POINTS).sum(axis=1) - volume, atol=1e-6)
    assert np.exp(found[3:]).sum() * (axis[1] - axis[0]) ** 2 == pytest.approx(1, abs=1e-4)


# Bad input


def test_bad_times_are_refused():
    model, series = NeuralODE(Linear(A)), NeuralCDE(take_two, exponential, identity)
    with pytest.raises(ValueError, match=r"NeuralODE needs ts of shape \(times,\) .* but got ts of shape \(1,\)"):
        model(jnp.zeros(1), X)
    with pytest.raises(ValueError, match=r"NeuralSDE needs ts .* but got ts of shape \(2, 2\)"):
        NeuralSDE(zeros, ones, **SDE)(jnp.zeros((2, 2)), X, key=jax.random.key(0))
    with pytest.raises(Exception, match=r"ts must be increasing or decreasing"):
        model(jnp.array([0.0, 2.0, 1.0]), X)
    with pytest.raises(Exception, match=r"ts\[-1\] <= ts\[0\]"):
        NeuralSDE(zeros, ones, **SDE)(TIMES[::-1], X, key=jax.random.key(0))
    with pytest.raises(Exception, match=r"a row lies before another"):
        series(TIMES[::-1], VALUES, MASK)
    with pytest.raises(Exception, match=r"but for rows without observations that repeat the last time"):
        series(TIMES.at[2].set(TIMES[1]), VALUES, MASK)


def test_series_of_unequal_lengths_are_refused():
    model = NeuralCDE(take_two, exponential, identity)
    with pytest.raises(
        ValueError, match=r"got ts of shape \(5,\), values of shape \(6, 3\) and mask of shape \(6, 3\)"
    ):
        model(TIMES[:5], VALUES, MASK)
    with pytest.raises(
        ValueError, match=r"got ts of shape \(6,\), values of shape \(6, 3\) and mask of shape \(6, 2\)"
    ):
        model(TIMES, VALUES, MASK[:, :2])
    with pytest.raises(ValueError, match=r"path_size = .* = 5, but the initial state is f64\[2\] .* output .*\(2, 7\)"):
        model(TIMES, VALUES[:, :2])


def test_fields_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"Linear returned the shape \(3,\), but the state has \(2,\)"):
        NeuralODE(Linear(jnp.ones((3, 2))))(TIMES, X)
    with pytest.raises(ValueError, match=r"Linear returned the shape \(3,\), but the state has \(2,\)"):
        NeuralSDE(Linear(jnp.ones((3, 2))), ones, **SDE)(TIMES, X, key=jax.random.key(0))
    with pytest.raises(ValueError, match=r"Linear returned the shape \(3,\), but the state has \(2,\)"):
        ContinuousNormalizingFlow(Linear(jnp.ones((3, 2))), 2).log_prob(X)


def test_sde_refuses_a_missing_key_an_ode_solver_and_a_diffusion_that_does_not_fit():
    with pytest.raises(ValueError, match=r"NeuralSDE draws noise and needs a key, but got key=None"):
        NeuralSDE(zeros, ones, **SDE)(TIMES, X)
    with pytest.raises(ValueError, match=r"ones makes general noise, but Tsit5 declares neither the Itô nor"):
        NeuralSDE(zeros, ones, solver=diffrax.Tsit5(), dt0=0.1)(TIMES, X, key=jax.random.key(0))
    with pytest.raises(ValueError, match=r"state is f64\[2\] and the diffusion's output .*\(3,\)"):
        NeuralSDE(zeros, lambda t, y, args: jnp.ones(3), solver=diffrax.Euler(), dt0=0.1)(
            TIMES, X, key=jax.random.key(0)
        )


def test_flow_refuses_a_missing_key_and_points_that_do_not_fit():
    with pytest.raises(ValueError, match=r"probes=2 draws them and needs a key, but got key=None"):
        ContinuousNormalizingFlow(Linear(A), 2, probes=2).log_prob(X)
    with pytest.raises(ValueError, match=r"size 2 needs a point of shape \(2,\), but got \(3, 2\)"):
        ContinuousNormalizingFlow(Linear(A), 2).log_prob(POINTS)
    with pytest.raises(ValueError, match=r"probes >= 1, or None, but got probes=0"):
        ContinuousNormalizingFlow(Linear(A), 2, probes=0)
