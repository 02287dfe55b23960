"""What data say of unknowns: maxima, intervals, profiles and identifiability, against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest
from scipy import stats

import nde
from nde.config import load_config
from nde.report import (
    covariance,
    Criteria,
    Curve,
    effective_number,
    identifiability,
    Interval,
    LogDensity,
    maximise,
    plot_profile,
    Posterior,
)
from nde.runs import prepare
from nde.tasks.dynamics.noise import noise_numbers
from nde.tasks.dynamics.posterior import log_density, posterior

RNG = np.random.default_rng(0)
DESIGN = RNG.normal(size=(12, 3)) * np.array([1.0, 3.0, 0.3])
SEEN = DESIGN @ np.array([1.0, -2.0, 0.5]) + 0.1 * RNG.normal(size=12)
NOISE = 0.1


def linear(design=DESIGN, names=("a", "b", "c")):
    """A linear model with normal noise of known scale, whose third unknown is a logarithm."""

    def residual(x):
        return (jnp.asarray(design) @ x - SEEN) / NOISE

    def curve(x):
        slopes = jax.jacfwd(residual)(x)
        nothing = jnp.zeros((len(names), len(names)))
        return Curve(0.5 * jnp.sum(residual(x) ** 2), slopes.T @ residual(x), slopes.T @ slopes, nothing)

    return LogDensity(
        names, names[:2], (), jnp.zeros(len(names)), lambda x: -0.5 * jnp.sum(residual(x) ** 2),
        lambda x: jnp.concatenate([x[:2], jnp.exp(x[2:])]), curve, len(SEEN),
    )  # fmt: skip


BEST = np.linalg.lstsq(DESIGN, SEEN, rcond=None)[0]
SPREAD = NOISE**2 * np.linalg.inv(DESIGN.T @ DESIGN)


def test_maximum_intervals_profile_and_draws_of_a_linear_model_are_its_closed_form():
    found = Posterior(linear)
    np.testing.assert_allclose(found.optimum.position, BEST, rtol=1e-4)
    assert found.optimum.converged and int(found.optimum.evaluations) < 20
    np.testing.assert_allclose(covariance(found.optimum.curve.curvature), SPREAD, rtol=1e-8)
    away = stats.norm.ppf(0.95) * np.sqrt(np.diag(SPREAD))
    for kind in ("expected", "observed"):
        a, _, c = found.intervals(curvature=kind)
        np.testing.assert_allclose([a.value, a.low, a.high], BEST[0] + away[0] * np.array([0, -1, 1]), rtol=1e-4)
        np.testing.assert_allclose([c.low, c.high], np.exp(BEST[2] + away[2] * np.array([-1, 1])), rtol=1e-4)
    profiled = found.profile("c")
    np.testing.assert_allclose([profiled.interval.low, profiled.interval.high], [c.low, c.high], rtol=1e-4)
    assert profiled.threshold == pytest.approx(stats.norm.ppf(0.95) ** 2)
    expected = (np.log(profiled.values) - BEST[2]) ** 2 / SPREAD[2, 2]
    np.testing.assert_allclose(profiled.deviances, expected, rtol=1e-3, atol=1e-7)
    drawn = found.draws(20000, key=jax.random.key(0))
    np.testing.assert_allclose(np.cov(drawn.T) / SPREAD, 1, atol=0.08)
    assert found.gained == pytest.approx(
        0.5 * (np.sum((SEEN / NOISE) ** 2) - np.sum(((DESIGN @ BEST - SEEN) / NOISE) ** 2))
    )
    assert plot_profile(profiled, level=0.9).axes


def test_what_is_held_stays_and_many_fits_go_at_once():
    density = linear()
    held = maximise(density.curve, jnp.array([0.0, 0.0, 7.0]), jnp.array([True, True, False]))
    assert float(held.position[2]) == 7.0
    np.testing.assert_allclose(held.position[:2], np.linalg.lstsq(DESIGN[:, :2], SEEN - 7 * DESIGN[:, 2])[0], rtol=1e-4)
    many = jax.vmap(lambda x: maximise(density.curve, x).position)(jnp.asarray(RNG.normal(size=(4, 3))))
    np.testing.assert_allclose(many, np.tile(BEST, (4, 1)), rtol=1e-4)


def test_an_open_side_of_a_profile_is_said_to_be_open():
    """The loss tends to 1 from below as the coordinate grows: that end has no deviance of chi squared's quantile."""

    def loss(x):
        return jnp.sum(1.0 - jnp.exp(-jnp.exp(-x)) + 4 * jax.nn.softplus(-x) ** 2)

    def curve(x):
        return Curve(loss(x), jax.grad(loss)(x), jnp.abs(jax.hessian(loss)(x)), jnp.zeros((1, 1)))

    density = LogDensity(("x",), ("x",), (), jnp.ones(1), lambda x: -loss(x), jnp.exp, curve, 3)
    found = Posterior(lambda: density).profile("x").interval
    assert found.open_above and not found.open_below
    assert found.text().endswith("to open)") and found.low < found.value


