"""Linear CDEs by scan: equal to their solve, exact in each structure, causal, without a trace of padding."""

import dataclasses

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from jax.flatten_util import ravel_pytree

import nde
from nde.models import linear_cde as module, linear_recurrence, LinearCDE, matrix_exponential

KEY = jax.random.key(0)
STRUCTURES = {
    "diagonal": {"block_size": 1},
    "block-diagonal": {"block_size": 2},
    "dense": {},
    "diagonal plus low rank": {"block_size": 1, "rank": 2},
}
SCANS = ["sequential", "associative"]
ROWS, CHANNELS, STATE = 9, 2, 4


def series(rows=ROWS, seed=0):
    generator = np.random.default_rng(seed)
    times = 5.0 + np.cumsum(generator.uniform(0.1, 0.4, rows))
    mask = generator.random((rows, CHANNELS)) < 0.6
    mask[0, 0], mask[3] = False, False
    return times, generator.standard_normal((rows, CHANNELS)), mask


def made(structure="block-diagonal", **keywords):
    keys = jax.random.split(KEY, 2)
    field = nde.LinearCDEField(STATE, 5, scale=0.6, bias_scale=0.4, key=keys[0], **STRUCTURES[structure])
    return LinearCDE(eqx.nn.Linear(5, STATE, key=keys[1]), field, lambda h: h, **keywords)


def solved(model, data, solver, engine=nde.diffeqsolve):
    """The same equation along the same path by a solver, one step a row."""
    points = model.points(*data)
    ts = np.arange(len(points), dtype=points.dtype)
    term = diffrax.ControlTerm(model.field, diffrax.LinearInterpolation(ts, points))
    solution = engine(
        term, solver, ts[0], ts[-1], None, model.initial(points[0]), saveat=diffrax.SaveAt(ts=ts),
        stepsize_controller=diffrax.StepTo(ts=ts), max_steps=len(ts),
    )  # fmt: skip
    return solution.ys


@pytest.mark.parametrize("structure", ["block-diagonal", "diagonal plus low rank"])
def test_scan_is_the_solve_of_the_same_equation(structure):
    model, data = made(structure), series()
    data = (data[0], 0.1 * data[1], data[2])
    model = dataclasses.replace(model, scales=(1.0, 1.0, 1.0, 0.1, 0.1))
    np.testing.assert_allclose(model.states(*data), solved(model, data, diffrax.Dopri8()), rtol=1e-7)
    euler = dataclasses.replace(model, discretisation="euler")
    np.testing.assert_allclose(euler.states(*data), solved(euler, data, diffrax.Euler()), rtol=1e-12)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_each_row_is_the_exponential_of_its_increments(structure):
    model, data = made(structure), series()
    points = np.asarray(model.points(*data))
    h, want = np.asarray(model.initial(points[0])), []
    for dx in np.diff(points, axis=0):
        generator = np.zeros((STATE + 1, STATE + 1))
        generator[:STATE, :STATE] = np.einsum("kij,k->ij", model.field.matrices, dx)
        generator[:STATE, STATE] = model.field.bias @ dx
        h = (scipy.linalg.expm(generator) @ np.append(h, 1.0))[:STATE]
        want.append(h)
    for scan in SCANS:
        found = dataclasses.replace(model, scan=scan).states(*data)
        np.testing.assert_allclose(found[1:], want, rtol=1e-11)


def test_path_holds_the_last_value_and_counts():
    model = made(scales=(0.5, 1.0, 1.0, 0.1, 0.1))
    values = np.array([[9.0, 1.0], [2.0, np.nan], [9.0, 9.0], [3.0, 4.0]])
    mask = np.array([[0, 1], [1, 1], [0, 0], [1, 1]], bool)
    want = [[0, 0, 1, 0, 0.1], [0.5, 2, 1, 0.1, 0.1], [1, 2, 1, 0.1, 0.1], [2, 3, 4, 0.2, 0.2]]
    np.testing.assert_allclose(model.points([5, 6, 7, 9], values, mask), want, rtol=1e-15)


@pytest.mark.parametrize(("structure", "scan"), list(zip(STRUCTURES, SCANS + SCANS, strict=True)))
def test_padding_leaves_no_trace_and_the_future_is_not_read(structure, scan):
    model, (times, values, mask) = made(structure, scan=scan), series()
    padded = (np.append(times, [times[-1]] * 5), np.pad(values, ((0, 5), (0, 0)), constant_values=np.nan))
    padded = (*padded, np.pad(mask, ((0, 5), (0, 0))))
    states = model.states(times, values, mask)
    longer = model.states(*padded)
    np.testing.assert_array_equal(longer[:ROWS], states)
    np.testing.assert_array_equal(longer[ROWS:], np.broadcast_to(states[-1], (5, STATE)))
    values = np.where(mask, values, np.inf)
    values[-2:], mask[-2:] = 7.0, True
    times[-2:] += 1.0
    np.testing.assert_array_equal(model.states(times, values, mask)[:-2], states[:-2])


def test_one_row_and_nothing_observed():
    model = made()
    first = model.points([3.0], [[1.0, 2.0]])[0]
    np.testing.assert_allclose(model([3], np.array([[1, 2]])), model.initial(first))
    silent = model.states([0.0, 1.0], np.full((2, 2), np.nan))
    assert np.isfinite(silent).all()


