"""Sweeps: what is refused, seeds, pruning, resuming after a kill, several processes."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import optuna
import polars as pl
import pytest
from chex import assert_trees_all_equal
from matplotlib.image import imread
from typer.testing import CliRunner

import nde
from nde.cli import app
from nde.config import ConfigError
from nde.runs import Run, RunError, RunFailed
from nde.sweeps import read_grid, Sweep
from nde.sweeps.study import FileLock, proposed

CONFIG = {
    "task": "density",
    "data": {"dataset": "two_moons", "points": 60, "validation_points": 20, "test_points": 20},
    "model": [{"name": "flow", "width": 4, "depth": 1}],
    "solver": {"dt0": 0.5},
    "train": {"steps": 4, "batch_size": 30, "validate_every": 2, "warmup": 1},
}
FOUR = {"grid": {"model.width": [4, 6], "train.learning_rate": [0.01, 0.05]}, "sweep": {"pruner": "none"}}
TWO = {"grid": {"train.learning_rate": [0.01, 0.05]}, "sweep": {"pruner": "none"}}  # the first two of these


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweeps") / "four"
    return nde.sweep(CONFIG, FOUR, out=folder, progress=False)


def test_a_grid_is_tried_once_and_ranked_by_validation(swept):
    rows = swept.rows()
    tried = {(row["model.width"], row["train.learning_rate"]) for row in rows}
    assert tried == {(w, r) for w in ("4", "6") for r in ("0.01", "0.05")} and len(rows) == 4
    scores = [row["score"] for row in rows]
    assert scores == sorted(scores) and all(math.isnan(row["error"]) for row in rows)
    for row in rows:
        run = nde.open_run(row["folders"][0])
        assert min(run.validation_scores().values()) == row["score"]
        assert str(run.config.model[0].width) == row["model.width"]
    assert str(swept.best.folder) == rows[0]["folders"][0]
    assert swept.best.evaluate().rows()


def test_a_trial_is_the_run_that_fit_makes(swept, tmp_path):
    row = swept.rows()[-1]
    setting = [f"{key}={row[key]}" for key in ("model.width", "train.learning_rate")]
    alone = nde.fit(nde.config.load_config(CONFIG, setting), out=tmp_path / "run", progress=False)
    assert_trees_all_equal(*(jax.tree.leaves(run.models()) for run in (alone, Run.open(row["folders"][0]))))


def test_it_leaves_tables_and_a_figure(swept):
    table = pl.read_csv(swept.folder / "results.csv")
    assert table["state"].to_list() == ["finished"] * 4 and table["score"].is_sorted()
    assert len(json.loads((swept.folder / "results.json").read_text())["settings"]) == 4
    assert imread(swept.folder / "sweep.png")[..., :3].std() > 0.05


def test_the_same_call_goes_on_and_another_is_refused(swept):
    before = (swept.folder / "journal.log").read_bytes()
    again = nde.sweep(CONFIG, FOUR, out=swept.folder, progress=False)
    assert (swept.folder / "journal.log").read_bytes() == before and len(again.rows()) == 4
    with pytest.raises(RunError, match="holds a sweep of another grid, over model.width, train.learning_rate"):
        nde.sweep(CONFIG, {"grid": {"model.width": [4, 8]}}, out=swept.folder)
    with pytest.raises(RunError, match="a config with another train.steps"):
        nde.sweep({**CONFIG, "train": {**CONFIG["train"], "steps": 6}}, FOUR, out=swept.folder)


def test_seeds_of_a_setting_are_judged_by_their_mean(tmp_path):
    found = nde.sweep(CONFIG, {"sweep": {"seeds": [3, 5]}}, out=tmp_path / "s", progress=False)
    (row,) = found.rows()
    scores = [min(Run.open(tmp_path / "s" / f"trial_000_seed_{n}").validation_scores().values()) for n in (3, 5)]
    assert row["scores"] == scores and row["score"] == pytest.approx(sum(scores) / 2)
    assert row["error"] == pytest.approx(abs(scores[0] - scores[1]) / 2)
    assert found.best.config.seed == (3 if scores[0] < scores[1] else 5)


def test_a_hopeless_trial_is_pruned_and_keeps_its_checkpoint(tmp_path):
    grid = {"grid": {"train.learning_rate": [0.05, 1e-9]}, "sweep": {"startup": 1}}
    found = nde.sweep(CONFIG, grid, out=tmp_path / "s", progress=False)
    by_rate = {row["train.learning_rate"]: row for row in found.rows()}
    assert [by_rate[rate]["state"] for rate in ("0.05", "1e-09")] == ["finished", "pruned"]
    pruned = Run.open(by_rate["1e-09"]["folders"][0])
    assert pruned.checkpoints(0).step == 2 and pruned.models()


def test_a_trial_that_fails_is_recorded_and_without_another_there_is_no_best(tmp_path):
    found = nde.sweep(CONFIG, {"grid": {"train.devices": [4095, 4096]}}, out=tmp_path / "s", progress=False)
    assert [row["state"] for row in found.rows()] == ["failed", "failed"]
    assert "devices" in found.rows()[0]["failure"] and found.lines()[1].startswith("trial 0 failed: ")
    with pytest.raises(RunFailed, match="none of 2 settings is finished; the first that failed: .*devices"):
        _ = found.best


def test_proposals_depend_on_what_is_done_alone(tmp_path):
    grid = {"grid": {"train.learning_rate": {"low": 1e-3, "high": 0.1, "log": True}}, "sweep": {"sampler": "random"}}
    config = {**CONFIG, "train": {**CONFIG["train"], "steps": 1}}
    whole = nde.sweep(config, grid, out=tmp_path / "a", trials=2, progress=False)
    nde.sweep(config, grid, out=tmp_path / "b", trials=1, progress=False)
    parts = nde.sweep(config, grid, out=tmp_path / "b", trials=2, progress=False)
    own = [[(row["trial"], row["train.learning_rate"], row["score"]) for row in each.rows()] for each in (whole, parts)]
    assert own[0] == own[1] and len(own[0]) == 2


KILLED = """
import json, os, signal, sys
import jax
import nde
from nde.train import Checkpoints

