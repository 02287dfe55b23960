"""Neural SDEs over the path of a series: their laws in closed form, the stable classes, and what leaves no trace."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nde
from nde.config import load_config, MODELS, SeriesFacts, SolverConfig
from nde.fields import SDE_KINDS
from nde.report import class_logits

KEY = jax.random.key(0)
TIMES = jnp.array([0.0, 0.7, 1.5, 2.0])
VALUES = jnp.array([[0.3, 1.0], [jnp.nan, -1.0], [0.8, jnp.nan], [0.1, 0.5]])


def law(drift, diffusion, start, *, horizon, dt0, paths, geometric=False, solver=None):
    """States at the end, `(paths, state)`, of an equation that does not hear its series."""
    model = nde.ControlledSDE(
        lambda x: jnp.asarray(start), drift, diffusion, lambda z: z,
        geometric=geometric, horizon=horizon, time_scale=1.0, dt0=dt0, solver=solver,
    )  # fmt: skip
    ends, keys = jnp.array([0.0, horizon]), jax.random.split(KEY, paths)
    return np.asarray(jax.jit(jax.vmap(lambda key: model(ends, jnp.zeros((2, 1)), key=key)))(keys))


def build(kind, *, horizon=2.0, dt0=0.25, time_scale=2.0, width=4, key=KEY, **options):
    pair = nde.sde_pair(kind, 3, 5, width, 1, key=key)
    start, readout = eqx.nn.Linear(5, 3, key=key), eqx.nn.Linear(3, 2, key=key)
    options = {"horizon": horizon, "dt0": dt0, "time_scale": time_scale, **options}
    return nde.ControlledSDE(start, pair.drift, pair.diffusion, readout, geometric=pair.geometric, **options)


@pytest.mark.parametrize(
    ("potential", "dt0"), [(lambda z: 0.75 * (z - 0.5) ** 2, 0.02), (lambda z: (z**2 - 1) ** 2, 0.02)]
)
def test_langevin_with_a_gradient_as_drift_goes_to_the_law_that_the_potential_gives(potential, dt0):
    sigma, slope = 0.9, jax.grad(potential)
    ends = law(
        lambda t, z, x: -jax.vmap(slope)(z), lambda t, z, args: sigma * jnp.ones_like(z), [-1.0, 0.0, 1.0],
        horizon=12.0, dt0=dt0, paths=2000,
    ).ravel()  # fmt: skip
    z = np.linspace(-4, 4, 4001)
    density = np.exp(-2 * potential(z) / sigma**2)
    density /= density.sum()
    for power in (1, 2, 4):
        mean = (density * z**power).sum()
        error = np.sqrt((density * z ** (2 * power)).sum() - mean**2) / np.sqrt(len(ends))
        assert abs((ends**power).mean() - mean) < 4 * error + 0.01  # 0.01: the bias of the step


def test_geometric_keeps_sign_and_zero_and_has_the_moments_of_geometric_brownian_motion():
    """dz / z = 0.4 dt + 0.8 dW for 1.5; a step of half of it would take Euler's method in z through zero."""
    rate, sigma, start, horizon = 0.4, 0.8, np.array([2.0, -1.0, 0.0]), 1.5
    ends = law(
        lambda t, z, x: rate * jnp.ones_like(z), lambda t, z, args: sigma * jnp.ones_like(z), start,
        horizon=horizon, dt0=0.75, paths=20_000, geometric=True,
    )  # fmt: skip
    assert np.all(np.sign(ends) == np.sign(start))
    mean = start * np.exp(rate * horizon)
    spread = np.abs(mean) * np.sqrt(np.exp(sigma**2 * horizon) - 1)
    np.testing.assert_array_less(np.abs(ends.mean(0) - mean), 4 * spread / np.sqrt(len(ends)) + 1e-12)
    np.testing.assert_allclose(ends.std(0), spread, rtol=0.08)
    logs = np.log(np.abs(ends[:, :2]))
    np.testing.assert_allclose(logs.var(0), sigma**2 * horizon, rtol=0.05)


