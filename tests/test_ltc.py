"""Liquid time-constant networks: their bounds, the fused step, and what a series leaves no trace of."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nde
from nde.config import MODELS, SeriesFacts, SolverConfig

KEY = jax.random.key(0)
TIMES = jnp.array([0.0, 0.7, 1.5, 2.0])
VALUES = jnp.array([[0.3, 1.0], [jnp.nan, -1.0], [0.8, jnp.nan], [0.1, 0.5]])


def wild(key, scale=5.0):
    """A field with large random weights."""
    field = nde.LTCField(4, 3, key=key)
    leaves, structure = jax.tree.flatten(field)
    keys = jax.random.split(jax.random.fold_in(key, 1), len(leaves))
    return structure.unflatten([scale * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)])


def test_state_and_time_constants_keep_their_bounds_over_random_nets_inputs_and_steps():
    """Theorems 1 and 2 of Hasani et al. (2021), for 200 nets and 40 fused steps from 0.001 to 1000 long."""

    @jax.jit
    @jax.vmap
    def walk(key):
        field, input_key = wild(key), jax.random.fold_in(key, 2)
        inputs = 10 * jax.random.normal(input_key, (40, 3))
        steps = 10.0 ** jax.random.uniform(jax.random.fold_in(key, 3), (40,), minval=-3, maxval=3)

        def turn(x, row):
            x = field.step(x, *row)
            return x, (x, field.time_constant(x, row[0]))

        xs, taus = jax.lax.scan(turn, jnp.zeros(4), (inputs, steps))[1]
        return xs, taus, field.target, 1 / field.leak, field.strength

    xs, taus, target, tau, strength = map(np.asarray, walk(jax.random.split(KEY, 200)))
    low, high = np.minimum(0, target)[:, None], np.maximum(0, target)[:, None]
    assert np.all((xs >= low - 1e-12) & (xs <= high + 1e-12))
    tau, strength = tau[:, None], strength[:, None]
    assert np.all((taus >= tau / (1 + tau * strength) * (1 - 1e-9)) & (taus <= tau * (1 + 1e-9)))
    assert np.ptp(taus) > 1


def test_fused_step_is_its_formula_and_of_order_one():
    field, x, drive = nde.LTCField(3, 2, key=KEY), jnp.array([0.2, -0.1, 0.4]), jnp.array([1.0, -2.0])
    f = np.asarray(field.strength) / (
        1 + np.exp(-(field.recurrent @ x + field.sensory.weight @ drive + field.sensory.bias))
    )
    want = (x + 0.3 * f * field.target) / (1 + 0.3 * (field.leak + f))
    np.testing.assert_allclose(field.step(x, drive, 0.3), want, rtol=1e-12)
    np.testing.assert_array_equal(field.step(x, drive, 0.0), x)
    options = {"dt0": 1e-3, "stepsize_controller": diffrax.PIDController(rtol=1e-10, atol=1e-12)}
    exact = diffrax.diffeqsolve(diffrax.ODETerm(field), diffrax.Dopri8(), 0.0, 0.5, args=drive, y0=x, **options).ys[0]

    def error(steps):
        end = jax.lax.fori_loop(0, steps, lambda n, y: field.step(y, drive, 0.5 / steps), x)
        return float(jnp.max(jnp.abs(end - exact)))

    assert np.log2(error(400) / error(800)) == pytest.approx(1.0, abs=0.05)


def test_fused_step_settles_where_explicit_euler_blows_up():
    """A step of thirty time constants, a hundred times: to the equilibrium x = f A / (1 / tau + f)."""
    field, drive, dt = nde.LTCField(3, 2, time_constants=(0.01, 0.01), key=KEY), jnp.array([1.0, -2.0]), 0.3
    fused = euler = jnp.zeros(3)
    for _ in range(100):
        fused, euler = field.step(fused, drive, dt), euler + dt * field(0.0, euler, drive)
    np.testing.assert_allclose(field(0.0, fused, drive), 0.0, atol=1e-6)
    assert not np.all(np.abs(euler) < 1e9)


@pytest.mark.parametrize("interpolation", ["rectilinear", "linear", "hermite"])
def test_padding_and_what_the_mask_hides_leave_no_trace(interpolation):
    model = nde.LTC(2, 4, 3, time_scale=2.0, interpolation=interpolation, key=KEY)
    mask = ~jnp.isnan(VALUES)
    padded = (
        jnp.concatenate([TIMES, jnp.full(3, TIMES[-1])]),
        jnp.concatenate([jnp.where(mask, VALUES, 1e9), jnp.full((3, 2), jnp.nan)]),
        jnp.concatenate([mask, jnp.zeros((3, 2), bool)]),
    )
    here = model(TIMES, VALUES)
    np.testing.assert_array_equal(model(*padded), here)
    np.testing.assert_allclose(model(TIMES + 100.0, VALUES), here, rtol=1e-9)
    np.testing.assert_array_equal(model.readout(model.states(TIMES, VALUES)[-1]), here)


def test_a_state_has_read_the_rows_up_to_its_own_and_no_further():
    model = nde.LTC(2, 4, 3, time_scale=2.0, key=KEY)
    states = model.states(TIMES, VALUES)
    assert states.shape == (4, 4)
    for row in range(4):
        later = VALUES.at[row + 1 :].add(7.0)
        np.testing.assert_array_equal(model.states(TIMES, later)[: row + 1], states[: row + 1])
        changed = model.states(TIMES, VALUES.at[row, 1].set(-4.0))
        assert row == 0 or not np.allclose(changed[row], states[row])
    assert not np.allclose(model.states(TIMES, VALUES.at[0, 1].set(-4.0))[1], states[1])


def test_gradient_is_that_of_finite_differences():
    model = nde.LTC(2, 4, 3, time_scale=2.0, substeps=2, key=KEY)
    arrays, rest = eqx.partition(model, eqx.is_inexact_array)
    flat, back = jax.flatten_util.ravel_pytree(arrays)
    way = jax.random.normal(jax.random.key(1), flat.shape)

    @jax.jit
    def loss(step):
        return jnp.sum(eqx.combine(back(flat + step * way), rest)(TIMES, VALUES) ** 2)

    np.testing.assert_allclose(jax.grad(loss)(0.0), (loss(1e-5) - loss(-1e-5)) / 2e-5, rtol=1e-6)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="0 < shortest <= longest, but got"):
        nde.LTCField(2, 2, time_constants=(1.0, 0.5), key=KEY)
    with pytest.raises(ValueError, match="LTC needs time_scale > 0 and substeps >= 1"):
        nde.LTC(2, 4, 3, time_scale=1.0, substeps=0, key=KEY)
    with pytest.raises(ValueError, match="there is no interpolation 'cubic'"):
        nde.LTC(2, 4, 3, time_scale=1.0, interpolation="cubic", key=KEY)
    with pytest.raises(ValueError, match=r"LTC reads 3 channels, but got values of shape \(4, 2\)"):
        nde.LTC(3, 4, 3, time_scale=1.0, key=KEY)(TIMES, VALUES)


def test_a_section_builds_it():
    made = MODELS["ltc"](hidden_size=4).build(SeriesFacts(2, 4.0, 4.0, 8.0, 3), SolverConfig(), key=KEY)
    assert made(TIMES, VALUES).shape == (3,)
    np.testing.assert_allclose(1 / np.asarray(made.field.leak)[[0, -1]], [1 / 8, 1.0], rtol=1e-6)
