"""Sparse regression: libraries, closed forms of given rates and of noisy series, and their use as fields."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest

import nde
from nde.fields import Candidate, Library, library, LibraryField
from nde.report import closed_form, extended_bic, stepwise, term_form, weak_closed_form, with_term
from nde.report.sparse import least_squares, sparse_supports
from nde.report.sparse.form import of_members
from nde.report.sparse.regression import aicc, bic, threshold_support

STATES = np.random.default_rng(0).uniform(0.5, 4.0, (120, 2))
LIBRARY = library(["prey", "predator"], degree=3)


def interaction(states, gain=0.0241):
    return gain * states[..., :1] * states[..., 1:]


def test_library_names_its_candidates_and_evaluates_them_in_either_kind_of_array():
    every = library(["a", "b"], degree=2, sin_cos=True, exp=True, half_saturations=[2.0])
    assert every.names == (
        "1", "a", "b", "a^2", "a * b", "b^2", "sin(a)", "cos(a)", "sin(b)", "cos(b)", "exp(a)", "exp(b)",
        "a / (2 + a)", "b * a / (2 + a)", "b / (2 + b)", "a * b / (2 + b)",
    )  # fmt: skip
    a, b = 0.5, 1.5
    expected = [1, a, b, a * a, a * b, b * b, np.sin(a), np.cos(a), np.sin(b), np.cos(b), np.exp(a), np.exp(b)]
    expected += [a / (2 + a), b * a / (2 + a), b / (2 + b), a * b / (2 + b)]
    np.testing.assert_allclose(every(np.array([a, b])), expected, rtol=1e-14)
    np.testing.assert_allclose(every(jnp.array([[a, b]] * 3))[1], expected, rtol=1e-14)
    assert every == library(["a", "b"], degree=2, sin_cos=True, exp=True, half_saturations=[2.0])


def test_least_squares_agrees_with_the_normal_equations_and_their_errors():
    matrix, rates = LIBRARY(STATES), np.random.default_rng(1).normal(size=120)
    support = np.arange(10) < 4
    found = least_squares(matrix, rates, support)
    chosen = matrix[:, :4]
    inverse = np.linalg.inv(chosen.T @ chosen)
    expected = inverse @ chosen.T @ rates
    np.testing.assert_allclose(found.coefficients[:4], expected, rtol=1e-9)
    variance = ((rates - chosen @ expected) ** 2).sum() / 116
    np.testing.assert_allclose(found.errors[:4], np.sqrt(variance * np.diag(inverse)), rtol=1e-9)
    assert not found.coefficients[4:].any()
    fewer = least_squares(matrix, rates, support, independent=30)
    np.testing.assert_allclose(fewer.errors, 2 * found.errors, rtol=1e-9)


def test_threshold_is_a_share_of_the_rate_and_leaves_out_what_contributes_less():
    matrix = np.sqrt(120) * np.linalg.qr(np.random.default_rng(2).normal(size=(120, 3)))[0]  # of length one each
    rates = matrix @ np.array([1.0, 0.05, 0.0])
    np.testing.assert_array_equal(threshold_support(matrix, rates, 0.01), [True, True, False])
    np.testing.assert_array_equal(threshold_support(1e3 * matrix, rates, 0.1), [True, False, False])
    assert not threshold_support(matrix, rates, 2.0).any()


def test_criteria_are_their_formulas():
    np.testing.assert_allclose(bic(0.5, 40, 2), 40 * np.log(0.5) + 3 * np.log(40))
    np.testing.assert_allclose(aicc(0.5, 40, 2), 40 * np.log(0.5) + 6 + 24 / 36)
    assert aicc(0.5, 4, 2) == np.inf


@pytest.mark.parametrize("criterion", ["bic", "aicc", "held_out"])
def test_terms_are_found_among_noise(criterion):
    states = np.random.default_rng(3).uniform(0.5, 4.0, (4, 60, 2))
    truth = np.concatenate([interaction(states), 0.3 - 0.1 * states[..., :1] ** 2], axis=-1)
    rates = truth + 0.01 * np.random.default_rng(4).normal(size=truth.shape)
    form = closed_form(LIBRARY, states, rates, outputs=["predator", "prey"], criterion=criterion)
    np.testing.assert_allclose(form(states), truth, atol=0.02)
    assert (form.explained > 0.95).all()
    assert (form.errors[form.active] > 0).all()
    assert {"prey * predator"} == set(form.terms("predator"))
    assert {"1", "prey^2"} <= set(form.terms("prey"))


def test_bic_finds_the_terms_alone_with_coefficients_within_their_intervals():
    rng = np.random.default_rng(3)
    truth = np.concatenate([interaction(STATES), 0.3 - 0.1 * STATES[..., :1] ** 2], axis=-1)
    form = closed_form(LIBRARY, STATES, truth + 0.01 * rng.normal(size=truth.shape), outputs=["predator", "prey"])
    expected = np.zeros((10, 2))
    expected[4, 0], expected[0, 1], expected[3, 1] = 0.0241, 0.3, -0.1
    np.testing.assert_array_equal(form.active, expected != 0)
    assert (np.abs(form.coefficients - expected) <= 3 * form.errors).all()


def test_equation_is_printed_with_intervals():
    rates = interaction(STATES) + 0.003 * np.random.default_rng(5).normal(size=(120, 1))
    form = closed_form(LIBRARY, STATES, rates, outputs=["predator"])
    (line,) = form.equations("residual of ")
    value, error = form.coefficients[4, 0], 1.6448536 * form.errors[4, 0]
    assert line == f"residual of predator: {value:+.3g} ({value - error:.3g} to {value + error:.3g}) prey * predator"
    nothing = closed_form(LIBRARY, STATES, np.zeros((120, 1)), outputs=["predator"])
    assert str(nothing) == "predator: 0"
    constant = closed_form(library(["a"]), STATES[:, :1], np.full((120, 1), 2.0), outputs=["a"])
    assert str(constant) == "a: +2 (2 to 2)"


def test_term_is_found_where_powers_nearly_agree_along_a_narrow_orbit():
    angle = np.linspace(0, 2 * np.pi, 60)
    orbit = np.stack([1 + 0.1 * np.cos(angle), 1 + 0.1 * np.sin(angle)], axis=1)
    form = closed_form(LIBRARY, orbit, interaction(orbit, 1.0), outputs=["y"])
    assert form.condition > 1e3
    assert set(form.terms("y")) == {"prey * predator"}
    assert not sparse_supports(LIBRARY(orbit), interaction(orbit, 1.0)[:, 0], [0.1])[-1].any()  # down to none


def test_samples_without_weight_may_be_anything():
    weights = np.ones(120)
    weights[:3] = 0
    states, rates = STATES.copy(), interaction(STATES)
    states[0], rates[1] = np.nan, np.inf
    form = closed_form(LIBRARY, states, rates, outputs=["y"], weights=weights)
    np.testing.assert_allclose(form.terms("y")["prey * predator"], 0.0241)


def test_form_as_a_field_gives_its_rates_and_gradients_to_active_terms_alone():
    form = closed_form(LIBRARY, STATES, interaction(STATES), outputs=["predator"])
    field = form.field()
    np.testing.assert_allclose(field(0.0, jnp.asarray(STATES[0])), form(STATES[0]), rtol=1e-12)
    assert list(nde.fields.parameter_values(field)) == ["prey * predator in predator"]
    gradient = eqx.filter_grad(lambda f: jnp.sum(f(0.0, jnp.array([2.0, 3.0]))))(field)
    np.testing.assert_allclose(jax.tree.leaves(gradient), [6.0], rtol=1e-12)
    assert not LibraryField(LIBRARY, np.zeros((10, 1)))(0.0, jnp.array([2.0, 3.0])).any()
    hybrid = nde.Hybrid(nde.fields.lotka_volterra(), field, states=["predator"])
    hybrid = eqx.tree_at(lambda h: h.scale, hybrid, jnp.ones(()))
    y = jnp.array([2.0, 3.0])
    np.testing.assert_allclose(hybrid(0.0, y), hybrid.known(0.0, y) + jnp.array([0.0, 0.0241 * 6]), rtol=1e-9)


def test_members_differences_are_in_the_errors_of_their_form():
    forms = [closed_form(LIBRARY, STATES, interaction(STATES, gain), outputs=["y"]) for gain in (0.9, 1.1)]
    both = of_members(forms)
    np.testing.assert_allclose(both.terms("y")["prey * predator"], 1.0)
    np.testing.assert_allclose(both.errors[4, 0], np.std([0.9, 1.1], ddof=1), rtol=1e-6)
    np.testing.assert_allclose(of_members(forms[:1]).coefficients, forms[0].coefficients)


@pytest.mark.parametrize("positive", [False, True])
def test_term_of_a_model_is_read_in_units_of_the_data_and_put_back_unchanged(positive):
    # 0.3 - 0.1 w u + 0.2 dose, added to v, as a network of standardised states would have learned it
    location, scale = np.array([0.1, -0.2, 0.3]), np.array([0.8, 0.5, 0.6])

    def network(t, x, args):
        own = x[:2] * scale[[2, 0]] + location[[2, 0]]
        w, u = jnp.exp(own) if positive else own
        return jnp.stack([0.3 - 0.1 * w * u + 0.2 * (x[2] * 3.0 + 2.0)]) / scale[1]

    known = nde.fields.AffineField(lambda t, y, args: -y, location=location, scale=scale)
    field = nde.Hybrid(known, network, states=[1], inputs=[2, 0], given={"dose": (2.0, 3.0)})
    field = eqx.tree_at(lambda h: h.scale, field, jnp.ones(()))
    model = nde.ObservedODE(
        nde.NeuralODE(field),
        None,
        nde.GaussianLikelihood(1),
        (0,),
        positive,
        location=tuple(location.tolist()),
        scale=tuple(scale.tolist()),
    )
    rng = np.random.default_rng(6)
    zs, times = jnp.asarray(rng.normal(size=(2, 60, 3))), jnp.tile(jnp.linspace(0.0, 1.0, 60), (2, 1))
    inputs = nde.paths.Inputs(constants={"dose": jnp.array([1.0, 4.0])})
    form = term_form([model], times, [zs], states=["u", "v", "w"], inputs=inputs)
    assert form.outputs == ("v",) and form.library.inputs == ("w", "u", "dose")
    assert set(form.terms("v")) == {"1", "w * u", "dose"}
    np.testing.assert_allclose(list(form.terms("v").values()), [0.3, 0.2, -0.1], rtol=1e-9)
    again = with_term(model, form).ode.field
    given = {"dose": jnp.asarray(2.5)}
    np.testing.assert_allclose(again(0.0, zs[0, 0], given), field(0.0, zs[0, 0], given), rtol=1e-9)
    assert {"w * u in v", "dose in v"} < set(nde.fields.parameter_values(again))


def test_whole_field_of_a_model_without_a_known_part_is_replaced():
    known = nde.fields.lotka_volterra(1.3, 0.9, 0.8, 1.8)
    model = nde.ObservedODE(nde.NeuralODE(lambda t, y, args: known(t, y)), None, nde.GaussianLikelihood(2), (0, 1))
    times = jnp.linspace(0.0, 1.0, 120)[None]
    form = term_form([model], times, [jnp.asarray(STATES)[None]], states=["prey", "predator"])
    assert set(form.terms("prey")) == {"prey", "prey * predator"}
    y = jnp.array([2.0, 3.0])
    np.testing.assert_allclose(with_term(model, form).ode.field(0.0, y), known(0.0, y), rtol=1e-9)


def regression(scale=1.0):
    """The density of a linear regression with unit noise on six candidates that nearly agree, three of them there."""
    rng = np.random.default_rng(7)
    matrix = rng.normal(size=(40, 6)) + 2.0 * rng.normal(size=(40, 1))
    values = jnp.asarray(scale * (matrix @ np.array([2.0, 0.0, -1.0, 0.0, 0.6, 0.0]) + rng.normal(size=40)))
    matrix = jnp.asarray(matrix)

    def curve(x):
        rest = values - matrix @ x
        return nde.report.Curve(0.5 * rest @ rest, -matrix.T @ rest, matrix.T @ matrix, jnp.zeros((6, 6)))

    return nde.report.LogDensity(
        tuple("abcdef"), tuple("abcdef"), (), jnp.zeros(6), lambda x: -curve(x).loss, lambda x: x, curve, 40
    )


@pytest.mark.parametrize("gamma", [0.0, 1.0])
def test_stepwise_ends_at_the_best_of_all_sets_of_terms(gamma):
    density = regression()
    curve = density.curve(jnp.zeros(6))
    slope, bend = np.asarray(curve.gradient), np.asarray(curve.curvature)

    def price(chosen):
        at = np.ix_(chosen, chosen)
        loss = float(curve.loss) - 0.5 * slope[list(chosen)] @ np.linalg.solve(bend[at], slope[list(chosen)])
        return extended_bic(loss, len(chosen), 40, chosen=len(chosen), candidates=6, gamma=gamma)

    every = [chosen for size in range(7) for chosen in itertools.combinations(range(6), size)]
    best = min(every, key=price)
    found = stepwise(density, list("abcdef"), [{}, {"b": 1.0, "f": 1.0}], gamma=gamma)
    np.testing.assert_array_equal(np.flatnonzero(found.active), best)
    np.testing.assert_allclose(found.criterion, price(best), rtol=1e-8)
    assert found.path[0][0] == "start" and found.path[-1][1] == found.criterion
    assert not np.asarray(found.optimum.position)[~found.active].any()


def test_extended_bic_is_its_formula():
    np.testing.assert_allclose(
        extended_bic(3.0, 5, 40, chosen=2, candidates=10, gamma=0.5), 6 + 5 * np.log(40) + np.log(45)
    )
    np.testing.assert_allclose(extended_bic(3.0, 5, 40, chosen=2, candidates=10, gamma=0), 6 + 5 * np.log(40))


def growth(t, y, p):
    return [p.growth * y[0], -p.death * y[1]]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of growth and death and a network that has hardly been trained."""
    ts, ys = orbit(61, 0.02)
    frame = pl.DataFrame({"id": 1, "t": ts, "prey": ys[:, 0], "predator": ys[:, 1]})
    fixed = {"growth": {"start": 1.3, "fixed": True}, "death": {"start": 1.8, "fixed": True}}
    hybrid = {"name": "hybrid", "label": "hybrid", "known": growth, "states": ["prey", "predator"], "width": 4}
    config = {
        "task": "dynamics",
        "data": {"id": "id", "time": "t", "channels": ["prey", "predator"], "test_after": 4.01},
        "model": [{**hybrid, "parameters": fixed}],
        "observe": {"noise_scale": 0.2},
        "train": {"steps": 2},
        "evaluate": {"samples": 20},
    }
    return nde.fit(config, data=frame, out=tmp_path_factory.mktemp("runs") / "run")


