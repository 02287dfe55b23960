"""Vector fields: what each one's equation promises, and what each refuses."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
from chex import assert_trees_all_close, assert_trees_all_equal
from scipy.linalg import expm

from nde.fields import (
    AugmentedField,
    CDEField,
    check_field,
    check_noise,
    ConcatSquashField,
    DiagonalDiffusion,
    diffusion_term,
    GatedField,
    GeneralDiffusion,
    HamiltonianField,
    Hybrid,
    KnownField,
    LinearCDEField,
    LinearMLPField,
    MLPField,
    noise_kind,
    NoiseKind,
    Parameter,
)

KEY = jax.random.key(0)
Y = jnp.array([0.3, -0.7])
PAIR = (jnp.array([0.3, -0.7]), jnp.array([0.2, 0.5]))


def lotka_volterra(t, y, p):
    hare, lynx = y
    return jnp.stack([p.birth * hare - p.loss * hare * lynx, p.gain * hare * lynx - p.death * lynx])


def known(**options):
    parameters = {
        "birth": Parameter(0.5, lower=0.0),
        "loss": Parameter(0.02, lower=0.0, upper=1.0),
        "gain": Parameter(0.03, upper=4.0),
        "death": Parameter(0.8),
    }
    return KnownField(lotka_volterra, parameters, **options)


def hybrid(**options):
    options = {"states": ["lynx"], "inputs": ["hare", "lynx"]} | options
    return Hybrid(known(states=("hare", "lynx")), MLPField(2, 5, 1, out_size=1, key=KEY), **options)


def wave(t):
    return jnp.stack([jnp.sin(t), jnp.cos(t), t])


# each with a state, and with the shape of what it returns where that is not the state's
DRIFTS = {
    "mlp": (MLPField(2, 5, 1, key=KEY), Y),
    "mlp in time": (MLPField(2, 5, 1, time=True, final_activation=jnp.tanh, scale=0.1, key=KEY), Y),
    "linear mlp": (LinearMLPField(2, 5, 1, key=KEY), Y),
    "gated": (GatedField(2, key=KEY), Y),
    "concat squash": (ConcatSquashField(2, 5, 2, key=KEY), Y),
    "hamiltonian": (HamiltonianField(2, 5, 1, key=KEY), PAIR),
    "port-hamiltonian": (HamiltonianField(2, 5, 1, damping=True, forcing=wave, key=KEY), PAIR),
    "augmented": (AugmentedField(MLPField(5, 5, 1, key=KEY), 3), (Y, jnp.ones(3))),
    "known": (known(), Y),
    "hybrid": (eqx.tree_at(lambda h: h.scale, hybrid(), jnp.array(0.5)), Y),
}
MATRICES = {
    "general diffusion": (GeneralDiffusion(2, 3, 5, 1, largest=2.0, key=KEY), (2, 3)),
    "general diffusion in time": (GeneralDiffusion(2, 3, 5, 1, largest=2.0, time=True, key=KEY), (2, 3)),
    "diagonal diffusion": (DiagonalDiffusion(2), (2,)),
    "cde": (CDEField(2, 4, 5, 1, key=KEY), (2, 4)),
    "linear cde": (LinearCDEField(2, 4, key=KEY), (2, 4)),
}
ALL = {name: (field, y) for name, (field, y) in DRIFTS.items()} | {name: (f, Y) for name, (f, _) in MATRICES.items()}

drifts = pytest.mark.parametrize(("field", "y"), DRIFTS.values(), ids=DRIFTS)
matrices = pytest.mark.parametrize(("field", "shape"), MATRICES.values(), ids=MATRICES)
fields = pytest.mark.parametrize(("field", "y"), ALL.values(), ids=ALL)


def single(tree):
    return jax.tree.map(lambda x: x.astype(jnp.float32) if eqx.is_inexact_array(x) else x, tree)


@eqx.filter_jit
def call(field, *inputs):
    return field(*inputs)


def rk4(rate, y0, end, steps):
    """The solution of dy/dt = rate(t, y) at `end`."""
    h = end / steps

    def step(y, t):
        k1 = rate(t, y)
        k2 = rate(t + h / 2, y + h / 2 * k1)
        k3 = rate(t + h / 2, y + h / 2 * k2)
        k4 = rate(t + h, y + h * k3)
        return y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), None

    return jax.lax.scan(step, y0, h * jnp.arange(float(steps)))[0]


def flat(tree):
    return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)])


# All fields


@drifts
def test_drifts_return_a_rate_of_their_state(field, y):
    check_field(field, 0.5, y)
    check_field(field, jnp.asarray(0.5), y)


@matrices
def test_matrices_have_one_column_a_channel(field, shape):
    assert field(0.5, Y).shape == shape


@fields
def test_fields_batch_and_every_array_has_a_gradient(field, y):
    @eqx.filter_jit
    def run(field, y):
        double = jax.tree.map(lambda leaf: 2 * leaf, y)
        batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), y, double)
        together = jax.vmap(lambda y: flat(field(0.5, y, None)))(batch)
        rows, gradient = eqx.filter_value_and_grad(lambda field: jnp.sum(jnp.sin(flat(field(0.5, y)))))(field)
        return (
            together,
            rows,
            flat(field(0.5, double)),
            jax.tree.map(jnp.linalg.norm, jax.tree.map(jnp.ravel, gradient)),
        )

    together, sine, double, gradient = run(field, y)
    np.testing.assert_allclose(np.sum(np.sin(together[0])), sine, rtol=1e-12)
    np.testing.assert_allclose(together[1], double, rtol=1e-12)
    norms = np.array(jax.tree.leaves(gradient))
    assert np.isfinite(norms).all()
    # a linear MLP field's network sits behind a last layer that starts at zero; everything else moves the output
    asleep = 2 if isinstance(field, LinearMLPField) else 0
    assert np.sum(norms == 0) == asleep
    assert len(norms) == len(jax.tree.leaves(eqx.filter(field, eqx.is_inexact_array)))


@fields
def test_single_precision_stays_single(field, y):
    out = eqx.filter_eval_shape(single(field), jnp.asarray(0.5), single(y))
    assert {leaf.dtype for leaf in jax.tree.leaves(out)} == {jnp.dtype("float32")}


@fields
def test_fields_survive_a_file(field, y, tmp_path):
    eqx.tree_serialise_leaves(tmp_path / "field", field)
    blank = jax.tree.map(lambda x: np.full_like(x, np.nan) if eqx.is_array(x) else x, field)
    assert_trees_all_equal(
        *(eqx.filter(f, eqx.is_array) for f in (eqx.tree_deserialise_leaves(tmp_path / "field", blank), field))
    )


# Networks


def test_mlp_scale_multiplies_and_final_activation_bounds():
    loose = MLPField(2, 5, 1, key=KEY)
    bounded = MLPField(2, 5, 1, final_activation=jnp.tanh, scale=0.1, key=KEY)
    for y in (Y, -1e3 * Y):
        np.testing.assert_allclose(call(bounded, 0.0, y), 0.1 * np.tanh(call(loose, 0.0, y)), rtol=1e-12)


def test_mlp_sees_the_time_only_if_asked():
    blind, timed = MLPField(2, 5, 1, key=KEY), MLPField(2, 5, 1, time=True, key=KEY)
    assert_trees_all_equal(call(blind, 0.0, Y), call(blind, 9.0, Y))
    assert_trees_all_close(call(timed, 0.7, Y), timed.network(jnp.array([0.3, -0.7, 0.7])), rtol=1e-12)


def test_mlp_without_hidden_layers_is_linear():
    field = MLPField(2, 5, 0, key=KEY)
    weight, bias = map(np.asarray, (field.network.layers[0].weight, field.network.layers[0].bias))
    np.testing.assert_allclose(call(field, 0.0, Y), weight @ Y + bias, rtol=1e-12)


def test_gated_field_points_into_its_cube():
    field = jax.tree.map(lambda x: 50 * np.asarray(x), GatedField(3, key=KEY))
    corners = np.stack(np.meshgrid(*[[-1.0, 1.0]] * 3), -1).reshape(-1, 3)
    rates = np.asarray(call(jax.vmap(lambda y: field(0.0, y)), corners))
    assert np.all(rates * corners <= 0)
    assert 0.5 < np.max(np.abs(rates)) <= 2


def test_gated_field_is_a_gru_cells_increment():
    cell, field = eqx.filter_eval_shape(eqx.nn.GRUCell, 1, 3, key=KEY), GatedField(3, key=KEY)
    layers = (field.reset, field.update)
    # equinox's cell: h' = n + z (h - n), n = tanh(W x + r (U h + b)); with U the identity and b zero it is ours
    weights = np.concatenate([*(layer.weight for layer in layers), np.eye(3)])
    biases = np.concatenate([*(layer.bias for layer in layers), np.zeros(3)])
    cell = eqx.tree_at(
        lambda c: (c.weight_ih, c.weight_hh, c.bias, c.bias_n), cell, (np.zeros((9, 1)), weights, biases, np.zeros(3))
    )
    field = eqx.tree_at(lambda f: (f.target.weight, f.target.bias), field, (np.eye(3), np.zeros(3)))
    y = np.array([0.4, -0.9, 1.7])
    np.testing.assert_allclose(call(field, 0.0, y), np.asarray(call(cell, np.zeros(1), y)) - y, rtol=1e-12)


def test_concat_squash_without_hidden_layers_is_its_formula():
    field = ConcatSquashField(2, 5, 0, key=KEY)
    (layer,) = jax.tree.map(np.asarray, field.layers)
    t = 0.7
    gate = 1 / (1 + np.exp(-(layer.gate.weight[:, 0] * t + layer.gate.bias)))
    expected = (layer.linear.weight @ Y + layer.linear.bias) * gate + layer.shift.weight[:, 0] * t
    np.testing.assert_allclose(call(field, t, Y), expected, rtol=1e-12)


def test_concat_squash_has_its_activation_between_layers():
    field = ConcatSquashField(2, 5, 1, activation=jnp.tanh, key=KEY)
    t = jnp.asarray(0.7)
    first, last = field.layers
    by_hand = call(lambda y: last(t, jnp.tanh(first(t, y))), Y)
    assert_trees_all_close(call(field, t, Y), by_hand, rtol=1e-12)


# Matrices


@pytest.mark.parametrize(
    ("field", "bound"), [(CDEField(2, 4, 5, 1, key=KEY), 1.0), (GeneralDiffusion(2, 3, 5, 1, largest=2.0, key=KEY), 2)]
)
def test_tanh_bounds_the_matrix(field, bound):
    entries = np.abs(call(jax.vmap(lambda y: field(0.0, y)), np.stack([-1e5 * Y, 1e5 * Y])))
    assert bound * (1 - 1e-9) <= np.max(entries) <= bound


def test_diagonal_diffusion_starts_constant():
    np.testing.assert_allclose(call(DiagonalDiffusion(2, scale=0.4), 0.0, 100 * Y), 0.4, rtol=1e-12)


def test_linear_cde_is_a_matrix_exponential_along_a_straight_path():
    field = LinearCDEField(3, 2, scale=0.7, key=KEY)
    field = eqx.tree_at(lambda f: f.bias, field, np.arange(6.0).reshape(3, 2) / 5)
    dx, y0 = np.array([0.8, -0.5]), np.array([0.3, 1.0, -0.2])
    found = call(lambda y: rk4(lambda t, y: field(t, y) @ dx, y, 1.0, 200), y0)
    generator = np.zeros((4, 4))
    generator[:3, :3] = np.einsum("kij,k->ij", field.matrices, dx)
    generator[:3, 3] = field.bias @ dx
    np.testing.assert_allclose(found, (expm(generator) @ np.append(y0, 1.0))[:3], rtol=1e-9)


def test_linear_cde_starts_with_matrices_that_keep_the_size():
    matrices = np.asarray(LinearCDEField(50, 4, scale=0.5, key=KEY).matrices)
    y = np.random.default_rng(0).standard_normal(50)
    np.testing.assert_allclose(np.linalg.norm(matrices @ y, axis=1) / np.linalg.norm(y), 0.5, rtol=0.25)


# Noise


def commutative(t, y, args):
    return jnp.ones((2, 3))


def declared(kind):
    def diffusion(t, y, args):
        return jnp.ones((2, 3))

    diffusion.noise = kind
    return diffusion


ANY = [
    diffrax.Euler(), diffrax.EulerHeun(), diffrax.Heun(), diffrax.Midpoint(), diffrax.Ralston(),
    diffrax.ReversibleHeun(), diffrax.SPaRK(), diffrax.GeneralShARK(), diffrax.SlowRK(),
    diffrax.HalfSolver(diffrax.Euler()),
]  # fmt: skip
MILSTEIN = [diffrax.ItoMilstein(), diffrax.StratonovichMilstein(), diffrax.HalfSolver(diffrax.ItoMilstein())]
ADDITIVE = [diffrax.SEA(), diffrax.ShARK(), diffrax.SRA1(), diffrax.HalfSolver(diffrax.SEA())]


def accepts(kind, solver):
    try:
        check_noise(declared(kind), solver)
    except ValueError:
        return False
    return True


def test_solvers_take_the_noise_that_they_are_made_for():
    for kind in NoiseKind:
        assert all(accepts(kind, solver) for solver in ANY)
        assert [accepts(kind, solver) for solver in MILSTEIN] == [kind != "general"] * 3
        assert [accepts(kind, solver) for solver in ADDITIVE] == [kind == "additive"] * 4


def test_diffusions_declare_their_noise():
    assert noise_kind(DiagonalDiffusion(2)) is NoiseKind.DIAGONAL
    assert noise_kind(GeneralDiffusion(2, 3, 5, 1, largest=1.0, key=KEY)) is NoiseKind.GENERAL
    assert noise_kind(GeneralDiffusion(2, 1, 5, 1, largest=1.0, key=KEY)) is NoiseKind.SCALAR
    assert noise_kind(declared("additive")) is NoiseKind.ADDITIVE
    assert noise_kind(commutative) is NoiseKind.GENERAL


def test_diagonal_diffusion_is_commutative():
    # the brackets of its columns vanish: sigma_i depends on y_i alone
    diffusion = eqx.tree_at(lambda d: d.slope, DiagonalDiffusion(2), np.array([0.7, -1.3]))
    jacobian = call(jax.jacobian(lambda y: diffusion(0.0, y)), Y)
    np.testing.assert_array_equal(np.asarray(jacobian) != 0, np.eye(2, dtype=bool))


def test_solver_of_the_wrong_kind_is_refused():
    general = GeneralDiffusion(2, 3, 5, 1, largest=1.0, key=KEY)
    with pytest.raises(
        ValueError,
        match=r"GeneralDiffusion makes general noise, but ItoMilstein is made for additive, diagonal, scalar, commut",
    ):
        check_noise(general, diffrax.ItoMilstein())
    with pytest.raises(ValueError, match=r"DiagonalDiffusion makes diagonal noise, but ShARK is made for additive noi"):
        check_noise(DiagonalDiffusion(2), diffrax.ShARK())
    with pytest.raises(ValueError, match=r"commutative makes general noise, but SEA is made for additive noise"):
        check_noise(commutative, diffrax.HalfSolver(diffrax.SEA()))
    with pytest.raises(ValueError, match=r"diagonal noise, but Tsit5 declares neither the Itô nor the Stratonovich"):
        check_noise(DiagonalDiffusion(2), diffrax.Tsit5())
    with pytest.raises(ValueError, match=r"diagonal noise, but ALIGN solves diffrax's underdamped Langevin terms only"):
        check_noise(DiagonalDiffusion(2), diffrax.ALIGN(0.1))
    with pytest.raises(ValueError, match=r"diffusion declares noise='loud', but the kinds of noise are additive, diag"):
        check_noise(declared("loud"), diffrax.Euler())


def test_diffusion_term_multiplies_by_a_diagonal_or_a_matrix():
    dw, args = jnp.array([0.2, -0.5, 0.9]), None
    path = diffrax.LinearInterpolation(jnp.array([0.0, 1.0]), jnp.stack([jnp.zeros(2), dw[:2]]))
    diagonal = diffusion_term(DiagonalDiffusion(2, scale=0.4), path)
    assert isinstance(diagonal.vf(0.0, Y, args), lx.DiagonalLinearOperator)
    moved = diagonal.vf_prod(0.0, Y, args, diagonal.contr(0.0, 1.0))
    assert_trees_all_close(moved, 0.4 * dw[:2], rtol=1e-12)
    field = GeneralDiffusion(2, 3, 5, 1, largest=1.0, key=KEY)
    assert_trees_all_close(diffusion_term(field, path).vf_prod(0.0, Y, args, dw), field(0.0, Y) @ dw, rtol=1e-12)


def test_diagonal_term_steps_as_its_matrix_does():
    # Milstein's is the solver that reads the diffusion itself, not only its product with the noise
    diffusion = eqx.tree_at(lambda d: d.slope, DiagonalDiffusion(2), np.array([0.7, -1.3]))
    noise = diffrax.UnsafeBrownianPath((2,), KEY)
    matrix = diffrax.ControlTerm(lambda t, y, args: jnp.diag(diffusion(t, y)), noise)

    def step(term):
        terms = diffrax.MultiTerm(diffrax.ODETerm(lambda t, y, args: -y), term)
        return diffrax.StratonovichMilstein().step(terms, 0.0, 0.1, Y, None, None, False)[0]

    one, other = call(lambda: (step(diffusion_term(diffusion, noise)), step(matrix)))
    assert_trees_all_close(one, other, rtol=1e-12)
    assert np.max(np.abs(one - Y)) > 1e-2


# Energy


def hamiltonian(**options):
    return HamiltonianField(2, 5, 1, activation=jnp.tanh, key=jax.random.key(3), **options)


def test_energy_is_conserved_without_damping_and_decays_with_it():
    field = hamiltonian(damping=True)

    @jax.jit
    @jax.vmap
    def energies(factor):
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(eqx.tree_at(lambda f: f.factor, field, factor)),
            diffrax.Tsit5(),
            0.0,
            10.0,
            0.1,
            PAIR,
            saveat=diffrax.SaveAt(ts=jnp.linspace(0.0, 10.0, 21)),
            stepsize_controller=diffrax.PIDController(rtol=1e-10, atol=1e-10),
        )
        return jax.vmap(field.energy)(*solution.ys), solution.ys[0]

    (free, damped), (qs, _) = jax.tree.map(np.asarray, energies(np.stack([np.zeros((2, 2)), field.factor])))
    np.testing.assert_allclose(free, free[0], atol=1e-8)
    assert np.max(np.abs(qs - qs[0])) > 0.5
    assert np.all(np.diff(damped) < 0)
    assert damped[0] - damped[-1] > 1e-2


def test_power_is_that_of_damping_and_forcing():
    field = hamiltonian(damping=True, forcing=wave)
    generator = np.random.default_rng(0)
    factor, inputs = generator.standard_normal((2, 2)), generator.standard_normal((2, 3))
    field = eqx.tree_at(lambda f: (f.factor, f.input_matrix), field, (factor, inputs))
    dq, dp = call(field, 0.7, PAIR)
    power = call(lambda *rates: jax.jvp(field.energy, PAIR, rates)[1], dq, dp)
    expected = -dq @ factor @ factor.T @ dq + dq @ inputs @ np.array([np.sin(0.7), np.cos(0.7), 0.7])
    assert float(power) == pytest.approx(float(expected), rel=1e-10)
    np.testing.assert_allclose(field.damping_matrix, factor @ factor.T, rtol=1e-12)


def test_undamped_flow_is_symplectic():
    # the field's Jacobian A is Hamiltonian: J A is symmetric; with damping it is not
    def asymmetry(field):
        jacobian = call(jax.jacobian(lambda x: flat(field(0.0, (x[:2], x[2:])))), np.array([0.3, -0.7, 0.2, 0.5]))
        product = np.kron([[0.0, 1.0], [-1.0, 0.0]], np.eye(2)) @ jacobian
        return np.max(np.abs(product - product.T))

    assert asymmetry(hamiltonian()) < 1e-14
    assert asymmetry(hamiltonian(damping=True)) > 1e-4


def test_forcing_starts_as_a_push_on_each_momentum():
    forced, free = hamiltonian(forcing=lambda t: 2 * t * jnp.ones(2)), hamiltonian()
    (dq, dp), (free_q, free_p) = call(forced, 0.7, PAIR), call(free, 0.7, PAIR)
    assert_trees_all_close(dq, free_q, rtol=1e-12)
    np.testing.assert_allclose(np.asarray(dp) - free_p, 1.4, rtol=1e-12)
    assert free.damping_matrix is None


# Augmented


def test_augmented_field_splits_the_joint_rates():
    inner = MLPField(5, 5, 1, key=KEY)
    field = AugmentedField(inner, 3)
    y, a = field.augment(Y)
    np.testing.assert_array_equal(a, np.zeros(3))
    assert y is Y
    dy, da = call(field, 0.0, (y, a))
    joint = call(inner, 0.0, np.append(Y, np.zeros(3)))
    np.testing.assert_allclose(dy, joint[:2], rtol=1e-12)
    np.testing.assert_allclose(da, joint[2:], rtol=1e-12)
    assert field.augment(np.float32(Y))[1].dtype == jnp.float32


# Parameters

BOUNDS = [(None, None), (0.5, None), (None, 3.0), (0.5, 3.0), (-1e-3, 1e3)]


@pytest.mark.parametrize(("lower", "upper"), BOUNDS)
def test_transforms_invert(lower, upper):
    start = np.array([[0.5 + 1e-7, 0.8], [2.0, 3.0 - 1e-7]])
    np.testing.assert_allclose(Parameter(start, lower=lower, upper=upper).value, start, rtol=1e-12)
    # an inverse that exponentiates would overflow here
    large = Parameter(np.array([[5e3, 1e3]]), lower=lower, upper=None if upper is None else 6e3)
    np.testing.assert_allclose(large.value, [[5e3, 1e3]], rtol=1e-12)


@pytest.mark.parametrize(("lower", "upper"), [*BOUNDS, (0.1, 0.7), (-0.3, 0.9)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bounds_hold_wherever_raw_goes_and_values_grow_with_it(lower, upper, dtype):
    raw = np.concatenate([[-1e30, -1e3], np.linspace(-40, 40, 1001), [1e3, 1e30]]).astype(dtype)
    parameter = Parameter(0.6, lower=lower, upper=upper)

    def value_of(raw):
        return eqx.tree_at(lambda p: p.raw, parameter, raw).value

    value, slope = map(np.asarray, jax.jit(jax.vmap(jax.value_and_grad(value_of)))(raw))
    assert value.dtype == dtype
    assert np.isfinite(value).all() and np.isfinite(slope).all()
    assert np.all(np.diff(value) >= 0)
    assert np.all(value >= dtype(-np.inf if lower is None else lower))
    assert np.all(value <= dtype(np.inf if upper is None else upper))


def test_parameters_keep_their_dtype():
    assert Parameter(2).raw.dtype == jnp.float64
    assert Parameter(np.float32([1, 2]), lower=0).value.dtype == jnp.float32


@pytest.mark.parametrize("start", [0.0, -1.0, 3.0, 7.0, float("nan")])
def test_start_outside_its_bounds_is_refused(start):
    message = rf"Parameter 'drag' needs a start strictly between its bounds, but start={start}, lower=0.0, upper=3.0"
    with pytest.raises(ValueError, match=message):
        Parameter(start, lower=0.0, upper=3.0, name="drag")


def test_bad_bounds_are_refused():
    with pytest.raises(ValueError, match=r"Parameter needs a start strictly between .* lower=None, upper=1"):
        Parameter(np.array([0.5, 1.5]), upper=1.0)
    with pytest.raises(ValueError, match=r"Parameter needs lower < upper, but got lower=2.0 and upper=1.0"):
        Parameter(1.5, lower=2.0, upper=1.0)


# Known and hybrid


def test_known_field_is_its_function_in_its_own_units():
    field = known()
    values = {"birth": 0.5, "loss": 0.02, "gain": 0.03, "death": 0.8}
    assert {name: float(value) for name, value in field.parameter_values().items()} == pytest.approx(values, rel=1e-12)
    expected = [0.5 * 30 - 0.02 * 120, 0.03 * 120 - 0.8 * 4]
    np.testing.assert_allclose(call(field, 0.0, np.array([30.0, 4.0])), expected, rtol=1e-12)


@pytest.mark.parametrize("options", [{}, {"states": [1], "inputs": None}, {"states": ["hare"], "inputs": [1, 0]}])
def test_untrained_hybrid_is_the_known_model_and_trains(options):
    model, y = hybrid(**options), np.array([30.0, 4.0])

    def end(field):
        return call(lambda y: rk4(field, y, 1.0, 20), y)

    assert_trees_all_equal(call(model, 0.0, y), call(model.known, 0.0, y))
    assert_trees_all_equal(end(model), end(model.known))
    gradient = eqx.filter_jit(eqx.filter_grad(lambda field: jnp.sum(field(0.0, y))))
    seen = y if model.inputs is None else y[list(model.inputs)]
    (residual,) = call(model.residual, 0.0, seen)
    assert float(gradient(model).scale) == pytest.approx(float(residual), rel=1e-12)
    assert abs(residual) > 1e-3
    moved = gradient(eqx.tree_at(lambda h: h.scale, model, np.array(0.5)))
    assert np.all(np.asarray(moved.residual.network.layers[0].weight) != 0)


def test_residual_acts_on_its_states_and_sees_its_inputs():
    y, one = np.array([0.4, 0.9]), MLPField(1, 5, 1, key=KEY)
    model = Hybrid(known(states=("hare", "lynx")), one, states=["lynx"], inputs=["hare"])
    model = eqx.tree_at(lambda h: h.scale, model, np.array(0.5))
    added = np.asarray(call(model, 0.0, y)) - call(model.known, 0.0, y)
    expected = 0.5 * np.asarray(call(one, 0.0, y[:1]))
    np.testing.assert_allclose(added, [0.0, expected[0]], rtol=1e-10)
    np.testing.assert_allclose(call(model.correction, 0.0, y), expected, rtol=1e-12)


@pytest.mark.parametrize(("states", "order"), [(None, [0, 1]), ([1, 0], [1, 0])])
def test_residual_rates_follow_the_order_of_the_states(states, order):
    y, model = np.array([0.4, 0.9]), Hybrid(known(), MLPField(2, 5, 1, key=KEY), states=states)
    model = eqx.tree_at(lambda h: h.scale, model, np.array(1.0))
    added = np.asarray(call(model, 0.0, y)) - call(model.known, 0.0, y)
    np.testing.assert_allclose(np.asarray(added)[order], call(model.residual, 0.0, y), rtol=1e-10)


def test_parameter_that_does_not_exist_is_named():
    def typo(t, y, p):
        return -p.drga * y

    with pytest.raises(AttributeError, match=r"no parameter 'drga'; .*parameters and inputs are \['drag', 'mass'"):
        KnownField(typo, {"mass": Parameter(1.0), "drag": Parameter(0.1)})(0.0, Y)


def test_bad_known_fields_are_refused():
    with pytest.raises(ValueError, match=r"reads a parameter as p.name, so 'lambda' cannot be"):
        KnownField(lotka_volterra, {"lambda": Parameter(1.0)})
    with pytest.raises(ValueError, match=r"reads a parameter as p.name, so 'growth rate' cannot be"):
        KnownField(lotka_volterra, {"growth rate": Parameter(1.0)})
    with pytest.raises(ValueError, match=r"needs a Parameter for 'birth', but got 0.5"):
        KnownField(lotka_volterra, {"birth": 0.5})
    with pytest.raises(ValueError, match=r"a name of its own for each state, but got states=\('hare', 'hare'\)"):
        known(states=("hare", "hare"))
    with pytest.raises(ValueError, match=r"has the states \('hare', 'lynx'\), but was given a state of shape \(3,\)"):
        known(states=("hare", "lynx"))(0.0, jnp.ones(3))


def test_states_that_do_not_exist_are_refused():
    with pytest.raises(
        ValueError, match=r"Hybrid's states name the state 'fox', but the known field has the states \("
    ):
        hybrid(states=["fox"])
    with pytest.raises(
        ValueError, match=r"Hybrid's inputs name the state 'fox', but the known field has the states \("
    ):
        hybrid(inputs=["hare", "fox"])
    with pytest.raises(ValueError, match=r"'lynx', but the known field has no names for its states"):
        Hybrid(known(), MLPField(2, 5, 1, out_size=1, key=KEY), states=["lynx"])
    with pytest.raises(ValueError, match=r"Hybrid's states name the state 2, but the states are 0 to 1"):
        hybrid(states=[2])
    with pytest.raises(ValueError, match=r"Hybrid's states name the state -1, but the states are 0 on"):
        Hybrid(known(), MLPField(2, 5, 1, out_size=1, key=KEY), states=[-1])
    with pytest.raises(ValueError, match=r"Hybrid's inputs name the state 5, but the states are 0 to 1"):
        Hybrid(known(), MLPField(1, 5, 1, key=KEY), states=[0], inputs=[5])(0.0, Y)
    with pytest.raises(ValueError, match=r"states to be a list of distinct states, but got states='lynx'"):
        hybrid(states="lynx")
    with pytest.raises(ValueError, match=r"inputs to be a list of distinct states, but got inputs=\[0, 0\]"):
        hybrid(inputs=[0, 0])
    with pytest.raises(ValueError, match=r"distinct states, but got inputs=\['lynx', 1\]"):
        hybrid(inputs=["lynx", 1])


def test_parts_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"residual returned the shape \(2,\), but acts on states of shape \(1,\)"):
        Hybrid(known(), MLPField(2, 5, 1, key=KEY), states=[0])(0.0, Y)
    with pytest.raises(ValueError, match=r"known field returned \[.*\], but the state is one array of shape \(2,\)"):
        Hybrid(lambda t, y, args: [y[0], y[1]], MLPField(2, 5, 1, key=KEY))(0.0, Y)
    with pytest.raises(ValueError, match=r"extra_size=3, but the state's extra part has shape \(2,\)"):
        AugmentedField(MLPField(5, 5, 1, key=KEY), 3)(0.0, (Y, jnp.zeros(2)))
    with pytest.raises(ValueError, match=r"gave its field a state of shape \(5,\), which returned \(2,\)"):
        AugmentedField(MLPField(5, 5, 1, out_size=2, key=KEY), 3)(0.0, (Y, jnp.zeros(3)))
    with pytest.raises(ValueError, match=r"needs a forcing of shape \(inputs,\), but its forcing returned \(\)"):
        HamiltonianField(2, 4, 1, forcing=jnp.sin, key=KEY)


# Checks


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (lambda t, y, args: (y, y), r"returned the structure PyTreeDef\(\(\*, \*\)\), but the state has PyTreeDef\(\*"),
        (lambda t, y, args: [y[0], y[1]], r"components of one array are joined by jnp.stack"),
        (lambda t, y, args: y[:1], r"returned the shape \(1,\), but the state has \(2,\)"),
        (lambda t, y, args: y.astype(jnp.float32), r"returned float32, but the state is float64"),
        (MLPField(2, 5, 1, out_size=3, key=KEY), r"MLPField returned the shape \(3,\), but the state has \(2,\)"),
    ],
)
def test_field_that_is_no_rate_of_its_state_is_refused(field, message):
    with pytest.raises(ValueError, match=message):
        check_field(field, 0.0, Y)


def test_check_field_says_where_in_a_state():
    with pytest.raises(ValueError, match=r"returned the shape \(1,\) at \['v'\], but the state has \(2,\)"):
        check_field(lambda t, y, args: {"x": y["v"], "v": y["x"][:1]}, 0.0, {"x": Y, "v": Y})
    mixed = pytest.raises(ValueError, match=r"MLPField returned float64, but the state is float32")
    with jax.numpy_dtype_promotion("standard"), mixed:  # "strict" refuses it itself, inside the field
        check_field(MLPField(2, 5, 1, key=KEY), 0.0, Y.astype(jnp.float32))


def test_check_field_runs_nothing():
    ran = []

    def field(t, y, args):
        jax.debug.callback(lambda: ran.append(1))
        return -y

    check_field(field, 0.0, jax.ShapeDtypeStruct((2,), jnp.float64))
    jax.effects_barrier()
    assert ran == []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MLPField(0, 4, 1, key=KEY), r"MLPField needs state_size .* at least 1, but got state_size=0"),
        (lambda: MLPField(2, 5, 1, out_size=0, key=KEY), r"MLPField needs out_size .* got out_size=0"),
        (lambda: MLPField(2, 4, -1, key=KEY), r"MLPField needs depth .* at least 0, but got depth=-1"),
        (lambda: GatedField(2.0, key=KEY), r"GatedField needs state_size to be a whole number .* got state_size=2.0"),
        (lambda: ConcatSquashField(2, 0, 1, key=KEY), r"ConcatSquashField needs width .* got width=0"),
        (lambda: CDEField(2, 0, 4, 1, key=KEY), r"CDEField needs path_size .* got path_size=0"),
        (lambda: LinearCDEField(2, 0, key=KEY), r"LinearCDEField needs path_size .* got path_size=0"),
        (lambda: LinearCDEField(2, 2, scale=0.0, key=KEY), r"LinearCDEField needs scale > 0, but got scale=0.0"),
        (lambda: HamiltonianField(-1, 4, 1, key=KEY), r"HamiltonianField needs state_size .* got state_size=-1"),
        (lambda: AugmentedField(GatedField(2, key=KEY), 0), r"AugmentedField needs extra_size .* got extra_size=0"),
        (
            lambda: GeneralDiffusion(2, 0, 4, 1, largest=1, key=KEY),
            r"GeneralDiffusion needs noise_size .* noise_size=0",
        ),
        (lambda: GeneralDiffusion(2, 2, 4, 1, largest=-1, key=KEY), r"needs largest > 0, but got largest=-1"),
        (lambda: DiagonalDiffusion(2, scale=3.0), r"needs 0 < scale < largest, but got scale=3.0"),
    ],
)
def test_bad_sizes_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
