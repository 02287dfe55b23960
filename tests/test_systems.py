"""Named systems against closed forms, conserved quantities, published numbers and equations written down otherwise."""

from types import SimpleNamespace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad, solve_ivp
from scipy.linalg import expm

from nde import fields
from nde.fields import Parameter, SYSTEMS


def solved(field, y0, ts, **options):
    """By scipy, to a tolerance that leaves the field to be what is tested."""
    rates = jax.jit(lambda t, y: field(t, y))
    options = {"rtol": 1e-10, "atol": 1e-12, "method": "DOP853"} | options
    found = solve_ivp(lambda t, y: np.asarray(rates(t, jnp.asarray(y))), (ts[0], ts[-1]), y0, t_eval=ts, **options)
    assert found.success
    return found.y.T


@pytest.mark.parametrize("name", SYSTEMS)
def test_each_system_names_its_states_and_units_and_can_be_differentiated(name):
    field = SYSTEMS[name]()
    y = jnp.linspace(0.1, 0.9, len(field.states))
    gradient = eqx.filter_grad(lambda f: jnp.sum(f(0.5, y) ** 2))(field)
    assert field(0.5, y).shape == y.shape
    assert np.isfinite(jax.tree.leaves(gradient)).all()
    assert all(parameter.unit for parameter in field.parameters.values())
    assert f"`{name}` |" in fields.systems.__doc__
    row = next(line for line in fields.systems.__doc__.splitlines() if line.startswith(f"| `{name}`"))
    assert row.split(" | ")[1].split(", ") == list(field.states)


def test_lotka_volterra_conserves_its_integral():
    y = solved(fields.lotka_volterra(), [30.0, 4.0], np.linspace(0, 20, 9))
    kept = 0.025 * y[:, 0] - 0.8 * np.log(y[:, 0]) + 0.025 * y[:, 1] - 0.5 * np.log(y[:, 1])
    np.testing.assert_allclose(kept, kept[0], rtol=1e-8)


def test_logistic_growth_is_verhulsts():
    ts = np.linspace(0, 8, 5)
    y = solved(fields.logistic(0.7, 50.0), [2.0], ts)[:, 0]
    np.testing.assert_allclose(y, 50 / (1 + (50 / 2 - 1) * np.exp(-0.7 * ts)), rtol=1e-8)


def test_sir_conserves_people_and_ends_at_its_final_size():
    y = solved(fields.sir(0.5, 0.2), [0.999, 0.001, 0.0], np.array([0.0, 20.0, 400.0]))
    np.testing.assert_allclose(y.sum(1), 1.0, atol=1e-9)
    left = y[-1, 0]
    np.testing.assert_allclose(np.log(left / 0.999), -2.5 * (1 - left), rtol=1e-6)


def test_seir_is_its_equations_in_shares():
    b, s, g = 0.5, 0.3, 0.2

    def rates(t, y):
        new = b * y[0] * y[2]
        return [-new, new - s * y[1], s * y[1] - g * y[2], g * y[2]]

    ts, y0 = np.linspace(0, 60, 4), np.array([0.99, 0.005, 0.005, 0.0])
    expected = solve_ivp(rates, (0, 60), y0, t_eval=ts, rtol=1e-10, atol=1e-12).y.T
    np.testing.assert_allclose(solved(fields.seir(b, s, g), 1000 * y0, ts) / 1000, expected, atol=1e-7)


def test_one_compartment_is_batemans_function():
    ts = np.linspace(0, 24, 7)
    y = solved(fields.one_compartment(1.2, 3.0, 30.0), [320.0, 0.0], ts)
    ka, ke = 1.2, 0.1
    np.testing.assert_allclose(y[:, 1], 320 * ka / (ka - ke) * (np.exp(-ke * ts) - np.exp(-ka * ts)), rtol=1e-7)


