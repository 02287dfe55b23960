"""Brownian paths: their laws, the joining of increments, determinism, and what they refuse."""

import diffrax
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
from chex import assert_trees_all_close, assert_trees_all_equal
from scipy import stats

from nde.paths import BrownianGrid, davie_foster_area, SpaceSpaceLevyArea, VirtualBrownianTree

KEY = jax.random.key(7)
KINDS = (diffrax.BrownianIncrement, diffrax.SpaceTimeLevyArea, diffrax.SpaceTimeTimeLevyArea)
VARIANCES = {"W": 1.0, "H": 1 / 12, "K": 1 / 720}
SAMPLES = 20000


def make_tree(kind=diffrax.BrownianIncrement, shape=(SAMPLES,), *, t0=-1.0, t1=2.0, tol=1e-3, key=KEY):
    return VirtualBrownianTree(t0, t1, tol, shape, key, kind)


def make_grid(kind=diffrax.BrownianIncrement, shape=(SAMPLES,)):
    return BrownianGrid(-1.0, 2.0, 12, shape, KEY, levy_area=kind)


def over(path, starts, ends):
    return jax.vmap(lambda a, b: path.evaluate(a, b, use_levy=True))(jnp.asarray(starts), jnp.asarray(ends))


def standardised(increments, lengths):
    """Each of W, H and K over its deviation: shape (areas * intervals, samples)."""
    names = [name for name in VARIANCES if hasattr(increments, name)]
    rows = [getattr(increments, name) / np.sqrt(VARIANCES[name] * lengths)[:, None] for name in names]
    return np.concatenate(rows)


def assert_independent_normals(rows):
    np.testing.assert_allclose(np.mean(rows, axis=1), 0, atol=5 / SAMPLES**0.5)
    np.testing.assert_allclose(np.cov(rows), np.eye(len(rows)), atol=6 / SAMPLES**0.5)
    assert min(stats.kstest(row, "norm").pvalue for row in rows) > 1e-3


def moments(increment, h):
    """The increment, and the integrals of W and of r W from the interval's start, by the definitions of H and K."""
    H, K = (getattr(increment, name, 0.0) for name in "HK")
    area = h * (increment.W / 2 + H)
    return increment.W, area, h / 2 * area + h**2 * (increment.W / 12 - K)


def join(first, second, a, b):
    """The moments over two intervals of lengths a and b from those over each."""
    W, S, M = first
    V, T, N = second
    return W + V, S + b * W + T, M + (a * b + b**2 / 2) * W + a * T + N


@pytest.mark.parametrize("kind", KINDS)
def test_tree_has_the_law_of_brownian_motion_over_any_times(kind):
    ts = np.sort(np.concatenate([np.random.default_rng(1).uniform(-1, 2, 7), [-1.0, 0.5, 2.0]]))
    rows = standardised(over(make_tree(kind), ts[:-1], ts[1:]), np.diff(ts))
    assert_independent_normals(rows)


@pytest.mark.parametrize("kind", KINDS)
def test_grid_has_the_law_of_brownian_motion(kind):
    path = make_grid(kind)
    ts = np.array([-1.0, -0.75, -0.5, 0.5, 0.75, 2.0])
    assert_independent_normals(standardised(over(path, ts[:-1], ts[1:]), np.diff(ts)))


@pytest.mark.parametrize("make", [make_tree, make_grid])
@pytest.mark.parametrize("kind", KINDS)
def test_neighbouring_increments_join_by_their_definitions(make, kind):
    count = KINDS.index(kind) + 1
    for s, t, u in ((-1.0, -0.25, 1.5), (0.25, 1.25, 1.5), (-0.75, 0.5, 2.0)):
        both = over(make(kind, (50,)), [s, t, s], [t, u, u])
        first, second, whole = (jax.tree.map(lambda x, n=n: x[n], both) for n in range(3))
        expected = join(moments(first, t - s), moments(second, u - t), t - s, u - t)
        found = moments(whole, u - s)
        np.testing.assert_allclose(found[:count], expected[:count], rtol=0, atol=1e-11)


def test_tree_joins_within_a_cell_too():
    path = make_tree(diffrax.SpaceTimeTimeLevyArea, (50,), tol=0.1)
    s, t, u = 0.51, 0.52, 0.55
    both = over(path, [s, t, s], [t, u, u])
    first, second, whole = (jax.tree.map(lambda x, n=n: x[n], both) for n in range(3))
    found, expected = moments(whole, u - s), join(moments(first, t - s), moments(second, u - t), t - s, u - t)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11)


