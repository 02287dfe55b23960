"""Runs of generative models: diffusion models, flows between laws, digits, tables of one's own."""

import importlib
import json

import jax
import numpy as np
import polars as pl
import pytest
from matplotlib.image import imread
from typer.testing import CliRunner

import nde
from nde.cli import app
from nde.config import load_config, PointFacts
from nde.data import as_point_set, DATASETS, load_digits, PointSet, read_points, TableError, TableFormat
from nde.diffusion import KineticInterpolant, VariancePreserving
from nde.models import at_tolerance
from nde.report import bits_per_dimension, plot_clouds, plot_images, sample_distances
from nde.runs import Run
from nde.tasks.density import log_prob

FEW = [
    "data.points=80", "data.validation_points=20", "data.test_points=40", "train.steps=6", "train.batch_size=16",
    "train.validate_every=3", "train.log_every=1", "train.warmup=1", "evaluate.samples=40",
    "evaluate.likelihood_points=4", "evaluate.tolerance=1e-2", "solver.name=heun", "solver.rtol=1e-2",
]  # fmt: skip


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(*arguments):
    result = invoke(*arguments)
    assert result.exit_code == 2, result.output
    return result.output


@pytest.fixture(scope="module")
def flows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "flows"
    small = [
        f"model.{name}.{size}" for name in ("independent", "transport", "bridge") for size in ("width=8", "depth=1")
    ]
    result = invoke("fit", "configs/gaussians_to_moons.toml", *FEW, *small, "data.pairs=160", "--out", folder)
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def table(tmp_path):
    generator = np.random.default_rng(0)
    kind = generator.integers(2, size=120)
    weight, height = generator.normal(np.where(kind == 1, 80.0, 60.0), 5.0), generator.normal(170.0, 9.0, 120)
    path = tmp_path / "people.csv"
    pl.DataFrame({"weight": weight, "height": height, "kind": np.where(kind == 1, "b", "a")}).write_csv(path)
    return path


def test_a_run_leaves_scores_samples_and_figures(flows):
    scores = pl.read_csv(flows / "results.csv")
    assert scores["method"].to_list() == [
        "independent", "transport", "bridge", "Gaussian", "floor: held-out points"
    ]  # fmt: skip
    assert scores.columns == ["method", "W2", "sliced", "energy", "evaluations"]  # without noise no likelihood
    assert scores["W2"].is_finite().all()
    samples = pl.read_csv(flows / "samples.csv")
    assert samples.columns == ["model", "x", "y"] and len(samples) == 120
    for name in ("training", "samples", "paths"):
        assert imread(flows / "figures" / f"{name}.png")[..., :3].std() > 0.02


def test_a_run_is_evaluated_again_alike_and_with_noise(flows, tmp_path):
    result = invoke("evaluate", flows, "--out", tmp_path / "again")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "again" / "results.csv").read_text() == (flows / "results.csv").read_text()
    run = Run.open(flows).changed(["model=['bridge']", "evaluate.noise=1.0", "evaluate.steps=8"])
    assert run.config.model[0].drawing(run.config.evaluate) == {"noise": 1.0, "steps": 8}


def test_pairs_by_transport_are_cheaper(flows):
    run = Run.open(flows)
    cost = {}
    for member in run.config.members():
        (x1, x0, labels), names = (lambda e: (e.arrays, e.names))(run.task.examples(run.config, run.problem, member))
        assert labels is None and len(names) == 160
        cost[member.label] = ((x1 - x0) ** 2).sum(1).mean()
    assert cost["transport"] < 0.6 * cost["independent"]


def test_a_diffusion_model_of_a_table_with_classes(table, tmp_path):
    folder = tmp_path / "run"
    config = {
        "task": "generate",
        "data": {"path": str(table), "label": "kind"},
        "model": [{"name": "diffusion", "width": 8, "depth": 1}],
        "solver": {"name": "heun", "rtol": 1e-2, "atol": 1e-2},
        "objective": {"times": "log_snr", "drop": 0.1},
        "train": {"steps": 4, "batch_size": 16, "validate_every": 2, "ema": 0.5},
        "evaluate": {
            "samples": 24,
            "likelihood_points": 4,
            "tolerance": 1e-2,
            "sampler": "dpm_solver++_2m",
            "steps": 6,
        },
    }
    run = nde.fit(config, out=folder, progress=False)
    assert run.config.data.classes == ("a", "b") and run.config.data.columns == ("weight", "height")
    evaluation = run.evaluate()
    row = evaluation.rows()[0]
    assert row["evaluations"] == 6 and np.isfinite(row["log_likelihood"])
    drawn = evaluation.details["diffusion model"]
    assert abs(drawn.points[:, 1].mean() - 170) < 30 and set(np.unique(drawn.labels)) == {0, 1}
    # a log-density in the table's own units: that of standard ones, less the logarithms of the scales
    test = run.problem.test
    (model,) = run.models()["diffusion model"]
    one = run.task._likelihood(run.changed(["evaluate.likelihood_points=2"]), run.problem, model)["log_likelihood"]
    exact = log_prob(at_tolerance(model, 1e-2), test.points[:2], test.labels[:2])
    np.testing.assert_allclose(one, exact.mean() - np.log(run.problem.scale).sum(), rtol=1e-9)
    evaluation.write(tmp_path)
    assert pl.read_csv(tmp_path / "samples.csv").columns == ["model", "weight", "height", "class"]
    table.write_text(table.read_text().replace("a", "c"))
    with pytest.raises(ValueError, match="the table has changed since the run was made"):
        _ = Run.open(folder).problem


