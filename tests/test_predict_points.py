"""Predictions of runs of points: log-densities of a table, new points, and the same of an exported file."""

import json
import zipfile
from dataclasses import replace
from types import SimpleNamespace

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
from nde.config import load_config
from nde.data import TableError
from nde.runs import prepare, Run, RunError, RunFailed
from nde.tasks import Prediction
from nde.tasks.point_export import ported_points
from nde.tasks.point_prediction import BLOCK, even_classes

TRAIN = {"steps": 2, "batch_size": 16, "validate_every": 1}
SMALL = {"width": 4, "depth": 1}
DIFFUSION = {"name": "diffusion", **SMALL}
LENGTH, MASS = 1000.0, 0.02
"""The units of the table: a log-density in them differs from one of standard points by log(20)."""


def people(count=80):
    generator = np.random.default_rng(0)
    kind = generator.random(count) < 0.25
    length = LENGTH * (3.0 + generator.standard_normal(count) + 2.0 * kind)
    mass = MASS * (5.0 + generator.standard_normal(count))
    return pl.DataFrame({"mass": mass, "length": length, "kind": np.where(kind, "b", "a")})


def close(one, other):
    assert_frame_equal(one, other, rel_tol=1e-9, abs_tol=1e-9)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("points")


def fitted(folder, name, table=None, **config):
    solver = {"name": "heun", "rtol": 1e-2, "atol": 1e-2}
    run = nde.fit({"train": TRAIN, "solver": solver, **config}, data=table, out=folder / name, progress=False)
    nde.export_run(run, folder / f"{name}.nde")
    return run, nde.load_exported(folder / f"{name}.nde")


@pytest.fixture(scope="module")
def density(folder):
    return fitted(
        folder, "density", people().drop("kind"),
        task="density",
        model=[{"name": "flow", **SMALL}, {**DIFFUSION, "probes": 1}],
        solver={"dt0": 0.5},
        train={**TRAIN, "members": 2},
        evaluate={"tolerance": 1e-3},
    )  # fmt: skip


@pytest.fixture(scope="module")
def classes(folder):
    return fitted(
        folder, "classes", people(),
        task="generate",
        data={"label": "kind"},
        model=[DIFFUSION],
        evaluate={"sampler": "ddim", "steps": 2},
        train={**TRAIN, "members": 2},
    )  # fmt: skip


@pytest.fixture(scope="module")
def carried(folder):
    return fitted(
        folder, "carried",
        task="generate",
        data={
            "dataset": "two_moons", "source": "eight_gaussians", "pairs": 40,
            "points": 40, "validation_points": 10, "test_points": 10,
        },
        model=[{"name": "flow_matching", **SMALL}],
    )  # fmt: skip


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


# Log-densities.


def test_densities_have_a_mass_of_one_in_the_tables_own_units(density):
    run, _ = density
    seen = people()
    axes = [np.linspace(s.mean() - 6 * s.std(), s.mean() + 6 * s.std(), 41) for s in (seen["mass"], seen["length"])]
    grid = pl.DataFrame(dict(zip(("mass", "length"), (x.ravel() for x in np.meshgrid(*axes)), strict=True)))
    cell = np.prod([axis[1] - axis[0] for axis in axes])
    found = run.predict(grid, model="flow")
    assert float(np.exp(found["log_prob"]).sum()) * cell == pytest.approx(1.0, abs=0.01)
    np.testing.assert_array_equal(found["length"], grid["length"])


def test_members_densities_are_averaged(density):
    run, _ = density
    points = people(5).drop("kind")
    each = []
    for model in run.models()["flow"]:
        exact = nde.models.at_tolerance(model, 1e-7)
        inside = run.problem.units.apply(points.select(run.problem.data.columns).to_numpy())
        each.append(eqx.filter_jit(lambda model, xs: jax.vmap(model.log_prob)(xs))(exact, inside))
    mean = np.log(np.exp(each).mean(0)) - np.log(run.problem.scale).sum()
    assert abs(np.subtract(*each)).max() > 1e-3
    np.testing.assert_allclose(run.predict(points, model="flow")["log_prob"], mean, atol=5e-3)