def test_tree_has_the_covariances_of_diffrax_tree():
    kind = diffrax.SpaceTimeTimeLevyArea
    ends = np.array([0.3, 1.1, 1.9, 2.0])
    rows = []
    for tree in (VirtualBrownianTree, diffrax.VirtualBrownianTree):
        increments = over(tree(0.0, 2.0, 2e-2, (SAMPLES,), KEY, kind), np.array([0.0, 0.1, 0.2, 1.0]), ends)
        rows.append(np.cov(standardised(increments, np.ones(4)) / 2**0.5))
    np.testing.assert_allclose(*rows, atol=0.03)


def test_values_do_not_depend_on_the_order_or_the_transformation():
    rng = np.random.default_rng(0)
    starts = rng.uniform(-1, 1.9, 20)
    ends = starts + rng.uniform(0.01, 0.1, 20)
    path = make_tree(diffrax.SpaceTimeLevyArea, (3,))
    together = over(path, starts, ends)
    order = rng.permutation(20)
    _, scanned = jax.lax.scan(lambda c, ends: (c, path.evaluate(*ends, use_levy=True)), 0, (starts[order], ends[order]))
    assert_trees_all_close(scanned, jax.tree.map(lambda x: x[order], together), rtol=1e-12, atol=1e-14)
    alone = path.evaluate(float(starts[4]), float(ends[4]), use_levy=True)
    assert_trees_all_close(alone, jax.tree.map(lambda x: x[4], together), rtol=1e-12, atol=1e-14)


def test_tree_is_the_same_in_every_nesting_of_batches():
    keys, starts, tols = jax.random.split(KEY, 2), jnp.array([-0.9, 0.2, 1.1]), jnp.array([1e-2, 1e-4])

    @jax.jit
    def query(scale, key, start, tol):
        tree = VirtualBrownianTree(-1.0, 2.0, tol, (2,), key, diffrax.SpaceTimeLevyArea)
        increment = tree.evaluate(start, start + 0.5, use_levy=True)
        return scale * (increment.W + increment.H)

    inner = jax.vmap(jax.vmap(query, (None, None, 0, None)), (None, 0, None, None), out_axes=1)
    outer = jax.vmap(inner, (None, None, None, 0), out_axes=-1)
    batched, pull = jax.vjp(lambda scale: outer(scale, keys, starts, tols), jnp.array(2.0))
    assert batched.shape == (3, 2, 2, 2)  # starts, keys, the increment's own, tols
    alone = [[[query(2.0, key, start, tol) for tol in tols] for key in keys] for start in starts]
    expected = jnp.moveaxis(jnp.array(alone), 2, -1)
    one = jax.vmap(query, (None, None, None, 0))(2.0, keys[0], starts[0], tols)
    assert_trees_all_close(one, expected[0, 0].T, rtol=1e-10, atol=1e-13)
    assert_trees_all_close(batched, expected, rtol=1e-10, atol=1e-13)
    assert_trees_all_close(pull(jnp.ones_like(batched))[0], jnp.sum(expected) / 2, rtol=1e-10)