@pytest.mark.parametrize(("solver", "bias"), [(diffrax.Euler(), 0.02), (diffrax.ItoMilstein(), 0.02)])
def test_linear_noise_has_the_mean_and_variance_of_its_linear_equation(solver, bias):
    """dz = a (m - z) dt + s z dW: the mean m' = a (m - mean), E z^2 ' = 2 a m mean + (s^2 - 2 a) E z^2."""
    a, m, s, horizon = 1.2, 0.8, 0.5, 1.5
    ends = law(
        lambda t, z, x: a * (m - z), nde.LinearNoise(lambda t, z, args: s * jnp.ones_like(z)), [2.0, -1.0],
        horizon=horizon, dt0=0.01, paths=10_000, solver=solver,
    )  # fmt: skip
    times = np.linspace(0, horizon, 20_001)
    for z, start in zip(ends.T, (2.0, -1.0), strict=True):
        mean = m + (start - m) * np.exp(-a * times)
        kernel = np.exp((s**2 - 2 * a) * (horizon - times))
        second = start**2 * kernel[0] + np.trapezoid(kernel * 2 * a * m * mean, times)
        variance = second - mean[-1] ** 2
        assert abs(z.mean() - mean[-1]) < 4 * np.sqrt(variance / len(z)) + bias
        np.testing.assert_allclose(z.var(), variance, rtol=0.08)


@pytest.mark.parametrize("kind", SDE_KINDS)
def test_gradient_is_that_of_finite_differences_on_a_frozen_path(kind):
    model = build(kind, key=jax.random.key(3))
    arrays, rest = eqx.partition(model, eqx.is_inexact_array)
    flat, back = jax.flatten_util.ravel_pytree(arrays)
    way = jax.random.normal(jax.random.key(1), flat.shape)
    way /= jnp.linalg.norm(way)

    @jax.jit
    def loss(step):
        return jnp.sum(eqx.combine(back(flat + step * way), rest)(TIMES, VALUES, key=KEY) ** 2)

    slope = (loss(1e-5) - loss(-1e-5)) / 2e-5
    np.testing.assert_allclose(jax.grad(loss)(0.0), slope, rtol=1e-6)


@pytest.mark.parametrize("kind", SDE_KINDS)
def test_padding_a_longer_horizon_and_what_the_mask_hides_leave_no_trace(kind):
    model, longer = build(kind), build(kind, horizon=5.0)
    mask = ~jnp.isnan(VALUES)
    padded = (
        jnp.concatenate([TIMES, jnp.full(3, TIMES[-1])]),
        jnp.concatenate([jnp.where(mask, VALUES, 1e9), jnp.full((3, 2), jnp.nan)]),
        jnp.concatenate([mask, jnp.zeros((3, 2), bool)]),
    )

    @eqx.filter_jit
    def call(model, times, values, mask, key):
        return model(times, values, mask, key=key)

    @jax.jit
    def last(key):
        return model.readout(model.latent(TIMES, VALUES, key=key)[-1])

    here = call(model, TIMES, VALUES, mask, KEY)
    np.testing.assert_array_equal(call(model, *padded, KEY), here)
    np.testing.assert_allclose(call(longer, TIMES, VALUES, mask, KEY), here, rtol=1e-12)
    np.testing.assert_allclose(last(KEY), here, rtol=1e-12)
    np.testing.assert_allclose(call(model, TIMES + 100.0, VALUES, mask, KEY), here, rtol=1e-9)
    assert not np.allclose(call(model, TIMES, VALUES, mask, jax.random.key(1)), here)


def test_a_series_that_ends_within_a_step_has_the_noise_up_to_its_end():
    still = {"drift": lambda t, z, x: jnp.zeros_like(z), "diffusion": lambda t, z, args: jnp.ones_like(z)}
    model = nde.ControlledSDE(
        lambda x: jnp.zeros(1), *still.values(), lambda z: z, horizon=2.0, time_scale=1.0, dt0=1.0
    )
    times, keys = jnp.array([0.0, 1.25]), jax.random.split(KEY, 8000)
    ends = jax.jit(jax.vmap(lambda key: model(times, jnp.zeros((2, 1)), key=key)))(keys)
    assert float(jnp.var(ends)) == pytest.approx(1.25, rel=0.06)


