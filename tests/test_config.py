"""Configs: what is accepted, what is refused, and what they build."""

import re
import tomllib
from pathlib import Path
from types import SimpleNamespace

import diffrax
import jax
import jax.numpy as jnp
import pytest

import nde
from nde.config import (
    build_numerics,
    changed_keys,
    ConfigError,
    LatentSDEModel,
    load_config,
    may_change,
    merged,
    MODELS,
    parse_config,
    save_config,
    SeriesFacts,
    SolverConfig,
    SOLVERS,
)
from nde.objectives import GaussianLikelihood
from nde.report import Landmark
from nde.tasks import RunError
from nde.tasks.base import predicting
from nde.tasks.forecast import build_cut

CONFIGS = Path(__file__).parent.parent / "configs"
MINIMAL = 'task = "forecast"\n[data]\npath = "a.csv"\nid = "id"\ntime = "t"\n'


def write(tmp_path, text):
    path = tmp_path / "run.toml"
    path.write_text(text)
    return path


def test_shipped_configs_are_valid():
    assert load_config(CONFIGS / "latent_sde_pbc.toml").data.dataset == "pbc"
    with pytest.raises(ConfigError, match=r"latent_sde.toml: data: give either `dataset` or `path`"):
        load_config(CONFIGS / "latent_sde.toml")
    overrides = ["data.path=my.csv", "data.id=patient", "data.time=day"]
    assert load_config(CONFIGS / "latent_sde.toml", overrides).data.path == "my.csv"


def test_every_key_of_the_shipped_configs_is_commented_or_plain():
    tree = tomllib.loads((CONFIGS / "latent_sde_pbc.toml").read_text())
    assert parse_config(tree) == load_config(CONFIGS / "latent_sde_pbc.toml")


def test_saved_config_reads_back(tmp_path):
    config = load_config(CONFIGS / "latent_sde_pbc.toml", ["train.steps=7", "model.likelihood=gaussian", "seed=3"])
    assert (config.train.steps, config.model[0].likelihood, config.seed) == (7, "gaussian", 3)
    save_config(config, tmp_path / "saved.toml")
    assert load_config(tmp_path / "saved.toml") == config


@pytest.mark.parametrize(
    ("kind", "instead"),
    [
        ('kind = "latent_sde"\n', 'task = "forecast" with [[model]] name = "latent_sde"'),
        ('kind = "ode"\n', 'task = "dynamics" with a [[model]] for each of model.methods'),
        ('kind = "cde_classifier"\n', 'task = "classify" with [[model]] name = "neural_cde"'),
        ('kind = "cnf"\n', 'task = "density" with [[model]] name = "flow"'),
        ('[model]\nkind = "latent_sde"\n', 'task = "forecast"'),
        ('kind = "resnet"\n', "task = one of forecast, classify, dynamics, population, density"),
    ],
)
def test_config_of_an_earlier_nde_is_told_what_to_write_instead(tmp_path, kind, instead):
    with pytest.raises(ConfigError, match="is of an earlier nde; write ") as caught:
        load_config(write(tmp_path, kind))
    assert instead in str(caught.value) and "\n" not in str(caught.value)


def test_several_models_are_named_in_overrides_and_have_names_of_their_own(tmp_path):
    two = MINIMAL + '[[model]]\nname = "latent_sde"\n[[model]]\nname = "latent_sde"\ndiffusion_scale = 0\n'
    config = load_config(write(tmp_path, two), ["model.1.width=3", "train.members=2", "model.1.solver.dt0=0.5"])
    assert [section.width for section in config.model] == [16, 3]
    assert config.model[1].solver.dt0 == 0.5
    assert [(m.index, m.seed, m.title) for m in config.members()] == [
        (0, 0, "latent SDE, member 1/2"), (1, 1, "latent SDE, member 2/2"),
        (2, 0, "latent SDE without noise, member 1/2"), (3, 1, "latent SDE without noise, member 2/2"),
    ]  # fmt: skip
    for override in ("model.width=3", "model.latent_sde.width=3"):  # a name that both have names neither
        with pytest.raises(ConfigError, match=r"say of which model, as model.NAME.width=…; they are 0, 1\.$"):
            load_config(write(tmp_path, two), [override])
    with pytest.raises(ConfigError, match=r"2 models are 'latent_sde'; they are 0, 1\.$"):
        load_config(write(tmp_path, two), ["model=latent_sde"])
    assert [one.called() for one in load_config(write(tmp_path, two), ["model=['1']"]).model] == [
        "latent SDE without noise"
    ]
    with pytest.raises(ConfigError, match=r'two \[\[model\]\]s are called "latent SDE": give each a label'):
        load_config(write(tmp_path, two), ["model.1.diffusion_scale=0.1"])
    labelled = load_config(write(tmp_path, two), ["model.1.label=quiet", "model.0.label=loud", "model.quiet.width=5"])
    assert [section.called() for section in labelled.model] == ["loud", "quiet"] and labelled.model[1].width == 5
    dotted = load_config(write(tmp_path, two), ["model.1.label='v1.5'", "model.v1.5.width=5"])
    assert [section.width for section in dotted.model] == [16, 5]


