"""A run as one file that predicts without it: equal predictions, and what is refused."""

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from typer.testing import CliRunner

import nde
from nde.cli import app
from nde.objectives import (
    BernoulliLikelihood,
    CensoredLikelihood,
    ChannelLikelihood,
    CombinedLikelihood,
    GaussianLikelihood,
    likelihood_from_plain,
    likelihood_to_plain,
    LogNormalLikelihood,
    PoissonLikelihood,
    ScaledLikelihood,
    StudentTLikelihood,
)
from nde.report import class_logits
from nde.runs import RunError
from nde.tasks.portable import key_arguments, LoweredFunction, PortedLogits, Rung, series_arguments
from nde.train import checks_as_nan, FailedExamples

TRAIN = {"steps": 2, "batch_size": 4, "validate_every": 1}
FORECAST = {
    "task": "forecast",
    "data": {"id": "who", "time": "day", "time_scale": 10, "horizon": 10.0, "log": ["b"]},
    "model": [{"name": "latent_sde", "width": 3, "encoder_size": 3, "control_width": 3, "state_size": 2}],
    "solver": {"dt0": 1.0},
    "objective": {"samples": 2},
    "train": {**TRAIN, "members": 2, "validation_samples": 4},
    "evaluate": {"samples": 10},
}
CLASSIFY = {
    "task": "classify",
    "data": {"id": "who", "time": "day", "label": "kind", "folds": 3},
    "model": [{"name": "controlled_sde", "state_size": 2, "width": 3}, {"name": "signature", "depth": 2}],
    "solver": {"dt0": 10.0},
    "train": {**TRAIN, "members": 2},
    "evaluate": {"samples": 3},
}


def table(series=12):
    generator, rows = np.random.default_rng(0), []
    for who in range(series):
        for day in np.sort(generator.choice(60, size=4 + who % 3, replace=False)):
            a = None if generator.random() < 0.2 else generator.standard_normal()
            rows.append((f"s{who}", int(day), a, float(np.exp(generator.standard_normal())), "xy"[who % 2]))
    return pl.DataFrame(rows, schema=["who", "day", "a", "b", "kind"], orient="row")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("export")


@pytest.fixture(scope="module")
def forecast(folder):
    run = nde.fit(FORECAST, data=table().drop("kind"), out=folder / "forecast")
    run.task.finish(run, run.problem)  # the pool, which `nde fit` makes as it scores
    return run, folder / "forecast.nde", nde.export_run(run, folder / "forecast.nde", until=100.0)


@pytest.fixture(scope="module")
def classify(folder):
    run = nde.fit(CLASSIFY, data=table(), out=folder / "classify")
    return run, folder / "classify.nde", nde.export_run(run, folder / "classify.nde")


def close(one, other):
    assert_frame_equal(one, other, rel_tol=1e-9, abs_tol=1e-9)


@pytest.mark.parametrize("model", [None, "latent_sde"])
def test_a_file_forecasts_what_its_run_does(forecast, model):
    run, path, _ = forecast
    exported = nde.load_exported(path)
    asked = {"ahead": [5.0, 12.5], "samples": 12, "keep_samples": True, "model": model}
    close(exported.predict(table(), **asked), run.predict(table(), **asked))
    assert exported.prediction_notes() == list(run.prediction_notes()) and "pool: " in exported.prediction_notes()[0]


@pytest.mark.parametrize("model", [None, "controlled_sde", "signature"])
def test_a_file_classifies_as_its_run_does(classify, model):
    run, path, _ = classify
    found = nde.load_exported(path).predict(table(40), model=model)  # in two blocks of series
    close(found, run.predict(table(40), model=model))


def test_a_file_needs_nothing_else_of_its_run_and_unpickles_nothing(forecast, folder):
    run, path, digest = forecast
    data, out = folder / "asked.csv", folder / "found.csv"
    table().write_csv(data)
    own = run.predict(data, ahead=[5.0], as_text=True)
    moved = run.folder.rename(folder / "elsewhere")
    program = (
        "import pickle, sys, nde.cli\n"
        "import nde.models, nde.commands\n"
        "def refuse(*args, **options): raise AssertionError('unpickled, or a model was called')\n"
        "pickle.load = pickle.loads = pickle.Unpickler = refuse\n"
        "nde.models.LatentSDE.__init__ = nde.models.LatentSDE.posterior = refuse\n"
        "nde.cli.app(sys.argv[1:])\n"
    )
    options = ["--data", data, "--out", out, "--ahead", "5", "--sha256", digest]
    done = subprocess.run(
        [sys.executable, "-c", program, "predict", path, *options],
        capture_output=True, text=True, env={**os.environ, "JAX_ENABLE_X64": "1"},
    )  # fmt: skip
    moved.rename(run.folder)
    assert done.returncode == 0, done.stderr
    assert "pool: " in done.stdout
    close(pl.read_csv(out), pl.read_csv(BytesIO(own.write_csv().encode())))


