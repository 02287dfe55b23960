"""The command line, end to end on a small table: what it leaves behind, and what it refuses."""

import json
import shutil
import tomllib
from dataclasses import replace
from pathlib import Path

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest
from chex import assert_trees_all_equal
from matplotlib.image import imread
from polars.testing import assert_frame_equal
from typer.testing import CliRunner

import nde
from nde.cli import app
from nde.config import load_config
from nde.models import LatentPath
from nde.objectives import GaussianLikelihood
from nde.report import sample_forecast
from nde.report.baselines import LastValue, MixedModel
from nde.runs import prepare, Run
from nde.tasks.forecast import build_cut
from nde.tasks.forecast.problem import sample_series
from nde.tasks.forecast.stack import learn_stack
from nde.tasks.forecast.validation import validation_score
from nde.train import FailedExamples, Interrupt

CONFIG = Path(__file__).parent.parent / "configs" / "latent_sde.toml"
SMALL = [
    "data.id=who", "data.time=day", "data.time_scale=10", "data.time_unit=decades", "data.log=['b']",
    "model.state_size=3", "model.width=4", "model.control_width=4", "model.encoder_size=5", "solver.dt0=0.5",
    "objective.samples=2", "train.steps=4", "train.validate_every=2", "train.batch_size=4", "train.members=2",
    "train.validation_samples=4", "train.log_every=1", "train.patience=0", "evaluate.samples=20",
]  # fmt: skip


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    generator = np.random.default_rng(0)
    rows = []
    for who in range(20):
        days = np.sort(generator.choice(60, size=6, replace=False))
        level = generator.standard_normal()
        for day in days:
            a, b = level + 0.3 * generator.standard_normal(2)
            rows.append((f"s{who}", day, None if generator.random() < 0.2 else a, np.exp(b)))
    path = tmp_path_factory.mktemp("data") / "table.csv"
    pl.DataFrame(rows, schema=["who", "day", "a", "b"], orient="row").write_csv(path)
    return path


@pytest.fixture(scope="module")
def fitted(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    result = invoke("fit", CONFIG, f"data.path={table}", *SMALL, "--out", folder)
    assert result.exit_code == 0, result.output
    return folder, result.output


def test_fit_leaves_a_whole_run_folder(fitted):
    folder, output = fitted
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "config.toml", "normaliser.json", "metrics.jsonl", "checkpoints", "results.csv", "results.json", "figures",
        "stack.json", "tensorboard",
    }  # fmt: skip
    config = tomllib.loads((folder / "config.toml").read_text())
    assert config["train"]["clip"] == 1.0
    assert config["data"]["channels"] == ["a", "b"]
    assert len(config["data"]["sha256"]) == 64
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert {(row["member"], row["step"]) for row in rows if "loss" in row} == {
        (m, s) for m in (0, 1) for s in range(1, 5)
    }
    results = pl.read_csv(folder / "results.csv")
    assert results["method"].to_list() == [
        "population", "last value", "mixed model", "mixed model + OU", "latent SDE, 2 members",
        "latent SDE + baselines",
    ]  # fmt: skip
    assert results["nll"].is_finite().all()
    assert "mixed model + OU" in output
    for name in ("training", "forecasts", "calibration"):
        picture = imread(folder / "figures" / f"{name}.png")
        assert picture.shape[0] > 300
        assert picture[..., :3].std() > 0.05


class CtrlCAfterThreeSteps(Interrupt):
    """An interrupt that was asked for when it has been looked at three times."""

    looked = 0

    @property
    def asked(self):
        self.looked += 1
        return self.looked == 3

    @asked.setter
    def asked(self, value):
        pass


def test_stopped_run_resumes_to_the_same_parameters(fitted, table, tmp_path, monkeypatch):
    folder, _ = fitted
    monkeypatch.setattr("nde.runs.training.Interrupt", CtrlCAfterThreeSteps)
    stopped = invoke("fit", CONFIG, f"data.path={table}", *SMALL, "--out", tmp_path / "run")
    assert stopped.exit_code == 130
    assert f"nde fit --resume {tmp_path / 'run'}" in stopped.output
    monkeypatch.undo()
    resumed = invoke("fit", "--resume", tmp_path / "run")
    assert resumed.exit_code == 0, resumed.output
    one, other = (Run.open(where).models() for where in (folder, tmp_path / "run"))
    assert_trees_all_equal(jax.tree.leaves(one), jax.tree.leaves(other))
    assert (tmp_path / "run" / "results.csv").read_text() == (folder / "results.csv").read_text()