def test_model_that_predicts_alone_is_one_of_the_run_and_only_one(tmp_path):
    two = MINIMAL + '[[model]]\nname = "latent_sde"\n[[model]]\nname = "latent_sde"\nlabel = "quiet"\n'
    config = load_config(write(tmp_path, two))
    run = SimpleNamespace(config=config, folder="run", validation_scores=lambda: {"latent SDE": 2.0, "quiet": 1.0})
    assert [predicting(run, asked) for asked in (None, "quiet", "latent SDE")] == ["quiet", "quiet", "latent SDE"]
    with pytest.raises(RunError, match="there are several models 'latent_sde'; those of this run are latent SDE, qui"):
        predicting(run, "latent_sde")
    with pytest.raises(RunError, match="there is no model 'gru'"):
        predicting(run, "gru")


def test_one_model_of_several_is_chosen_by_name():
    path = CONFIGS / "hybrid_pendulum.toml"
    (only,) = load_config(path, ["model=hybrid", "model.width=3"]).model
    assert (only.name, only.width, only.parameters["length"].start) == ("hybrid", 3, 1.1)
    assert [one.name for one in load_config(path, ["model=['neural_ode', 'known']"]).model] == ["neural_ode", "known"]
    with pytest.raises(ConfigError, match=r"override 'model=3': write it as model=NAME"):
        load_config(path, ["model=3"])


@pytest.mark.parametrize(
    ("extra", "overrides", "message"),
    [
        ("[train]\nstepz = 3\n", [], r"run.toml: train.stepz: unknown key; the keys here are steps, batch_size"),
        ("[trains]\nsteps = 3\n", [], r"trains: unknown key; the keys here are task, seed, data, model, solver"),
        ('[train]\nsteps = "many"\n', [], r"train.steps: Input should be a valid integer.*, but is 'many'"),
        ("[train]\nsteps = 0\n", [], r"train.steps: Input should be greater than 0, but is 0"),
        ("", ["data.fold=5"], r"data: fold must be below folds = 5, but is 5"),
        ("", ["data.dataset=pbc"], r"data: give either `dataset` or `path`, and not both"),
        ("", ["data.value=x"], r"data: a long table needs both `channel` and `value`"),
        ("", ["model.name=resnet"], r"model.name: there is no model 'resnet'; the models of task = 'forecast' are lat"),
        ("", ["model.name=gru"], r"model.name: the model 'gru' does not serve task = 'forecast'; these do: latent_sde"),
        (
            "",
            ["model.widht=3"],
            r"run.toml: model.widht: unknown key; the keys here are name, label, solver, state_size",
        ),
        ("", ["model.width=x"], r"run.toml: model.width: Input should be a valid integer.*, but is 'x'"),
        ("", ["task=resnet"], r"run.toml: task: unknown task 'resnet'; write task = one of forecast, classify, dyn"),
        ("", ["solver.name=ruler"], r"solver.name: .*'ruler'.*euler"),
        (
            "",
            ["data.dataset=two_moons", "data.path="],
            r"data.dataset: the data set 'two_moons' holds points; those of t",
        ),
        ("", ["data.dataset=pbd", "data.path="], r"data.dataset: there is no data set 'pbd'; those of this task are"),
        ("", ["solver.adjoint=magic"], r"solver.adjoint: Input should be 'checkpoint', 'reversible' or 'continuous'"),
        ("", ["train.steps"], r"override 'train.steps': write it as section.key=value"),
        ("", ["data.path.x=3"], r"override 'data.path.x=3': 'path' is a value, not a section"),
        ("steps = = 3\n", [], r"run.toml: not a TOML file"),
        (
            "",
            ["train.members=3", "evaluate.samples=2"],
            r"samples must be at least train.members = 3, but is 2",
        ),
    ],
)
def test_bad_configs_are_refused_in_one_line(tmp_path, extra, overrides, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(write(tmp_path, MINIMAL + extra), overrides)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "overrides", "message"),
    [
        (None, (), r"a config is a path, nested dictionaries or a validated config, but this is a NoneType"),
        ({"data": {"dataset": ["pbc"]}}, (), r"data.dataset: Input should be a valid string, but is \['pbc'\]"),
        ({"data": "a.csv"}, (), r"config: data: Input should be a valid dictionary"),
        ({"model": 3}, ("model.width=3",), r"config: model: write one or more \[\[model\]\]"),
        ({"model": ["latent_sde"]}, ("model=latent_sde",), r"config: model: write one or more \[\[model\]\]"),
        (
            {"task": "classify", "evaluate": {"cut": "landmark"}, "data": {"dataset": "basic_motions"}},
            (),
            r"evaluate.cut: unknown key; the keys here are samples\.",
        ),
        ({"train": {"steps": True}}, (), r"train.steps: true and false are no value of this key, but is True"),
        ({"model": [{"solver": {"dt0": True}}]}, (), r"model.solver.dt0: true and false are no value of this key"),
    ],
)
def test_wrong_types_are_refused_in_one_line(config, overrides, message):
    base = {"task": "forecast", "data": {"path": "a.csv", "id": "id", "time": "t"}}
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(config if config is None else {**base, **config}, overrides)
    assert "\n" not in str(caught.value)