def test_digits_are_drawn_as_images_with_bits_per_dimension(tmp_path):
    pytest.importorskip("sklearn")
    few = [one for one in FEW if not one.startswith("train.batch")]
    sizes = ["model.width=4", "model.depth=1", "model.patch=4", "model.probes=1", "train.batch_size=8"]
    result = invoke("fit", "configs/digits.toml", *few, *sizes, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    scores = pl.read_csv(tmp_path / "run" / "results.csv")
    assert "bits/dim" in scores.columns
    assert imread(tmp_path / "run" / "figures" / "samples.png")[..., :3].std() > 0.05


def test_density_takes_the_same_models(tmp_path):
    config = {
        "task": "density",
        "data": {"points": 40, "validation_points": 10, "test_points": 10},
        "model": [
            {"name": "diffusion", "width": 8, "depth": 1},
            {"name": "flow_matching", "width": 8, "depth": 1, "interpolant": "kinetic"},
        ],
        "solver": {"name": "heun", "rtol": 1e-2, "atol": 1e-2},
        "train": {"steps": 2, "batch_size": 8, "validate_every": 2},
        "evaluate": {"tolerance": 1e-2, "samples": 10},
    }
    run = nde.fit(config, out=tmp_path / "run", progress=False)
    rows = {row["method"]: row["log_likelihood"] for row in run.evaluate().rows()}
    assert {"diffusion model", "flow matching", "the density itself"} <= set(rows)
    assert all(np.isfinite(value) for value in rows.values())
    spread, *speeds = run.config.data.kinetic_path
    model = run.models()["flow matching"][0]
    assert model.interpolant == KineticInterpolant(tuple(speeds), spread)
    assert 1.0 < spread < 2.0 and 0.2 < speeds[0] < 0.4  # of two moons


def test_a_normalising_flow_serves_the_task_too():
    config = load_config({"task": "generate", "model": [{"name": "flow", "width": 4, "depth": 1}]})
    flow = config.model[0].build(PointFacts(2), config.solver, key=jax.random.key(0))
    solved = flow.draw(key=jax.random.key(0), steps=16)
    assert int(solved.stats["num_field_evaluations"]) == 32
    np.testing.assert_allclose(solved.ys, flow.sample(key=jax.random.key(0)), atol=1e-3)
    with pytest.raises(ValueError, match="begins in noise, and knows no classes"):
        config.model[0].build(PointFacts(2, classes=3), config.solver, key=jax.random.key(0))


# What is refused.


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.dataset=star"], "data.dataset: there is no data set 'star'"),
        (["data.source=pbc"], "the data set 'pbc' holds series"),
        (["data.path=x.csv"], "give either `dataset` or `path`, and not both"),
        (["data.label=kind"], "`columns` and `label` are of a table of your own"),
        (["evaluate.sampler=ddim"], "a sampler takes a number of `steps`"),
        (["evaluate.sampler=dpm", "evaluate.steps=3"], "there is no sampler 'dpm'; the samplers are ddim"),
        (["evaluate.sampler=ddim", "evaluate.steps=3", "evaluate.noise=1.0"], "has its own amount of noise"),
        (["objective.times=log_snr"], "objective.times = 'log_snr' is of diffusion models"),
        (["model=['diffusion']"], "a diffusion model begins in noise: leave data.source out"),
        (["model.independent.interpolant=kinetic"], "interpolant = 'kinetic' is of a path from noise to the data"),
        (["model=['latent_sde']"], "does not serve task = 'generate'"),
        (["data.source=digits", "data.points=1000", "data.test_points=200", "data.validation_points=100"],
         "data.source = 'digits' has points of size 64, and two_moons of size 2"),
    ],
)  # fmt: skip
def test_a_config_that_does_not_fit_is_refused_in_one_line(overrides, message, tmp_path):
    if any("digits" in one for one in overrides):
        pytest.importorskip("sklearn")
    output = refused("fit", "configs/gaussians_to_moons.toml", *overrides, "--out", tmp_path / "run")
    assert message in output.replace("\n", " ")
    assert not (tmp_path / "run").exists()


PLAIN = TableFormat(id="", time="")