def test_parts_of_a_long_series_are_the_whole(monkeypatch):
    model, data = made(), series(23)
    value, gradient = eqx.filter_jit(eqx.filter_value_and_grad(lambda m: jnp.sum(m.states(*data) ** 2)))(model)
    monkeypatch.setattr(module, "MOST_AT_ONCE", 5 * STATE * 2)
    parted = dataclasses.replace(model, scan="sequential")  # another model, or the compiled one would be used
    again, other = eqx.filter_jit(eqx.filter_value_and_grad(lambda m: jnp.sum(m.states(*data) ** 2)))(parted)
    np.testing.assert_allclose(again, value, rtol=1e-12)
    for a, b in zip(jax.tree.leaves(other), jax.tree.leaves(gradient), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10)


@pytest.mark.parametrize(("structure", "scan"), list(zip(list(STRUCTURES)[:2], SCANS, strict=True)))
def test_gradients_are_those_of_finite_differences(structure, scan):
    model, (times, values, mask) = made(structure, scan=scan), series(5)
    weights, rest = eqx.partition((model, values), eqx.is_inexact_array)
    flat, unravel = ravel_pytree(weights)

    def loss(flat):
        model, values = eqx.combine(unravel(flat), rest)
        return jnp.sum(jnp.sin(model.states(times, values, mask)))

    gradient = jax.jit(jax.grad(loss))(flat)
    batch = jax.jit(jax.grad(lambda w: jnp.sum(jax.vmap(loss)(jnp.stack([w, 0.5 * w])))))(flat)
    direction = np.random.default_rng(1).standard_normal(flat.shape)
    for found, at in ((gradient, [1.0]), (batch, [1.0, 0.5])):
        difference = sum(loss(c * (flat + 1e-6 * direction)) - loss(c * (flat - 1e-6 * direction)) for c in at) / 2e-6
        np.testing.assert_allclose(found @ direction, difference, rtol=1e-7)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_matrix_exponential_is_scipys(dtype):
    generator = np.random.default_rng(0)
    sizes = np.array([0.0, 1e-3, 0.5, 1.0, 8.0, 40.0])
    matrices = (sizes[:, None, None] * generator.standard_normal((6, 5, 5)) / 5).astype(dtype)
    found = jax.jit(matrix_exponential)(matrices)
    assert found.dtype == dtype
    tolerance = {"float32": 3e-5, "float64": 1e-13}[dtype]
    for one, matrix in zip(np.asarray(found), matrices, strict=True):
        want = scipy.linalg.expm(matrix.astype(float))
        assert np.abs(one - want).max() <= tolerance * np.abs(want).max()
    assert np.isnan(matrix_exponential(jnp.full((1, 2, 2), jnp.nan))).all()
    ones = np.random.default_rng(2).standard_normal((6, 5, 5))
    gradient = jax.grad(lambda m: jnp.sum(ones * matrix_exponential(m)))(matrices.astype(float))
    for got, matrix, cotangent in zip(np.asarray(gradient), matrices, ones, strict=True):
        want = scipy.linalg.expm_frechet(matrix.astype(float).T, cotangent, compute_expm=False)
        assert np.abs(got - want).max() <= 1e-11 * np.abs(want).max()


def test_linear_recurrence_of_complex_numbers_is_a_loop():
    generator = np.random.default_rng(0)
    normal = lambda *shape: generator.standard_normal(shape) + 1j * generator.standard_normal(shape)  # noqa: E731
    matrices, offsets, h = normal(6, 2, 3, 3), normal(6, 2, 3), normal(2, 3)
    want, state = [], h
    for e, c in zip(matrices, offsets, strict=True):
        state = np.einsum("bij,bj->bi", e, state) + c
        want.append(state)
    for scan in SCANS:
        found = linear_recurrence(jnp.asarray(matrices), jnp.asarray(offsets), jnp.asarray(h), scan)
        np.testing.assert_allclose(found, want, rtol=1e-12)


def test_single_precision_stays_single_and_large_states_are_multiplied_by_the_library():
    model = jax.tree.map(lambda x: x.astype("float32") if eqx.is_inexact_array(x) else x, made())
    times, values, mask = series()
    assert model.states(times.astype("float32"), values.astype("float32"), mask).dtype == "float32"
    matrices = np.random.default_rng(0).standard_normal((2, 40, 40)) / 40
    np.testing.assert_allclose(matrix_exponential(jnp.asarray(matrices))[1], scipy.linalg.expm(matrices[1]), rtol=1e-9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nde.LinearCDEField(4, 3, block_size=3, key=KEY), "blocks that fill the state: got block_size=3 of"),
        (
            lambda: nde.LinearCDEField(4, 3, rank=-1, key=KEY),
            "rank to be a whole number .* got rank=-1",
        ),
        (
            lambda: LinearCDE(None, nde.LinearCDEField(4, 2, key=KEY), None),
            r"1 \+ 2 \* channels path channels, an odd number, but got 2",
        ),
        (lambda: made(scales=(1.0, 1.0)), "a scale of each of 5 path channels, but got 2"),
        (lambda: made(discretisation="midpoint"), "'exact' and 'euler', but got 'midpoint'"),
        (lambda: made(scan="fast"), "'auto', 'associative' and 'sequential', but got 'fast'"),
        (lambda: made()([0.0, 1.0], [[1.0], [2.0]]), r"mask of shape \(rows, 2\), but got ts of shape \(2,\)"),
        (lambda: made()(np.zeros(0), np.zeros((0, 2))), "a series of one row or more, but got none"),
        (
            lambda: dataclasses.replace(made(), initial=lambda x: x)([0.0, 1.0], np.zeros((2, 2))),
            r"an initial state of shape \(4,\), but got f64\[5\]",
        ),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