def test_milstein_is_of_strong_order_one_for_linear_noise_and_euler_of_one_half():
    """Against z0 exp((a - s^2 / 2) T + s W_T) on the same Brownian motion, which the key gives at every step size."""

    def errors(solver):
        found = []
        for steps in (32, 128):
            model = nde.ControlledSDE(
                lambda x: jnp.ones(1), lambda t, z, x: 0.5 * z, nde.LinearNoise(lambda t, z, args: jnp.ones_like(z)),
                lambda z: z, horizon=1.0, dt0=1 / steps, solver=solver,
            )  # fmt: skip

            def error(key, model=model, steps=steps):
                noise = nde.BrownianGrid(0.0, 1.0, steps, (1,), key)
                end = model(jnp.array([0.0, 1.0]), jnp.zeros((2, 1)), key=key)
                return jnp.abs(end - jnp.exp(noise.evaluate(0.0, 1.0)))

            found.append(float(jnp.mean(jax.jit(jax.vmap(error))(jax.random.split(KEY, 4000)))))
        return np.log(found[0] / found[1]) / np.log(4)

    assert errors(diffrax.Euler()) == pytest.approx(0.5, abs=0.12)
    assert errors(diffrax.ItoMilstein()) == pytest.approx(1.0, abs=0.12)


def test_noise_that_feeds_on_the_state_diverges_where_that_of_the_stable_kinds_does_not():
    """Diffusions with their weights times 100. `throw=False` counts who diverges."""
    keys = jax.random.split(KEY, 16)

    def diverging(kind):
        model = build(kind, dt0=0.01, width=16, throw=False)
        grown = jax.tree.map(lambda x: 100 * x if eqx.is_inexact_array(x) else x, model.diffusion)
        model = eqx.tree_at(lambda m: m.diffusion, model, grown)
        ends = jax.jit(jax.vmap(lambda key: model(TIMES, VALUES, key=key)))(keys)
        return float(jnp.mean(~jnp.all(jnp.isfinite(ends), axis=1)))

    assert {kind: diverging(kind) for kind in ("plain", "langevin", "geometric")} == {
        "plain": 1.0, "langevin": 0.0, "geometric": 0.0,
    }  # fmt: skip


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="ControlledSDE draws noise and needs a key"):
        build("langevin")(TIMES, VALUES)
    with pytest.raises(ValueError, match=r"solved by diffrax.Euler or diffrax.ItoMilstein, but got Heun"):
        build("langevin", solver=diffrax.Heun())
    with pytest.raises(ValueError, match="takes steps of one size"):
        build("langevin", controller=diffrax.PIDController(rtol=1e-3, atol=1e-3))
    with pytest.raises(ValueError, match="0 < dt0 <= horizon and time_scale > 0"):
        build("langevin", dt0=3.0)
    with pytest.raises(ValueError, match="makes general noise, but ItoMilstein"):
        build("plain", solver=diffrax.ItoMilstein())
    with pytest.raises(eqx.EquinoxRuntimeError, match="series that last up to 2, but one is longer"):
        build("langevin")(1.5 * TIMES, VALUES, key=KEY)
    model = build("langevin")
    with pytest.raises(ValueError, match=r"initial state of shape \(state_size,\), but it is \(1, 5\)"):
        eqx.tree_at(lambda m: m.initial, model, lambda x: x[None])(TIMES, VALUES, key=KEY)
    with pytest.raises(ValueError, match="there is no kind of SDE 'lsde'; the kinds are langevin, linear_noise"):
        nde.sde_pair("lsde", 3, 5, 4, 1, key=KEY)
    with pytest.raises(ValueError, match="TimeDiffusion needs scale > 0, and below one if it is bounded"):
        nde.TimeDiffusion(2, 4, 1, scale=1.5, bounded=True, key=KEY)


def test_path_between_observations_is_a_choice():
    """A drift that is the path's first value: its integral by Euler's method, held or linear between the rows."""
    times, values = jnp.array([0.0, 1.0, 2.0]), jnp.array([[0.0], [1.0], [0.0]])

    def end(interpolation):
        model = nde.ControlledSDE(
            lambda x: jnp.zeros(1), lambda t, z, x: x[1:2], lambda t, z, args: 0.0 * z, lambda z: z,
            interpolation=interpolation, horizon=2.0, time_scale=1.0, dt0=0.25,
        )  # fmt: skip
        return float(model(times, values, key=KEY)[0])

    assert end("linear") == pytest.approx(1.0)
    path = nde.paths.series_path(times, values, interpolation="rectilinear")
    assert end("rectilinear") == pytest.approx(sum(0.25 * float(path.evaluate(0.25 * n)[1]) for n in range(8)))
    with pytest.raises(ValueError, match="there is no interpolation 'cubic'"):
        end("cubic")