on_validation = Checkpoints.on_validation

def killed(self, state, score):
    on_validation(self, state, score)
    if int(state.step) == 2:
        os.kill(os.getpid(), signal.SIGKILL)

Checkpoints.on_validation = killed
nde.sweep(json.loads(sys.argv[1]), json.loads(sys.argv[2]), out=sys.argv[3], progress=False)
"""


def python(code: str, *arguments: str) -> subprocess.CompletedProcess:
    env = {**os.environ, "JAX_ENABLE_X64": "1"}
    return subprocess.run([sys.executable, "-c", code, *arguments], env=env, capture_output=True, text=True)


def test_a_killed_trial_is_gone_on_with_to_the_same_bits(swept, tmp_path):
    out = tmp_path / "s"
    done = python(KILLED, json.dumps(CONFIG), json.dumps(TWO), str(out))
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [row["state"] for row in Sweep.open(out).rows()] == ["stopped"]
    checkpoint = next((out / "trial_000" / "checkpoints" / "0" / "last").iterdir())
    assert checkpoint.name == "2"
    resumed = nde.sweep(CONFIG, TWO, out=out, trials=1, progress=False)
    metrics = (out / "trial_000" / "metrics.jsonl").read_text().splitlines()
    assert len([line for line in metrics if '"step": 2' in line]) == 1  # those two steps were not made again
    (row,) = resumed.rows()
    assert row["score"] == next(each["score"] for each in swept.rows() if each["trial"] == 0)
    runs = [Run.open(each.folder / "trial_000") for each in (swept, resumed)]
    assert_trees_all_equal(*(jax.tree.leaves(run.models()) for run in runs))


def test_two_processes_share_the_trials(swept, tmp_path):
    found = nde.sweep(CONFIG, TWO, out=tmp_path / "s", processes=2, progress=False)
    own, alone = ({row["trial"]: row["score"] for row in each.rows() if row["trial"] < 2} for each in (found, swept))
    assert own == pytest.approx(alone) and len(own) == 2
    for number in range(2):  # no step was made twice
        lines = (tmp_path / "s" / f"trial_{number:03d}" / "metrics.jsonl").read_text().splitlines()
        assert len(lines) == 2


def test_a_line_of_the_journal_that_was_cut_off_is_dropped(swept, tmp_path):
    out = tmp_path / "s"
    shutil.copytree(swept.folder, out)
    whole = (out / "journal.log").read_bytes()
    (out / "journal.log").write_bytes(whole + b'{"op_code": 6, "wor')
    assert [row["state"] for row in Sweep.open(out).rows()] == ["finished"] * 4
    assert (out / "journal.log").read_bytes() == whole


def test_a_lock_is_let_go_by_a_process_that_is_killed(tmp_path):
    code = f"""
import sys, time
from pathlib import Path
from nde.sweeps.study import FileLock
lock = FileLock(Path({str(tmp_path)!r}) / "locks" / "7")
assert lock.acquire()
print("held", flush=True)
time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    lock = FileLock(tmp_path / "locks" / "7")
    assert not lock.acquire(wait=False)
    process.kill()
    process.wait()
    process.stdout.close()
    assert lock.acquire(wait=False)
    lock.release()