def test_an_unknown_at_its_bound_is_said_to_be_there_and_moves_no_other():
    """z = exp(u) >= 0 and y = v - z + noise is best with z = 0; the profile of v lets z come back from its bound."""
    seen = jnp.array([0.9, 1.0, 1.1])

    def mean(x):
        return jnp.stack([x[0] - jnp.exp(x[1]), x[0], x[0] + jnp.exp(x[1]) + 0.5]) - seen - jnp.array([0.0, 0.0, 0.5])

    def curve(x):
        residual, slopes = mean(x) / 0.5, jax.jacfwd(mean)(x) / 0.5
        extra = 3.0 * jnp.exp(x[1])  # a prior that pulls z to zero harder than the data pull it up
        pull = jnp.array([0.0, 1.0]) * extra
        return Curve(
            0.5 * jnp.sum(residual**2) + extra, slopes.T @ residual + pull, slopes.T @ slopes, jnp.zeros((2, 2))
        )

    density = LogDensity(
        ("v", "z"), ("v", "z"), (), jnp.array([0.0, 0.0]), lambda x: -curve(x).loss,
        lambda x: jnp.stack([x[0], jnp.exp(x[1])]), curve, 3,
    )  # fmt: skip
    found = Posterior(lambda: density)
    assert found.at_bound() == ["z"]
    v, z = found.intervals()
    assert z.text() == "z 0 (at its bound)" or (z.at_bound and z.value < 1e-6)
    away = stats.norm.ppf(0.95) * 0.5 / np.sqrt(3)
    np.testing.assert_allclose([v.low, v.high], [1 - away, 1 + away], rtol=1e-4)
    profiled = found.profile("v").interval
    np.testing.assert_allclose([profiled.low, profiled.high], [1 - away, 1 + away], rtol=1e-2)
    upper = found.profile("z").interval
    assert not upper.open_above and upper.low < 1e-6
    # 2 * (3 z - 0.2 / 0.25 z + z**2 / 0.25) = the quantile, the others being fitted anew
    np.testing.assert_allclose(_deviance_at(upper.high), stats.chi2.ppf(0.9, 1), rtol=0.05)
    assert list(found.identifiability().directions[0].weights) == ["v"]


@pytest.mark.parametrize("start", [-1.2, -5.0, -14.0])
def test_an_unknown_is_at_its_bound_wherever_its_search_began_and_its_profile_ends_where_the_loss_says(start):
    """exp(x) >= 0 with the loss 50 exp(2 x): the deviance of 90 % is reached at the root of 2.7055 / 100."""

    def loss(x):
        return 50 * jnp.exp(2 * x[0]) + 0.5 * x[1] ** 2

    def curve(x):
        bend = jax.hessian(loss)(x)
        return Curve(loss(x), jax.grad(loss)(x), bend, jnp.zeros((2, 2)))

    density = LogDensity(
        ("spread", "y"), ("spread", "y"), (), jnp.array([start, 0.3]), lambda x: -loss(x),
        lambda x: jnp.stack([jnp.exp(x[0]), x[1]]), curve, 3,
    )  # fmt: skip
    found = Posterior(lambda: density)
    assert found.at_bound() == ["spread"]
    interval = found.profile("spread").interval
    assert not interval.open_above and interval.low < 1e-3
    np.testing.assert_allclose(interval.high, np.sqrt(stats.chi2.ppf(0.9, 1) / 100), rtol=0.02)
    y = found.profile("y").interval
    np.testing.assert_allclose([y.low, y.high], stats.norm.ppf(0.95) * np.array([-1, 1]), atol=0.03)
    drawn = found.draws(200, key=jax.random.key(0))
    assert np.ptp(drawn[:, 0]) < 1e-3 and drawn[:, 1].std() > 0.8


