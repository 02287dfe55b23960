"""Equations of one's own in a config: found, run, kept, opened again; parameters with priors; what is refused."""

import tomllib
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

import nde
from nde.cli import app
from nde.config import ConfigError, load_config
from nde.fields import parameter_values
from nde.runs import prepare, Run, RunError
from nde.tasks.dynamics.evaluation import parameter_notes
from nde.tasks.dynamics.training import examples, training_loss

CONFIG = Path(__file__).parent.parent / "configs" / "own_equation.toml"
FEW = ["train.steps=2", "train.validate_every=2", "train.log_every=1", "train.warmup=0", "evaluate.samples=20"]
DRUG = """
STATES = ("gut", "central")
PARAMETERS = {"ka": 1.0, "k": 0.2}


def field(t, y, p):
    return [-p.ka * y[0], p.ka * y[0] - p.k * y[1]]


def short(t, y, p):
    return [-p.ka * y[0] - p.k * y[1]]


def asks(t, y, p):
    return [-p.ke * y[0], p.k * p.ka * y[1]]


def breaks(t, y, p):
    return y @ y.foo


def observe(t, y, p):
    return {"conc": y[1] / p.volume}


def other(t, y, p):
    return {"blood": y[1]}


number = 3
"""


@pytest.fixture
def drug(tmp_path):
    """A folder with an equation, data and a config that names both."""
    (tmp_path / "drug.py").write_text(DRUG)
    rows = [(f"s{i}", t, (1 + 0.1 * i) * t * np.exp(-0.3 * t)) for i in range(3) for t in np.linspace(0.25, 6.0, 8)]
    pl.DataFrame(rows, schema=["id", "time", "conc"], orient="row").write_csv(tmp_path / "t.csv")
    (tmp_path / "run.toml").write_text(
        f'task = "dynamics"\n[data]\npath = "{tmp_path / "t.csv"}"\nid = "id"\ntime = "time"\ntest_after = 4.0\n'
        '[[model]]\nname = "known"\nknown = "drug.py:field"\n[observe.observed]\nconc = "central"\n'
    )
    return tmp_path


def refused(config, overrides=()):
    with pytest.raises((ConfigError, RunError)) as caught:
        prepare(load_config(config, overrides))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_shipped_equation_is_fitted_kept_and_opened_where_its_file_has_gone(tmp_path):
    for name in ("own_equation.toml", "own_equation.py"):
        (tmp_path / name).write_text((CONFIG.parent / name).read_text())
    arguments = ["fit", tmp_path / "own_equation.toml", *FEW, "--out", tmp_path / "run"]
    result = CliRunner().invoke(app, [str(x) for x in arguments])
    assert result.exit_code == 0, result.output
    assert "own_equation.py:field: code of your own, a copy of which is in the run's folder" in result.output
    assert "growth 0.5" in result.output and "1/year" in result.output
    kept = tomllib.loads((tmp_path / "run" / "config.toml").read_text())
    assert kept["model"][0]["known"] == f"{tmp_path / 'own_equation.py'}:field"
    scored = Run.open(tmp_path / "run").evaluate().rows()
    (tmp_path / "own_equation.py").unlink()
    (tmp_path / "run").rename(tmp_path / "moved")
    nde.config.own_code._sources.clear()  # as of another process
    nde.config.own_code._modules.clear()
    run = nde.open_run(tmp_path / "moved")
    assert run.evaluate().rows() == scored
    assert prepare(run.config)[0] == run.config
    model = run.models()["saturating predation"][0]
    values = parameter_values(model.ode.field)
    assert values["trapped"] == 0.5 and values["growth"] != 0.5
    # half of the animals are seen, on the scale of logarithms
    ys, ts = model.starts[0], jnp.zeros(1)
    np.testing.assert_allclose(model.locations(ys, ts), jnp.log(0.5 * model.own_units(ys)), rtol=1e-12)
    with pytest.raises(ValueError, match="needs the times `ts`"):
        model.locations(ys)
    copy = tmp_path / "moved" / "own_equation.py"
    copy.write_text(copy.read_text() + "\n")
    nde.config.own_code._sources.clear()
    with pytest.raises(ConfigError, match=r"own_equation.py: has changed since the run was made \(its sha256 is not"):
        nde.open_run(tmp_path / "moved")


