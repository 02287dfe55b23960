"""Itô and Stratonovich, and what an SDE is refused for."""

import diffrax
import jax
import jax.numpy as jnp
import jax.random as jr
import lineax as lx
import pytest
from chex import assert_trees_all_close
from diffrax import ControlTerm, MultiTerm, ODETerm

import nde
from nde.fields import NoiseKind

Y = jnp.array([0.5, -0.7, 1.2])
PATH = nde.BrownianGrid(0.0, 1.0, 8, (3,), jr.key(0))


def sde(g, path=PATH, f=lambda t, y, a: 0.3 * y):
    return MultiTerm(ODETerm(f), ControlTerm(lambda t, y, a: lx.DiagonalLinearOperator(g(y)), path))


def drift_of(terms, y=Y):
    return terms.terms[0].vf(0.1, y, None)


def test_geometric_brownian_motion_in_both_readings():
    ito = sde(lambda y: 0.8 * y)
    stratonovich = nde.to_stratonovich(ito)
    assert_trees_all_close(drift_of(stratonovich), (0.3 - 0.8**2 / 2) * Y, rtol=1e-13)
    assert_trees_all_close(drift_of(nde.to_ito(ito)), (0.3 + 0.8**2 / 2) * Y, rtol=1e-13)
    assert nde.to_ito(stratonovich).terms[0].vector_field is ito.terms[0].vector_field
    again = jax.tree.map(lambda x: x, stratonovich)  # the two no longer know that they are the same
    assert_trees_all_close(drift_of(nde.to_ito(again)), 0.3 * Y, rtol=1e-13)


def test_noise_that_mixes_states_has_the_diagonal_of_its_jacobian():
    weights = jr.normal(jr.key(2), (3, 3))

    def g(y):
        return jnp.tanh(weights @ y)

    expected = 0.3 * Y - 0.5 * g(Y) * jnp.diagonal(jax.jacobian(g)(Y))
    assert_trees_all_close(drift_of(nde.to_stratonovich(sde(g))), expected, rtol=1e-14)


def test_a_scalar_and_a_tree():
    one = MultiTerm(ODETerm(lambda t, y, a: y), ControlTerm(lambda t, y, a: jnp.sin(y), PATH))
    y = jnp.array(0.4)
    assert_trees_all_close(drift_of(nde.to_stratonovich(one), y), y - 0.5 * jnp.sin(y) * jnp.cos(y))
    y = {"a": jnp.array([0.1, 0.2]), "b": jnp.array(0.3)}
    tree = sde(lambda y: jax.tree.map(jnp.exp, y), f=lambda t, y, a: y)
    expected = jax.tree.map(lambda y: y + 0.5 * jnp.exp(2 * y), y)
    assert_trees_all_close(drift_of(nde.to_ito(tree), y), expected, rtol=1e-15)


class Declared:
    """A diffusion that acts state by state, in a way that its operations do not show."""

    noise = NoiseKind.DIAGONAL

    def __call__(self, t, y, args):
        return lx.DiagonalLinearOperator(jax.vmap(lambda x: jnp.sum(jnp.sin(jnp.stack([x, 2 * x]))))(y))


def test_one_product_where_states_are_known_not_to_mix():
    jaxpr = jax.make_jaxpr(lambda y: drift_of(nde.to_ito(sde(jnp.sin)), y))(Y)
    assert all(v.aval.ndim <= 1 for eqn in jaxpr.eqns for v in eqn.outvars)  # no matrix of tangents
    declared = MultiTerm(ODETerm(lambda t, y, a: 0 * y), ControlTerm(Declared(), PATH))
    g, dg = jnp.sin(Y) + jnp.sin(2 * Y), jnp.cos(Y) + 2 * jnp.cos(2 * Y)
    assert_trees_all_close(drift_of(nde.to_ito(declared)), 0.5 * g * dg, rtol=1e-14)