def test_what_runs_to_infinity_or_is_not_seen_is_at_no_bound():
    def made(loss, transform):
        def curve(x):
            return Curve(loss(x), jax.grad(loss)(x), jnp.abs(jax.hessian(loss)(x)), jnp.zeros((1, 1)))

        return Posterior(lambda: LogDensity(("x",), ("x",), (), jnp.ones(1), lambda x: -loss(x), transform, curve, 3))

    assert made(lambda x: jnp.sum(jnp.exp(-x)), jnp.exp).at_bound() == []  # better the larger, without an end
    assert made(lambda x: jnp.sum(0 * x), jnp.exp).at_bound() == []


def _deviance_at(z):
    """Twice by how much the loss of the test above rises from z = 0, v being fitted anew."""

    def loss(z):
        seen = np.array([0.9 + z, 1.0, 1.1 - z])
        return 0.5 * np.sum((seen - seen.mean()) ** 2) / 0.25 + 3.0 * z

    return 2 * (loss(z) - loss(0.0))


def test_effective_number_lies_between_none_and_all():
    curvature, prior = np.diag([101.0, 1.0, 2.0]), np.eye(3)
    assert effective_number(curvature, prior) == pytest.approx(100 / 101 + 0 + 0.5)
    assert effective_number(curvature, 0 * prior) == pytest.approx(3)
    criteria = Criteria(-10.0, 3.0, 20)
    assert (criteria.aic, criteria.bic) == (26.0, pytest.approx(20 + 3 * np.log(20)))
    assert criteria.text() == "log likelihood -10.00, AIC 26.00, BIC 28.99 (3 free numbers, 20 values)"


def test_information_of_logarithms_names_what_is_flat():
    # only a * b is seen, with a relative error of 1 %; c is a nuisance that is seen with them
    sensitivity = np.array([[2.0 * 3.0, 3.0 * 2.0, 1.0], [0, 0, 1.0]])  # of log a and log b times the product
    curvature = sensitivity.T @ sensitivity * 1e4
    found = identifiability(["a", "b", "c"], [2, 3, 1], [2, 3, 1], curvature, parameters=["a", "b"])
    assert [direction.flat for direction in found.directions] == [False, True]
    assert found.condition == np.inf
    assert found.sentences() == [
        "not determined: a up with b down (a +0.71, b -0.71 in logarithms) leaves the fit as it was"
    ] or found.sentences() == [
        "not determined: b up with a down (b +0.71, a -0.71 in logarithms) leaves the fit as it was"
    ]
    np.testing.assert_allclose(found.spectrum[0], 2 * 6.0**2 * 1e4 / 2 * 0.5 * 2, rtol=1e-6)


def test_what_cannot_be_asked_is_refused():
    density = linear()
    with pytest.raises(ValueError, match="there is no unknown 'd'; the unknowns are a, b, c"):
        density.index("d")
    with pytest.raises(ValueError, match="a position has a number for each of a, b, c, but this one has a"):
        density({"a": 1.0})
    with pytest.raises(ValueError, match=r"a position has 3 coordinates, but this one has the shape \(2,\)"):
        density(jnp.zeros(2))
    found = Posterior(linear)
    for ask in (lambda: found.intervals(level=1.0), lambda: found.profile("a", level=0.0)):
        with pytest.raises(ValueError, match="a level of intervals lies between 0 and 1"):
            ask()
    with pytest.raises(ValueError, match="the curvature is 'expected' or 'observed', but is 'x'"):
        found.intervals(curvature="x")
    assert Interval("a", 1.0, 0.0, 2.0, True, False).text() == "a 1 (open to 2)"


TIMES = np.arange(8.0) / 2


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """One channel that falls, two series, and the resolved config of a network's fit."""
    folder = tmp_path_factory.mktemp("inference")
    rng = np.random.default_rng(1)
    rows = [(f"s{i}", t, (2 + i) * np.exp(-0.7 * t) + 0.05 * rng.normal()) for i in range(2) for t in TIMES]
    pl.DataFrame(rows, schema=["id", "t", "x"], orient="row").write_csv(folder / "d.csv")
    data = {"path": str(folder / "d.csv"), "id": "id", "time": "t", "test_after": 2.9}
    return prepare(load_config({"task": "dynamics", "data": data, "observe": {"noise_scale": 0.1}}))


def model_of(config, function, parameters, **likelihood):
    """An observed ODE of a function of one state, in its own units."""
    ode = nde.NeuralODE(nde.KnownField(function, parameters), controller=nde.PIDController(rtol=1e-8, atol=1e-8))
    starts = jnp.asarray(np.array(config.observe.starts))
    return nde.ObservedODE(ode, starts, nde.GaussianLikelihood(1, **{"scale": 0.05, **likelihood}), (0,))