@pytest.mark.parametrize(
    ("grid", "says"),
    [
        ({"model.widht": [4]}, "grid: with model.widht=4: config: model.widht: unknown key; the keys here are"),
        ({"model.width": [4, -1]}, "grid: with model.width=-1: config: model.width: "),
        ({"model.width": {"low": 4, "high": 8}}, "valid integer.*; of whole numbers write step = 1"),
        ({"model.width": {"low": 4, "high": 20, "step": 32}}, "step = 32 must go a whole number of times into .* = 16"),
        ({"train.learning_rate": {"low": 1, "high": 0.1}}, "low = 1 must lie below high = 0.1"),
        ({"train.learning_rate": {"low": 0, "high": 0.1, "log": True}}, "log = true needs low above zero"),
        ({"train.learning_rate": {"low": 0, "hihg": 0.1}}, "train.learning_rate.h"),
        ({"train.learning_rate": 0.1}, "train.learning_rate: write a list of values"),
        ({"model.width": [4, 4]}, "a value stands there twice"),
        ({"seed": [0, 1]}, "write seeds = 3 in .sweep."),
        ({}, "nothing varies"),
    ],
)
def test_a_bad_grid_is_refused_before_a_folder_is_made(grid, says, tmp_path):
    with pytest.raises(ConfigError, match=says):
        nde.sweep(CONFIG, {"grid": grid}, out=tmp_path / "s")
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"prunner": "none"}, "sweep.prunner: unknown key; the keys here are sampler"),
        ({"sampler": "grid"}, "needs a list of values"),
        ({"seeds": 0}, r"sweep.seeds: write how many, as seeds = 3, or which, as seeds = \[0, 7\], but it is 0"),
        ({"seeds": [2, 2]}, "sweep.seeds: a seed stands there twice"),
    ],
)
def test_a_bad_sweep_section_is_refused(settings, says):
    with pytest.raises(ConfigError, match=says):
        read_grid({"grid": {"train.learning_rate": {"low": 1, "high": 2}}, "sweep": settings})


def test_a_key_outside_the_sections_is_refused():
    with pytest.raises(ConfigError, match=r"grid: model.width: a grid's sections are \[grid\], .*, and \[sweep\]"):
        read_grid({"model.width": [4]})


def test_whole_ranges_are_of_whole_numbers():
    width = {"low": 4, "high": 64, "log": True, "step": 1}
    grid = read_grid({"grid": {"model.width": width, "train": {"warmup": [1, 2]}}})
    assert grid.ranges["model.width"].tried() == ["4", "64"] and grid.size == 2 * 61
    assert grid.keys == ["train.warmup", "model.width"] and grid.sampler == "tpe" and grid.trials(None) == 20


def test_whole_numbers_are_tried_once_each():
    sweep = {"sampler": "random", "seeds": 3}
    grid = read_grid({"grid": {"model.width": {"low": 4, "high": 8, "step": 2}}, "sweep": sweep})
    study = optuna.create_study()
    for number in range(grid.trials(None)):
        study.add_trial(proposed(study, grid, number))
    assert sorted(trial.params["model.width"] for trial in study.get_trials()) == [4, 6, 8]
    assert grid.seeds == (0, 1, 2)


def test_the_command_sweeps_and_says_how_to_go_on(tmp_path):
    base = Path(__file__).parents[1] / "configs"
    small = ["data.points=60", "data.validation_points=20", "data.test_points=20", "train.steps=2", "solver.dt0=0.5"]
    given = ["sweep", str(base / "cnf_2d.toml"), str(base / "cnf_2d_grid.toml"), *small]
    result = CliRunner().invoke(app, [*given, "--out", str(tmp_path / "s"), "--trials", "1", "--no-cache"])
    assert result.exit_code == 0, result.output
    assert "1 settings: 1 finished" in result.output and f"nde fit --resume {tmp_path / 's'}" in result.output
    again = CliRunner().invoke(app, ["sweep", "--resume", str(tmp_path / "s"), "--trials", "1", "--no-cache"])
    assert again.exit_code == 0 and "best run: " in again.output
    for wrong, says in (
        (["sweep"], "give a CONFIG and a GRID"),
        (["sweep", "--resume", str(tmp_path / "x")], "no sweep is here"),
        ([*given[:2], str(tmp_path / "g.toml")], "no such file; give the path of a grid's .toml file"),
        ([*given, "--processes", "0"], "must be at least 1"),
    ):
        refused = CliRunner().invoke(app, [*wrong, "--no-cache"])
        assert refused.exit_code == 2 and says in refused.stderr and refused.stderr.count("\n") == 1


def test_without_optuna_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr("nde.sweeps.study.optuna", None)
    with pytest.raises(RunError, match=r"pip install 'nde\[sweep\]'"):
        nde.sweep(CONFIG, FOUR)