def test_tree_with_traced_ends_is_the_same_path():
    def query(t0, t1, tol):
        return make_tree(diffrax.SpaceTimeTimeLevyArea, (3,), t0=t0, t1=t1, tol=tol).evaluate(0.1, 0.7, use_levy=True)

    assert_trees_all_close(jax.jit(query)(-1.0, 2.0, 1e-4), query(-1.0, 2.0, 1e-4), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("make", [make_tree, make_grid])
def test_backwards_in_time_W_and_K_change_sign_and_H_does_not(make):
    path = make(diffrax.SpaceTimeTimeLevyArea, (3,))
    there, back = (path.evaluate(*ends, use_levy=True) for ends in ((0.5, 1.25), (1.25, 0.5)))
    assert_trees_all_equal((back.dt, back.W, back.H, back.K), (-there.dt, -there.W, there.H, -there.K))
    nowhere = path.evaluate(0.5, 0.5, use_levy=True)
    assert_trees_all_equal(nowhere, jax.tree.map(jnp.zeros_like, there))


@pytest.mark.parametrize("make", [make_tree, make_grid])
def test_one_time_is_the_increment_from_the_start(make):
    assert_trees_all_equal(make().evaluate(0.5), make().evaluate(-1.0, 0.5))


@pytest.mark.parametrize("t", [1.0, 1000.0])
def test_steps_of_a_nanosecond_are_distinct(t):
    path = make_tree(shape=(4000,), t0=0.0, t1=2 * t, tol=2.5e-10)
    ts = t + 1e-9 * np.arange(9)
    rows = over(path, ts[:-1], ts[1:]).W / np.sqrt(np.diff(ts))[:, None]
    np.testing.assert_allclose(np.cov(rows), np.eye(8), atol=0.1)


def test_short_steps_keep_their_digits_in_single_precision():
    path = make_tree(
        diffrax.SpaceTimeTimeLevyArea, jax.ShapeDtypeStruct((SAMPLES,), jnp.float32), t0=0.0, t1=1.0, tol=1e-5
    )
    ts = np.array([0.5, 0.5001, 0.5002], np.float32)
    increments = over(path, ts[:-1], ts[1:])
    assert {x.dtype for x in jax.tree.leaves(increments)} == {jnp.dtype(jnp.float32)}
    assert_independent_normals(standardised(increments, np.diff(ts)))


@pytest.mark.parametrize("make", [make_tree, make_grid])
def test_shapes_and_dtypes_of_a_pytree(make):
    shape = {
        "a": jax.ShapeDtypeStruct((4000, 1), jnp.float32),
        "b": (jax.ShapeDtypeStruct((), jnp.float64), jax.ShapeDtypeStruct((4000,), jnp.bfloat16)),
    }
    out = make(diffrax.SpaceTimeLevyArea, shape).evaluate(0.5, 1.5, use_levy=True)
    for part in (out.W, out.H):
        assert jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), part) == shape
    assert jax.tree.map(lambda x: (x.shape, x.dtype), out.dt) == jax.tree.map(lambda x: ((), x.dtype), shape)
    noise = [out.W["a"][:, 0], out.W["b"][1].astype(jnp.float32), out.H["a"][:, 0] * 12**0.5]
    np.testing.assert_allclose(np.cov(noise), np.eye(3), atol=0.1)


def test_keys_make_independent_paths():
    keys = jax.random.split(KEY, 4000)
    rows = jax.vmap(lambda key: make_tree(shape=(2,), key=key).evaluate(0.0, 1.0))(keys)
    np.testing.assert_allclose(np.cov(rows.T), np.eye(2), atol=0.1)
    assert stats.kstest(rows.ravel(), "norm").pvalue > 1e-3


@pytest.mark.parametrize("make", [make_tree, make_grid])
def test_a_solve_and_its_gradient_are_those_of_the_scan_over_the_increments(make):
    path = make(shape=(2,))
    ts = -1 + 0.25 * np.arange(13)

    def scanned(y0, theta):
        def step(y, ends):
            return y - theta * y * 0.25 + theta * path.evaluate(*ends), None

        return jnp.sum(jax.lax.scan(step, y0, (ts[:-1], ts[1:]))[0] ** 2)

    def solved(y0, theta):
        terms = diffrax.MultiTerm(
            diffrax.ODETerm(lambda t, y, args: -theta * y),
            diffrax.ControlTerm(lambda t, y, args: theta * jnp.eye(2), path),
        )
        return jnp.sum(diffrax.diffeqsolve(terms, diffrax.Euler(), -1.0, 2.0, 0.25, y0).ys ** 2)

    y0, theta = jnp.array([1.0, -0.5]), jnp.asarray(0.4)
    expected, found = (jax.jit(jax.value_and_grad(f, (0, 1)))(y0, theta) for f in (scanned, solved))
    assert_trees_all_close(found, expected, rtol=1e-9)