ACCEPTED = {
    "softplus": jax.nn.softplus,
    "silu": jax.nn.silu,
    "tanh": jnp.tanh,
    "gelu": jax.nn.gelu,
    "exact gelu": lambda y: jax.nn.gelu(y, approximate=False),
    "sigmoid": jax.nn.sigmoid,
    "sin": jnp.sin,
    "exp": jnp.exp,
    "sqrt": lambda y: jnp.sqrt(1 + y**2),
    "softmax": jax.nn.softmax,
    "where on time": lambda y: jnp.where(jnp.arange(3) > 1, y, 2 * y),
    "where on nan": lambda y: jnp.where(jnp.isnan(y), 0.0, y),
    "stopped": lambda y: y * jax.lax.stop_gradient(jnp.abs(y)),
    "scan": lambda y: jax.lax.scan(lambda c, i: (jnp.tanh(c), jnp.where(i > 1, c, 0.0)), y, jnp.arange(3))[0],
}
REFUSED = {
    "relu": (jax.nn.relu, "relu: max"),
    "leaky_relu": (jax.nn.leaky_relu, "leaky_relu: select by ge"),
    "abs": (jnp.abs, "abs"),
    "max": (lambda y: jnp.maximum(y, 0.1), "max"),
    "min": (lambda y: jnp.minimum(y, 0.1), "min"),
    "largest": (lambda y: y * jnp.max(y), "reduce_max"),
    "select": (lambda y: jnp.where(y > 0, y, 2 * y), "select by gt"),
    "mask": (lambda y: y * (y > 0).astype(y.dtype), "gt"),
    "in a scan": (lambda y: jax.lax.scan(lambda c, _: (jnp.abs(c), None), y, None, length=2)[0], "abs"),
    "cond": (lambda y: jax.lax.cond(y[0] > 0, jnp.sin, jnp.cos, y), "cond by gt"),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_smooth_diffusion_is_converted(name):
    g = ACCEPTED[name]
    expected = 0.3 * Y - 0.5 * g(Y) * jnp.diagonal(jax.jacfwd(g)(Y))
    assert_trees_all_close(drift_of(nde.to_stratonovich(sde(g))), expected, rtol=1e-12)


@pytest.mark.parametrize("name", REFUSED)
def test_a_diffusion_with_a_kink_is_refused_by_name(name):
    g, operation = REFUSED[name]
    with pytest.raises(ValueError, match=f"depends on y by {operation}"):
        drift_of(nde.to_stratonovich(sde(g)))


def test_noise_that_is_not_diagonal_is_refused():
    matrix = MultiTerm(ODETerm(lambda t, y, a: y), ControlTerm(lambda t, y, a: jnp.diag(y), PATH))
    with pytest.raises(ValueError, match=r"to_ito needs diagonal noise.*returns \(3, 3\)"):
        drift_of(nde.to_ito(matrix))
    with pytest.raises(ValueError, match=r"needs MultiTerm\(ODETerm\(drift\).*but got ODETerm"):
        nde.to_ito(ODETerm(lambda t, y, a: y))
    with pytest.raises(ValueError, match=r"but got MultiTerm\(ControlTerm, ODETerm\)"):
        nde.to_ito(MultiTerm(matrix.terms[1], matrix.terms[0]))
    with pytest.raises(ValueError, match="right for the Stratonovich reading already"):
        nde.to_stratonovich(nde.to_stratonovich(sde(jnp.sin)))


def test_euler_and_heun_on_one_path_meet():
    def apart(steps):
        def one(key):
            path = nde.BrownianGrid(0.0, 1.0, steps, (3,), key)
            ito = sde(lambda y: 0.5 * jnp.sin(y) + 0.3, path)
            options = dict(t0=0.0, t1=1.0, dt0=1 / steps, y0=Y)
            a = nde.diffeqsolve(ito, nde.Euler(), **options).ys[0]
            b = nde.diffeqsolve(nde.to_stratonovich(ito), nde.Heun(), **options).ys[0]
            return jnp.mean((a - b) ** 2)

        return jnp.sqrt(jnp.mean(jax.jit(jax.vmap(one))(jr.split(jr.key(1), 100))))

    coarse, fine = apart(16), apart(256)
    assert fine < coarse * 16**-0.4  # Euler's order is a half
    assert fine < 0.02


def solve(terms, solver, dt0=0.125, t0=0.0, t1=1.0, y0=Y, **options):
    return nde.diffeqsolve(terms, solver, t0, t1, dt0, y0, **options)


def matrix_noise(path=PATH, g=lambda t, y, a: jnp.outer(y, jnp.sin(y))):
    return MultiTerm(ODETerm(lambda t, y, a: -y), ControlTerm(g, path))


AREA = nde.BrownianGrid(0.0, 1.0, 8, (3,), jr.key(0), levy_area=diffrax.SpaceTimeLevyArea)
PID = nde.PIDController(rtol=1e-2, atol=1e-2)
WRONG = {
    "general noise": (matrix_noise(), nde.ItoMilstein(), {}, "general noise, but ItoMilstein is made for additive, d"),
    "not additive": (sde(jnp.sin, AREA), nde.ShARK(), {}, "diagonal noise, but ShARK is made for additive noise"),
    "no area": (matrix_noise(), nde.SPaRK(), {}, "SPaRK needs a path with SpaceTimeLevyArea, but BrownianGrid makes B"),
    "reading": (nde.to_stratonovich(sde(jnp.sin)), nde.Euler(), {}, "Stratonovich reading, but Euler converges to "),
    "end": (sde(jnp.sin), nde.Heun(), dict(t1=2.0), r"known from t0=0.0 to t1=1.0, but the solve goes from 0.0 to 2.0"),
    "start": (sde(jnp.sin), nde.Heun(), dict(t0=-1.0), r"known from t0=0.0 to t1=1.0, but the solve goes from -1.0"),
    "steps": (sde(jnp.sin), nde.Heun(), dict(dt0=0.1), "BrownianGrid has num_steps=8 .* but Heun takes 10 steps"),
    "half steps": (sde(jnp.sin), nde.HalfSolver(nde.Heun()), {}, "num_steps=8 .* but Heun takes 16 steps"),
    "grid": (
        sde(jnp.sin), nde.Heun(), dict(dt0=None, stepsize_controller=nde.StepTo(jnp.array([0.0, 0.3, 1.0]))),
        "takes 2 steps",
    ),
    "adaptive": (
        sde(jnp.sin), nde.Heun(), dict(stepsize_controller=PID), "BrownianGrid is known at its 8 .* but PIDController"
    ),
    "operator's shape": (sde(lambda y: jnp.ones(2)), nde.Heun(), {}, r"operator from \[\(2,\)\] to \[\(2,\)\], but "),
    "array's shape": (
        matrix_noise(g=lambda t, y, a: jnp.ones((3, 2))), nde.Heun(), {}, r"shape \[\(3, 2\)\], but the state has"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_refused(name):
    terms, solver, options, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        solve(terms, solver, **options)


def test_noise_that_is_seen_tried_or_declared_to_commute_is_solved():
    class Commutes:
        noise = NoiseKind.COMMUTATIVE

        def __call__(self, t, y, args):
            return jnp.diag(jnp.sin(y))

    path = nde.BrownianGrid(0.0, 1.0, 8, (3,), jr.key(0))
    declared = solve(matrix_noise(path, Commutes()), nde.StratonovichMilstein()).ys
    seen = solve(sde(jnp.sin, path, lambda t, y, a: -y), nde.StratonovichMilstein()).ys
    tried = solve(matrix_noise(path, lambda t, y, a: jnp.diag(jnp.sin(y))), nde.StratonovichMilstein()).ys
    assert_trees_all_close(declared, seen, rtol=1e-12)
    assert_trees_all_close(declared, tried, rtol=1e-12)
    term = nde.terms.diffusion_term(lambda t, y, args: jnp.sin(y), path, diagonal=True)
    returned = solve(nde.MultiTerm(nde.ODETerm(lambda t, y, a: -y), term), nde.StratonovichMilstein()).ys
    assert_trees_all_close(declared, returned, rtol=1e-12)


def test_a_diagonal_of_mixed_states_is_refused_by_its_own_name():
    def mixing(t, y, args):
        return jnp.sin(jnp.flip(y))

    term = nde.terms.diffusion_term(mixing, nde.BrownianGrid(0.0, 1.0, 8, (3,), jr.key(0)), diagonal=True)
    with pytest.raises(ValueError, match="mixing makes general noise, but ItoMilstein is made for"):
        solve(nde.MultiTerm(nde.ODETerm(lambda t, y, a: -y), term), nde.ItoMilstein())


def test_a_diffusion_may_be_any_operator():
    like = jax.ShapeDtypeStruct((3,), Y.dtype)

    def operator(t, y, args):
        return lx.FunctionLinearOperator(lambda dw: jnp.sin(y) * dw, like)

    path = nde.BrownianGrid(0.0, 1.0, 8, (3,), jr.key(0))
    found = solve(matrix_noise(path, operator), nde.Heun()).ys
    same = solve(sde(jnp.sin, path, lambda t, y, a: -y), nde.Heun()).ys
    assert_trees_all_close(found, same, rtol=1e-12)


@pytest.mark.parametrize("key", [0, None, jnp.zeros(2), jr.split(jr.key(0), 2)], ids=str)
def test_a_key_that_is_no_key(key):
    with pytest.raises(ValueError, match="A Brownian path needs one JAX random key"):
        nde.BrownianGrid(0.0, 1.0, 8, (3,), key)
    with pytest.raises(ValueError, match="A Brownian path needs one JAX random key"):
        nde.VirtualBrownianTree(0.0, 1.0, 0.1, (3,), key)