@pytest.mark.parametrize("model", ["flow", "diffusion"])
def test_a_file_has_the_densities_of_its_run(density, model):
    run, exported = density
    points = people(BLOCK + 3).drop("kind")  # in two blocks
    found = run.predict(points, model=model)
    close(exported.predict(points, model=model), found)
    close(found[:7], run.predict(points[:7], model=model))  # whatever points stand beside
    assert exported.prediction_notes(model) == list(run.prediction_notes(model))


def test_notes_say_which_densities_are_estimates_and_of_how_many_members(density):
    run, _ = density
    assert run.prediction_notes("flow") == [
        "log_prob: nats, in the table's own units, by the flow, the log of the mean density of its 2 members"
    ]
    assert run.prediction_notes("diffusion")[1].startswith("log_prob is an estimate, its trace by 1 probe a point")


def test_other_columns_are_carried_through_as_they_are_written(density, folder):
    path, out = folder / "asked.csv", folder / "densities.csv"
    path.write_text('who,length,note,mass\n007,3100,"a, b",0.1\n\n1e2,2.5e3,,.11\n')
    done = invoke("predict", density[0].folder, "--data", path, "--out", out, "--model", "flow")
    assert done.exit_code == 0 and "log_prob: nats" in done.stdout
    lines = [line.rpartition(",") for line in out.read_text().splitlines()]
    before = ["who,length,note,mass", '007,3100.0,"a, b",0.1', "1e2,2500.0,,0.11"]
    assert [line[0] for line in lines] == before
    found = density[0].predict(pl.DataFrame({"mass": [0.1, 0.11], "length": [3100, 2500]}), model="flow")
    np.testing.assert_allclose([float(line[2]) for line in lines[1:]], found["log_prob"], rtol=1e-12)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mass,width\n1,2\n", "asked.csv: no column 'length'; the columns are mass, width"),
        ("mass;length\n1;2\n", r"no column 'mass'.* set data.separator = ';'"),
        ("mass,length\n1,2\n3,tall\n", "asked.csv: row 3, column 'length': 'tall' is no finite number"),
        ("mass,length\n1,2\n\n,3\n", "asked.csv: row 4, column 'mass' is empty; a point needs all its coordinates"),
        ("mass,length\n1,nan\n", "asked.csv: row 2, column 'length' is empty"),
        ("mass,length\n", "asked.csv: has no rows; give one for each point"),
        ("mass,length,log_prob\n1,2,3\n", "asked.csv: 'log_prob' is also the name of the column of the prediction"),
    ],
)
def test_a_bad_table_is_refused_in_one_line(density, folder, text, message):
    (folder / "asked.csv").write_text(text)
    for model in density:
        with pytest.raises(TableError, match=message):
            model.predict(folder / "asked.csv")


def test_lists_can_not_be_written_as_text(density, folder):
    frame = pl.DataFrame({"mass": [0.1], "length": [3000.0], "tags": [["a"]]})
    frame.write_parquet(folder / "lists.parquet")
    out = folder / "lists.csv"
    refused = invoke("predict", density[0].folder, "--data", folder / "lists.parquet", "--out", out)
    assert refused.exit_code == 2 and "column 'tags' holds List(String), which no .csv file can" in refused.stderr
    assert density[0].predict(frame)["tags"].to_list() == [["a"]]


def test_a_point_that_can_not_be_solved_for_is_named(density):
    points = people(BLOCK + 9).drop("kind")
    points[BLOCK + 4, "mass"] = 1e308  # infinite in the model's units
    failing = {"flow": [lambda points, labels, rows, words: np.where(np.isinf(points[:, 0]), np.nan, 0.0)]}
    models = replace(ported_points(density[1].ported), members=lambda: failing)
    with pytest.raises(RunFailed, match=f"log-density of row {BLOCK + 5} could not be solved for .the solution is no"):
        models.log_densities(Prediction(points, model="flow"))