def rewritten(path, out, change):
    """The file with its members, a dictionary, changed; its manifest stays as it is unless it is changed."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out


WEIGHTS, CODE = "functions/0/weights.0", "functions/0/16.stablehlo"
CHANGES = {
    "a byte": (lambda m: m.update({WEIGHTS: m[WEIGHTS][:-1] + bytes([m[WEIGHTS][-1] ^ 1])}), "weights.0 is not what"),
    "exchanged": (lambda m: m.update({CODE: m["functions/0/weights.1"]}), "16.stablehlo is not what was exported"),
    "more": (lambda m: m.update({"more.py": b"1"}), "holds more.py, which its manifest does not name"),
    "less": (lambda m: m.pop("card.md"), "lacks its member card.md; it was changed"),
    "manifest": (lambda m: m.update({"manifest.json": b"{}"}), "format None, and this nde reads up to 1"),
    "no json": (lambda m: m.update({"manifest.json": b"]"}), "does not write .JSONDecodeError: Expecting value"),
    "newer": (
        lambda m: m.update({"manifest.json": json.dumps(json.loads(m["manifest.json"]) | {"format": 2}).encode()}),
        "is of format 2, and this nde reads up to 1; it was written by nde",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_file_that_was_changed_is_refused(forecast, folder, name):
    change, message = CHANGES[name]
    with pytest.raises(RunError, match=message):
        nde.load_exported(rewritten(forecast[1], folder / "changed.nde", change))


def resealed(path, out, change):
    """The file with its members changed, and all digests made anew: what no digest tells."""

    def seal(members):
        change(members)
        manifest = json.loads(members["manifest.json"])
        manifest["members"] = {
            name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in members.items()
            if name != "manifest.json"
        }
        members["manifest.json"] = json.dumps(manifest).encode()

    return rewritten(path, out, seal)


def plain(members, name, change):
    members[name] = json.dumps(change(json.loads(members[name]))).encode()


def first_function(held, **changed):
    plain(held, "manifest.json", lambda m: {**m, "functions": [{**m["functions"][0], **changed}]})


LOADED = {
    "deep": lambda m: m.update({"facts.json": b"[" * 200_000}),
    "notes": lambda m: plain(m, "facts.json", lambda facts: {**facts, "notes": 7}),
    "list": lambda m: plain(m, "facts.json", lambda facts: [facts]),
    "digits": lambda m: m.update({"facts.json": b"9" * 5000}),
    "no text": lambda m: m.update({"card.md": b"\xff"}),
    "rows": lambda m: first_function(m, rows=["16"]),
    "no rows": lambda m: first_function(m, rows=[]),
    "members": lambda m: first_function(m, members=0),
    "shape": lambda m: first_function(m, weights=[{"shape": [2**32, 2**32], "dtype": "float64"}]),
    "negative": lambda m: first_function(m, weights=[{"shape": [-1], "dtype": "float64"}]),
    "objects": lambda m: first_function(m, weights=[{"shape": [2], "dtype": "object"}]),
    "platforms": lambda m: first_function(m, platforms=[]),
}
PREDICTED = {
    "law": lambda m: plain(m, "facts.json", lambda facts: {**facts, "laws": {"latent SDE": [7, 7]}}),
    "seed": lambda m: plain(m, "facts.json", lambda facts: {**facts, "seed": "x"}),
    "layout": lambda m: plain(m, "facts.json", lambda facts: {**facts, "layout": {"id": "who"}}),
    "units": lambda m: plain(m, "normaliser.json", lambda units: {**units, "mean": ["x", "y"]}),
    "code": lambda m: m.update({CODE: m[CODE][:5000]}),
    "weights": lambda m: first_function(m, weights=[{"shape": [1], "dtype": "int8"}]),
}


@pytest.mark.parametrize("name", [*LOADED, *PREDICTED])
def test_a_file_made_anew_of_what_no_export_writes_is_refused_in_one_line(forecast, folder, name):
    path = resealed(forecast[1], folder / "made.nde", {**LOADED, **PREDICTED}[name])
    if name in PREDICTED:
        exported = nde.load_exported(path)
        with pytest.raises(RunError, match=r"^[^\n]*made.nde: holds what `nde export` does not write \([^\n]*\)\.$"):
            exported.predict(table(), samples=4)
    else:
        with pytest.raises(RunError, match=r"^[^\n]*made.nde: [^\n]*(does not write|was not exported so)[^\n]*\.$"):
            nde.load_exported(path)


def test_what_this_jax_can_not_run_says_by_which_it_was_exported(forecast, monkeypatch):
    def full(self, rows, *arrays):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory\nwhile allocating")

    monkeypatch.setattr("nde.tasks.portable.LoweredFunction.unchecked", full)
    said = (
        rf"^[^\n]*nde: was exported by jax {jax.__version__}, and jax [^\n]*run it here \(RESOURCE_EX[^\n]*memory\)\.$"
    )
    with pytest.raises(RunError, match=said):
        nde.load_exported(forecast[1]).predict(table(), samples=4)


def test_every_byte_counts(forecast, folder):
    # Also those that no member's digest covers: of the zip's own records.
    content, digest = forecast[1].read_bytes(), forecast[2]
    for place in np.random.default_rng(0).choice(len(content), 5, replace=False):
        changed = bytearray(content)
        changed[place] ^= 4
        (folder / "changed.nde").write_bytes(changed)
        with pytest.raises(RunError):
            nde.load_exported(folder / "changed.nde", sha256=digest)


def test_what_is_no_exported_file_is_refused(forecast, folder):
    with pytest.raises(RunError, match="no such file; give one that `nde export` wrote"):
        nde.load_exported(folder / "nothing.nde")
    (folder / "text.nde").write_text("a text")
    with pytest.raises(RunError, match="no exported model, or a damaged one .File is not a zip file."):
        nde.load_exported(folder / "text.nde")
    (folder / "half.nde").write_bytes(forecast[1].read_bytes()[:5000])
    with pytest.raises(RunError, match="no exported model, or a damaged one"):
        nde.load_exported(folder / "half.nde")
    with zipfile.ZipFile(folder / "small.nde", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", b"0" * 10_000_000)
    with pytest.raises(RunError, match="a member is compressed"):
        nde.load_exported(folder / "small.nde")


def test_single_precision_refuses_a_file_in_double(forecast):
    with jax.enable_x64(False), pytest.raises(RunError, match="double precision; set JAX_ENABLE_X64=1"):
        nde.load_exported(forecast[1])


def test_tables_that_an_exported_model_can_not_serve_are_refused(forecast):
    exported = nde.load_exported(forecast[1])
    with pytest.raises(ValueError, match="no column 'a'"):
        exported.predict(table().drop("a"))
    with pytest.raises(ValueError, match=r"up to 100 after a series' first row, but 2\d\d is asked for; .* --until 2"):
        exported.predict(table(), ahead=[200.0])
    long = pl.DataFrame({"who": ["s"] * 40, "day": np.arange(40), "a": 0.0, "b": 1.0})
    with pytest.raises(
        ValueError, match="a series has 40 rows, .* for at most 16; export the run again with --rows 40"
    ):
        exported.predict(long)
    with pytest.raises(RunError, match="there is no model 'gru'; those of this run are latent SDE"):
        exported.predict(table(), model="gru")
    for one in (exported, forecast[0]):
        for samples, said in (
            (0, "at least 1, but is 0"),
            (2.5, "a whole number, but is 2.5"),
            (True, "a whole number, but"),
        ):
            with pytest.raises(RunError, match=f"samples must be {said}"):
                one.predict(table(), samples=samples)


def test_the_same_export_has_the_same_digest_and_more_rows_a_longer_ladder(classify, folder):
    run, _, digest = classify
    assert nde.export_run(run, folder / "again.nde") == digest
    nde.export_run(run, folder / "longer.nde", rows=17)
    assert b".py" not in (folder / "longer.nde").read_bytes()  # nor does it tell where it was made
    with zipfile.ZipFile(folder / "longer.nde") as archive:
        manifest = json.loads(archive.read("manifest.json"))
        assert {each["size"] for each in manifest["members"].values()} <= {i.file_size for i in archive.infolist()}
    assert [(each["rows"], each["platforms"]) for each in manifest["functions"]] == [
        ([16, 32], ["cpu", "cuda", "tpu"])
    ] * 2
    run_rows = nde.load_exported(folder / "longer.nde").ported.functions["signature regression"][0].rows
    assert [run_rows(count) for count in (1, 16, 17, 32)] == [16, 16, 32, 32]


def test_the_card_says_what_was_trained_and_on_what(forecast):
    run, path, _ = forecast
    card = nde.load_exported(path).card
    said = (
        "# Model card: forecast by latent SDE", "12 series", run.config.data.sha256, "channels: a, b",
        "on a log scale: b", "2 members of", "validation NLL per value: ", "Licence: *to be filled in",
        "times up to 100 after", "cpu, cuda, tpu", "nde predict FILE",
    )  # fmt: skip
    assert [text for text in said if text not in card] == []
    assert str(run.folder) not in card


def test_export_and_predict_by_command(classify, folder):
    run, _, digest = classify
    table().write_csv(folder / "asked.csv")

    def called(*arguments):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    done = called("export", run.folder, "--out", folder / "command.nde")
    assert f"sha256: {digest}" in done.stdout
    again = called("export", run.folder, "--out", folder / "command.nde")
    assert again.exit_code == 2 and "exists already, and nothing is written over" in again.stderr
    options = ("--data", folder / "asked.csv", "--out", folder / "classes.csv", "--sha256")
    wrong = called("predict", folder / "command.nde", *options, "0" * 64)
    assert wrong.exit_code == 2 and f"its SHA-256 is {digest}, not the one given" in wrong.stderr
    of_run = called("predict", run.folder, *options, digest)
    assert of_run.exit_code == 2 and "--sha256 is of a file of `nde export`" in of_run.stderr
    lines = rewritten(
        folder / "command.nde",
        folder / "lines.nde",
        lambda m: plain(m, "manifest.json", lambda manifest: {**manifest, "task": "a\nb"}),
    )
    other = called("predict", lines, *options[:-1])
    assert other.exit_code == 2 and len(other.stderr.splitlines()) == 1 and "the task 'a b'" in other.stderr
    assert called("predict", folder / "command.nde", *options, digest).exit_code == 0
    assert pl.read_csv(folder / "classes.csv").columns == ["who", "class", "p_x", "p_y"]


def test_a_file_whose_writing_is_stopped_is_not_there(classify, folder, monkeypatch):
    table().write_csv(folder / "asked.csv")

    def stopped(path):
        path.touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", lambda path, content: stopped(path))
    monkeypatch.setattr(pl.DataFrame, "write_csv", lambda frame, path: stopped(path))
    run = str(classify[0].folder)
    for command in (["export", run], ["predict", run, "--data", str(folder / "asked.csv")]):
        done = CliRunner().invoke(app, [*command, "--out", str(folder / "stopped.csv")])
        assert done.exit_code == 130 and done.stderr == "nde: stopped.\n"
        assert list(folder.glob("stopped*")) == []


def test_a_check_that_fails_within_an_exported_model_names_the_series():
    def logits(weights, times, values, mask, codes, words):
        found = eqx.error_if(values[:, 0], values[:, 0] > 3, "too large")
        return weights[0][0] * found[:2]

    weights = [np.ones((1, 2))]
    with checks_as_nan():
        shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in weights]
        exported = jax.export.export(jax.jit(jax.vmap(logits, (None, 0, 0, 0, 0, None))))(
            shapes, *series_arguments(16, 2), *key_arguments()
        )
    model = PortedLogits(LoweredFunction("file", weights, {16: Rung(bytes(exported.serialize()))}))
    values = np.arange(8.0).reshape(4, 1, 2)
    given = dict(series=["a", "b", "c", "d"], samples=1, key=jax.random.key(0))
    with pytest.raises(FailedExamples, match="^c, d: a check of the exported model failed"):
        class_logits(model, np.zeros((4, 1)), values, values > -1, **given)
    assert class_logits(model, np.zeros((4, 1)), values % 3, values > -1, **given).shape == (4, 2)


LAWS = [
    GaussianLikelihood(2, scale=[0.1, 3]),
    StudentTLikelihood(2, degrees=[3, 8]),
    ScaledLikelihood(CombinedLikelihood(2, proportional=[0.1, 0.3]), unit=[0.1, 1e300]),
    CensoredLikelihood(
        ChannelLikelihood([LogNormalLikelihood(1), CombinedLikelihood(1, additive=None)]), below=[0.1, None]
    ),
    ChannelLikelihood(
        [PoissonLikelihood(), ScaledLikelihood(GaussianLikelihood(1), unit=[3.0]), BernoulliLikelihood()]
    ),
]


@pytest.mark.parametrize("law", LAWS)
def test_a_law_comes_back_from_json_to_the_last_bit(law):
    law = jax.tree.map(lambda x: x.astype(jnp.float32), law)
    plain = json.loads(json.dumps(likelihood_to_plain(law), allow_nan=False))
    assert eqx.tree_equal(likelihood_from_plain(plain), law)


class OwnLikelihood(GaussianLikelihood):
    """A law that nde does not have."""


def test_laws_without_numbers_of_their_own_kind_are_refused():
    with pytest.raises(ValueError, match="an? OwnLikelihood can not be written as plain numbers"):
        likelihood_to_plain(ScaledLikelihood(OwnLikelihood(1), unit=[1.0]))
    with pytest.raises(ValueError, match="'os.system' is no law"):
        likelihood_from_plain({"class": "os.system"})