def test_a_product_of_parameters_is_said_to_be_open_and_a_good_model_is_not(table):
    config, problem = table
    two = {name: nde.Parameter(start, lower=0.0) for name, start in (("a", 0.5), ("b", 1.2))}
    found = posterior(config, problem, model_of(config, lambda t, y, p: -p.a * p.b * y, two))
    said = found.identifiability()
    assert len(said.flat) == 1
    np.testing.assert_allclose(np.abs(list(said.flat[0].weights.values())), np.sqrt(0.5), atol=1e-3)
    assert "leaves the fit as it was" in said.sentences()[0]
    values = found.values()
    np.testing.assert_allclose(values["a"] * values["b"], 0.7, atol=0.05)
    profiled = found.profile("a").interval
    assert profiled.open_below or profiled.open_above
    good = posterior(config, problem, model_of(config, lambda t, y, p: -p.a * y, {"a": two["a"]}))
    assert good.identifiability().flat == []
    assert good.density.names == ("a", "noise of x", "start of x of s0", "start of x of s1")
    (a, noise, *starts), _ = good.intervals(), good.criteria()
    assert a.low < 0.7 < a.high and 0.02 < noise.value < 0.1
    np.testing.assert_allclose([start.value for start in starts], [2, 3], atol=0.1)
    assert good.criteria().free == 4 and good.criteria().count == 12


def test_the_curve_is_the_gradient_of_the_density_and_the_hessian_its_differences(table):
    config, problem = table
    model = model_of(config, lambda t, y, p: -p.a * y, {"a": nde.Parameter(0.5, lower=0.0)})
    density = log_density(config, problem, model)
    position, h = density.initial_vector, 1e-4
    curve, both = jax.jit(density.curve)(position), jax.jit(jax.value_and_grad(density))
    value, gradient = (lambda x: both(x)[0]), (lambda x: both(x)[1])
    np.testing.assert_allclose(curve.loss, -value(position), rtol=1e-10)
    np.testing.assert_allclose(curve.gradient, -gradient(position), rtol=1e-7)
    steps = np.eye(4) * h
    np.testing.assert_allclose(
        [(value(position + s) - value(position - s)) / (2 * h) for s in steps], gradient(position), rtol=1e-5
    )
    hessian = jax.jit(jax.hessian(density))(position)
    differences = [(gradient(position + s) - gradient(position - s)) / (2 * h) for s in steps]
    np.testing.assert_allclose(hessian, differences, rtol=1e-4, atol=1e-3)
    by_name = density(density.initial)
    np.testing.assert_allclose(by_name, value(position), rtol=1e-10)
    np.testing.assert_allclose(density.constrain(position)["a"], 0.5)


def test_a_sampler_finds_the_posterior_of_a_straight_line(table):
    """y' = slope from a learned start is a linear regression; the noise is held. Hamiltonian steps by hand."""
    config, problem = table
    density = log_density(
        config, problem, model_of(config, lambda t, y, p: p.slope + 0 * y, {"slope": nde.Parameter(0.0)})
    )
    noise = density.initial["noise of x"]
    names = ("slope", "start of x of s0", "start of x of s1")

    def log_prob(z):
        return density({"noise of x": noise, **{name: z[i] for i, name in enumerate(names)}})

    seen = problem.fit[..., 0].sum(1)
    rows = [np.array([t, i == 0, i == 1]) for i in range(2) for t in TIMES[: seen[i]]]
    values = np.concatenate([problem.values[i, : seen[i], 0] for i in range(2)])
    design, scale = np.array(rows, float), float(density.constrain(density.initial)["noise of x"])
    best = np.linalg.lstsq(design, values)[0]
    spread = scale**2 * np.linalg.inv(design.T @ design)
    mass = jnp.asarray(np.linalg.cholesky(spread))
    slope = jax.value_and_grad(lambda w: log_prob(jnp.asarray(best) + mass @ w))

    def transition(state, key):
        w, at, pull = state
        to, draw = jax.random.split(key)
        v = jax.random.normal(to, w.shape)
        energy, first, u = at - 0.5 * v @ v, (w, at, pull), jax.random.uniform(draw)

        def leap(_, carry):
            w, _, pull, v = carry
            v = v + 0.25 * pull
            w = w + 0.5 * v
            at, pull = slope(w)
            return w, at, pull, v + 0.25 * pull

        w, at, pull, v = jax.lax.fori_loop(0, 3, leap, (*first, v))
        accept = jnp.log(u) < at - 0.5 * v @ v - energy
        state = jax.tree.map(lambda a, b: jnp.where(accept, a, b), (w, at, pull), first)
        return state, state[0]

    w = jnp.zeros(3)
    _, drawn = jax.jit(lambda: jax.lax.scan(transition, (w, *slope(w)), jax.random.split(jax.random.key(0), 3000)))()
    np.testing.assert_allclose(np.mean(drawn, 0), 0, atol=0.1)
    np.testing.assert_allclose(np.cov(drawn.T), np.eye(3), atol=0.15)


