"""Configs: what is accepted, what is refused, and what they build."""

import tomllib
from pathlib import Path

import jax
import pytest

from nde.config import build_model, build_task, ConfigError, load_config, ModelConfig, parse_config, save_config
from nde.objectives import GaussianLikelihood
from nde.report import Landmark

CONFIGS = Path(__file__).parent.parent / "configs"
MINIMAL = '[data]\npath = "a.csv"\nid = "id"\ntime = "t"\n'


def write(tmp_path, text):
    path = tmp_path / "run.toml"
    path.write_text(text)
    return path


def test_shipped_configs_are_valid():
    assert load_config(CONFIGS / "latent_sde_pbc.toml").data.dataset == "pbc"
    with pytest.raises(ConfigError, match=r"latent_sde.toml: data.id: missing; set it in the file or as data.id=VALUE"):
        load_config(CONFIGS / "latent_sde.toml")
    overrides = ["data.path=my.csv", "data.id=patient", "data.time=day"]
    assert load_config(CONFIGS / "latent_sde.toml", overrides).data.path == "my.csv"


def test_every_key_of_the_shipped_configs_is_commented_or_plain():
    tree = tomllib.loads((CONFIGS / "latent_sde_pbc.toml").read_text())
    assert parse_config(tree) == load_config(CONFIGS / "latent_sde_pbc.toml")


def test_saved_config_reads_back(tmp_path):
    config = load_config(CONFIGS / "latent_sde_pbc.toml", ["train.steps=7", "model.likelihood=gaussian", "seed=3"])
    assert (config.train.steps, config.model.likelihood, config.seed) == (7, "gaussian", 3)
    save_config(config, tmp_path / "saved.toml")
    assert load_config(tmp_path / "saved.toml") == config


def test_config_of_a_run_from_before_the_kinds_loads(tmp_path):
    old = load_config(write(tmp_path, MINIMAL + '[model]\nkind = "latent_sde"\n'))
    assert old == load_config(write(tmp_path, MINIMAL))
    save_config(old, tmp_path / "saved.toml")
    saved = tomllib.loads((tmp_path / "saved.toml").read_text())
    assert saved["kind"] == "latent_sde"
    assert "kind" not in saved["model"]


@pytest.mark.parametrize(
    ("extra", "overrides", "message"),
    [
        ("[train]\nstepz = 3\n", [], r"run.toml: train.stepz: unknown key; the keys here are steps, batch_size"),
        ("[trains]\nsteps = 3\n", [], r"trains: unknown key; the keys here are kind, seed, train, data, model"),
        ('[train]\nsteps = "many"\n', [], r"train.steps: Input should be a valid integer.*, but is 'many'"),
        ("[train]\nsteps = 0\n", [], r"train.steps: Input should be greater than 0, but is 0"),
        ("", ["data.fold=5"], r"data: fold must be below folds = 5, but is 5"),
        ("", ["data.dataset=pbc"], r"data: give either `dataset` or `path`, and not both"),
        ("", ["data.value=x"], r"data: a long table needs both `channel` and `value`"),
        ("", ["model.kind=resnet"], r"model.kind: Input should be 'latent_sde', but is 'resnet'"),
        ("", ["kind=resnet"], r"run.toml: kind: unknown kind 'resnet'; the kinds are latent_sde"),
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


def test_missing_file_is_refused():
    with pytest.raises(ConfigError, match=r"nowhere.toml: no such file"):
        load_config("nowhere.toml")


def test_names_become_objects():
    model = build_model(
        ModelConfig(likelihood="gaussian", diffusion_scale=0, dt0=0.5), 2, horizon=3.2, key=jax.random.key(0)
    )
    assert isinstance(model.likelihood, GaussianLikelihood)
    assert model.diffusion is None
    assert model.num_steps == 7
    config = parse_config({**tomllib.loads(MINIMAL), "evaluate": {"task": "landmark", "landmark_at": 1.0}})
    assert build_task(config.evaluate) == Landmark(at=1.0, until=5.0)


def test_step_is_a_hundredth_of_the_horizon_unless_given():
    model = build_model(ModelConfig(), 1, horizon=20.0, key=jax.random.key(0))
    assert (model.num_steps, model.dt0) == (100, 0.2)
    longer = build_model(ModelConfig(horizon=20.0), 1, horizon=30.0, key=jax.random.key(0))
    assert (longer.num_steps, longer.dt0) == (150, 0.2)
