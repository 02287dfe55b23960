"""The classifiers, their parts, and a run of them on series made up here."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest
from matplotlib.image import imread
from typer.testing import CliRunner

import nde
from nde.cli import app
from nde.config import ConfigError
from nde.data import Dataset, DATASETS, remove_at_random, TableError
from nde.data.datasets.basic_motions import labelled_panel, MOTION_CHANNELS
from nde.fields import PathScaledField
from nde.models import GRUDeltaT
from nde.objectives import cross_entropy
from nde.report import accuracy_rows, brier_score, confusion
from nde.runs import RunError

ROWS, EACH = 8, 6
HELD = 4  # series to validate, to test and to predict: one shape, so that each model compiles once for the three
SMALL = [
    "model.neural_cde.state_size=4", "model.neural_cde.width=4", "solver.name=euler", "model.gru.hidden_size=4",
    "train.steps=12",
    "train.batch_size=8", "train.members=1", "train.validate_every=6", "train.log_every=1", "train.warmup=1",
    "train.learning_rate=0.03", "data.validation=0.34",
]  # fmt: skip


def made_up():
    """Two classes that differ in level, `EACH` series of either to train and validate, `HELD` in all to test."""
    names = np.array(["high", "low"] * EACH)
    noise = np.random.default_rng(0).standard_normal((2 * EACH + HELD, ROWS, 6))
    values = np.where(np.append(names, names[:HELD]) == "high", 2.0, -2.0)[:, None, None] + noise
    return labelled_panel(values[: len(names)], names, values[len(names) :], names[:HELD])


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DATASETS, "basic_motions", Dataset(made_up, "labelled"))
        folder = tmp_path_factory.mktemp("runs") / "run"
        result = invoke("fit", "configs/cde_motions.toml", *SMALL, "--out", folder)
        assert result.exit_code == 0, result.output
        yield folder, result.output


def test_a_few_steps_lower_the_loss_of_both(fitted):
    rows = [json.loads(line) for line in (fitted[0] / "metrics.jsonl").read_text().splitlines()]
    for member in (0, 1):
        losses = [row["loss"] for row in rows if row["member"] == member and "loss" in row]
        assert len(losses) == 12
        assert np.mean(losses[-3:]) < 0.6 * losses[0]


def test_fit_leaves_the_table_and_the_figures(fitted):
    folder, output = fitted
    assert "neural CDE" in output and "GRU-Δt" in output
    table = pl.read_csv(folder / "results.csv")
    assert table["method"].to_list() == ["neural CDE", "GRU-Δt"]
    assert (table["accuracy"] >= 0.7).all()
    np.testing.assert_array_equal(table["accuracy"], table["seed 0"])
    assert json.loads((folder / "results.json").read_text())["series_scored"] == HELD
    for name in ("training", "confusion", "series"):
        assert imread(folder / "figures" / f"{name}.png")[..., :3].std() > 0.05


def test_evaluate_gives_the_same_table_again(fitted, tmp_path):
    result = invoke("evaluate", fitted[0], "--out", tmp_path / "again")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "again" / "results.csv").read_text() == (fitted[0] / "results.csv").read_text()


def test_predict_gives_each_series_of_a_table_the_class_that_evaluate_scored(fitted, tmp_path):
    data = made_up()
    thinned = remove_at_random(data.panel, 0.5, seed=0)[np.flatnonzero(data.tested)]
    table = pl.DataFrame(
        [
            (name, t, *(x if seen else None for x, seen in zip(values, mask, strict=True)))
            for name, times, rows, masks in zip(thinned.ids, thinned.times, thinned.values, thinned.mask, strict=True)
            for t, values, mask in zip(times, rows, masks, strict=True)
        ],
        schema=["id", "time", *MOTION_CHANNELS],
        orient="row",
    )
    table.write_csv(tmp_path / "table.csv")
    given = ["--data", tmp_path / "table.csv", "--model", "neural_cde"]
    result = invoke("predict", fitted[0], *given, "--out", tmp_path / "out.csv")
    assert result.exit_code == 0, result.output
    classes = pl.read_csv(tmp_path / "out.csv")
    assert classes["id"].to_list() == list(thinned.ids)
    np.testing.assert_allclose(classes["p_high"] + classes["p_low"], 1.0)
    higher = (classes["p_high"] > classes["p_low"]).to_list()
    assert classes["class"].to_list() == ["high" if flag else "low" for flag in higher]
    right = [data.classes[i] for i in data.labels[data.tested]] == classes["class"].to_numpy()
    assert np.mean(right) == pl.read_csv(fitted[0] / "results.csv")["accuracy"][0]
    ahead = ["--data", tmp_path / "table.csv", "--out", tmp_path / "other.csv", "--ahead", "1"]
    refused = invoke("predict", fitted[0], *ahead)
    assert refused.exit_code == 2
    assert "leave out --ahead" in refused.output


def test_the_model_that_validated_best_predicts_where_none_is_named(fitted, tmp_path):
    run = nde.open_run(fitted[0])
    scores = run.validation_scores()
    assert set(scores) == {"neural CDE", "GRU-Δt"}
    panel = made_up().panel
    table = pl.DataFrame(
        [
            (n, t, *x)
            for n, ts, xs in zip(panel.ids, panel.times, panel.values, strict=True)
            for t, x in zip(ts, xs, strict=True)
        ],
        schema=["id", "time", *MOTION_CHANNELS],
        orient="row",
    )
    best = min(scores, key=scores.get)
    found = {name: run.predict(table, model=name)["p_high"].to_numpy() for name in scores}
    np.testing.assert_array_equal(run.predict(table)["p_high"].to_numpy(), found[best])
    assert run.task.prediction_notes(run) == [f"classes by the {best}"]
    with pytest.raises(RunError, match="there is no model 'resnet'; those of this run are neural CDE, GRU-Δt"):
        run.predict(table, model="resnet")


def own_table(ids=("s", 0)):
    """Two classes that differ in level, of unequal lengths, ids as text or as whole numbers."""
    generator, rows = np.random.default_rng(1), []
    for i in range(12):
        kind = ("well", "sick")[i % 2]
        for t in np.sort(generator.choice(9, size=4 + i % 3, replace=False)):
            rows.append((f"s{i}" if ids[0] else 10 + i, int(t), (2.0, -2.0)[i % 2] + generator.normal(), None, kind))
            rows.append((f"s{i}" if ids[0] else 10 + i, int(t) + 10, None, generator.normal(), kind))
    return pl.DataFrame(rows, schema=["who", "day", "a", "b", "kind"], orient="row")


OWN = {
    "task": "classify",
    "data": {"id": "who", "time": "day", "label": "kind", "folds": 3},
    "model": {"name": "gru", "hidden_size": 4},
    "train": {"steps": 20, "batch_size": 6, "learning_rate": 0.05, "warmup": 1, "validate_every": 10},
}


@pytest.fixture(scope="module")
def own_run(tmp_path_factory):
    return nde.fit(OWN, data=own_table(), out=tmp_path_factory.mktemp("own") / "run", progress=False)


def test_a_frame_of_ones_own_is_learned_and_kept_in_the_folder(own_run):
    (row,) = own_run.evaluate().rows()
    assert row["method"] == "GRU-Δt" and row["accuracy"] >= 0.75
    again = nde.open_run(own_run.folder)
    assert again.config.data.classes == ("sick", "well") and again.config.data.channels == ("a", "b")
    assert again.evaluate().rows()[0]["accuracy"] == row["accuracy"]
    assert set(own_run.figures()) == {"training", "confusion", "series"}


def test_a_model_that_draws_noise_says_the_same_of_a_series_again_and_in_any_table(tmp_path):
    """The paths of a series are keyed by its id, and its probabilities are means over `evaluate.samples` of them."""
    noisy = {"name": "controlled_sde", "state_size": 3, "width": 4, "noise": 0.9, "solver": {"dt0": 3.0}}
    train = {"steps": 2, "batch_size": 6, "warmup": 1, "validate_every": 2}
    config = {**OWN, "model": noisy, "train": train, "evaluate": {"samples": 5}}
    run = nde.fit(config, data=own_table(), out=tmp_path / "run", progress=False)
    assert run.evaluate().summary["nll"] == run.evaluate().summary["nll"]
    assert run.evaluate(samples=6).summary["nll"] != run.evaluate().summary["nll"]
    found = run.predict(own_table()).filter(pl.col("who").is_in(["s3", "s8"]))
    part = run.predict(own_table().filter(pl.col("who").is_in(["s8", "s3"])).reverse()).sort("who")
    np.testing.assert_allclose(part["p_sick"], found.sort("who")["p_sick"], atol=1e-6)


def test_classes_are_given_with_the_tables_own_ids_with_or_without_labels(own_run):
    table = own_table()
    found = own_run.predict(table)
    assert found.columns == ["who", "class", "p_sick", "p_well"]
    bare = own_run.predict(table.drop("kind").filter(pl.col("who").is_in(["s3", "s8"])))
    assert bare["who"].to_list() == ["s3", "s8"]
    np.testing.assert_allclose(bare["p_sick"], found.filter(pl.col("who").is_in(["s3", "s8"]))["p_sick"], atol=1e-6)
    numbered = own_run.predict(own_table(ids=(None, 0)))
    assert numbered["who"].dtype == pl.Int64 and numbered["who"].to_list()[:2] == [10, 11]
    pandas = own_run.predict(pytest.importorskip("pandas").DataFrame(table.to_dict(as_series=False)))
    np.testing.assert_allclose(pandas["p_sick"], found["p_sick"])


def test_folds_are_scored_as_one(own_run):
    part = own_run.evaluate()
    whole = part.pooled([part])
    assert whole.details.labels.tolist() == part.details.labels.tolist() * 2
    assert whole.rows()[0]["accuracy"] == part.rows()[0]["accuracy"]
    assert whole.title.startswith(f"accuracy on {2 * len(part.details.labels)} test series")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": {"id": "who", "time": "day"}}, "needs the name of its column `label`"),
        ({"data": {**OWN["data"], "folds": 50, "fold": 49}}, "leave the test part empty"),
        ({"data": {**OWN["data"], "label": "sort"}}, "no column 'sort' of labels"),
        (
            {"model": {"name": "latent_sde"}},
            "model 'latent_sde' does not serve task = 'classify'; these do: neural_cde",
        ),
        ({"data": {"dataset": "pbc"}}, "the data set 'pbc' holds series; those of this task are basic_motions"),
        ({"task": "classfy"}, "unknown task 'classfy'; write task = one of forecast, classify"),
    ],
)
def test_what_can_not_be_fitted_is_said_and_leaves_no_folder(change, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        nde.fit({**OWN, **change}, data=own_table(), out=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_was_moved_finds_the_frame_that_it_keeps(own_run, tmp_path):
    shutil.copytree(own_run.folder, tmp_path / "moved")
    config = tmp_path / "moved" / "config.toml"
    config.write_text(config.read_text().replace(str(own_run.folder), str(tmp_path / "gone")))
    moved = nde.open_run(tmp_path / "moved")
    assert moved.evaluate().rows()[0]["accuracy"] == own_run.evaluate().rows()[0]["accuracy"]
    assert moved.config.data.path == str(tmp_path / "moved" / "data.parquet")


def test_a_table_is_given_to_fit_by_its_path_too(tmp_path):
    with pytest.raises(TableError, match=r"there.csv: no such file"):
        nde.fit(OWN, data=tmp_path / "there.csv", out=tmp_path / "run", progress=False)
    with pytest.raises(ConfigError, match=r"a config is a path, .*, but this is a list"):
        nde.fit([OWN], data=own_table(), out=tmp_path / "run", progress=False)


@pytest.mark.parametrize("ahead", [3.0, "3", ["3"]])
def test_times_ahead_are_numbers(own_run, ahead):
    with pytest.raises(RunError, match=r"ahead must be a list of numbers, times after the last row, but is"):
        own_run.predict(own_table(), ahead=ahead)


def test_no_folder_is_written_over(own_run):
    with pytest.raises(RunError, match="exists already, and nothing is written over"):
        nde.fit(OWN, data=own_table(), out=own_run.folder)


def test_a_run_refuses_other_data_than_it_was_made_from(fitted, monkeypatch):
    shifted = made_up()
    shifted.panel.values[0, 0, 0] += 1
    monkeypatch.setitem(DATASETS, "basic_motions", Dataset(lambda: shifted, "labelled"))
    result = invoke("evaluate", fitted[0])
    assert result.exit_code == 2
    assert "is not what the run was made from" in result.output


def test_gru_reads_last_values_masks_and_gaps_and_nothing_else():
    model = GRUDeltaT(2, 3, 4, gap_scale=0.5, key=jax.random.key(0))
    ts = np.array([0.0, 0.5, 1.5, 1.5])
    values = np.array([[1.0, 9.0], [9.0, 9.0], [2.0, 3.0], [9.0, 9.0]])
    mask = np.array([[1, 0], [0, 0], [1, 1], [0, 0]], bool)
    first = model.cell(jnp.array([1.0, 0.0, 1.0, 0.0, 0.0, 0.0]), jnp.zeros(3))
    # The second row holds nothing; at the third both channels were last read, or begun, at time 0.
    second = model.cell(jnp.array([2.0, 3.0, 1.0, 1.0, 3.0, 3.0]), first)
    expected = model.readout(second)
    np.testing.assert_allclose(model(ts, values, mask), expected, rtol=1e-12)
    hidden = np.where(mask, values, np.nan)
    np.testing.assert_array_equal(model(ts, hidden, mask), model(ts, values, mask))


def test_scaled_field_is_the_field_of_the_scaled_path():
    matrix = jnp.arange(6.0).reshape(2, 3)
    field = PathScaledField(lambda t, y, args: matrix, [1.0, 0.5, 0.0])
    path = jnp.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(field(0.0, jnp.zeros(2)) @ path, matrix @ jnp.array([1.0, 1.0, 0.0]))
    with pytest.raises(ValueError, match=r"2 scales, but its field returned a matrix \(2, 3\)"):
        PathScaledField(lambda t, y, args: matrix, [1.0, 0.5])(0.0, jnp.zeros(2))


def test_cross_entropy_of_equal_logits_is_the_logarithm_of_the_classes():
    assert cross_entropy(jnp.zeros(4), 2) == pytest.approx(np.log(4))
    assert cross_entropy(jnp.array([0.0, jnp.log(3.0)]), 1) == pytest.approx(-np.log(0.75))


def test_accuracies_and_confusion_of_a_small_case():
    labels = np.array([0, 0, 1])
    logits = np.log(np.array([[[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]], [[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]]]))
    (row,) = accuracy_rows({"m": logits}, labels)
    assert (row["seed 0"], row["seed 1"]) == (pytest.approx(2 / 3), 1.0)
    assert row["accuracy"] == pytest.approx(5 / 6)
    assert row["sd"] == pytest.approx(np.std([2 / 3, 1], ddof=1))
    scores = brier_score(logits, labels)
    np.testing.assert_allclose(scores, [2 * (0.01 + 0.36 + 0.04) / 3, 2 * (0.01 + 0.16 + 0.04) / 3])
    table = confusion(logits.argmax(-1), labels, 3)
    np.testing.assert_allclose(table, [[0.75, 0.25, 0], [0, 1, 0], [0, 0, 0]])