def test_changed_original_is_said_and_the_copy_goes_on(drug):
    settings = load_config(drug / "run.toml")
    (drug / "drug.py").write_text(DRUG + "\n# changed\n")
    code = settings.own_code()[0]
    assert code.said() == (
        f"drug.py:field: {drug / 'drug.py'} has changed since; the run goes on with the copy in its folder"
    )


def test_parameters_of_the_config_are_over_those_of_the_file(drug):
    table = {"ka": {"start": 2.0, "lower": 0.5, "upper": 9.0, "unit": "1/h"}, "k": {"fixed": True}}
    config, _ = prepare(load_config(drug / "run.toml", [f"model.parameters.{n}={_toml(t)}" for n, t in table.items()]))
    assert config.observe.states == ("gut", "central")
    system = config.model[0].system()
    ka, k = system.parameters["ka"], system.parameters["k"]
    assert (float(ka.value), ka.lower, ka.upper, ka.unit) == (2.0, 0.5, 9.0, "1/h")
    assert k.fixed and k.value == 0.2
    np.testing.assert_allclose(system(0.0, jnp.array([1.0, 2.0])), [-2.0, 2.0 - 0.4], rtol=1e-12)
    member = config.members()[0]
    model = member.section.build(config.observe.facts(), config.solver, key=jax.random.key(0))
    assert parameter_notes({"known": [model]}) == ["known: ka 2 1/h, k 0.2"]


def test_named_system_takes_bounds_log_scales_and_priors(drug):
    table = {"ka": {"start": 2.0, "log": True}, "v": {"prior": {"name": "normal", "location": 30.0, "scale": 5.0}}}
    overrides = [f"model.parameters.{n}={_toml(t)}" for n, t in table.items()]
    system = load_config(drug / "run.toml", ["model.known=one_compartment", *overrides]).model[0].system()
    assert system.parameters["ka"].log and system.parameters["v"].lower == 0.0 and system.parameters["v"].unit == "L"
    np.testing.assert_allclose(nde.fields.log_prior(system), -0.5 * np.log(2 * np.pi) - np.log(5.0), rtol=1e-12)


def _toml(table):
    inner = ", ".join(f"{key} = {_toml(value)}" for key, value in table.items()) if isinstance(table, dict) else None
    return f"{{ {inner} }}" if inner is not None else str(table).lower() if isinstance(table, bool) else repr(table)


def test_prior_counts_once_over_all_values_and_fixed_parameters_are_not_trained(drug):
    prior = 'model.parameters.ka={ start = 1.0, prior = { name = "normal", location = 3.0, scale = 0.5 } }'
    losses = {}
    for name, overrides in {"without": [], "with": [prior, "model.parameters.k={ fixed = true }"]}.items():
        config, problem = prepare(load_config(drug / "run.toml", overrides))
        member = config.members()[0]
        model = member.section.build(config.observe.facts(), config.solver, key=jax.random.key(0))
        batch = jax.tree.map(jnp.asarray, examples(config, problem, member).arrays)
        loss = training_loss(config, problem)
        value = eqx.filter_jit(
            eqx.filter_value_and_grad(lambda m, loss=loss, b=batch: loss(m, b, jnp.array(0), KEY).loss)
        )
        losses[name] = value(model)
    values = int(problem.fit.sum())
    expected = (0.5 * (2.0 / 0.5) ** 2 + np.log(0.5) + 0.5 * np.log(2 * np.pi)) / values
    np.testing.assert_allclose(losses["with"][0] - losses["without"][0], expected, rtol=1e-9)
    slopes = [g.ode.field.field.parameters for _, g in (losses["without"], losses["with"])]
    np.testing.assert_allclose(slopes[1]["ka"].raw - slopes[0]["ka"].raw, -2.0 / 0.25 / values, rtol=1e-9)
    assert jax.tree.leaves(slopes[1]["k"]) == [] and slopes[0]["k"].raw != 0


KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.known=gone.py:field"], "model: known: gone.py: no such file in "),
        (
            ["model.known=drug.py:feild"],
            "drug.py has no 'feild'; it defines field, short, asks, breaks, observe, other",
        ),
        (["model.known=drug.py"], "write code of your own as 'FILE.py:NAME', not 'drug.py'"),
        (["model.known=drug.py:number"], "drug.py:number must be a function f(t, y, p) or an Equinox module, but is 3"),
        (["model.known=drug.py:short"], "drug.py:short returned 1 rates, but the states are 2: return a rate for each"),
        (["model.known=drug.py:asks"], "reads p.ke, but there is no parameter 'ke'; there are ka, k: write parameters"),
        (["model.known=drug.py:breaks"], "drug.py:breaks failed with AttributeError:"),
        (["model.parameters.kk=1.0"], "drug.py:field never reads the parameter 'kk'; what is read: k, ka"),
        (["model.parameters.cl={ unit = 'L/h' }"], "the parameter 'cl' has no start; write cl = 1.0, or cl = { start"),
        (
            ["model.parameters.ka={ lowr = 1.0 }"],
            "model.parameters.ka.lowr: unknown key; the keys here are start, lower",
        ),
        (
            ["model.parameters.ka={ prior = { name = 'normal', mean = 1.0 } }"],
            "model.parameters.ka.prior.location: missing; set it in the file",
        ),
        (
            ["model.parameters.ka={ start = 1.0, upper = 0.5 }"],
            "'ka' needs a start strictly between its bounds, but st",
        ),
        (["model.parameters.ka=true"], "model.parameters.ka"),
        (["model.known=sir", "model.states=['a', 'b', 'c']"], "states are for an equation of your own; those of sir"),
        (["observe.observed=drug.py:other"], "drug.py:other returned blood, but the channels are conc"),
        (["observe.observed=drug.py:observe"], "drug.py:observe reads p.volume, but there is no parameter 'volume'"),
        (["observe.start=first_row", "observe.observed=drug.py:other"], "but a function of them is observed; take"),
        (["observe.observed=drug.py:number"], "drug.py:number must be a function observe(t, y, p), but is 3"),
    ],
)
def test_bad_equations_are_refused_in_one_line(drug, overrides, message):
    assert message in refused(drug / "run.toml", overrides)


def test_file_that_can_not_be_run_is_named(drug):
    (drug / "drug.py").write_text("import nothing_of_that_name\n")
    assert f"{drug / 'drug.py'}: can not be run (ModuleNotFoundError: No module" in refused(drug / "run.toml")


def test_two_files_of_one_name_are_refused(drug):
    (drug / "b").mkdir()
    (drug / "b" / "drug.py").write_text(DRUG + "# other\n")
    settings = load_config(drug / "run.toml", ["observe.observed=b/drug.py:other"])
    codes = settings.own_code()
    (drug / "run").mkdir()
    codes[0].keep(drug / "run")
    with pytest.raises(ValueError, match=r"two files of a run are called drug.py; rename one"):
        codes[1].keep(drug / "run")


def decay(t, y, p):
    return [-p.rate * y[0], p.rate * y[0] - y[1]]


def tree(drug, known, **more):
    data = {"path": str(drug / "t.csv"), "id": "id", "time": "time", "test_after": 4.0}
    model = {"name": "known", "known": known, "states": ["gut", "central"], **more}
    return {
        "task": "dynamics", "data": data, "model": [model], "observe": {"observed": {"conc": "central"}},
        "train": {"steps": 1, "validate_every": 1, "warmup": 0}, "evaluate": {"samples": 20},
    }  # fmt: skip


def test_function_of_a_module_is_known_by_its_file(drug):
    settings = load_config(tree(drug, decay, parameters={"rate": 0.7}))
    assert settings.model[0].known == f"{Path(__file__).absolute()}:decay"
    assert settings.own_code()[0].load() is decay


