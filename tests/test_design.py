"""Coefficients as networks of a design: the field, its gradient, a run from a table, and what is refused."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest

import nde
from nde.config import ConfigError, load_config
from nde.fields import DesignField, ignition, parameter_values
from nde.runs import RunError

GIVEN = {"c": (2.0, 0.5)}


def linear(t, z, args):
    return jnp.stack([2.0 * z[0], -z[0]])


def test_coefficients_move_in_their_coordinates_without_bounds():
    known = ignition(1e3, 2.0, 1.5)
    field = DesignField(known, linear, coefficients=("a", "e"), given=GIVEN)
    y = jnp.array([1.1, 0.7])
    for c in (2.0, 3.0):
        z = (c - 2.0) / 0.5
        e = np.log1p(np.exp(np.log(np.expm1(2.0)) - z))  # softplus of its coordinate, moved
        rate = 1e3 * np.exp(2 * z) * np.exp(-e / 1.1) * 0.7
        np.testing.assert_allclose(field(0.0, y, {"c": c}), [1.5 * rate, -rate], rtol=1e-12)
    assert parameter_values(field) == known.parameter_values()
    assert field.state_names == ("temperature", "fuel")


def test_gradient_through_a_stiff_solve_is_that_of_differences():
    key = jax.random.key(0)
    network = nde.MLPField(1, 3, 1, out_size=2, scale=0.3, key=key)
    field = DesignField(ignition(50.0, 3.0), network, coefficients=("a", "e"), given=GIVEN)
    control = nde.PIDController(rtol=1e-8, atol=1e-10)
    ts = jnp.array([0.0, 0.2, 0.5])
    weights, rest = eqx.partition(field, eqx.is_inexact_array)

    def end(weights):
        ode = nde.NeuralODE(eqx.combine(weights, rest), solver=nde.Kvaerno5(), controller=control)
        return jnp.sum(jax.vmap(lambda c: ode(ts, jnp.array([1.0, 1.0]), {"c": c})[-1, 0])(jnp.array([1.5, 2.4])))

    end = eqx.filter_jit(end)
    gradient = eqx.filter_jit(eqx.filter_grad(end))(weights)
    direction = jax.tree.map(lambda x: jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape), weights)
    along = sum(jnp.vdot(g, d) for g, d in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True))
    up, down = (end(jax.tree.map(lambda x, d, s=s: x + s * d, weights, direction)) for s in (1e-4, -1e-4))
    assert float(along) != 0.0
    np.testing.assert_allclose(along, (up - down) / 2e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("coefficients", "given", "message"),
    [
        (("b",), GIVEN, "^DesignField: 'b' is no coefficient that a network can make, once; those are e, q, a"),
        (("a", "a"), GIVEN, "'a' is no coefficient"),
        ((), GIVEN, "needs a coefficient or more"),
        (("a",), {}, "and what is given of a series"),
    ],
)
def test_bad_coefficients_are_refused(coefficients, given, message):
    with pytest.raises(ValueError, match=message):
        DesignField(ignition(), linear, coefficients=coefficients, given=given)


def test_design_that_is_not_given_is_named():
    with pytest.raises(ValueError, match="^DesignField needs 'c' in args, but is given d"):
        DesignField(ignition(), linear, coefficients=("a",), given=GIVEN)(0.0, jnp.ones(2), {"d": 1.0})


@pytest.fixture
def decays(tmp_path):
    """y' = -k y with k = exp(c) by series, and a config whose network knows c."""
    times, designs = np.linspace(0.0, 1.0, 6), np.linspace(-1.0, 1.0, 10)
    rows = [(f"s{i}", t, c, np.exp(-np.exp(c) * t)) for i, c in enumerate(designs) for t in times]
    pl.DataFrame(rows, schema=["id", "t", "c", "y"], orient="row").write_csv(tmp_path / "d.csv")
    (tmp_path / "decay.py").write_text(
        "import nde\n\nSTATES, PARAMETERS = ('y',), {'k': nde.Parameter(1.5, log=True), 'held': nde.Parameter(1.0, "
        "fixed=True)}\n\n\ndef field(t, y, p):\n    return [-p.k * p.held * y[0]]\n"
    )
    (tmp_path / "c.toml").write_text(
        f'task = "dynamics"\n[data]\npath = "{tmp_path / "d.csv"}"\nid = "id"\ntime = "t"\nconstants = ["c"]\n'
        f'folds = 5\n[observe]\nstart = "first_row"\n[[model]]\nname = "design"\nknown = "{tmp_path}/decay.py:field"\n'
        "width = 4\n[train]\nsteps = 150\nlearning_rate = 0.05\nvalidate_every = 50\nwarmup = 0\n"
        "[evaluate]\nsamples = 40\n"
    )
    return tmp_path / "c.toml"


def test_run_learns_how_a_coefficient_depends_on_a_constant_and_scores_series_it_has_not_seen(decays, tmp_path):
    run = nde.fit(load_config(decays), out=tmp_path / "run", progress=False)
    field = next(iter(run.models().values()))[0].ode.field.field
    for c in (-0.7, 0.1, 0.8):
        np.testing.assert_allclose(field.coefficients_of({"c": c})["k"], np.exp(c), rtol=0.05)
    rows = {row["method"]: row["RMSE"] for row in run.evaluate().rows()}
    assert rows["known system, coefficients by a network"] < 0.02 < 0.1 < rows["mean"]


def test_config_without_its_design_is_refused(decays, tmp_path):
    with pytest.raises(ConfigError, match="'held' is no coefficient that a network can make"):
        load_config(decays, ["model.coefficients=['held']"])
    for changes, message in (
        (
            ["data.constants=[]", "data.channels=['y']"],
            r"no constant or covariate 'design'; \[data\] has none",
        ),
        (["model.design=['x']"], "there is no constant or covariate 'x'; there are c"),
    ):
        with pytest.raises((RunError, ConfigError), match=message):
            nde.fit(load_config(decays, changes), out=tmp_path / "other", progress=False)