# New points.


def test_points_come_again_and_do_not_depend_on_how_many_there_are(classes):
    run, exported = classes
    many = run.predict(samples=BLOCK + 44)
    assert many.columns == ["mass", "length", "kind"] and len(many) == BLOCK + 44
    assert_frame_equal(run.predict(samples=BLOCK + 44), many)
    close(run.predict(samples=9), many[:9])
    close(exported.predict(samples=BLOCK + 44), many)
    assert len(run.predict()) == 200
    assert len(many.unique(("mass", "length"))) == len(many)
    assert many["length"].median() > LENGTH / 2 and abs(many["mass"].median()) < 10 * MASS  # in their own units
    shares = [sum(run.problem.train.labels == i) / len(run.problem.train) for i in (0, 1)]
    assert [sum(many["kind"] == name) / len(many) for name in "ab"] == pytest.approx(shares, abs=0.02)


def test_a_class_for_each_row_of_a_table(classes, folder):
    run, exported = classes
    (folder / "kinds.csv").write_text("who,kind\n1,b\n2,a\n3,a\n")
    found = run.predict(folder / "kinds.csv")
    assert found.columns == ["who", "kind", "mass", "length"] and found["who"].to_list() == ["1", "2", "3"]
    close(exported.predict(folder / "kinds.csv"), found)
    other = run.predict(pl.DataFrame({"kind": ["a", "a"]}))  # of the same noise, of another class
    assert abs(other["mass"][0] - found["mass"][0]) > 1e-6 * MASS
    np.testing.assert_allclose(other["mass"][1], found["mass"][1], rtol=1e-9)
    again = run.predict(people(3))  # laid out as the training's: points stand where points stood
    assert again.columns == ["mass", "length", "kind"] and abs(again["length"][0] - people(3)["length"][0]) > 1e-3


def test_members_take_turns(classes):
    run, _ = classes
    options = run.config.model[0].drawing(run.config.evaluate)
    key = nde.tasks.member_key(run.config, 0, "forecasts")
    given = pl.DataFrame({"kind": ["a", "b", "a"]})
    draw = eqx.filter_jit(lambda model, label, key: model.draw(label, key=key, **options).ys)
    models = run.models()["diffusion model"]
    drawn = [draw(models[row % 2], jnp.array(row % 2), jax.random.fold_in(key, row)) for row in range(3)]
    np.testing.assert_allclose(
        run.predict(given).select("mass", "length").to_numpy(), run.problem.undo(np.array(drawn)), rtol=1e-9
    )


def test_a_flow_from_data_carries_each_row(carried):
    run, exported = carried
    start = pl.DataFrame({"name": ["p", "q"], "y": [1.0, 2.0], "x": [-2.0, 0.5]})
    found = run.predict(start)
    assert found.columns == ["name", "y", "x"] and found["name"].to_list() == ["p", "q"]
    (model,) = run.models()["flow matching"]
    way = [model.forward(np.array(point)) for point in ((-2.0, 1.0), (0.5, 2.0))]
    np.testing.assert_allclose(found.select("x", "y").to_numpy(), way, rtol=1e-9)
    close(exported.predict(start), found)
    for one in carried:
        with pytest.raises(RunError, match="carries points like those of eight_gaussians.* with the columns x, y"):
            one.predict()


def test_classes_come_as_often_as_they_should_in_any_number_of_rows():
    for rows in (10, 100, 1000):
        found = np.bincount(even_classes([6, 3, 1], rows), minlength=3)
        assert abs(found - rows * np.array([0.6, 0.3, 0.1])).max() < 2.5
    np.testing.assert_array_equal(even_classes([6, 3, 1], 1000)[:17], even_classes([6, 3, 1], 17))
    assert set(even_classes([0, 3, 0], 50)) == {1}


