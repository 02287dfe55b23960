"""Runs of dynamics with doses, constants and covariates, from a config: against closed forms, and what is refused."""

from pathlib import Path

import jax
import numpy as np
import polars as pl
import pytest

import nde
from nde.config import ConfigError, load_config
from nde.data import TableError
from nde.fields import Hybrid, KnownField, parameter_values
from nde.objectives import TrajectoryFit
from nde.runs import prepare, RunError
from nde.tasks.base import new_model
from nde.tasks.dynamics import DynamicsTask
from nde.tasks.dynamics.posterior import log_density
from nde.tasks.dynamics.training import batched_inputs, examples, first_states, trajectories

CONFIG = Path(__file__).parent.parent / "configs" / "theophylline.toml"
TASK = DynamicsTask()


@pytest.fixture
def config(tmp_path):
    """Two doses of a drug that leaves at the rate k times a constant; a has no row of values at its first dose."""
    rows = [
        ("a", 1.0, 10.0, None, 2.0),
        ("a", 2.0, None, 1.0, 2.0),
        ("a", 3.0, 5.0, None, 2.0),
        ("a", 4.0, 0, 1.0, 2.0),
    ]
    for name in "bcde":
        rows += [(name, 0.0, 20.0, 0.0, 1.0), (name, 1.0, None, 1.5, 1.0), (name, 2.0, 0, 2.0, 1.0)]
    frame = pl.DataFrame(rows, schema=["id", "time", "amt", "blood", "fast"], orient="row", strict=False)
    frame.write_csv(tmp_path / "t.csv")
    (tmp_path / "drug.py").write_text(
        'STATES = ("blood",)\nPARAMETERS = {"k": 0.3}\n\n\ndef field(t, y, p):\n    return [-p.k * p.fast * y[0]]\n'
    )
    (tmp_path / "run.toml").write_text(
        f'task = "dynamics"\n[data]\npath = "{tmp_path / "t.csv"}"\nid = "id"\ntime = "time"\nconstants = ["fast"]\n'
        'doses = { amount = "amt", state = "blood" }\n[solver]\nrtol = 1e-8\natol = 1e-8\n'
        '[[model]]\nname = "known"\nknown = "drug.py:field"\n'
        '[observe]\nstart = "known"\nknown_start = { blood = 0.0 }\n'
    )
    return tmp_path / "run.toml"


def prepared(config, overrides=()):
    resolved, problem = prepare(load_config(config, overrides))
    return resolved, problem, new_model(resolved, resolved.members()[0], TASK.facts(resolved))


def test_a_fit_solves_from_the_first_dose_with_those_of_each_series_and_its_constants(config):
    resolved, problem, model = prepared(config)
    first, inputs = (f(resolved, problem) for f in (first_states, batched_inputs))
    _, found = trajectories(model, np.asarray(problem.panel.times), np.asarray(first), problem.panel.ids, inputs)
    decay = np.exp(-0.6)
    np.testing.assert_allclose(found[0, :2, 0], [10 * decay, (10 * decay**2 + 5) * decay], rtol=1e-5)
    np.testing.assert_allclose(found[1, :, 0], [0.0, 20 * np.exp(-0.3), 20 * np.exp(-0.6)], rtol=1e-5, atol=1e-5)
    batch = examples(resolved, problem, resolved.members()[0]).arrays
    terms = jax.vmap(lambda *row: TrajectoryFit()(model, *row))(*batch)
    assert float(terms.count.sum()) == problem.fit.sum() and np.isfinite(terms.nll).all()


def test_the_density_of_a_model_with_doses_is_the_training_loss_of_all_its_values_and_bends_as_it_does(config):
    resolved, problem, model = prepared(config)
    density = log_density(resolved, problem, model)
    batch = examples(resolved, problem, resolved.members()[0]).arrays
    terms = jax.vmap(lambda *row: TrajectoryFit()(model, *row))(*batch)
    at = density.initial_vector
    np.testing.assert_allclose(density(at), -float((terms.nll).sum()), rtol=1e-5)
    curve = jax.jit(density.curve)(at)
    steps = np.eye(len(at)) * 1e-4
    slopes = [(density(at + s) - density(at - s)) / 2e-4 for s in steps]
    np.testing.assert_allclose(curve.gradient, -np.array(slopes), rtol=1e-4, atol=1e-4)