def test_object_in_no_file_is_not_kept_and_can_be_given_again(drug, capsys):
    field = nde.KnownField(decay, {"rate": nde.Parameter(0.5, lower=0.0)}, states=["gut", "central"])
    given = tree(drug, field)
    del given["model"][0]["states"]
    run = nde.fit(given, out=drug / "run")
    name = run.config.model[0].known.removeprefix("python:")
    assert (
        f"{name}: given in Python and in no file, so the run can be opened only with it given"
        in capsys.readouterr().out
    )
    assert {path.suffix for path in (drug / "run").iterdir()} == {"", ".toml", ".jsonl"}
    nde.config.own_code._given.clear()  # as of another process
    with pytest.raises(ConfigError, match=rf"give it again as nde.open_run\(folder, given=\{{'{name}': …\}}\)"):
        nde.open_run(drug / "run")
    again = nde.open_run(drug / "run", given={name: field})
    assert again.models()["known system"][0].ode.field.field.states == ("gut", "central")


def test_equinox_module_is_a_field_as_it_is_and_learns(drug):
    network = nde.MLPField(2, 3, 1, key=jax.random.key(0))
    config, _ = prepare(load_config(tree(drug, network)))
    model = config.members()[0].section.build(config.observe.facts(), config.solver, key=jax.random.key(1))
    assert model.ode.field.field is network
    assert "an Equinox module with parameters of its own" in refused(tree(drug, network, parameters={"rate": 1.0}))
    assert "must be a function f(t, y, p)" in refused(tree(drug, nde.MLPField))


def test_hybrid_of_an_equation_of_ones_own_names_its_states(drug):
    more = ["model.name=hybrid", "model.residual_states=['liver']"]
    assert "residual_states names the state 'liver', but the states are gut, central" in refused(
        drug / "run.toml", more
    )
    (drug / "drug.py").write_text(DRUG.replace('STATES = ("gut", "central")', ""))
    states = ["observe.states=['gut', 'central']"]
    assert "there is no state 'liver'; the states are gut, central" in refused(drug / "run.toml", [*more, *states])
    config, _ = prepare(load_config(drug / "run.toml", ["model.name=hybrid", "model.residual_states=['gut']", *states]))
    assert config.observe.states == ("gut", "central")


def test_known_field_stacks_numbers_one_by_one():
    rates = nde.KnownField(decay, {"rate": nde.Parameter(0.5)})
    np.testing.assert_allclose(rates(0.0, jnp.array([2.0, 3.0])), [-1.0, -2.0], rtol=1e-12)
    with pytest.raises(
        ValueError, match=r"needs a number for each of 3 states, but got rates of the shapes \[\(\), \(\)"
    ):
        rates(0.0, jnp.ones(3))


def test_observation_takes_lists_and_refuses_shapes():
    seen = nde.models.Observation(lambda t, y, p: [y[0] * p, 2.0], ("a", "b"))
    np.testing.assert_allclose(seen(0.0, jnp.array([3.0]), 2.0), [6.0, 2.0])
    with pytest.raises(ValueError, match=r"returned the shape \(1,\), but must return a number for each of a, b"):
        nde.models.Observation(lambda t, y, p: y, ("a", "b"))(0.0, jnp.ones(1), None)


# --- noise and limits in a config -------------------------------------------------------------------------------------


@pytest.fixture
def mixed(tmp_path):
    """A concentration with values below its limit, written as zero, beside a count at other times, and an answer."""
    generator = np.random.default_rng(0)
    rows = []
    for i in range(4):
        for row, t in enumerate(np.linspace(0.5, 8.0, 12)):
            conc = 2 * np.exp(-0.5 * t) * np.exp(0.1 * generator.standard_normal())
            seen = (
                (conc if conc > 0.1 else 0.0, None) if row % 2 else (None, int(generator.poisson(3 * np.exp(-0.1 * t))))
            )
            rows.append((f"s{i}", t, *seen, int(generator.random() < 0.5) if row % 3 else None))
    pl.DataFrame(rows, schema=["id", "time", "conc", "cells", "well"], orient="row").write_csv(tmp_path / "t.csv")
    (tmp_path / "drug.py").write_text(
        "def field(t, y, p):\n    return [-p.k * y[0], -p.d * y[1]]\n\n\n"
        "def observe(t, y, p):\n    return {'conc': y[0], 'cells': y[1], 'well': y[1] / (y[1] + p.half)}\n"
    )
    (tmp_path / "run.toml").write_text(
        f'task = "dynamics"\n[data]\npath = "{tmp_path / "t.csv"}"\nid = "id"\ntime = "time"\ntest_after = 6.0\n'
        '[[model]]\nname = "known"\nknown = "drug.py:field"\nstates = ["conc", "cells"]\n'
        "parameters = { k = 0.3, d = 0.05, half = { start = 3.0, log = true } }\n"
        '[observe]\nobserved = "drug.py:observe"\npositive = true\nbelow = { conc = 0.1 }\n'
        'noise = { conc = "log_normal", cells = "poisson", well = "bernoulli" }\n'
        "[train]\nsteps = 40\nlearning_rate = 3e-2\nvalidate_every = 20\n[evaluate]\nsamples = 200\n"
    )
    return tmp_path


