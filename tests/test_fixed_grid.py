"""The scan over a grid that is known: what it computes before it, what it keeps, and where it has barriers."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import nde
from nde.loop.times_alone import ahead_of_scan
from nde.steppers.fusion_barrier import count_operations, opaque_where_large

STEPS = 8


def heun_by_hand(y, p):
    """Heun's method for y' = p sin(y + t), in steps of 1/8."""
    h = 1 / STEPS

    def step(y, t):
        k1 = p * jnp.sin(y + t)
        k2 = p * jnp.sin(y + h * k1 + t + h)
        return y + h / 2 * (k1 + k2), None

    return jax.lax.scan(step, y, jnp.arange(STEPS, dtype=y.dtype) * h)[0]


def heun(y, p, **options):
    term, times = nde.ODETerm(lambda t, y, p: p * jnp.sin(y + t)), np.asarray([0.0, 1.0, 1 / STEPS], y.dtype)
    return nde.diffeqsolve(term, nde.Heun(), *times, y, p, **options).ys[-1]


def euler_by_hand(path, y, p):
    def step(y, t):
        dw = path.evaluate(t, t + 1 / STEPS)
        return y - p * y / STEPS + p * jnp.cos(y) * dw, None

    return jax.lax.scan(step, y, jnp.arange(STEPS) / STEPS)[0]


def euler(path, y, p, steps=STEPS, **options):
    noise = nde.terms.diffusion_term(lambda t, y, p: p * jnp.cos(y), path, diagonal=True)
    terms = diffrax.MultiTerm(nde.ODETerm(lambda t, y, p: -p * y), noise)
    return nde.diffeqsolve(terms, nde.Euler(), 0.0, 1.0, 1 / steps, y, p, **options).ys[-1]


def assert_close(found, expected, tolerance=1e-12):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), found, expected)


def scans(function, *args):
    """The bodies of the scans of a function, as text."""
    found = []

    def look(jaxpr):
        for eqn in jaxpr.eqns:
            inner = list(jax.extend.core.jaxprs_in_params(eqn.params))
            if eqn.primitive.name == "scan":
                found.extend(str(each) for each in inner)
            for each in inner:
                look(each)

    look(jax.make_jaxpr(function)(*args).jaxpr)
    return found


@pytest.mark.parametrize(("batch", "dtype"), [(1, jnp.float64), (400, jnp.float32)])  # without barriers and with them
def test_values_and_gradients_are_those_of_a_scan_by_hand_in_either_order_of_grad_and_vmap(batch, dtype):
    ys, p = jnp.linspace(0.1, 2.0, batch, dtype=dtype), jnp.asarray(1.3, dtype)

    def all_of(solve):
        def loss(ys, p):
            return jnp.mean(jax.vmap(solve, (0, None))(ys, p) ** 2)

        each = jax.vmap(jax.value_and_grad(solve, (0, 1)), (0, None))
        return jax.jit(lambda ys, p: (jax.value_and_grad(loss, (0, 1))(ys, p), each(ys, p)))(ys, p)

    assert_close(all_of(heun), all_of(heun_by_hand), 1e-5 if dtype == jnp.float32 else 1e-12)


def test_higher_and_forward_derivatives_are_those_of_a_scan_by_hand():
    y, p = jnp.asarray(0.7), jnp.asarray(1.3)

    def all_of(solve):
        twice = jax.grad(lambda y, p: jax.grad(solve, 1)(y, p) ** 2, (0, 1))
        return jax.jit(lambda: (twice(y, p), jax.jvp(solve, (y, p), (p, y)), jax.hessian(solve)(y, p)))()

    assert_close(all_of(heun), all_of(heun_by_hand))


@pytest.mark.parametrize(
    "options", [{}, {"throw": False}, {"adjoint": nde.CheckpointAdjoint(checkpoints=2)}], ids=["", "guarded", "thinned"]
)
def test_noise_of_a_small_path_is_drawn_before_the_scan_and_is_the_same(options):
    path = nde.BrownianGrid(0.0, 1.0, STEPS, (3,), jr.key(0))
    y, p = jnp.asarray([0.1, 0.2, 0.3]), jnp.asarray(0.7)

    def loss(solve, y, p):
        return jnp.sum(jax.vmap(lambda y: solve(path, y, p))(jnp.stack([y, 2 * y])) ** 2)

    def ours(path, y, p):
        return euler(path, y, p, **options)

    assert not any("erf_inv" in body for body in scans(ours, path, y, p))
    found, expected = (
        jax.jit(jax.value_and_grad(lambda y, p, solve=solve: loss(solve, y, p), (0, 1)))(y, p)
        for solve in (ours, euler_by_hand)
    )
    assert_close(found, expected)


def test_noise_of_a_large_path_is_drawn_step_by_step():
    path = nde.BrownianGrid(0.0, 1.0, STEPS, (1000,), jr.key(0))
    assert any("erf_inv" in body for body in scans(lambda y: euler(path, y, 1.0), jnp.zeros(1000)))


def test_a_failed_example_beside_another_leaves_no_nan_in_the_gradient_of_the_noise_drawn_before():
    path = nde.BrownianGrid(0.0, 1.0, STEPS, (), jr.key(0))

    def loss(p, y):
        noise = nde.terms.diffusion_term(lambda t, y, args: p, path, diagonal=True)
        terms = diffrax.MultiTerm(nde.ODETerm(lambda t, y, args: y**9), noise)
        solution = nde.diffeqsolve(terms, nde.Euler(), 0.0, 1.0, 1 / STEPS, y, throw=False)
        return jnp.where(solution.result == nde.RESULTS.successful, solution.ys[-1], 0.0)

    both = jax.jit(jax.grad(lambda p: jnp.sum(jax.vmap(loss, (None, 0))(p, jnp.asarray([0.1, 1e30])))))(0.1)
    np.testing.assert_allclose(both, jax.jit(jax.grad(loss))(0.1, 0.1), rtol=1e-12)


def test_a_control_is_differentiated_before_the_scan_by_its_coefficients():
    ts = jnp.linspace(0.0, 1.0, STEPS + 1)

    @jax.jit
    def solve(xs):
        path = diffrax.CubicInterpolation(ts, diffrax.backward_hermite_coefficients(ts, xs))
        term = diffrax.ControlTerm(lambda t, y, args: jnp.stack([jnp.cos(y), y], axis=-1), path).to_ode()
        return jnp.sum(nde.diffeqsolve(term, nde.Midpoint(), 0.0, 1.0, 1 / STEPS, jnp.ones(2)).ys ** 2)

    xs = jnp.stack([ts, jnp.sin(3 * ts)], axis=-1)
    direction = jr.normal(jr.key(1), xs.shape)
    slope = (solve(xs + 1e-5 * direction) - solve(xs - 1e-5 * direction)) / 2e-5
    np.testing.assert_allclose(jnp.vdot(jax.jit(jax.grad(solve))(xs), direction), slope, rtol=1e-7)


def test_what_has_effects_or_hangs_on_the_state_or_on_constants_alone_stays_in_the_scan():
    seen = []

    def costly(x):
        return jnp.sum(jnp.sin(x * jnp.arange(40.0)))

    def body(y, t):
        jax.debug.callback(lambda t: seen.append(float(t)), t)
        early, constant, late = costly(t), costly(jnp.asarray(p)), costly(y + t)
        return y + early + constant * late, (early, y)

    p, ts = 0.3, jnp.linspace(0.0, 1.0, 5)
    rest, xs = ahead_of_scan(body, jnp.asarray(0.2), ts)
    assert [x.shape for x in jax.tree.leaves(xs)] == [(5,), (5,)]  # the times, and what the first makes of them
    found = jax.lax.scan(rest, jnp.asarray(0.2), xs)
    jax.effects_barrier()
    assert sorted(seen) == ts.tolist()
    expected = jax.lax.scan(body, jnp.asarray(0.2), ts)
    assert_close(found, expected)


def test_a_long_solve_needs_memory_for_the_root_of_its_steps():
    def temporary(steps):
        def loss(y, p):
            term = nde.ODETerm(lambda t, y, p: p * jnp.sin(y))
            return nde.diffeqsolve(term, nde.Heun(), 0.0, 1.0, 1 / steps, y, p, max_steps=steps).ys[-1]

        return jax.jit(jax.grad(loss)).lower(0.1, 1.0).compile().memory_analysis().temp_size_in_bytes

    assert temporary(100_000) < 200_000  # a state a step would take 800 000


def test_barriers_stand_where_a_stage_is_large_over_the_batch():
    def has_barrier(y, batched, differentiated):
        def function(y, true):
            def use(y):
                return jnp.where(opaque_where_large(true, y, 100.0), y, 0.0)

            return jnp.sum(jax.vmap(use)(y) if batched else use(y))

        total = jax.grad(function) if differentiated else function
        return "dense<true>" not in jax.jit(total).lower(y, True).as_text()

    y = jnp.ones(20)
    assert not has_barrier(y, False, True)
    assert has_barrier(y, True, True)
    assert not has_barrier(y, True, False)
    assert has_barrier(jnp.ones(100), True, False)


def test_operations_are_counted_and_products_need_no_barrier():
    y, matrix = jnp.ones(3), jnp.ones((3, 3))
    assert count_operations(lambda y: 2 * y, y) == 3
    assert count_operations(lambda y: eqx.filter_jit(jnp.sin)(y) + y, y) == 93
    assert count_operations(lambda y: jnp.stack([y[1], y[0]]), y) == np.inf
    assert count_operations(lambda y: matrix @ y, y) is None


def test_what_does_not_depend_on_the_state_does_not_count_against_fusion():
    y, p = jnp.ones(3), jnp.array([1.1, 2.0])
    by_numbers = count_operations(lambda y: 1.1 * y * (1 - y / 2.0), y)
    assert count_operations(lambda y: p[0] * y * (1 - y / p[1]), y) == by_numbers < 100
    assert count_operations(lambda y: p[0] * y[::-1], y) == np.inf