@pytest.mark.parametrize("make", [make_tree, make_grid])
def test_areas_serve_a_solver_of_higher_order(make):
    """dy = -y dt + dW: all that W and H say of a step is its mean given them; ShARK uses it, Euler cannot."""
    path = make(diffrax.SpaceTimeLevyArea, (200,))
    terms = diffrax.MultiTerm(
        diffrax.ODETerm(lambda t, y, args: -y),
        diffrax.ControlTerm(lambda t, y, args: lx.DiagonalLinearOperator(jnp.ones(200)), path),
    )
    h, y = 0.25, jnp.zeros(200)
    of_w = (1 - np.exp(-h)) / h
    of_h = 6 * (1 + np.exp(-h)) / h - 12 * (1 - np.exp(-h)) / h**2
    for n in range(12):
        step = path.evaluate(-1 + h * n, -1 + h * (n + 1), use_levy=True)
        y = np.exp(-h) * y + of_w * step.W - of_h * step.H
    shark, euler = (
        diffrax.diffeqsolve(terms, solver, -1.0, 2.0, h, jnp.zeros(200)).ys[0] - y
        for solver in (diffrax.ShARK(), diffrax.Euler())
    )
    assert float(jnp.std(euler)) > 0.05
    assert float(jnp.std(shark)) < 0.01


def test_tree_serves_an_adaptive_solve():
    path = make_tree(diffrax.SpaceTimeLevyArea, (), tol=1e-4)

    def end(rtol):
        terms = diffrax.MultiTerm(
            diffrax.ODETerm(lambda t, y, args: -y), diffrax.ControlTerm(lambda t, y, args: jnp.ones(()), path)
        )
        controller = diffrax.PIDController(rtol=0.0, atol=rtol, dtmin=1e-3, pcoeff=0.1, icoeff=0.3)
        solution = diffrax.diffeqsolve(
            terms, diffrax.ShARK(), -1.0, 2.0, 0.1, jnp.zeros(()), stepsize_controller=controller
        )
        return solution.ys[0]

    assert float(end(1e-2)) == pytest.approx(float(end(1e-4)), abs=0.01)


@pytest.mark.parametrize("make", [make_tree, make_grid])
def test_derivative_by_time_is_refused(make):
    path = make(shape=())
    with pytest.raises(ValueError, match="differentiated by time"):
        jax.grad(lambda t: path.evaluate(t, 2.0))(0.5)


# The space-space area


def true_area(W_steps):
    """W, H and the area of fine paths on [0, 1] by sums; steps of shape (samples, steps, noise)."""
    W = np.cumsum(W_steps, 1)
    before = W - W_steps
    end = W[:, -1]
    H = np.mean(0.5 * (W + before), 1) - end / 2
    iterated = np.einsum("nsi,nsj->nij", before, W_steps)
    return end, H, 0.5 * (iterated - np.swapaxes(iterated, 1, 2))


def conditional_statistics(W, H, A):
    """The second moments of what W and H do not explain, alone and against H; and what the theory says they are."""
    b = A - (H[:, :, None] * W[:, None] - W[:, :, None] * H[:, None])
    b12, b13, (H1, H2, H3) = b[:, 0, 1], b[:, 0, 2], H.T
    found = np.stack([b12**2, 12 * b12**2 * H1**2, 12 * b12**2 * H3**2, 144 * b12 * b13 * H2 * H3, b12 * W[:, 0]])
    variance = 1 / 20 + (H1**2 + H2**2) / 5
    theory = np.stack(
        [variance, 12 * variance * H1**2, 12 * variance * H3**2, 144 / 5 * (H2 * H3) ** 2, np.zeros_like(H1)]
    )
    return found, theory


@pytest.mark.parametrize("source", ["true", "ours"])
def test_area_has_the_moments_of_the_true_one_given_W_and_H(source):
    rng = np.random.default_rng(3)
    W, H, A = true_area(rng.normal(size=(SAMPLES, 100, 3)) / 10)
    if source == "ours":
        A = np.asarray(davie_foster_area(1.0, jnp.asarray(W), jnp.asarray(H), key=KEY))
        assert_trees_all_equal(A, -np.swapaxes(A, 1, 2))
    found, theory = conditional_statistics(W, H, A)
    error = np.std(found - theory, axis=1) / SAMPLES**0.5
    assert np.all(np.abs(np.mean(found - theory, axis=1)) < 4 * error + 0.002)