def test_two_compartments_are_a_matrix_exponential_and_clear_the_dose():
    ka, cl, v, q, v2 = 1.5, 3.0, 10.0, 5.0, 20.0
    matrix = np.array([[-ka, 0, 0], [ka, -(cl + q) / v, q / v2], [0, q / v, -q / v2]])
    y = solved(fields.two_compartment(ka, cl, v, q, v2), [100.0, 0, 0], np.array([0.0, 2.0, 9.0]))
    np.testing.assert_allclose(y[1:], [expm(matrix * t) @ [100.0, 0, 0] for t in (2.0, 9.0)], rtol=1e-7)
    area = quad(lambda t: (expm(matrix * t) @ [100.0, 0, 0])[1] / v, 0, 200)[0]
    np.testing.assert_allclose(area, 100 / cl, rtol=1e-4)  # dose over clearance


def test_cart_pole_conserves_energy_and_takes_the_work_of_its_force():
    cart, pole, length, g = 1.0, 0.1, 0.5, 9.81

    def energy(y):
        _, angle, speed, velocity = y.T
        swing = pole * (length * velocity) ** 2 / 2 + pole * length * speed * velocity * np.cos(angle)
        return (cart + pole) * speed**2 / 2 + swing - pole * g * length * np.cos(angle)

    field = fields.cart_pole(cart, pole, length)
    y = solved(field, [0.0, 2.0, 0.3, -1.0], np.linspace(0, 5, 11))
    np.testing.assert_allclose(energy(y), energy(y)[0], atol=1e-8)
    at = jnp.array([0.1, 2.0, 0.3, -1.0])
    rates = field(0.0, at, {"force": 0.7})
    step = 1e-6 * np.asarray(rates)
    power = (energy((at + step)[None]) - energy((at - step)[None])) / 2e-6
    np.testing.assert_allclose(power, 0.7 * 0.3, rtol=1e-6)


def test_planar_quadrotor_falls_hovers_and_turns():
    field = fields.planar_quadrotor(0.5, 0.003)
    y = solved(field, [0, 10.0, 0, 1.0, 0, 0], np.array([0.0, 1.0]))[-1]
    np.testing.assert_allclose(y, [1.0, 10 - 9.81 / 2, 0, 1.0, -9.81, 0], atol=1e-8)
    p = SimpleNamespace(mass=0.5, inertia=0.003, thrust=0.5 * 9.81, torque=0.006)
    np.testing.assert_allclose(field.function(0.0, jnp.zeros(6), p), [0, 0, 0, 0, 0, 2.0], atol=1e-12)
    tilted = field.function(0.0, jnp.zeros(6).at[2].set(jnp.pi / 2), p)
    np.testing.assert_allclose(tilted[3:5], [-9.81, -9.81], rtol=1e-12)


def test_van_der_pol_has_its_published_period():

    def crossing(t, y):
        return y[0]

    crossing.direction = 1.0
    rates = jax.jit(fields.van_der_pol(1.0).__call__)
    found = solve_ivp(
        lambda t, y: np.asarray(rates(t, jnp.asarray(y))), (0, 60), [2.0, 0.0], rtol=1e-9, atol=1e-10, events=crossing
    )
    np.testing.assert_allclose(np.diff(found.t_events[0])[-2:], 6.6633, atol=1e-3)


def test_fitzhugh_nagumo_rests_where_the_cubic_says():
    a, b, tau, current = 0.7, 0.8, 12.5, 0.2
    roots = np.roots([-1 / 3, 0, 1 - 1 / b, current - a / b])
    v = float(roots[np.isreal(roots)].real[0])
    field = fields.fitzhugh_nagumo(a, b, tau, current)
    np.testing.assert_allclose(field(0.0, jnp.array([v, (v + a) / b])), 0, atol=1e-12)
    slope = jax.jacfwd(lambda y: field(0.0, y))(jnp.array([v, 0.0]))
    np.testing.assert_allclose(slope, [[1 - v**2, -1], [1 / tau, -b / tau]], rtol=1e-12)


def test_lorenz_loses_its_fixed_points_where_lorenz_found_it():
    sigma, beta = 10.0, 8 / 3
    rho = sigma * (sigma + beta + 3) / (sigma - beta - 1)  # 24.74, his equation for the critical value
    field = fields.lorenz(sigma, rho, beta)
    point = jnp.array([1.0, 1.0, 0.0]) * np.sqrt(beta * (rho - 1)) + jnp.array([0.0, 0.0, rho - 1])
    np.testing.assert_allclose(field(0.0, point), 0, atol=1e-9)
    eigenvalues = np.linalg.eigvals(jax.jacfwd(lambda y: field(0.0, y))(point))
    np.testing.assert_allclose(rho, 24.74, atol=5e-3)
    np.testing.assert_allclose(sorted(eigenvalues.real)[1:], 0, atol=1e-9)


