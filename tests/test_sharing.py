"""Training on several devices and in several processes is that on one. Each runs tests/sharing_runs.py by itself."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from typer.testing import CliRunner

import nde
from nde.cli import app
from nde.train import BatchLoss, gradient_update, read_metrics, Sharing

SCRIPT = Path(__file__).parent / "sharing_runs.py"
FLAGS = "--xla_backend_optimization_level=0 --xla_force_host_platform_device_count="


def start(devices, dump=None, **more):
    dumped = "" if dump is None else f" --xla_dump_to={dump} --xla_dump_hlo_as_text --xla_dump_hlo_module_re=.*step.*"
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"{FLAGS}{devices}{dumped}", **more}
    env.pop("JAX_COMPILATION_CACHE_DIR", None)
    return subprocess.Popen([sys.executable, str(SCRIPT)], env=env, text=True, stdout=-1, stderr=-1)


def result(process):
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err[-3000:]
    return json.loads(out.splitlines()[-1])


@pytest.fixture(scope="module")
def dumped(tmp_path_factory):
    return tmp_path_factory.mktemp("hlo")


@pytest.fixture(scope="module")
def curves(dumped):
    """All curves: of four devices in one process, and of two processes with two devices each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    pair = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    started = [start(2, **pair, JAX_PROCESS_ID=str(i)) for i in range(2)]
    found = result(start(4, dumped))
    return found | {f"process {i}": result(process)["all"] for i, process in enumerate(started)}


def agree(one, other):
    for name in ("loss", "norm", "model"):
        np.testing.assert_allclose(one[name], other[name], rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(np.concatenate(one["each"]), np.concatenate(other["each"]), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["4", "process 0", "process 1"])
def test_the_same_seed_gives_the_same_losses_updates_and_averages_however_batches_are_shared(curves, name):
    agree(curves[name], curves["none"])
    assert [len(each) for each in curves[name]["each"]] == [7, 8, 7, 8]


def test_a_penalty_is_averaged_over_the_series_of_all_devices_and_turns(curves):
    agree(curves["turns penalised"], curves["none penalised"])
    assert abs(curves["none penalised"]["loss"][0] - curves["none"]["loss"][0]) > 1e-3


def test_a_step_has_one_sum_over_the_devices_and_no_loop_has_any(curves, dumped):
    texts = [path.read_text() for path in dumped.glob("*after_optimizations.txt")]
    counts = []
    for text in texts:
        inside = set(re.findall(r"(?:body|condition)=%?([\w.\-]+)", text))
        bodies = re.split(r"\n(?=(?:ENTRY )?%?[\w.\-]+ \(.*\{\n)", text)
        sums = [re.match(r"(?:ENTRY )?%?([\w.\-]+)", body).group(1) for body in bodies if " all-reduce(" in body]
        counts.append((len(sums), sum(body.count(" all-reduce(") for body in bodies)))
        assert inside
        assert not inside & set(sums)
    # Without a penalty there is one; with several averages their weights are summed before.
    assert sorted(set(counts)) == [(0, 0), (1, 1), (1, 2)]


def test_what_can_not_be_shared_is_refused():
    update = gradient_update(
        lambda model, batch, step, key: BatchLoss(model, {}, batch), optax.sgd(0.1), sharing=Sharing(turns=2)
    )
    with pytest.raises(ValueError, match="make it by nde.train.batch_loss"):
        update.compiled(update.init(jax.numpy.zeros(())), np.zeros(4), np.arange(4), jax.random.key(0))
    with pytest.raises(ValueError, match=r"^devices = 99, but there are 1 … 1 of them \(XLA_FLAGS="):
        Sharing.among(99)


def test_members_are_trained_side_by_side_to_the_same_bits(tmp_path):
    rows = [f"s{i},{t},{np.sin(t + i)}" for i in range(12) for t in range(6)]
    (tmp_path / "d.csv").write_text("\n".join(["id,t,x", *rows]))
    (tmp_path / "c.toml").write_text(
        f'task = "forecast"\n[data]\npath = "{tmp_path}/d.csv"\nid = "id"\ntime = "t"\n[[model]]\nname = "latent_ode"\n'
        'width = 4\n[[model]]\nname = "encoder_decoder"\nwidth = 4\n[train]\nsteps = 4\nvalidate_every = 2\n'
        "log_every = 1\n[evaluate]\nstack = false\nsamples = 8\n"
    )
    found = []
    for name, more in (("one", []), ("two", ["--processes", "2"])):
        result = CliRunner().invoke(app, ["fit", str(tmp_path / "c.toml"), "--out", str(tmp_path / name), *more])
        assert result.exit_code == 0, result.output
        models = nde.open_run(tmp_path / name).models()
        assert not list((tmp_path / name).glob("metrics.*.jsonl"))
        rows = [
            {key: value for key, value in row.items() if not key.startswith("seconds")}
            for row in read_metrics(tmp_path / name / "metrics.jsonl")
        ]
        found.append(([np.asarray(x) for x in jax.tree.leaves(models) if isinstance(x, jax.Array)], rows))
    for one, other in zip(found[0][0], found[1][0], strict=True):
        np.testing.assert_array_equal(one, other)
    assert found[0][1] == found[1][1]
    # Lines past a checkpoint, of a run that was killed, are no scores of it.
    path = tmp_path / "two" / "metrics.jsonl"
    with path.open("a") as file:
        file.write('{"member": 0, "step": 6, "seconds": 1, "validation": -99.0, "best_step": 6}\n')
        file.write('{"member": 0, "step": 7, "s')
    more = ["fit", "--resume", str(tmp_path / "two"), "--processes", "2", "train.steps=6"]
    assert CliRunner().invoke(app, more).exit_code == 0
    assert min(nde.open_run(tmp_path / "two").validation_scores().values()) > -99
    steps = [(row["member"], row["step"]) for row in read_metrics(path) if "loss" in row]
    assert steps == [(member, step) for member in (0, 1) for step in range(1, 7)]
    refused = CliRunner().invoke(
        app, ["fit", str(tmp_path / "c.toml"), "--processes", "0", "--out", str(tmp_path / "0")]
    )
    assert refused.exit_code == 2
    assert "--processes must be at least 1, but is 0" in refused.stderr
    assert not (tmp_path / "0").exists()
