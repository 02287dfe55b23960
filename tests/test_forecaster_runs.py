"""Forecasters named by configs, and a run of several side by side."""

import json
import tomllib

import jax
import numpy as np
import polars as pl
import pytest
from matplotlib.image import imread
from typer.testing import CliRunner

from nde.cli import app
from nde.config import ConfigError, load_config, MODELS, SolverConfig
from nde.config.models import ENCODERS, SeriesFacts
from nde.models import CDEEncoder, EncoderDecoder, GRUDeltaT, LatentODE, ODERNN
from nde.objectives import GaussianLikelihood

FACTS, KEY = SeriesFacts(2, 20.0, 30.0, observations=5.0), jax.random.key(0)
SECTION = MODELS["encoder_decoder"]
CONFIG = """
task = "forecast"
[data]
path = "{path}"
id = "who"
time = "day"
time_scale = 10
[[model]]
name = "latent_ode"
state_size = 2
width = 3
encoder_size = 3
encoder_width = 3
[[model]]
name = "encoder_decoder"
encoder = "gru"
decoder = "ode"
state_size = 2
width = 3
encoder_size = 3
[solver]
dt0 = 1.0
[objective]
samples = 2
[train]
steps = 2
batch_size = 4
validate_every = 1
validation_samples = 4
log_every = 1
[evaluate]
samples = 10
"""


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    folder, generator = tmp_path_factory.mktemp("forecasters"), np.random.default_rng(0)
    rows = []
    for who in range(15):
        level = generator.standard_normal()
        for day in np.sort(generator.choice(60, size=5, replace=False)):
            rows.append((f"s{who}", int(day), level + 0.3 * generator.standard_normal()))
    table = folder / "table.csv"
    pl.DataFrame(rows, schema=["who", "day", "a"], orient="row").write_csv(table)
    (folder / "config.toml").write_text(CONFIG.format(path=table))
    return table, invoke("fit", folder / "config.toml", "--out", folder / "run"), folder / "run"


def invoke(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result


def test_several_forecasters_are_trained_scored_pooled_and_drawn_side_by_side(fitted):
    table, _, folder = fitted
    results = pl.read_csv(folder / "results.csv")
    assert results["method"].to_list()[-3:] == ["latent ODE", "GRU-Δt to ODE", "latent ODE + GRU-Δt to ODE + baselines"]
    assert results["nll"].is_finite().all()
    assert {"latent ODE", "GRU-Δt to ODE"} <= set(json.loads((folder / "stack.json").read_text())["weights"])
    assert tomllib.loads((folder / "config.toml").read_text())["data"]["observations"] == 5.0
    assert imread(folder / "figures" / "forecasts.png")[..., :3].std() > 0.05
    out = table.with_name("out.csv")
    invoke("predict", folder, "--data", table, "--out", out, "--model", "GRU-Δt to ODE", "--ahead", 20)
    found = pl.read_csv(out)
    assert found["mean"].is_finite().all() and len(found) == 15 * 6


@pytest.mark.parametrize(("name", "kind"), [("ode_rnn", ODERNN), ("cde", CDEEncoder), ("gru", GRUDeltaT)])
def test_an_encoder_is_a_row_of_a_table(name, kind):
    section = SECTION(encoder=name, decoder="ode", encoder_size=6)
    model = section.build(FACTS, SolverConfig(), key=KEY)
    assert isinstance(model, EncoderDecoder) and isinstance(model.encoder, kind)
    assert model.encoder.hidden_size == 6 and model.diffusion is None
    assert (model.dt0, model.num_steps) == (0.2, 150)  # a hundredth of the longest series, up to what is asked for
    assert section.called() == f"{ENCODERS[name].title} to ODE"


def test_a_decoder_with_noise_is_solved_by_euler_and_no_regulariser_serves_it():
    section = SECTION()
    assert section.build(FACTS, SolverConfig(), key=KEY).diffusion is not None
    with pytest.raises(ValueError, match="decoder = 'sde' is solved by solver.name = 'euler', not by 'heun'"):
        section.build(FACTS, SolverConfig(name="heun"), key=KEY)
    with pytest.raises(ValueError, match="an encoder_decoder takes fixed steps: give solver.dt0"):
        section.build(FACTS, SolverConfig(rtol=1e-3), key=KEY)
    assert section.penalties(SolverConfig()) is None


def test_a_latent_ode_takes_its_likelihood_and_solver_by_name():
    section = MODELS["latent_ode"](likelihood="gaussian")
    model = section.build(FACTS, SolverConfig(name="tsit5", rtol=1e-4), key=KEY)
    assert isinstance(model, LatentODE) and isinstance(model.likelihood, GaussianLikelihood)
    assert (model.horizon, model.controller.rtol, section.called()) == (30.0, 1e-4, "latent ODE")


def test_an_encoder_that_there_is_not_is_refused_with_those_that_there_are(tmp_path):
    with pytest.raises(ConfigError, match="there is no encoder 'lstm'; the encoders are ode_rnn, cde, gru, gru_d"):
        load_config({"task": "forecast", "model": [{"name": "encoder_decoder", "encoder": "lstm"}]})