def test_grid_joins_areas_by_chen():
    path = make_grid(SpaceSpaceLevyArea, (5, 3))
    parts = [path.evaluate(-1 + 0.25 * n, -0.75 + 0.25 * n, use_levy=True) for n in range(3)]
    whole = path.evaluate(-1.0, -0.25, use_levy=True)
    W, A = jnp.zeros((5, 3)), jnp.zeros((5, 3, 3))
    for part in parts:
        outer = W[..., :, None] * part.W[..., None, :]
        W, A = W + part.W, A + part.A + 0.5 * (outer - jnp.swapaxes(outer, 1, 2))
    assert_trees_all_close((whole.W, whole.A), (W, A), rtol=1e-10, atol=1e-13)
    assert isinstance(whole, diffrax.AbstractSpaceTimeLevyArea)
    assert_trees_all_close(path.evaluate(-0.25, -1.0, use_levy=True).A, -whole.A)


def test_grid_area_has_the_variance_of_the_step():
    step = make_grid(SpaceSpaceLevyArea, (SAMPLES, 2)).evaluate(0.5, 0.75, use_levy=True)
    mean = step.H[:, 0] * step.W[:, 1] - step.W[:, 0] * step.H[:, 1]
    assert float(jnp.var(step.A[:, 0, 1])) == pytest.approx(0.25**2 / 4, rel=0.05)
    assert float(jnp.var(step.A[:, 0, 1] - mean)) == pytest.approx(0.25**2 / 12, rel=0.05)


# What is refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"t0": 2.0}, r"t0 < t1 and tol > 0, but got t0=2.0, t1=2.0"),
        ({"tol": 0.0}, r"t0 < t1 and tol > 0, but got .*tol=0.0"),
        ({"tol": 1e-20}, r"tol of at least 2\*\*-61 of t1 - t0, but got .*tol=1e-20"),
        ({"shape": [2]}, r"shape to be a tuple of integers, or a pytree .*but got 2"),
        ({"shape": jax.ShapeDtypeStruct((2,), jnp.int32)}, r"real floating dtypes, but got .*int32"),
        ({"kind": SpaceSpaceLevyArea}, r"levy_area to be one of BrownianIncrement, .*but got 'SpaceSpaceLevyArea'"),
    ],
)
def test_tree_refuses_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_tree(**arguments)


def test_grid_refuses_bad_arguments():
    with pytest.raises(ValueError, match=r"num_steps > 0, below 2\*\*31, but got 0.0, 1.0 and 0"):
        BrownianGrid(0.0, 1.0, 0, (2,), KEY)
    with pytest.raises(ValueError, match=r"t0 and t1 to be known at trace time, but they are traced"):
        jax.jit(lambda t1: BrownianGrid(0.0, t1, 4, (2,), KEY).evaluate(0.0))(1.0)
    with pytest.raises(ValueError, match=r"levy_area to be one of .*SpaceSpaceLevyArea, but got 'int'"):
        BrownianGrid(0.0, 1.0, 4, (2,), KEY, levy_area=int)
    with pytest.raises(ValueError, match=r"leaves of shape \(..., noise\), but got a scalar"):
        make_grid(SpaceSpaceLevyArea, ())
    with pytest.raises(ValueError, match=r"W and H of one shape \(..., noise\), but got the shapes \(3,\) and \(2,\)"):
        davie_foster_area(0.1, jnp.ones(3), jnp.ones(2), key=KEY)


def test_times_that_the_path_does_not_know_are_refused_or_nan():
    with pytest.raises(ValueError, match=r"the times from -1.0 to 2.0, but got 0.0 and 2.5"):
        make_tree(shape=()).evaluate(0.0, 2.5)
    with pytest.raises(ValueError, match=r"12 steps from -1.0 to 2.0, but got 0.0 and 0.1"):
        make_grid(shape=()).evaluate(0.0, 0.1)
    with pytest.raises(ValueError, match=r"12 steps from -1.0 to 2.0, but got 0.0 and 2.25"):
        make_grid(shape=()).evaluate(0.0, 2.25)
    assert np.isnan(jax.jit(lambda t: make_tree(shape=()).evaluate(0.0, t))(2.5))
    assert np.isnan(jax.jit(lambda t: make_grid(shape=()).evaluate(0.0, t))(0.1))


def test_grid_takes_times_in_single_precision():
    path = BrownianGrid(0.0, 1.7, 1000, (2,), KEY)
    ts = np.linspace(0, 1.7, 1001)
    assert_trees_all_equal(
        over(path, ts[:-1].astype(np.float32), ts[1:].astype(np.float32)).W, over(path, ts[:-1], ts[1:]).W
    )