def test_channels_of_several_laws_at_different_times_are_fitted_and_scored(mixed):
    run = nde.fit(mixed / "run.toml", out=mixed / "run", progress=False)
    assert not run.problem.panel.mask[:, 1:2, 1].any() and run.problem.panel.mask[:, 1, 0].all()
    conc = run.problem.panel.values[..., 0][run.problem.panel.mask[..., 0]]
    assert conc.min() == 0.1 and (conc == 0.1).sum() > 3
    evaluation = run.evaluate()
    row = evaluation.rows()[-1]
    assert np.isfinite(row["NLL"]) and row["in 90 %"] > 0.75
    law = evaluation.details.laws["known system"]
    assert law.draws[..., 0].min() == 0.1  # what is forecast is what would be written
    assert set(np.unique(law.draws[..., 2])) <= {0.0, 1.0}
    assert (law.draws[..., 1] == np.round(law.draws[..., 1])).all()
    assert np.isfinite(law.log_density(run.problem.values)[run.problem.panel.mask]).all()
    assert prepare(run.config)[0] == run.config


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["observe.noise.conc=gamma"],
            "observe: there is no noise 'gamma'; there are normal, additive, proportional, c",
        ),
        (["observe.noise.fox=normal"], "observe.noise names the channel 'fox', but the data have conc, cells, well"),
        (["observe.below.fox=1.0"], "observe.below names the channel 'fox', but the data have conc, cells, well"),
        (["observe.below.cells=1.0"], "below: 'cells' is poisson, and only a continuous value has a limit"),
        (["observe.below.conc=-1.0"], "below: 'conc' is log_normal, so its limit is positive, not -1"),
        (["observe.above.conc=0.05"], "below must lie under above, but 'conc' has 0.1 and 0.05"),
        (["observe.below={}"], "t.csv: 'conc' has noise 'log_normal', which is of positive values, but one is 0"),
        (["observe.noise.conc=poisson", "observe.below={}"], "'conc' has noise 'poisson', which is of counts, 0, 1, 2"),
        (["observe.noise.cells=bernoulli"], "'cells' has noise 'bernoulli', which is of 0 or 1, but one is "),
    ],
)
def test_bad_noise_is_refused_in_one_line(mixed, overrides, message):
    assert message in refused(mixed / "run.toml", overrides)


@pytest.mark.parametrize("noise", ["additive", "proportional", "combined"])
def test_each_noise_of_a_config_is_a_law_in_units_of_its_channel(drug, noise):
    config, problem = prepare(
        load_config(drug / "run.toml", [f"observe.noise={noise}", "observe.above={ conc = 1.5 }"])
    )
    facts = config.observe.facts()
    law = config.members()[0].section.build(facts, config.solver, key=KEY).likelihood
    f, unit = 0.8, facts.noise_unit[0]
    a, b = {"additive": (0.2, 0), "proportional": (0, 0.2), "combined": (0.2, 0.2)}[noise]
    floor = 1e-3
    std = np.hypot((a + floor) * unit, (b + floor) * f if b else 0)
    np.testing.assert_allclose(law.variance(jnp.array([f])), [std**2], rtol=1e-6)
    assert problem.values.max() <= 1.5