def test_run_finds_the_equation_of_its_network_refits_it_and_scores_it(run):
    evaluation = run.evaluate(**{"closed_form.degree": 2})
    said = evaluation.summary["closed_forms"]["hybrid, closed form"]
    assert {name: set(terms) for name, terms in said["terms"].items()} == {
        "prey": {"prey * predator"},
        "predator": {"prey * predator"},
    }
    for state, truth in (("prey", -0.9), ("predator", 0.8)):
        error = said["errors"][state]["prey * predator"]
        assert 0 < error < 0.05 and abs(said["terms"][state]["prey * predator"] - truth) < 3 * error
    (line,) = [line for line in evaluation.lines() if "90 % by Laplace: added to the rate of predator" in line]
    assert line.endswith("prey * predator") and " to 0.8" in line
    errors = {row["method"]: row["RMSE"] for row in evaluation.rows()}
    assert errors["hybrid, closed form"] < 0.1 < errors["mean"]


def test_closed_form_that_cannot_be_asked_of_a_run_is_refused(run):
    with pytest.raises(ValueError, match=r"hybrid: 70 candidates are more than the 62 values; take a lower degree"):
        run.evaluate(**{"closed_form.degree": 5, "closed_form.exp": True, "closed_form.sin_cos": True,
                        "closed_form.half_saturations": [1.0, 2.0]})  # fmt: skip
    with pytest.raises(ValueError, match="closed_form"):
        run.evaluate(**{"closed_form.degree": -1})


