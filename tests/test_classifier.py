"""The classifiers, their parts, and a run of them on series made up here."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest
from matplotlib.image import imread
from typer.testing import CliRunner

from nde.cli import app
from nde.data import remove_at_random
from nde.data.motions import labelled_panel, MOTION_CHANNELS
from nde.fields import PathScaledField
from nde.models import GRUDeltaT
from nde.objectives import cross_entropy
from nde.report import accuracy_rows, brier_score, confusion

ROWS, EACH = 8, 6
HELD = 4  # series to validate, to test and to predict: one shape, so that each model compiles once for the three
SMALL = [
    "model.state_size=4", "model.width=4", "model.solver=euler", "model.hidden_size=4", "train.steps=12",
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
        patch.setattr("nde.runs.kinds.cde_classifier.load_basic_motions", made_up)
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
    assert "neural CDE, seed 1/1" in output
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
    result = invoke("predict", fitted[0], "--data", tmp_path / "table.csv", "--out", tmp_path / "out.csv")
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


def test_a_run_refuses_other_data_than_it_was_made_from(fitted, monkeypatch):
    shifted = made_up()
    shifted.panel.values[0, 0, 0] += 1
    monkeypatch.setattr("nde.runs.kinds.cde_classifier.load_basic_motions", lambda: shifted)
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


def test_gru_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="gap_scale > 0, but got 0"):
        GRUDeltaT(2, 3, 4, gap_scale=0.0, key=jax.random.key(0))
    model = GRUDeltaT(2, 3, 4, key=jax.random.key(0))
    with pytest.raises(ValueError, match=r"\(rows, 2\), but got ts of shape \(3,\), values of shape \(3, 1\)"):
        model(np.arange(3.0), np.zeros((3, 1)), np.ones((3, 1), bool))


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