@pytest.mark.parametrize(
    ("text", "columns", "label", "message"),
    [
        ("x,y\n1,2\n3,\n", None, None, "row 3, column 'y' is empty; a point needs all its coordinates"),
        ("x,y\n1,2\n3,four\n", None, None, "row 3, column 'y': 'four' is no finite number"),
        ("x;y\n1;2\n", ("x", "y"), None, r"no column 'x'; the columns are x;y.* set data.separator = ';'"),
        ("x,y\n1,2\n", ("x", "x"), None, "asked for twice among x, x"),
        ("k\na\n", None, "k", "there is no column of coordinates"),
        ("x,k\n1,\n", None, "k", "column 'k' is empty; every row needs one"),
    ],
)
def test_a_bad_table_of_points_is_refused(text, columns, label, message, tmp_path):
    (tmp_path / "points.csv").write_text(text)
    with pytest.raises(TableError, match=message):
        read_points(tmp_path / "points.csv", columns=columns, label=label, layout=PLAIN)


def test_a_table_needs_enough_rows_and_coordinates_that_vary(tmp_path):
    path = tmp_path / "points.csv"
    path.write_text("x,y\n" + "".join(f"{i},1\n" for i in range(20)))
    config = {"task": "generate", "data": {"path": str(path)}}
    with pytest.raises(ValueError, match="20 rows make 13 points to train, 3 to validate and 4 to test"):
        nde.fit(config, out=tmp_path / "run", progress=False)
    path.write_text("x,y\n" + "".join(f"{i},1\n" for i in range(200)))
    with pytest.raises(ValueError, match="column 'y' never varies, and has no density; leave it out"):
        nde.fit(config, out=tmp_path / "run", progress=False)


# Data and reports.


def test_digits_lie_in_their_cells():
    datasets = pytest.importorskip("sklearn.datasets")
    digits = load_digits(seed=3, size=50)
    assert digits.points.shape == (50, 64) and digits.image == (8, 8) and len(digits.classes) == 10
    levels = np.floor((digits.points + 1) / digits.cell)
    known = {tuple(row) for row in datasets.load_digits().data.astype(int)}
    assert all(tuple(row) in known for row in levels.astype(int))
    np.testing.assert_array_equal(load_digits(seed=3, size=50).points, digits.points)
    with pytest.raises(TableError, match="digits has 1797 images, but 2000 are asked for; lower data.points"):
        load_digits(size=2000)


def test_digits_say_what_to_install(monkeypatch):
    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(TableError, match=r"install it by `pip install 'scikit-learn>=1.5'`"):
        load_digits()


def test_arrays_are_point_sets():
    points = as_point_set(DATASETS["two_moons"].load(seed=0, size=5))
    assert isinstance(points, PointSet) and points.points.shape == (5, 2) and len(points) == 5
    assert as_point_set(points) is points


def test_bits_per_dimension_of_a_uniform_law_are_those_of_its_levels():
    # uniform on 16 cells of width 1/4 in each of 3 dimensions: 4 bits each
    np.testing.assert_allclose(bits_per_dimension(np.full(5, -3 * np.log(4.0)), 3, 0.25), 4.0, rtol=1e-12)


def test_distances_of_samples_of_the_law_are_at_their_floor():
    generator = np.random.default_rng(0)
    reference, same, other = generator.standard_normal((3, 400, 2)) + np.array([0.0, 0.0, 1.0])[:, None, None]
    for found in sample_distances(same, reference).values():
        assert found.value < 1.5 * found.floor
    for found in sample_distances(other, reference).values():
        assert found.value > 2 * found.floor


def test_figures_of_clouds_and_images():
    generator = np.random.default_rng(0)
    clouds = {"a": generator.standard_normal((50, 3)), "b": generator.standard_normal((50, 3))}
    figure = plot_clouds(clouds, colours={"b": np.arange(50) % 3}, paths={"b": generator.standard_normal((4, 5, 3))})
    assert [axes.get_title() for axes in figure.axes] == ["a", "b"]
    lines = plot_clouds({"a": clouds["a"][:, :1]}).axes[0].patches
    assert len(lines) == 60
    pictures = plot_images({"a": clouds["a"][:, :2]}, (1, 2), limits=(-1, 1), rows=3)
    assert pictures.axes[0].images[0].get_array().shape == (5, 8)


def test_results_are_told_in_json(flows):
    found = json.loads((flows / "results.json").read_text())
    assert found["samples"] == 40 and found["methods"][0]["method"] == "independent"


def test_a_model_is_made_as_its_section_says():
    config = load_config(
        {
            "task": "generate",
            "model": [{"name": "diffusion", "schedule": "vp", "predicts": "velocity", "error": "noise"}],
        }
    )
    model = config.model[0].build(PointFacts(2, classes=3), config.solver, key=jax.random.key(0))
    assert isinstance(model.schedule, VariancePreserving)
    assert (model.predicts, model.error) == ("velocity", "noise")
    assert np.isfinite(model.prediction(0.5, np.ones(2), 2)).all()