def orbit(rows, noise, seed=0):
    """Times and noisy values of Lotka and Volterra's equations with the rates 1.3, 0.9, 0.8, 1.8."""
    ts = np.linspace(0.0, 8.0, rows)
    model = nde.NeuralODE(nde.fields.lotka_volterra(1.3, 0.9, 0.8, 1.8), solver=nde.Tsit5())
    ys = np.asarray(eqx.filter_jit(model)(jnp.asarray(ts), jnp.array([0.6, 3.0])))
    return ts, ys + noise * ys.mean(0) * np.random.default_rng(seed).normal(size=ys.shape)


def test_weak_form_finds_the_equation_without_derivatives():
    ts, ys = orbit(200, 0.05)
    form = weak_closed_form(library(["prey", "predator"], degree=2), ts, ys)
    assert set(form.terms("prey")) == {"prey", "prey * predator"}
    assert set(form.terms("predator")) == {"predator", "prey * predator"}
    np.testing.assert_allclose(list(form.terms("prey").values()), [1.3, -0.9], rtol=0.05)
    np.testing.assert_allclose(list(form.terms("predator").values()), [-1.8, 0.8], rtol=0.05)


def test_weak_form_takes_the_known_part_away():
    times, values = zip(*(orbit(200, 0.01, seed) for seed in (1, 2)), strict=True)
    form = weak_closed_form(
        library(["prey", "predator"], degree=2),
        np.stack(times),
        np.stack(values),
        known=lambda y: y * np.array([1.3, -1.8]),
    )
    assert {name: set(form.terms(name)) for name in form.outputs} == {
        "prey": {"prey * predator"},
        "predator": {"prey * predator"},
    }


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: library(["a", "a"]), "distinct names of inputs"),
        (lambda: library("ab"), "distinct names of inputs"),
        (lambda: library(["a"], half_saturations=[0.0]), "positive half_saturations"),
        (lambda: library(["a"], degree=0, constant=False), "candidates with a name of its own each"),
        (lambda: Library(("a",), (Candidate("x", np.sin), Candidate("x", np.cos))), "a name of its own each"),
        (lambda: LIBRARY(np.ones(3)), "of the inputs prey, predator, but x has 3 entries"),
        (lambda: LibraryField(LIBRARY, np.ones((3, 1))), r"with 10 candidates, but got the shape \(3, 1\)"),
        (lambda: LibraryField(LIBRARY, np.ones((10, 2)), outputs=["a"]), "a name for each of 2 rates"),
        (lambda: stepwise(regression(), ["a", "b"], [{"z": 1.0}]), "starts from candidates, but 'z' is none of a, b"),
        (lambda: stepwise(regression(np.nan), ["a", "b"]), "could solve none of its starts"),
        (lambda: closed_form(LIBRARY, STATES, STATES, outputs=["y"]), "needs states .* and rates .* of 1 outputs"),
        (lambda: closed_form(LIBRARY, STATES, STATES, outputs=["a", "b"], criterion="r2"), "one of aicc, bic, held_ou"),
        (lambda: closed_form(LIBRARY, STATES, STATES, outputs=["a", "b"], criterion="held_out"), "there is only one"),
        (
            lambda: closed_form(library(["a", "b"], exp=True), 1e3 * STATES, STATES, outputs=["a", "b"]),
            r"finite candidates and rates, but 'exp\(a\)' is not",
        ),
        (lambda: weak_closed_form(LIBRARY, np.arange(9), STATES), "needs times .* of the states prey, predator"),
        (lambda: weak_closed_form(LIBRARY, np.zeros(120), STATES), "finite values at increasing times"),
        (lambda: weak_closed_form(LIBRARY, np.arange(120), STATES, width=0.01), "at least five rows"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
