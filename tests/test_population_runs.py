"""Runs of populations from a config: a linear mixed model against its normal law, and theophylline against R's nlme."""

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest
from scipy import stats

import nde
from nde.config import ConfigError, load_config
from nde.models import known_parameters
from nde.objectives import LaplaceMarginal
from nde.runs import prepare
from nde.tasks import PopulationTask
from nde.tasks.base import new_model
from nde.tasks.population.posterior import log_density, posterior
from nde.tasks.population.training import examples

THEOPHYLLINE = Path(__file__).parent.parent / "configs" / "theophylline_population.toml"
TASK, TIMES = PopulationTask(), np.array([0.0, 1.0, 2.0, 3.0])
RATE, SPREAD, NOISE = 1.3, 0.5, 0.2


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Individuals that grow from zero, each at its own rate: a straight line with a random slope."""
    folder = tmp_path_factory.mktemp("population")
    generator = np.random.default_rng(0)
    rows = [
        (f"i{i}", t, rate * t + NOISE * generator.standard_normal())
        for i, rate in enumerate(RATE + SPREAD * generator.standard_normal(10))
        for t in TIMES
    ]
    pl.DataFrame(rows, schema=["id", "t", "x"], orient="row").write_csv(folder / "d.csv")
    (folder / "line.py").write_text(
        'STATES = ("size",)\n\n\ndef field(t, y, p):\n    return [p.rate + 0 * y[0]]\n\n\n'
        'def observe(t, y, p):\n    return {"x": y[0]}\n'
    )
    (folder / "run.toml").write_text(
        f'task = "population"\n[data]\npath = "{folder / "d.csv"}"\nid = "id"\ntime = "t"\n'
        '[[model]]\nname = "mixed"\nlabel = "line"\nknown = "line.py:field"\n'
        f"parameters = {{ rate = {{ start = {RATE}, random = {SPREAD} }} }}\n"
        '[observe]\nobserved = "line.py:observe"\nstart = "known"\nknown_start = { size = 0.0 }\nnoise_scale = 0.3\n'
        '[solver]\nname = "midpoint"\nsteps_per_row = 1\n[train]\nsteps = 2\nvalidate_every = 2\n'
        "[evaluate]\nsamples = 400\nrepeats = 20\nbins = 3\n"
    )
    return folder / "run.toml"


def prepared(config, overrides=()):
    resolved, problem = prepare(load_config(config, overrides))
    return resolved, problem, new_model(resolved, resolved.members()[0], TASK.facts(resolved))


def test_the_density_is_that_of_a_linear_mixed_model_and_so_are_the_intervals_at_its_maximum(config):
    resolved, problem, model = prepared(config)
    density = log_density(resolved, problem, model)
    assert density.names == ("rate", "spread of rate", "noise of x") and density.parameters == ("rate",)
    values = problem.panel.values[problem.series, :, 0]

    def exact(rate, spread, noise):
        law = stats.multivariate_normal(rate * TIMES, spread**2 * np.outer(TIMES, TIMES) + noise**2 * np.eye(4))
        return law.logpdf(values).sum()

    at = density.constrain(density.initial_vector)
    np.testing.assert_allclose(density(density.initial_vector), exact(*map(float, at.values())), rtol=1e-9)
    found = posterior(resolved, problem, model)
    rate, spread, noise = found.intervals()
    steps = 1e-4 * np.eye(3)
    best = np.array([rate.value, spread.value, noise.value])
    slopes = [exact(*(best + s)) - exact(*(best - s)) for s in steps]
    np.testing.assert_allclose(slopes, 0, atol=1e-6)  # a maximum
    # the rate is a mean of slopes, each of variance spread^2 + noise^2 / sum t^2
    away = stats.norm.ppf(0.95) * np.sqrt((spread.value**2 + noise.value**2 / (TIMES**2).sum()) / len(values))
    np.testing.assert_allclose([rate.low, rate.high], rate.value + away * np.array([-1, 1]), rtol=1e-4)
    assert found.criteria().free == 3 and found.identifiability().flat == []


def test_a_run_scores_individuals_held_out_and_predicts_new_ones_from_few_values(config, tmp_path):
    run = nde.fit(config, out=tmp_path / "run", progress=False)
    model = run.models()["line"][0]
    rate, spread = float(known_parameters(model.ode.field)["rate"].value), float(jnp.exp(model.raw_spread[0]))
    noise = float(np.sqrt(model.likelihood.variance(jnp.zeros(1))[0]))
    blind, given = run.evaluate(), run.evaluate(given=3)
    scores = {row["method"]: row for row in blind.rows()}
    assert scores["line"]["NLL"] < scores["mean"]["NLL"]
    assert {row["method"]: row for row in given.rows()}["line"]["RMSE"] < 0.7 * scores["line"]["RMSE"]
    assert "given their first 3 rows" in given.title and any("between individuals: rate" in x for x in blind.lines())
    assert set(run.figures(blind)) == {"training", "predictive check", "individuals", "residuals"}
    asked = pl.DataFrame({"id": ["a", "a", "b"], "t": [0.0, 1.0, 0.0], "x": [None, 2.0, None]})
    found = run.predict(asked, ahead=[1.0], samples=4000)
    at = dict(zip(zip(found["id"], found["t"], strict=True), found.rows(named=True), strict=True))
    # the slope of a given one value at time one, and of b given none
    mean = (rate / spread**2 + 2.0 / noise**2) / (1 / spread**2 + 1 / noise**2)
    away = stats.norm.ppf(0.95) * np.sqrt(4 / (1 / spread**2 + 1 / noise**2) + noise**2)
    np.testing.assert_allclose(at["a", 2.0]["mean"], 2 * mean, atol=0.04)
    np.testing.assert_allclose(at["a", 2.0]["q95"] - at["a", 2.0]["q50"], away, rtol=0.1)
    np.testing.assert_allclose(at["b", 1.0]["mean"], rate, atol=0.04)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["solver={rtol=1e-3}"], "need fixed steps: give solver.dt0 or steps_per_row"),
        (["observe.start=learned", "observe.known_start={}"], "known_start"),
        (["data.test_after=2.0"], "whole individuals are held out"),
        (["model.parameters={rate=1.0}"], "no parameter varies between individuals"),
        (["model.random_inputs={own=0.3}"], "nothing reads 'own'"),
        (
            ["model.random_inputs={size=0.3}", "model.residual_states=['size']", "model.residual_inputs=['size']"],
            "random_inputs: 'size' is also the name of a state",
        ),
        (["train.polish=2", "train.polish_method=lm"], "needs a sum of squares, which a population has not"),
        (["model.name=known"], "the model 'known' does not serve task = 'population'"),
        (["objective.curvature=other"], "objective.curvature"),
    ],
)
def test_populations_that_can_not_be_are_refused_in_a_line(config, overrides, said):
    with pytest.raises(ConfigError) as caught:
        load_config(config, overrides)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_an_effect_in_a_run_of_dynamics_is_refused_with_the_task_that_has_them():
    with pytest.raises(ConfigError, match="ka.random: parameters vary between individuals in task = 'population'"):
        load_config(THEOPHYLLINE.parent / "theophylline.toml", ["model.parameters.ka.random=0.3"])


def test_first_order_likelihood_of_theophylline_is_that_of_nlme():
    """-179.3246 at its estimates, by nlme 3.1.162 in R: see tests/bench/theophylline.py."""
    overrides = ["data.folds=1", "solver.dt0=0.1", "objective.curvature=expected"]
    overrides += [
        f"model.parameters.{name}.start={x}" for name, x in (("ka", 1.56118), ("cl", 0.0402899), ("v", 0.455566))
    ]
    overrides += [
        f"model.parameters.{name}.random={x}" for name, x in (("ka", 0.642238), ("cl", 0.264458), ("v", 0.134573))
    ]
    resolved, problem, model = prepared(THEOPHYLLINE, overrides)
    law = model.likelihood.law
    raw = jnp.log(jnp.expm1((0.692170 - 1e-3) / problem.values.std()))[None]
    model = eqx.tree_at(lambda m: m.likelihood.law.raw_scale, model, raw)
    data = jax.tree.map(jnp.asarray, examples(resolved, problem).arrays)
    found = eqx.filter_jit(jax.vmap(lambda *one: LaplaceMarginal(8, "expected").log_marginal(model, one)))(*data)
    assert type(law).__name__ == "GaussianLikelihood"
    assert float(found.sum()) == pytest.approx(-179.3246, abs=0.01)