def test_overrides_leave_the_given_dictionaries_alone():
    given = {"task": "density", "model": ({"label": "a"}, {"label": "b"})}
    assert load_config(given, ["model.a.width=3"]).model[0].width == 3
    assert given["model"][0] == {"label": "a"}


def test_a_resumed_run_is_compared_model_by_model():
    base = {"task": "forecast", "data": {"dataset": "pbc"}}
    config = load_config({**base, "model": [{"name": "latent_sde"}, {"name": "latent_sde", "diffusion_scale": 0}]})
    for change, key in (("model.0.width=3", "model.latent SDE.width"), ("model=['1', '0']", "model.order")):
        (changed,) = changed_keys(config, load_config(config, [change]))
        assert changed == key and not may_change(changed)
    (changed,) = changed_keys(config, load_config(config, ["model.0.solver.dt0=0.1"]))
    assert changed == "model.latent SDE.solver.dt0" and may_change(changed)


@pytest.mark.parametrize(("solver", "said"), [({"atol": 1e-5}, r"solver.rtol \(now"), ({"dt0": 0.5}, r"dt0")])
def test_remedies_name_what_the_solver_has(solver, said):
    (model,) = load_config({"task": "density"}).model
    assert re.search(said, model.remedies(SolverConfig(**solver))[0])


def test_noise_has_one_adjoint():
    model, facts = LatentSDEModel(), SeriesFacts(1, 5.0, 5.0)
    for adjoint in ("reversible", "continuous"):
        with pytest.raises(ValueError, match=f"takes solver.adjoint = 'checkpoint', not '{adjoint}'"):
            model.build(facts, SolverConfig(adjoint=adjoint), key=jax.random.key(0))


def test_missing_file_is_refused():
    with pytest.raises(ConfigError, match=r"nowhere.toml: no such file"):
        load_config("nowhere.toml")


def test_names_become_objects():
    section = LatentSDEModel(likelihood="gaussian", diffusion_scale=0, solver=SolverConfig(dt0=0.5))
    model = section.build(SeriesFacts(2, 3.2, 3.2), SolverConfig(dt0=9.0), key=jax.random.key(0))
    assert isinstance(model.likelihood, GaussianLikelihood)
    assert model.diffusion is None
    assert (model.num_steps, model.dt0) == (7, 0.5)  # its own step before the common one
    config = parse_config({**tomllib.loads(MINIMAL), "evaluate": {"cut": "landmark", "landmark_at": 1.0}})
    assert build_cut(config.evaluate, None) == Landmark(at=1.0, until=5.0)


def test_step_is_a_hundredth_of_the_horizon_unless_given():
    section, common = LatentSDEModel(), SolverConfig()
    model = section.build(SeriesFacts(1, 20.0, 20.0), common, key=jax.random.key(0))
    assert (model.num_steps, model.dt0) == (100, 0.2)
    longer = section.build(SeriesFacts(1, 20.0, 30.0), common, key=jax.random.key(0))
    assert (longer.num_steps, longer.dt0) == (150, 0.2)
    with pytest.raises(ValueError, match="a latent_sde takes fixed steps"):
        section.build(SeriesFacts(1, 20.0, 20.0), SolverConfig(rtol=1e-3), key=jax.random.key(0))
    with pytest.raises(ValueError, match="a latent_sde with noise is solved by solver.name = 'euler', not by 'heun'"):
        section.build(SeriesFacts(1, 20.0, 20.0), SolverConfig(name="heun", dt0=1.0), key=jax.random.key(0))


def test_own_keys_of_a_model_come_before_those_of_all_and_a_step_hides_tolerances():
    own, common, default = SolverConfig(dt0=0.5), SolverConfig(name="heun", rtol=1e-3), SolverConfig(atol=1e-6)
    assert merged(own, common, default) == SolverConfig(name="heun", dt0=0.5)
    assert merged(common, own) == SolverConfig(name="heun", rtol=1e-3)
    assert merged(SolverConfig(), common, default) == SolverConfig(name="heun", rtol=1e-3, atol=1e-6)