def test_a_prior_counts_with_the_jacobian_of_its_transform_and_a_fixed_parameter_is_no_unknown(table):
    config, problem = table
    prior = nde.fields.LogNormalPrior(0.7, 0.1)
    fixed = {"b": nde.Parameter(1.0, fixed=True)}

    def density_of(prior):
        parameters = {"a": nde.Parameter(0.5, lower=0.0, prior=prior), **fixed}
        return log_density(config, problem, model_of(config, lambda t, y, p: -p.a * p.b * y, parameters))

    plain, bayes = density_of(None), density_of(prior)
    assert bayes.parameters == ("a",) and bayes.names == plain.names
    at = bayes.initial
    value, slope = jax.value_and_grad(lambda raw: jax.nn.softplus(raw))(at["a"])
    added = prior.log_prob(value) + jnp.log(slope)
    np.testing.assert_allclose(bayes(at) - plain(at), added, rtol=1e-8)
    tight = posterior(config, problem, model_of(config, lambda t, y, p: -p.a * y, {
        "a": nde.Parameter(0.5, lower=0.0, prior=nde.fields.LogNormalPrior(0.7, 1e-3))}))  # fmt: skip
    plain = posterior(config, problem, model_of(config, lambda t, y, p: -p.a * y, {
        "a": nde.Parameter(0.5, lower=0.0)}))  # fmt: skip
    # the likelihood alone, which is lower where a prior pulls
    assert plain.criteria().log_likelihood - 0.5 < tight.criteria().log_likelihood < plain.criteria().log_likelihood
    a = tight.intervals()[0]
    np.testing.assert_allclose([a.low, a.high], 0.7 * np.exp(1.645e-3 * np.array([-1, 1])), rtol=2e-4)


def test_numbers_of_noise_are_named_and_in_the_units_of_the_values():
    def said(law, channels):
        return {
            name: float(x)
            for each in noise_numbers(law, channels)
            for name, x in zip(each.names, each.value, strict=True)
        }

    laws = nde.objectives
    scaled = laws.ScaledLikelihood(nde.GaussianLikelihood(2, scale=[0.1, 0.2]), unit=[10, 1])
    np.testing.assert_allclose(list(said(scaled, "xy").values()), [1.0, 0.2], rtol=0.02)
    both = laws.ChannelLikelihood(
        [
            laws.ScaledLikelihood(laws.CombinedLikelihood(1, additive=0.5, proportional=0.3), unit=[10]),
            laws.ScaledLikelihood(laws.LogNormalLikelihood(1, scale=0.4), unit=[10]),
            laws.PoissonLikelihood(),
        ]
    )
    found = said(laws.CensoredLikelihood(both, below=[0.1, None, None], above=[None] * 3), "xyz")
    assert list(found) == ["additive noise of x", "proportional noise of x", "noise of y"]
    np.testing.assert_allclose(list(found.values()), [5.0, 0.3, 0.4], rtol=0.02)


def test_a_run_says_its_intervals_and_refuses_what_it_does_not_have(table, tmp_path):
    config, _ = table
    settings = {"steps": 1, "validate_every": 1}
    known = {"name": "known", "known": "logistic", "label": "k"}
    observe = {"observed": {"x": "size"}}
    tree = {"task": "dynamics", "data": config.data.model_dump(include={"path", "id", "time", "test_after"})}
    run = nde.fit(
        {**tree, "observe": observe, "train": settings, "evaluate": {"samples": 20}, "model": [known]},
        out=tmp_path / "run", progress=False,
    )  # fmt: skip
    told = run.evaluate().lines()
    assert len(told) == 1
    with pytest.raises(ValueError, match="no model has a parameter 'mass'; the parameters are "):
        run.evaluate(profile=["mass"])
    with pytest.raises(ValueError, match="there is no model 'x'"):
        run.log_density("x")
    with pytest.raises(ValueError, match="there is no member 1; they are 0 to 0"):
        run.posterior("k", member=1)
    lines = run.evaluate(intervals=True).lines()
    assert lines[1].startswith("k, 90 % by Laplace: ") and "log likelihood" in lines[-1]