# By the run alone, and by command.


def test_a_run_predicts_without_the_table_it_was_made_from(classes):
    run, _ = classes
    table, moved = run.folder / "data.parquet", run.folder / "moved.parquet"
    table.rename(moved)
    reopened = nde.open_run(run.folder)
    assert len(reopened.predict(samples=2)) == 2
    with pytest.raises(ValueError, match="no such file"):
        _ = reopened.problem
    moved.rename(table)
    units = run.folder / "normaliser.json"
    text = units.read_text()
    units.unlink()  # of a run that kept none
    close(nde.open_run(run.folder).predict(samples=2), run.predict(samples=2))
    units.write_text(text)


def test_what_is_of_no_use_is_refused(density, classes, carried, folder):
    for one in (*density, *classes):
        with pytest.raises(RunError, match="points have no time.*: leave out --ahead, --keep-samples"):
            one.predict(people(), keep_samples=True)
    with pytest.raises(RunError, match="points have no time"):
        classes[0].predict(ahead=[1.0])
    for one in density:
        with pytest.raises(RunError, match="density.*: predicts of a table: give --data, one laid out like that"):
            one.predict()
    with pytest.raises(RunError, match="samples must be at least 1, but is 0"):
        classes[0].predict(samples=0)
    with pytest.raises(TableError, match="data: row 2, column 'kind': 'c' is no class of the run; .* are a, b"):
        classes[0].predict(pl.DataFrame({"kind": ["a", "c"]}))
    for given in ({"until": 3.0}, {"rows": 8}):
        with pytest.raises(RunError, match="task = 'density' is of points.*: leave out --until, --rows"):
            nde.export_run(density[0], folder / "none.nde", **given)


def test_without_noise_from_data_or_classes_a_table_is_refused(folder):
    data = {"dataset": "two_moons", "points": 20, "validation_points": 10, "test_points": 10}
    config = load_config({"task": "generate", "data": data, "model": [{"name": "flow", **SMALL}]})
    (folder / "plain").mkdir()
    run = Run.create(folder / "plain", *prepare(config))
    run.metrics_path.write_text("")
    with pytest.raises(RunError, match="so it takes no table: leave --data out, and give --samples"):
        run.predict(people())


def test_generate_and_export_by_command(classes, folder):
    run, _ = classes
    out, file = folder / "drawn.csv", folder / "command.nde"
    done = invoke("predict", run.folder, "--samples", 7, "--out", out)
    assert done.exit_code == 0 and "whose 2 members take turns, in the columns mass, length" in done.stdout
    assert invoke("export", run.folder, "--out", file).exit_code == 0
    assert invoke("predict", file, "--samples", 7, "--out", folder / "again.csv").exit_code == 0
    close(pl.read_csv(folder / "again.csv"), pl.read_csv(out))
    with zipfile.ZipFile(file) as archive:
        manifest, card = json.loads(archive.read("manifest.json")), archive.read("card.md").decode()
    assert [each["platforms"] for each in manifest["functions"]] == [["cpu", "cuda", "tpu"]]
    said = (
        "# Model card: generate by diffusion model", "80 points", run.config.data.sha256, "mass, length",
        "column of the class: `kind`; classes: a, b", "nde predict FILE --samples 1000",
        "Drawn with steps = 2, sampler = ddim.",
    )  # fmt: skip
    assert [text for text in said if text not in card] == []
    assert str(run.folder) not in card


def test_a_task_of_series_needs_its_table(folder, density):
    for task in ("forecast", "classify", "dynamics", "population"):
        with pytest.raises(RunError, match="run: predicts of a table: give --data, one laid out like that of the run"):
            Run(folder / "run", SimpleNamespace(task=task)).predict()
    refused = invoke("predict", density[0].folder, "--out", folder / "none.csv")
    assert refused.exit_code == 2 and "predicts of a table: give --data" in refused.stderr
