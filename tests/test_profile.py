"""`nde profile`: where the time of a step goes."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from nde.cli import app
from nde.runs.profiling import ModelProfile, Profile


def test_profile_says_where_a_step_goes_and_writes_a_trace(tmp_path):
    out = tmp_path / "profile"
    given = ["configs/neural_ode_spiral.toml", "train.batch_size=4", "model.width=4", "--out", str(out)]
    result = CliRunner().invoke(app, ["profile", *given])
    assert result.exit_code == 0, result.output
    (model,) = json.loads((out / "profile.json").read_text())
    assert list(model["seconds"]) == ["data", "loss", "gradient", "update", "validation"]
    assert model["seconds"]["loss"] > 0 < model["compile_seconds"]
    assert model["counts"]["solves"] == 4
    assert 0.1 < sum(model["kernels"].values()) <= 1.0 + 1e-6
    assert not {"while", "call"} & set(model["kernels"])
    assert model["temporary_bytes"] > 0
    assert list(out.rglob("*.xplane.pb"))
    assert "4 solves a step" in result.output
    again = CliRunner().invoke(app, ["profile", *given])
    assert again.exit_code == 2
    assert again.stderr.startswith(f"nde: {out}: exists already, and nothing is written over")


@pytest.mark.parametrize("label", ["neural CDE", "a model of number", "amodelofaverylongname of number"])
def test_the_table_of_many_models_fits_a_terminal(label):
    seconds = {"data": 1e-4, "loss": 0.12, "gradient": 1.2, "update": 0.03, "validation": 0.4}
    models = [ModelProfile(f"{label} {i}", seconds, 12.0, None, {}, {}) for i in range(6)]
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(Profile(Path("folder"), models).table())
    text = console.export_text()
    assert all(len(line) <= 80 for line in text.splitlines())
    assert text.count("1200.000") == text.count("12000") == 6
    assert text.count("69%") == 6
    assert "…" not in text


def test_profile_of_a_divided_batch_has_the_step_alone(tmp_path):
    given = ["configs/neural_ode_spiral.toml", "train.batch_size=4", "model.width=4"]
    given += ["train.accumulate=2", "--out", str(tmp_path / "p")]
    result = CliRunner().invoke(app, ["profile", *given])
    assert result.exit_code == 0, result.output
    (model,) = json.loads((tmp_path / "p" / "profile.json").read_text())
    assert list(model["seconds"]) == ["data", "update", "validation"]
    assert model["counts"]["solves"] == 4