def test_ignition_takes_the_time_of_its_integral():
    # As T + q Y is conserved, dt = dT / (a e^(-e / T) (T_end - T)).
    ts = np.linspace(0, 0.03, 7)
    y = solved(fields.ignition(1e7, 15.0, 1.5), [1.0, 1.0], ts, method="Radau")
    np.testing.assert_allclose(y[:, 0] + 1.5 * y[:, 1], 2.5, rtol=1e-8)
    assert y[2, 0] < 1.2 < 2.4 < y[-1, 0]
    for t, temperature in zip(ts[1:4], y[1:4, 0], strict=True):
        time, _ = quad(lambda T: 1 / (1e7 * np.exp(-15 / T) * (2.5 - T)), 1.0, temperature, epsabs=1e-12)
        np.testing.assert_allclose(time, t, rtol=1e-6)


def test_robertson_has_its_published_values():
    y = solved(fields.robertson(), [1.0, 0, 0], np.array([0.0, 0.4, 40.0]), method="Radau", rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(y[1], [9.8517e-01, 3.3864e-05, 1.4794e-02], rtol=5e-5)
    np.testing.assert_allclose(y[2], [0.7158, 9.185e-06, 0.2842], rtol=2e-4)


def test_glycolysis_is_its_stoichiometry():
    s = np.array([1.1, 0.9, 0.2, 0.15, 0.16, 2.0, 0.1])
    j0, k1, k2, k3, k4, k5, k6, ki, q, n, a, kappa, psi, k = (
        2.5, 100, 6, 16, 100, 1.28, 12, 0.52, 4, 1, 4, 13, 0.1, 1.8
    )  # fmt: skip
    flux = [
        j0, k1 * s[0] * s[5] / (1 + (s[5] / ki) ** q), k2 * s[1] * (n - s[4]), k3 * s[2] * (a - s[5]),
        k4 * s[3] * s[4], k5 * s[5], k6 * s[1] * s[4], kappa * (s[3] - s[6]), k * s[6],
    ]  # fmt: skip
    # in, phosphofructokinase, oxidation, pyruvate kinase, alcohol, use of ATP, glycerol, out, cyanide
    stoichiometry = np.array(
        [
            [1, -1, 0, 0, 0, 0, 0, 0, 0],
            [0, 2, -1, 0, 0, 0, -1, 0, 0],
            [0, 0, 1, -1, 0, 0, 0, 0, 0],
            [0, 0, 0, 1, -1, 0, 0, -1, 0],
            [0, 0, 1, 0, -1, 0, -1, 0, 0],
            [0, -2, 0, 2, 0, -1, 0, 0, 0],
            [0, 0, 0, 0, 0, 0, 0, psi, -1],
        ]
    )
    np.testing.assert_allclose(fields.glycolysis()(0.0, jnp.asarray(s)), stoichiometry @ flux, rtol=1e-12)


def test_white_dwarf_of_infinite_density_is_the_polytrope_of_index_three():
    # Lane-Emden, n = 3: xi = 6.89685, xi^2 |theta'| = 2.01824 (Chandrasekhar 1939, table 4)
    y = solved(fields.white_dwarf(1e-12), [1.0, 0.0], np.array([0.0, 6.89685]))[-1]
    np.testing.assert_allclose(y[0], 0, atol=1e-5)
    np.testing.assert_allclose(-(6.89685**2) * y[1], 2.01824, atol=1e-4)


def test_white_dwarf_starts_at_its_centre_on_its_series():
    c, ts = 0.4, np.array([0.0, 5e-4, 0.01])
    q = np.sqrt(1 - c)
    y = solved(fields.white_dwarf(c), [1.0, 0.0], ts, max_step=2e-4)
    np.testing.assert_allclose(1 - y[:, 0], q**3 * ts**2 / 6 - q**4 * ts**4 / 40, rtol=1e-6, atol=1e-14)

    def rates(c):
        return fields.white_dwarf(0.4).function(0.0, jnp.array([1.0, 0.0]), SimpleNamespace(c=c))

    np.testing.assert_allclose(jax.jacfwd(rates)(0.4)[1], q / 2, rtol=1e-6)  # of -(1 - C)^(3/2) / 3


@pytest.mark.parametrize(("c", "side"), [(0.0, "lower=0.0"), (1.0, "upper=1.0")])
def test_a_start_outside_of_its_bounds_names_them(c, side):
    with pytest.raises(ValueError, match=f"'c' needs a start strictly between its bounds, but start={c}.*{side}"):
        fields.white_dwarf(c)


# --- parameters -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bounds", [{}, {"lower": 0.5}, {"upper": 4.0}, {"lower": 0.5, "upper": 4.0}, {"lower": 0.0}])
def test_a_log_parameter_is_positive_within_its_bounds_and_starts_at_its_start(bounds):
    parameter = Parameter(2.0, log=True, **bounds)
    np.testing.assert_allclose(parameter.value, 2.0, rtol=1e-12)
    if not set(bounds) - {"lower"} and bounds.get("lower", 0.0) == 0.0:
        np.testing.assert_allclose(parameter.raw, np.log(2.0), rtol=1e-12)
    far = [jax.tree.map(lambda raw, x=x: raw + x, parameter).value for x in (-40.0, 40.0)]
    assert bounds.get("lower", 0.0) <= far[0] < 2.0 < far[1] <= bounds.get("upper", np.inf)


def test_a_fixed_parameter_is_no_leaf():
    parameter = Parameter([0.0, 2.0], lower=0.0, fixed=True)  # on its bound
    assert jax.tree.leaves(parameter) == [] and parameter.fixed
    np.testing.assert_array_equal(parameter.value, [0.0, 2.0])
    assert hash(jax.tree.structure(parameter)) == hash(jax.tree.structure(parameter))


@pytest.mark.parametrize(
    ("start", "options", "message"),
    [
        (-1.0, {"log": True}, "'ka' is positive, for log=True, but got start=-1.0, lower=None"),
        (1.0, {"log": True, "lower": -1.0}, "'ka' is positive, for log=True, but got start=1.0, lower=-1.0"),
        (2.0, {"fixed": True, "upper": 1.0}, "'ka' needs a start between its bounds, but start=2.0, lower=None, upper"),
        (np.nan, {}, "'ka' needs a start strictly between its bounds, but start=nan"),
    ],
)
def test_parameters_that_can_not_be_are_refused(start, options, message):
    with pytest.raises(ValueError, match=message):
        Parameter(start, name="ka", **options)


def test_priors_are_densities_of_the_value_and_are_summed_over_a_model():
    normal, log_normal = fields.NormalPrior(1.0, 0.5), fields.LogNormalPrior(2.0, 0.3)
    for prior, end in ((normal, -4.0), (log_normal, 1e-9)):
        density = jax.jit(lambda x, prior=prior: jnp.exp(prior.log_prob(x)))
        np.testing.assert_allclose(quad(density, end, 12.0, limit=200)[0], 1.0, rtol=1e-6)
    np.testing.assert_allclose(quad(lambda x: jnp.exp(log_normal.log_prob(x)), 1e-9, 2.0)[0], 0.5, rtol=1e-6)
    rates = {
        "a": Parameter(1.2, prior=normal), "b": Parameter(2.2, log=True, prior=log_normal), "c": Parameter(1.0),
        "d": Parameter(5.0, fixed=True, prior=normal),
    }  # fmt: skip
    model = fields.AffineField(fields.KnownField(lambda t, y, p: y, rates), location=[0.0], scale=[1.0])
    expected = normal.log_prob(1.2) + log_normal.log_prob(2.2)
    np.testing.assert_allclose(fields.log_prior(model), expected, rtol=1e-12)
    assert fields.log_prior(fields.pendulum()) == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fields.NormalPrior(1.0, 0.0), "NormalPrior needs scale > 0, and finite, but got scale=0.0"),
        (lambda: fields.LogNormalPrior(-1.0, 0.3), "LogNormalPrior needs location > 0, and finite, but got location=-"),
    ],
)
def test_priors_of_no_law_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