def test_a_hybrid_sees_what_is_given_in_units_of_the_series_that_are_trained_on(config):
    resolved, problem, model = prepared(config, ["model.name=hybrid", "model.residual_inputs=['blood', 'fast']"])
    field = model.ode.field
    assert isinstance(field, Hybrid)
    mean = problem.inputs.constants["fast"][problem.series].mean()
    assert field.inputs == (0,) and field.given[0][:2] == ("fast", mean)
    seen = field._with_given(np.zeros(1), {"fast": np.asarray(mean)})
    np.testing.assert_allclose(seen, [0.0, 0.0], atol=1e-12)
    with pytest.raises(ValueError, match=r"Hybrid's residual sees 'fast' of args, which has nothing"):
        field.correction(0.0, np.zeros(1))


def test_a_hybrid_may_see_given_values_alone():
    known = KnownField(lambda t, y, p: y, {}, states=("a",))
    field = Hybrid(known, lambda t, x, args: x, inputs=[], given={"w": (1.0, 2.0)})
    np.testing.assert_allclose(field.residual(0.0, field._with_given(np.zeros(1)[:0], {"w": 5.0}), None), [2.0])


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["data.covariates={fast='cubic'}", "data.constants=[]"], "'fast' is read as 'cubic', but the ways are held"),
        (["data.doses.state=liver"], "doses.state = 'liver' is neither a state (blood) nor a column"),
        (["data.doses.amount=amount"], "no column 'amount'"),
        (["data.doses.reset=fast"], "data.doses.reset needs solver.steps_per_row"),
        (["observe.positive=true"], "observe.positive solves for logarithms, which a dose does not move"),
        (["observe.known_start={liver=0.0}"], "observe.known_start names liver, but the states are blood"),
        (["observe.start=learned"], "start = 'known' and known_start"),
        (["model.name=hybrid", "model.residual_inputs=['age']"], "but the states are blood and the inputs fast"),
    ],
)
def test_runs_with_inputs_that_do_not_fit_are_refused_in_a_line(config, overrides, said):
    with pytest.raises((ConfigError, RunError, ValueError)) as caught:
        prepare(load_config(config, overrides))
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_dose_before_the_first_row_that_is_the_start_is_refused(config):
    text = config.read_text().replace('start = "known"\nknown_start = { blood = 0.0 }', 'start = "first_row"')
    config.write_text(text)
    with pytest.raises(RunError, match=r"a dose of series a lies before its first row; take observe.start = 'known'"):
        prepare(load_config(config))


def test_steps_per_row_without_inputs_are_refused_as_of_a_model_that_no_series_drives():
    with pytest.raises(ConfigError, match=r"no series drives a model 'known'"):
        load_config(CONFIG.parent / "own_equation.toml", ["solver.steps_per_row=2"])


def test_the_shipped_config_holds_out_whole_subjects_with_their_own_doses():
    resolved, problem = prepare(load_config(CONFIG))
    assert problem.test.sum() == 33 and problem.inputs is not None and len(problem.inputs) == 12
    assert resolved.observe.scale is not None and 200 < resolved.observe.scale[0] < 400  # mg, of the doses


def test_a_run_predicts_series_of_a_table_from_what_is_given_to_them(config, tmp_path):
    few = load_config(config, ["train.steps=1", "train.validate_every=1"])
    run = nde.fit(few, out=tmp_path / "run", progress=False)
    rate = float(parameter_values(run.models()["known system"][0].ode.field)["k"])
    asked = pl.DataFrame(
        {"id": ["z", "z", "z"], "time": [0.0, 2.0, 3.0], "amt": [8.0, 4.0, None], "blood": None, "fast": [1.5] * 3},
        schema_overrides={"blood": pl.Float64},
    )
    found = run.predict(asked, ahead=[1.0], samples=4000)
    exact = 8 * np.exp(-1.5 * rate * np.array([3.0, 4.0])) + 4 * np.exp(-1.5 * rate * np.array([1.0, 2.0]))
    assert found["time"].to_list() == [3.0, 4.0]
    np.testing.assert_allclose(found["mean"], exact, atol=0.05)
    alone = asked.filter(pl.col("amt").is_not_null()).with_columns(id=pl.lit("w"))  # doses and nothing else
    found = run.predict(pl.concat([asked, alone]), samples=200)
    assert found.filter(pl.col("id") == "w")["time"].to_list() == [0.0, 2.0]
    with pytest.raises(TableError, match="no column 'fast'"):
        run.predict(asked.drop("fast"))