def test_steps_from_row_to_row_are_a_choice_of_their_own():
    rows, step = SolverConfig(name="midpoint", steps_per_row=2), SolverConfig(dt0=0.5)
    assert merged(rows, step, SolverConfig(max_steps=7)) == rows
    assert merged(step, rows) == SolverConfig(name="midpoint", dt0=0.5)
    facts = SeriesFacts(1, 20.0, 20.0, 5.0, 2)
    section = MODELS["neural_cde"]
    numerics = section().build(facts, rows, key=jax.random.key(0)).numerics
    assert (numerics.steps_per_row, numerics.dt0, type(numerics.solver)) == (2, None, diffrax.Midpoint)
    assert section(solver=rows).remedies(step) == ["raise solver.steps_per_row (now 2)"]
    with pytest.raises(ValueError, match="steps_per_row says all about the steps: leave out rtol and dt0"):
        SolverConfig(steps_per_row=1, rtol=1e-3, dt0=0.1)
    with pytest.raises(ValueError, match="does not go with solver.name = 'heun' and solver.adjoint = 'continuous'"):
        build_numerics(SolverConfig(name="heun", steps_per_row=1, adjoint="continuous"))
    with pytest.raises(ConfigError, match="no series drives a model 'latent_sde'; give it a step dt0"):
        parse_config({"task": "forecast", "data": {"dataset": "pbc"}, "solver": {"steps_per_row": 1}})


@pytest.mark.parametrize("name", SOLVERS)
def test_each_solver_of_a_config_is_built_with_what_goes_with_it(name):
    made = SOLVERS[name]()
    noise = isinstance(made, diffrax.AbstractItoSolver | diffrax.AbstractStratonovichSolver)
    fixed = build_numerics(SolverConfig(name=name, dt0=0.1), noise=noise)
    assert type(fixed.solver) is type(made) and isinstance(fixed.controller, diffrax.ConstantStepSize)
    if isinstance(made, diffrax.AbstractAdaptiveSolver):
        chosen = build_numerics(SolverConfig(name=name, rtol=1e-5), noise=noise)
        assert isinstance(chosen.controller, diffrax.PIDController) and chosen.controller.rtol == 1e-5
    else:
        with pytest.raises(ValueError, match=f"'{name}' has no estimate of its error: give solver.dt0"):
            build_numerics(SolverConfig(name=name, rtol=1e-5), noise=noise)


@pytest.mark.parametrize("name", ["implicit_euler", "kvaerno3"])
def test_an_implicit_solver_of_a_config_takes_fixed_steps(name):
    numerics = build_numerics(SolverConfig(name=name, dt0=0.125))
    model = nde.NeuralODE(lambda t, y, args: -100 * y, numerics=numerics)  # Euler's method multiplies by -11.5 a step
    assert abs(model(jnp.array([0.0, 1.0]), jnp.ones(1))[1, 0]) < 1e-2


def test_a_failed_solve_with_an_absolute_tolerance_alone_is_told_the_relative_one_too():
    remedy = "raise solver.max_steps (now 4096) or solver.rtol (now 0.001)"
    assert MODELS["neural_cde"]().remedies(SolverConfig(atol=1e-6)) == [remedy]


def test_adjoints_of_a_config_are_built_or_refused_by_what_they_serve():
    numerics = build_numerics(SolverConfig(name="tsit5", adjoint="reversible", max_steps=7))
    assert isinstance(numerics.solver, nde.Reversible) and isinstance(numerics.adjoint, nde.ReversibleAdjoint)
    assert numerics.max_steps == 7
    own = build_numerics(SolverConfig(name="reversible_heun", dt0=0.1, adjoint="reversible"), noise=True)
    assert isinstance(own.solver, diffrax.ReversibleHeun)
    assert isinstance(build_numerics(SolverConfig(adjoint="continuous")).adjoint, nde.ContinuousAdjoint)
    for config, noise, message in (
        (SolverConfig(name="kvaerno5", adjoint="reversible"), False, "serves no implicit solver such as 'kvaerno5'"),
        (SolverConfig(name="euler", dt0=0.1, adjoint="reversible"), True, "needs solver.name = 'reversible_heun'"),
        (
            SolverConfig(name="reversible_heun", adjoint="continuous"),
            False,
            "does not serve solver.name = 'reversible_h",
        ),
        (
            SolverConfig(name="euler", dt0=0.1, adjoint="continuous"),
            True,
            "an SDE by solver.name = 'euler'; take 'heun'",
        ),
        (SolverConfig(name="tsit5", dt0=0.1), True, "'tsit5' solves no SDEs; these do: euler, heun"),
        (SolverConfig(name="shark", dt0=0.1), False, "'shark' solves SDEs alone, but this model has no noise"),
    ):
        with pytest.raises(ValueError, match=message):
            build_numerics(config, noise=noise)
