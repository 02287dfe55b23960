"""A run of a continuous normalising flow, and what it is compared with."""

import json
from contextlib import closing

import equinox as eqx
import jax
import numpy as np
import polars as pl
import pytest
from chex import assert_trees_all_close, assert_trees_all_equal
from matplotlib.image import imread
from scipy import stats
from typer.testing import CliRunner

from nde.cli import app
from nde.config import build_update, load_config, PointFacts
from nde.models import at_tolerance
from nde.report import density_rows, fit_gaussian, fit_kde, PlaneGrid
from nde.runs import Run
from nde.tasks.density import log_prob

SMALL = [
    "data.dataset=eight_gaussians", "data.points=60", "data.validation_points=20", "data.test_points=40",
    "model.width=8", "model.depth=1", "solver.dt0=0.5", "train.steps=12", "train.batch_size=30",
    "train.validate_every=6", "train.log_every=1", "train.warmup=1", "train.learning_rate=0.05",
    "train.ema=0.5", "evaluate.samples=50", "evaluate.tolerance=1e-3",
]  # fmt: skip


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    result = invoke("fit", "configs/cnf_2d.toml", *SMALL, "--out", folder)
    assert result.exit_code == 0, result.output
    return folder


def test_a_few_steps_lower_the_loss(fitted):
    rows = [json.loads(line) for line in (fitted / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == 12
    assert np.mean(losses[-3:]) < losses[0] - 0.5


def test_averaged_parameters_are_kept_and_evaluated(fitted):
    run = Run.open(fitted)
    loss, (member,) = run.task.loss(run.config, None), run.config.members()
    with closing(run.checkpoints(0)) as checkpoints:
        state = checkpoints.restore(build_update(run.config.train, loss).init(run.new_model(member)))
    assert int(state.best_step) == 12
    assert_trees_all_equal(
        *(eqx.filter(x, eqx.is_array) for x in (state.averaged, state.best_model, run.models()["flow"][0]))
    )
    with pytest.raises(AssertionError):
        assert_trees_all_close(state.averaged, eqx.filter(state.model, eqx.is_array), rtol=1e-3)


@pytest.mark.parametrize("solver", [{}, {"adjoint": "reversible"}])
def test_a_flow_trained_without_an_estimate_of_the_error_is_scored_adaptively(solver):
    config = load_config({"task": "density", "solver": {"name": "euler", "dt0": 0.1, **solver}})
    flow = config.model[0].build(PointFacts(2), config.solver, key=jax.random.key(0))
    assert np.isfinite(log_prob(at_tolerance(flow, 1e-3), np.zeros((1, 2)))).all()


def test_fit_leaves_the_table_and_the_figures(fitted):
    table = pl.read_csv(fitted / "results.csv")
    assert table["method"].to_list() == ["Gaussian", "Gaussian kernels", "flow", "the density itself"]
    assert table["log_likelihood"].is_finite().all()
    assert table["log_likelihood"].arg_max() == 3
    assert 0.5 < json.loads((fitted / "results.json").read_text())["mass_on_the_grid"] < 1.05
    for name in ("training", "density"):
        assert imread(fitted / "figures" / f"{name}.png")[..., :3].std() > 0.05


def test_evaluate_works_on_the_run_and_predict_gives_the_densities_that_are_scored(fitted, tmp_path):
    result = invoke("evaluate", fitted, "--out", tmp_path / "again")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "again" / "results.csv").read_text() == (fitted / "results.csv").read_text()
    test = Run.open(fitted).problem.test.points
    pl.DataFrame(test, schema=["x", "y"]).write_csv(tmp_path / "points.csv")
    result = invoke("predict", fitted, "--data", tmp_path / "points.csv", "--out", tmp_path / "out.csv")
    assert result.exit_code == 0, result.output
    (scored,) = (row for row in pl.read_csv(fitted / "results.csv").iter_rows(named=True) if row["method"] == "flow")
    found = pl.read_csv(tmp_path / "out.csv")["log_prob"].mean()
    np.testing.assert_allclose(found, scored["log_likelihood"], atol=1e-5)


def test_an_unknown_density_is_refused_in_one_line(tmp_path):
    refused = invoke("fit", "configs/cnf_2d.toml", "data.dataset=star", "--out", tmp_path / "run")
    assert refused.exit_code == 2
    assert "data.dataset: there is no data set 'star'" in refused.output
    assert "checkerboard" in refused.output


def test_gaussian_and_kernels_are_scipys():
    points = np.random.default_rng(0).standard_normal((200, 2)) @ np.array([[1.0, 0.5], [0.0, 2.0]])
    law = stats.multivariate_normal(points.mean(0), np.cov(points.T, bias=True))
    np.testing.assert_allclose(fit_gaussian(points[:])(points[:5]), law.logpdf(points[:5]), rtol=1e-12)
    wide = stats.gaussian_kde(points.T, bw_method=0.5)
    np.testing.assert_allclose(fit_kde(points, points[:50] + 0.1, [0.5])(points[:5]), wide.logpdf(points[:5].T))
    # Far from every point a narrow kernel is worse than a wide one, and the validation points say so.
    chosen = fit_kde(points, points[:50] + 3.0, [0.05, 0.5])
    np.testing.assert_allclose(chosen(points[:5]), wide.logpdf(points[:5].T))


def test_differences_are_paired_over_points():
    rows = density_rows({"a": np.array([-1.0, -3.0]), "b": np.array([-2.0, -4.5])}, "a")
    assert [row["log_likelihood"] for row in rows] == [-2.0, -3.25]
    assert rows[1]["difference"] == pytest.approx(1.25)
    assert rows[1]["difference_se"] == pytest.approx(np.std([1.0, 1.5], ddof=1) / np.sqrt(2))
    assert np.isnan(rows[0]["difference"])


def test_mass_on_the_grid_is_one_for_a_law_that_lies_inside():
    grid = PlaneGrid(5.0, 50)
    assert grid.integral(stats.multivariate_normal(np.zeros(2)).logpdf(grid.points())) == pytest.approx(1.0, abs=1e-5)