@pytest.mark.parametrize("kind", SDE_KINDS)
def test_bounded_fields_are_bounded(kind):
    pair = nde.sde_pair(kind, 3, 5, 4, 1, bounded=True, noise=0.5, key=KEY)
    z, x = jnp.full(3, 100.0), jnp.full(5, -100.0)
    assert jnp.all(jnp.abs(pair.drift(0.5, z, x)) <= 1)
    limit = 100.0 if kind == "linear_noise" else 1.0
    assert jnp.all(jnp.abs(pair.diffusion(0.5, z)) <= limit)
    free = nde.sde_pair(kind, 3, 5, 4, 1, rate=2.0, key=KEY)
    assert jnp.all(jnp.abs(free.drift(0.5, z, x)) <= 2) == (kind == "geometric")  # else its solution explodes
    if kind != "plain":
        np.testing.assert_allclose(pair.diffusion(0.5, jnp.ones(3)), 0.5, rtol=1e-6)


def test_a_section_builds_it_and_says_what_it_can_not():
    config = load_config("configs/stable_motions.toml", ["evaluate.samples=3"])
    assert [each.called() for each in config.model][:4] == [
        "Langevin SDE", "linear noise SDE", "geometric SDE", "plain neural SDE",
    ]  # fmt: skip
    assert [each.bounded for each in config.model[:2]] == [False, None]
    section, facts = MODELS["controlled_sde"], SeriesFacts(2, 4.0, 6.0, 3.0, 2)
    made = section(kind="geometric", state_size=3, width=4).build(facts, SolverConfig(dt0=0.5), key=KEY)
    assert (made.horizon, made.time_scale, made.num_steps, made.geometric) == (6.0, 4.0, 12, True)
    assert made(TIMES, VALUES, key=KEY).shape == (2,)
    assert section(kind="plain").called() == "plain neural SDE"
    with pytest.raises(ValueError, match="takes fixed steps"):
        section(solver=SolverConfig(rtol=1e-3)).build(facts, SolverConfig(), key=KEY)
    with pytest.raises(ValueError, match=r"'euler' or 'ito_milstein', not 'heun': give its \[\[model\]\]"):
        section().build(facts, SolverConfig(name="heun"), key=KEY)
    with pytest.raises(ValueError, match="takes solver.adjoint = 'checkpoint', not 'continuous'"):
        section().build(facts, SolverConfig(adjoint="continuous"), key=KEY)


class Coin(eqx.Module):
    """A classifier that draws: sure of the first class with probability p, else of the second."""

    p: float
    draws_noise = True

    def __call__(self, times, values, mask, *, key):
        heads = jax.random.uniform(key) < self.p
        return jnp.where(heads, jnp.array([20.0, 0.0]), jnp.array([0.0, 20.0]))


def test_a_model_that_draws_is_judged_by_its_mean_probabilities_keyed_by_series():
    times, values = np.zeros((3, 2)), np.zeros((3, 2, 1))
    given = {"samples": 4000, "key": KEY}
    logits = class_logits(Coin(0.3), times, values, values == 0, series=["a", "b", "c"], **given)
    np.testing.assert_allclose(np.exp(logits).sum(-1), 1.0)
    np.testing.assert_allclose(np.exp(logits)[:, 0], 0.3, atol=0.03)
    other = class_logits(Coin(0.3), times, values, values == 0, series=["c", "z", "a"], **given)
    np.testing.assert_allclose(other[[0, 2]], logits[[2, 0]], rtol=1e-12)
    with pytest.raises(ValueError, match="one id for each of the 3 series"):
        class_logits(Coin(0.3), times, values, values == 0, series=["a"], **given)


def test_a_model_without_noise_is_called_once_and_without_a_key():
    times, values = np.zeros((3, 2)), np.arange(6.0).reshape(3, 2, 1)
    called = []

    def model(times, values, mask):
        called.append(1)
        return jnp.array([1.0, 2.0]) * values[0, 0]

    logits = class_logits(model, times, values, values > -1, series=["a", "b", "c"], samples=7, key=KEY)
    np.testing.assert_array_equal(logits, [[0.0, 0.0], [2.0, 4.0], [4.0, 8.0]])
    assert called == [1]
