"""Paths of the least kinetic energy: the separation of data, the energy by it, the path found and its limit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nde.diffusion import (
    BridgeInterpolant,
    fit_kinetic,
    kinetic_energy,
    KineticInterpolant,
    LinearInterpolant,
    separation,
    TrigonometricInterpolant,
)

KEY = jax.random.key(0)
PLACES, WEIGHTS = np.polynomial.hermite_e.hermegauss(80)
NORMAL = WEIGHTS / WEIGHTS.sum()
TWO = np.array([[-2.0], [2.0]])  # as likely each: E[x_1 | s x_1 + x_0] = 2 tanh(2 s (s x_1 + x_0))


def exact_separation(s):
    """Of the two points."""
    s = jnp.asarray(s)
    squares = jax.vmap(lambda z: jnp.tanh(2 * s * (2 * s + z)) ** 2)(jnp.asarray(PLACES))
    return jnp.tensordot(jnp.asarray(NORMAL), squares, 1)


def exact_speed(angle):
    """Its square, of the two points; by 1 - tanh^2 = 1 / cosh^2, lest a small number be a difference of two of 1."""
    s = jnp.tan(angle) / 2
    rest = jax.vmap(lambda z: jnp.cosh(2 * s * (2 * s + z)) ** -2.0)(jnp.asarray(PLACES))
    return 1 - jnp.tensordot(jnp.asarray(NORMAL), rest, 1) / jnp.cos(angle) ** 2


def exact_path(conditional=0.02, knots=65):
    """That of the two points."""
    squares = exact_speed(jnp.linspace(0, jnp.pi / 2, knots)[:-1])
    speeds = np.sqrt((1 - conditional) * np.append(np.maximum(squares, 0), 1) + conditional)
    return KineticInterpolant(tuple(speeds.tolist()), 2.0)


PATH = exact_path()


@pytest.mark.parametrize("s", [0.0, 0.2, 0.6, 2.0])
def test_separation_is_that_of_two_points(s):
    found = separation(jnp.asarray(TWO), s, key=KEY, samples=20_000)
    np.testing.assert_allclose(found, exact_separation(s), atol=0.01)


@pytest.mark.parametrize("interpolant", [LinearInterpolant(), TrigonometricInterpolant(), PATH])
def test_energy_by_the_separation_is_that_of_the_velocity(interpolant):
    """Whose mean square is taken over draws of both ends and the time."""
    keys, draws = jax.random.split(KEY, 3), 400_000
    t = (jnp.arange(draws, dtype=float) + jax.random.uniform(keys[0], (draws,))) / draws
    x0, x1 = jax.random.normal(keys[1], (draws,)), 2 * jax.random.rademacher(keys[2], (draws,), float)
    (a, b, _), (da, db, _) = interpolant.coefficients(t), interpolant.rates(t)
    x = a * x0 + b * x1
    data = 2 * jnp.tanh(2 * b * x / a**2)
    squares = (da * (x - b * data) / a + db * data) ** 2
    found = kinetic_energy(interpolant, exact_speed, 2.0)
    assert abs(float(squares.mean() - found)) < 4 * float(squares.std()) / draws**0.5


def test_rates_are_the_same_compiled_and_mapped():
    t = jnp.linspace(0.03, 0.97, 23)

    def of(t):
        return jnp.stack([*PATH.coefficients(t)[:2], *PATH.rates(t)[:2]])

    plain = np.stack([of(each) for each in t])
    np.testing.assert_allclose(jax.jit(jax.vmap(of))(t), plain, rtol=1e-12)
    np.testing.assert_allclose(jax.lax.map(of, t), plain, rtol=1e-12)
    steps = (np.stack([of(each + 1e-6) for each in t]) - np.stack([of(each - 1e-6) for each in t])) / 2e-6
    np.testing.assert_allclose(plain[:, 2:], steps[:, :2], rtol=1e-5)


def test_the_path_spends_the_least():
    energy = float(kinetic_energy(PATH, exact_speed, 2.0))
    assert energy < 0.97 * float(kinetic_energy(TrigonometricInterpolant(), exact_speed, 2.0))
    assert energy < 0.85 * float(kinetic_energy(LinearInterpolant(), exact_speed, 2.0))
    # No other path between does better, at the same share of the energy of single pairs.
    least = float(kinetic_energy(PATH, mixed_speed, 2.0))
    np.testing.assert_allclose(least, PATH.energy, rtol=1e-3)
    for bump in (-0.2, 0.2):
        speeds = np.array(PATH.speeds) * (1 + bump * np.sin(np.linspace(0, np.pi, len(PATH.speeds))))
        assert float(kinetic_energy(KineticInterpolant(tuple(speeds.tolist()), 2.0), mixed_speed, 2.0)) > least


def mixed_speed(angle):
    return 0.98 * exact_speed(angle) + 0.02


@pytest.mark.parametrize("spread", [1.0, 2.5])
def test_it_is_linear_where_every_point_is_known(spread):
    path, t = KineticInterpolant((1.0, 1.0, 1.0), spread), jnp.linspace(0, 1, 7)
    np.testing.assert_allclose(path.coefficients(t), LinearInterpolant().coefficients(t), atol=1e-14)
    np.testing.assert_allclose(path.energy, 1 + spread**2)


def test_it_tends_to_the_linear_one_in_many_dimensions():
    t = jnp.linspace(0, 1, 21)

    def apart(count, size):
        path = fit_kinetic(jax.random.normal(KEY, (count, size)), key=KEY, conditional=1e-3, samples=128)
        return float(jnp.abs(path.alpha(t) - (1 - t)).max())

    few, many = apart(4, 4), apart(4, 4096)
    assert many < 0.1 * few and few > 0.02


def test_it_runs_from_the_source_to_the_target_with_bounded_rates():
    path = fit_kinetic(np.concatenate([TWO] * 2000), key=KEY, knots=9, samples=256)
    for t, ends in ((0.0, (1, 0, 0)), (1.0, (0, 1, 0))):
        np.testing.assert_allclose(path.coefficients(t), ends, atol=1e-12)
        assert np.isfinite(np.asarray(path.rates(t))).all()
    t, h = jnp.linspace(0.02, 0.98, 9), 1e-6
    slopes = (np.array(path.coefficients(t + h)) - np.array(path.coefficients(t - h))) / (2 * h)
    np.testing.assert_allclose(path.rates(t), slopes, atol=1e-5)
    assert float(jnp.abs(jnp.array(path.rates(t))).max()) < 4


def test_it_is_a_schedule_of_the_time_that_runs_back():
    schedule, t = PATH.schedule, jnp.linspace(0.05, 0.95, 7)
    np.testing.assert_allclose(schedule.alpha(t), PATH.beta(1 - t), rtol=1e-14)
    np.testing.assert_allclose(schedule.sigma(t), PATH.alpha(1 - t), rtol=1e-14)
    np.testing.assert_allclose(schedule.time(schedule.gamma(t)), t, rtol=1e-10)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="all positive"):
        KineticInterpolant((1.0, 0.0))
    with pytest.raises(ValueError, match="two or more speeds"):
        KineticInterpolant((1.0,))
    with pytest.raises(ValueError, match="without noise between, but got BridgeInterpolant"):
        kinetic_energy(BridgeInterpolant(), exact_speed)
    for points in (np.zeros((3, 2)), np.ones(3), np.full((3, 2), np.nan)):
        with pytest.raises(ValueError, match="finite points of shape"):
            fit_kinetic(points, key=KEY)
    with pytest.raises(ValueError, match="a share in"):
        fit_kinetic(TWO, key=KEY, conditional=0.0)