def test_run_that_is_stopped_while_it_is_scored_says_how_to_go_on(fitted, monkeypatch):
    def stopped(run, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(Run, "evaluate", stopped)
    result = invoke("fit", "--resume", fitted[0])
    assert result.exit_code == 130
    assert result.stderr == f"nde: stopped, all models trained; go on with: nde fit --resume {fitted[0]}\n"


def test_nothing_after_the_cut_off_changes_a_forecast(fitted):
    run = Run.open(fitted[0])
    problem = run.problem
    times, values, mask = problem.arrays(problem.split.test)
    cut = times[:, :1] + 2.0
    context = mask & (times <= cut)[..., None]
    asked = np.repeat(np.linspace(0, 5, 6)[None], len(times), 0)
    changed_values = np.where(context, values, 1e3)
    changed_times = np.where(times > cut, cut + 1.3 * (times - cut), times)
    (models,) = run.models().values()
    args = {"series": problem.ids(problem.split.test), "samples": 6, "key": jax.random.key(0)}
    one = sample_forecast(models, times, values, context, asked, **args)
    other = sample_forecast(models, changed_times, changed_values, context, asked, **args)
    np.testing.assert_array_equal(one.law.draws, other.law.draws)
    np.testing.assert_array_equal(one.kl_path, other.kl_path)


def test_evaluate_repeats_the_table_and_takes_another_task(fitted, tmp_path):
    folder, _ = fitted
    again = invoke("evaluate", folder, "--out", tmp_path / "again")
    assert again.exit_code == 0, again.output
    assert (tmp_path / "again" / "results.csv").read_text() == (folder / "results.csv").read_text()
    landmark = invoke("evaluate", folder, "--cut", "landmark")
    assert landmark.exit_code == 0, landmark.output
    assert "latent SDE" in landmark.output
    assert "given what is known at 2, up to 5 decades after the first row" in landmark.output
    sooner = invoke("evaluate", folder, "--at", 15, "--until", 45, "--out", tmp_path / "sooner")
    assert sooner.exit_code == 0, sooner.output
    summary = json.loads((tmp_path / "sooner" / "results.json").read_text())
    problem = Run.open(folder).problem
    test = problem.panel[problem.split.test]
    days = 10 * test.times
    targets = test.mask & ((days > 15) & (days <= 45))[..., None]
    assert (summary["values_scored"], summary["series_scored"]) == (targets.sum(), targets.any((1, 2)).sum())
    assert f"scored: {targets.sum()} values of {targets.any((1, 2)).sum()} series" in sooner.output
    assert summary["verdict"].startswith("verdict: the ") and summary["verdict"] in sooner.output
    for options, message in (
        (["--cut", "second_half", "--at", 3], "--at and --until are of --cut landmark"),
        (["--at", 45, "--until", 15], "evaluate.at must lie before evaluate.until, but they are 45 and 15"),
    ):
        refused = invoke("evaluate", folder, *options)
        assert refused.exit_code == 2 and message in refused.stderr and refused.stderr.count("\n") == 1


def test_predict_writes_a_row_for_each_time_and_channel(fitted, tmp_path):
    folder, _ = fitted
    data = tmp_path / "new.csv"
    data.write_text("who,day,a,b\nx,3,0.1,1.2\nx,10,,\ny,100,,2.0\n")
    out = tmp_path / "forecast.csv"
    result = invoke(
        "predict", folder, "--data", data, "--out", out, "--ahead", "5,200", "--samples", 10, "--keep-samples"
    )
    assert result.exit_code == 0, result.output
    table = pl.read_csv(out)
    assert len(table) == 2 * (4 + 3)
    assert table.filter(pl.col("who") == "x", pl.col("channel") == "a")["day"].to_list() == [3, 10, 15, 210]
    assert table.filter(pl.col("who") == "y", pl.col("channel") == "b")["observed"].to_list() == [2.0, None, None]
    assert (table["q05"] <= table["q50"]).all() and (table["q50"] <= table["q95"]).all()
    assert (table.filter(pl.col("channel") == "b")["q05"] > 0).all()
    samples = table.select(pl.selectors.starts_with("sample_")).to_numpy()
    log = (table["channel"] == "b").to_numpy()  # whose mean is not finite under Student's t
    centre = np.where(log, np.median(samples, axis=1), samples.mean(1))
    np.testing.assert_allclose(centre, table["mean"].to_numpy(), rtol=1e-9)
    assert table["statistic"].to_list() == ["mean", "median"] * 7
    beyond = table["mark"].str.contains("beyond the training span").fill_null(False)
    assert beyond.to_list() == ((table["day"] - pl.Series([3] * 8 + [100] * 6)) > 60).to_list()
    assert result.stderr.count("\n") == 1
    assert f"{table['mark'].count()} of 14 forecasts stand on little (4 beyond the training span" in result.stderr
    again = invoke("predict", folder, "--data", data, "--out", out)
    assert again.exit_code == 2
    assert "exists already, and nothing is written over" in again.stderr


def test_forecast_of_a_series_is_the_same_in_any_table(fitted, table, tmp_path):
    """By the pool of models and baselines: alone, or with its neighbours in another order and rows to forecast."""
    whole = pl.read_csv(table)
    blank = pl.DataFrame({"who": ["s7"] * 4, "day": [70, 80, 90, 100]})  # rows that only widen
    some = pl.concat([whole.filter(pl.col("who").is_in(["s7", "s13", "s2"])).reverse(), blank], how="diagonal")
    forecasts = []
    for name, rows in (("whole", whole), ("some", some)):
        rows.write_csv(tmp_path / f"{name}.csv")
        out = tmp_path / f"{name}_forecast.parquet"
        done = invoke("predict", fitted[0], "--data", tmp_path / f"{name}.csv", "--out", out, "--samples", 30)
        assert done.exit_code == 0, done.output
        forecasts.append(pl.read_parquet(out).drop("mark"))
    kept = forecasts[0].join(forecasts[1], on=["who", "day", "channel"], how="semi")
    assert len(kept) == 3 * 6 * 2
    found = kept.select("who", "day", "channel").join(forecasts[1], on=["who", "day", "channel"], maintain_order="left")
    assert_frame_equal(found, kept, rel_tol=1e-9, abs_tol=1e-9, check_column_order=False)


class Explosive(eqx.Module):
    """Paths of $dz = z^2 dt$, which leave every bound for a series of a value that is `huge`, and no other."""

    likelihood: GaussianLikelihood
    huge: float

    def posterior(self, times, values, mask, ts, *, key, regulariser=None):
        start = jnp.where(jnp.max(jnp.abs(jnp.where(mask, values, 0.0))) >= self.huge, 1e3, 1e-3)
        term = diffrax.ODETerm(lambda t, z, args: z**2)
        solution = nde.diffeqsolve(term, diffrax.Euler(), 0.0, 10.0, 0.5, start)
        zs = jnp.broadcast_to(solution.ys, (len(ts), values.shape[-1]))
        return LatentPath(zs, jnp.zeros(()), jnp.zeros(()), jnp.zeros(()))

    def decode(self, zs):
        return zs


def test_series_whose_path_blows_up_is_named(fitted, table, tmp_path, monkeypatch):
    """In validation, in evaluation and in forecasts: every step of a run that solves."""
    run = Run.open(fitted[0])
    problem = run.problem

    def worst(series):
        times, values, mask = problem.arrays(series)
        cut = build_cut(run.config.evaluate, problem.panel.time_scale).cut(times, mask)
        sizes = np.abs(np.where(cut.context, values, 0.0)).max((1, 2))
        first, second = np.argsort(-sizes)[:2]
        return problem.ids(series)[first], Explosive(GaussianLikelihood(2), float(sizes[first] + sizes[second]) / 2)

    name, model = worst(problem.split.validation)
    with pytest.raises(FailedExamples, match=f"^{name}: "):
        validation_score(run.config, problem)(model)
    name, model = worst(problem.split.test)
    only = pl.read_csv(table).filter(pl.col("who").is_in(problem.ids(problem.split.test)))
    only.write_csv(tmp_path / "test.csv")
    largest = Explosive(model.likelihood, float(np.abs(problem.values[problem.split.test]).max()))
    loudest = problem.split.test[np.abs(problem.values[problem.split.test]).max((1, 2)).argmax()]
    for arguments, chosen, which in (
        (["evaluate", fitted[0]], model, name),
        (
            ["predict", fitted[0], "--data", tmp_path / "test.csv", "--out", tmp_path / "f.csv"],
            largest,
            problem.panel.ids[loudest],
        ),
    ):
        monkeypatch.setattr(Run, "models", lambda self, chosen=chosen, **options: {"latent SDE": [chosen]})
        failed = invoke(*arguments)
        assert failed.exit_code == 1
        assert failed.stderr.startswith(f"nde: series {which} could not be solved (")
        assert failed.stderr.count("\n") == 1
    assert not (tmp_path / "f.csv").exists()


def test_predict_needs_no_training_table(fitted, tmp_path, table):
    folder, _ = fitted
    away = table.with_name("away.csv")
    table.rename(away)
    try:
        result = invoke("predict", folder, "--data", away, "--out", tmp_path / "f.parquet", "--samples", 10)
        assert result.exit_code == 0, result.output
        plot = invoke("plot", folder)
    finally:
        away.rename(table)
    assert pl.read_parquet(tmp_path / "f.parquet")["q50"].is_finite().all()
    assert plot.exit_code == 2
    assert "no such file" in plot.stderr


def test_plot_draws_elsewhere_too(fitted, tmp_path):
    result = invoke("plot", fitted[0], "--out", tmp_path / "figures")
    assert result.exit_code == 0, result.output
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        "training.png", "forecasts.png", "calibration.png"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a CONFIG"),
        (["nowhere.toml"], "nowhere.toml: no such file"),
        ([CONFIG], "data: give either `dataset` or `path`"),
        ([CONFIG, "data.path=gone.csv", "data.id=who", "data.time=day"], "gone.csv: no such file"),
        ([CONFIG, "data.path=TABLE", "data.id=who", "data.time=hour"], "no column 'hour'; the columns are who, day"),
        (
            [CONFIG, "data.path=TABLE", "data.id=who", "data.time=day", "data.log=['a']"],
            "is not positive, as a log scale needs it",
        ),
        (
            [CONFIG, "data.path=TABLE", "data.id=who", "data.time=day", "data.folds=30", "data.fold=29"],
            "test part empty",
        ),
        (["--resume", "nowhere"], "nowhere: no run is here"),
        ([CONFIG, "--resume", "RUN"], "--resume goes on with the run's own config"),
        (["--resume", "RUN", "data.log=[]"], "data.log can not be changed with --resume"),
        (["--resume", "RUN", "train.members=3"], "train.members can not be changed with --resume"),
        (["--resume", "RUN", "train.ema=0.99"], "train.ema can not be changed with --resume"),
        (["--resume", "RUN", "train.rate=3"], "train.rate: unknown key"),
        ([CONFIG, "data.path=TABLE", "data.id=who", "data.time=day", "--out", "RUN"], "exists already"),
        (
            [CONFIG, "data.path=TABLE", "data.id=who", "data.time=day", "data.horizon=2"],
            "longest series is 10",
        ),
        ([CONFIG, "data.path=TABLE", "data.id=who", "data.time=day", "solver.dt0=1e-6"], "makes 1e+07 steps"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_two(arguments, message, fitted, table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    places = {"TABLE": str(table), "RUN": str(fitted[0])}
    filled = [str(a).replace("TABLE", places["TABLE"]).replace("RUN", places["RUN"]) for a in arguments]
    result = invoke("fit", *filled)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.startswith("nde: ")
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_changed_table_is_refused(fitted, table):
    text = table.read_text()
    table.write_text(text + "s0,59.5,1.0,1.0\n")
    try:
        result = invoke("evaluate", fitted[0])
    finally:
        table.write_text(text)
    assert result.exit_code == 2
    assert "the table has changed since the run was made" in result.stderr


def test_bad_ahead_is_refused(fitted, table, tmp_path):
    for ahead, message in (("soon", "'soon' is no number"), ("-3", "above zero, but is -3.0")):
        result = invoke("predict", fitted[0], "--data", table, "--out", tmp_path / "f.csv", "--ahead", ahead)
        assert result.exit_code == 2
        assert message in result.stderr


def test_time_without_a_scale_runs_over_ten_units(table):
    config = load_config(CONFIG, [f"data.path={table}", "data.id=who", "data.time=day"])
    resolved, problem = prepare(config)
    assert problem.panel.times.max() == 10
    np.testing.assert_allclose(prepare(resolved)[1].panel.times, problem.panel.times, rtol=1e-14)
    np.testing.assert_allclose(problem.panel.table_times().max(), pl.read_csv(table)["day"].max())
    assert resolved.data.horizon == 10


def test_folds_hold_out_every_series_once(table, tmp_path):
    small = [*SMALL, "train.members=1", "train.steps=2"]
    result = invoke("fit", CONFIG, f"data.path={table}", *small, "--folds", 2, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    parts = [json.loads((tmp_path / "run" / f"fold_{k}" / "results.json").read_text()) for k in (0, 1)]
    pooled = json.loads((tmp_path / "run" / "results.json").read_text())
    for size in ("series_scored", "values_scored"):
        assert pooled[size] == parts[0][size] + parts[1][size]
    weights = [part["values_scored"] / pooled["values_scored"] for part in parts]
    for place, row in enumerate(pooled["methods"]):
        expected = sum(w * part["methods"][place]["nll"] for w, part in zip(weights, parts, strict=True))
        np.testing.assert_allclose(row["nll"], expected)
    for level, share in pooled["coverage"].items():
        expected = sum(w * part["coverage"][level] for w, part in zip(weights, parts, strict=True))
        np.testing.assert_allclose(share, expected, atol=1e-4)
    assert "held-out series, 2 folds" in result.output
    for source, options, message in (
        (table, ["--folds", 1], "must be at least 2"),
        (table, ["--folds", 2, "--resume", "x"], "needs a CONFIG"),
        ("gone.csv", ["--folds", 2], "gone.csv: no such file"),
    ):
        refused = invoke("fit", CONFIG, f"data.path={source}", *small, *options, "--out", tmp_path / "other")
        assert refused.exit_code == 2 and message in refused.stderr and not (tmp_path / "other").exists()


def test_axes_of_a_table_without_a_unit_count_in_its_time_column(table):
    given = [f"data.path={table}", "data.id=who", "data.time=day"]
    units = []
    for more in ([], ["data.time_unit=d"], ["data.time_scale=10"], ["data.time_scale=10", "data.time_unit=decades"]):
        config = load_config(CONFIG, [*given, *more])
        resolved, _ = prepare(config)
        assert prepare(resolved)[0] == resolved
        units.append((resolved.data.table_unit, resolved.data.time_unit))
    assert units == [("day", "day"), ("d", "d"), ("day", "day"), (None, "decades")]


def test_channel_that_never_varies_is_named(table, tmp_path):
    path = tmp_path / "t.csv"
    pl.read_csv(table).with_columns(c=pl.lit(0.1)).write_csv(path)
    result = invoke("fit", CONFIG, f"data.path={path}", "data.id=who", "data.time=day", "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert "channel 'c' is 0.1 wherever it is fitted" in result.stderr
    assert "leave it out by data.channels=['a', 'b']" in result.stderr


def test_baseline_that_the_data_do_not_determine_is_left_out_and_said(fitted):
    run = Run.open(fitted[0])
    problem = run.problem
    once = problem.panel.mask & (np.cumsum(problem.panel.mask, axis=1) <= np.array([1, 99]))
    few = replace(problem, panel=replace(problem.panel, mask=once))
    changed = run.changed(["evaluate.stack=false"])
    evaluation = changed.task.evaluate(changed, few)
    assert "last value" not in evaluation.scores and evaluation.pool is None
    assert any("baseline 'last value' is left out" in note for note in evaluation.notes)
    stack = learn_stack(run, few)
    assert list(stack.weights) == ["latent SDE", "mixed model", "mixed model + OU"]
    assert any("baseline 'last value' is left out" in note for note in stack.notes)


def with_weights(folder, to, **weights):
    """A copy of a run whose pool has these weights."""
    shutil.copytree(folder, to)
    kept = json.loads((to / "stack.json").read_text())
    names = ("latent SDE", "last value", "mixed model", "mixed model + OU")
    kept["weights"] = {name: weights.get(name.split()[0], 0.0) for name in names}
    (to / "stack.json").write_text(json.dumps(kept))
    return Run.open(to)


def test_pool_is_learned_on_validation_series_from_fits_without_them(fitted):
    run = Run.open(fitted[0])
    problem = run.problem
    kept = json.loads((run.folder / "stack.json").read_text())
    weights = learn_stack(run, problem).weights
    assert weights == kept["weights"] and kept["validation_series"] == len(problem.split.validation)
    np.testing.assert_allclose(sum(weights.values()), 1)
    assert f"pool: {weights['latent SDE']:.2f} latent SDE, {weights['last value']:.2f} last value" in fitted[1]
    # What is held out has no part in it.
    values = problem.values.copy()
    values[problem.split.test] = 1e3
    assert learn_stack(run, replace(problem, values=values)).weights == weights
    fit = MixedModel.fit(*problem.arrays(problem.split.fold))
    assert kept["baselines"]["mixed model"]["noise"] == fit.noise.tolist()


def test_evaluate_and_predict_use_the_pool_of_the_folder(fitted, tmp_path, table):
    problem = Run.open(fitted[0]).problem
    scores = with_weights(fitted[0], tmp_path / "last", last=1.0).evaluate().scores
    np.testing.assert_allclose(scores["latent SDE + baselines"].nll, scores["last value"].nll)
    run = with_weights(fitted[0], tmp_path / "model", latent=1.0)
    alone = run.evaluate().scores
    np.testing.assert_allclose(alone["latent SDE + baselines"].nll, alone["latent SDE, 2 members"].nll)
    assert scores["latent SDE, 2 members"].mean("nll") == alone["latent SDE, 2 members"].mean("nll")

    said, q50 = {}, {}
    for name in ("last", "model", "none"):
        folder = tmp_path / name
        if name == "none":
            shutil.copytree(fitted[0], folder)
            (folder / "stack.json").unlink()
        out = tmp_path / f"{name}.csv"
        result = invoke("predict", folder, "--data", table, "--out", out, "--ahead", 5, "--samples", 400)
        assert result.exit_code == 0, result.output
        said[name], q50[name] = result.output, pl.read_csv(out)
    assert "pool: 0.00 latent SDE, 1.00 last value" in said["last"]
    assert f"no stack.json in {tmp_path / 'none'}, so no pool" in said["none"]
    assert_frame_equal(q50["model"], q50["none"])
    # The last value's law, its drift included, of a channel that is not on a log scale.
    ahead = q50["last"].filter(pl.col("channel") == "a").group_by("who", maintain_order=True).last()
    fit = LastValue.fit(*problem.arrays(problem.split.fold))
    times, values, mask = problem.arrays(np.arange(20))
    last = np.array([t[m[:, 0]][-1] for t, m in zip(times, mask, strict=True)])
    seen = np.array([x[m[:, 0], 0][-1] for x, m in zip(values, mask, strict=True)])
    horizon = times[:, -1] + 0.5 - last
    expected = problem.normaliser.mean[0] + problem.normaliser.std[0] * (seen + fit.drift[0] * horizon)
    spread = problem.normaliser.std[0] * np.sqrt(fit.jump[0] ** 2 + fit.diffusion[0] ** 2 * horizon)
    assert np.abs((ahead["mean"].to_numpy() - expected) / spread).max() < 5 / np.sqrt(400)


def test_run_without_its_pool_says_so_and_a_broken_one_is_one_line(fitted, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(fitted[0], folder)
    (folder / "stack.json").unlink()
    bare = invoke("evaluate", folder)
    assert bare.exit_code == 0 and "latent SDE + baselines" not in bare.output
    assert f"`nde fit --resume {folder}` makes it" in bare.output
    assert "stack.json" not in invoke("evaluate", folder, "--samples", 10).stderr
    for text in ("{", "[]", '{"baselines": {"x": {"class": "Oracle"}}, "notes": [], "weights": {}}'):
        (folder / "stack.json").write_text(text)
        broken = invoke("evaluate", folder)
        assert broken.exit_code == 2 and broken.stderr.count("\n") == 1
        assert "stack.json: no pool is here" in broken.stderr
    resumed = invoke("fit", "--resume", folder)
    assert resumed.exit_code == 0, resumed.output
    assert (folder / "stack.json").read_text() == (fitted[0] / "stack.json").read_text()


def test_validation_and_scoring_take_a_sample_of_the_series_and_all_on_request(fitted):
    series = np.array([2, 3, 5, 8, 13])
    np.testing.assert_array_equal(sample_series(series, 0, 0), series)
    np.testing.assert_array_equal(sample_series(series, 9, 0), series)
    three = sample_series(series, 3, 0)
    assert len(three) == 3 and set(three) < set(series) and (np.diff(three) > 0).all()
    run = Run.open(fitted[0])
    assert len(run.problem.split.test) == 4
    assert len(run.changed(["evaluate.series=2"]).problem.split.test) == 2
    assert "scoring the models and the baselines" in fitted[1]
    assert "drawing the figures" in fitted[1]
