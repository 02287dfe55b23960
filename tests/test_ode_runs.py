"""ODE models by the command line: the shipped configs, what their runs leave, and what is refused."""

import json
import tomllib
from pathlib import Path
from types import SimpleNamespace

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest
from rich.console import Console
from typer.testing import CliRunner

import nde
from nde.cli import app
from nde.config import ConfigError, load_config
from nde.data import make_pendulum, make_spirals, pendulum_drag
from nde.fields import KnownField, lotka_volterra, pendulum
from nde.models import observed_states
from nde.objectives import GaussianLikelihood, ScaledLikelihood
from nde.runs import prepare, Run, train
from nde.tasks import TASKS
from nde.tasks.dynamics import DynamicsProblem
from nde.tasks.dynamics.evaluation import baselines, parameter_notes

CONFIGS = Path(__file__).parent.parent / "configs"
FEW = ["train.steps=6", "train.validate_every=3", "train.log_every=1", "train.warmup=0"]
SMALL = {
    "hybrid_lynx_hare": ["train.members=2", "evaluate.samples=100", "model.hybrid.width=4"],
    "hybrid_pendulum": ["model=hybrid", "evaluate.samples=100", "model.width=4"],
    "neural_ode_spiral": ["train.batch_size=4", "evaluate.samples=100", "model.width=4"],
}


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name, small in SMALL.items():
        result = invoke("fit", CONFIGS / f"{name}.toml", *FEW, *small, "--out", folder / name)
        assert result.exit_code == 0, result.output
    return folder


def rows_of(folder, member):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["member"] == member]


@pytest.mark.parametrize("name", SMALL)
def test_few_steps_lower_the_score_of_each_member(runs, name):
    for member in range(len(Run.open(runs / name).config.members())):
        rows = rows_of(runs / name, member)
        scores = [row["validation"] for row in rows if "validation" in row]
        assert scores[-1] < scores[0]


def test_run_of_two_methods_scores_them_side_by_side(runs):
    folder = runs / "hybrid_lynx_hare"
    assert {path.name for path in folder.iterdir()} == {
        "config.toml", "metrics.jsonl", "checkpoints", "results.csv", "results.json", "figures", "tensorboard"
    }  # fmt: skip
    table = pl.read_csv(folder / "results.csv")
    assert table["method"].to_list() == ["mean", "last value", "known system", "known system + network"]
    assert table.select(pl.exclude("method")).to_numpy().min() > -10
    assert table["in 90 %"].is_between(0, 1).all()
    assert json.loads((folder / "results.json").read_text())["values_scored"] == 10
    assert {path.name for path in (folder / "figures").iterdir()} == {"training.png", "forecasts.png"}
    assert (runs / "hybrid_pendulum" / "figures" / "residual.png").is_file()


def test_members_differ_by_their_bootstrap_weights(runs):
    one, other = Run.open(runs / "hybrid_lynx_hare").models()["known system"]
    values = [float(model.ode.field.field.field.parameters["birth"].value) for model in (one, other)]
    assert abs(values[0] - values[1]) > 1e-6


def test_forecast_states_are_positive_and_start_where_they_were_fitted(runs):
    run = Run.open(runs / "hybrid_lynx_hare")
    model = run.models()["known system + network"][-1]
    ys = model.ode(jnp.array([0.0, 30.0, 60.0]), model.starts[0, 0])
    np.testing.assert_array_equal(ys[0], model.starts[0, 0])
    solved = np.asarray(run.config.observe.starts)[0, 0]
    location, scale = np.array(run.config.observe.location), np.array(run.config.observe.scale)
    np.testing.assert_allclose(location + scale * ys[0], solved, atol=0.3)  # six steps from the data
    assert (nde.models.ObservedODE.locations(model, ys) < 20).all()  # logarithms


def test_resolved_config_says_the_same_when_read_again(runs):
    run = Run.open(runs / "hybrid_lynx_hare")
    assert prepare(run.config)[0] == run.config
    assert tomllib.loads((run.folder / "config.toml").read_text())["observe"]["states"] == ["prey", "predator"]


def test_evaluate_repeats_the_table(runs, tmp_path):
    folder = runs / "hybrid_lynx_hare"
    again = invoke("evaluate", folder, "--out", tmp_path / "again")
    assert again.exit_code == 0, again.output
    assert (tmp_path / "again" / "results.csv").read_text() == (folder / "results.csv").read_text()
    refused = invoke("evaluate", folder, "--cut", "landmark")
    assert "evaluate.cut: unknown key; the keys here are samples" in refused.stderr


def test_a_series_of_the_run_is_predicted_from_its_learned_start_and_no_other(runs, tmp_path):
    run = Run.open(runs / "hybrid_lynx_hare")
    asked = pl.DataFrame(
        {"id": ["Hudson's Bay"] * 2, "time": [1900.0, 1920.0], "hare": [None, None], "lynx": [4.0, None]}
    )
    found = run.predict(asked, ahead=[1.0], model="known", samples=200)
    assert found["time"].to_list() == [1900.0, 1900.0, 1920.0, 1920.0, 1921.0, 1921.0]
    solved = [model.ode(jnp.array([0.0, 21.0]), model.starts[0, 0])[1] for model in run.models()["known system"]]
    location, scale = np.array(run.config.observe.location), np.array(run.config.observe.scale)
    middle = np.exp(np.mean([location + scale * y for y in solved], axis=0))
    np.testing.assert_allclose(found["q50"][-2:] / middle, 1, atol=0.2)
    late = asked.with_columns(time=pl.Series([1903.0, 1920.0]))
    for table, said in (
        (late, "series Hudson's Bay begins at 1903, but the run learned where it starts at 1900"),
        (asked.with_columns(id=pl.lit("Ontario")), "the start of series Ontario was not learned; those of the run are"),
    ):
        table.write_csv(tmp_path / "asked.csv")
        refused = invoke("predict", run.folder, "--data", tmp_path / "asked.csv", "--out", tmp_path / "f.csv")
        assert refused.exit_code == 2 and said in refused.stderr


def test_multiple_shooting_starts_on_the_data_and_lowers_the_loss(tmp_path):
    config = CONFIGS / "hybrid_lynx_hare.toml"
    multiple = ["objective.shooting=multiple", "objective.segments=3", "train.members=1", "model=known"]
    result = invoke("fit", config, *FEW, *multiple, "evaluate.samples=50", "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    starts = load_config(tmp_path / "run" / "config.toml").observe.starts
    np.testing.assert_allclose(np.exp(starts)[0, [0, 1], 0], [30.0, 20.6])  # hare in 1900 and 1905
    losses = [row["nll"] for row in rows_of(tmp_path / "run", 0) if "nll" in row]
    assert losses[-1] < losses[0]


def test_polish_goes_on_after_the_steps_and_lowers_the_loss(tmp_path):
    config = CONFIGS / "hybrid_lynx_hare.toml"
    options = ["train.polish=6", "train.members=1", "model=known", "evaluate.samples=50", "objective.grow=0.2"]
    result = invoke("fit", config, *FEW, *options, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    losses = [row["nll"] for row in rows_of(tmp_path / "run", 0) if "nll" in row]
    assert len(losses) == 12
    assert losses[-1] < losses[6] - 0.1
    refused = invoke("fit", "--resume", tmp_path / "run", "train.polish=9")
    assert refused.exit_code == 2
    assert "train.polish" in refused.stderr


def test_own_table_is_fitted(tmp_path):
    table = tmp_path / "t.csv"
    rows = [(f"s{i}", t, np.exp(-0.5 * t) * (i + 1), 1.0 + t) for i in range(8) for t in (0.0, 0.5, 1.0)]
    pl.DataFrame(rows, schema=["who", "day", "a", "b"], orient="row").write_csv(table)
    columns = [f"data.path={table}", "data.id=who", "data.time=day"]
    (tmp_path / "run.toml").write_text('task = "dynamics"\n[observe]\nstart = "first_row"\n')
    result = invoke(
        "fit", tmp_path / "run.toml", *columns, *FEW, "model.width=4", "evaluate.samples=50", "--out", tmp_path / "run"
    )
    assert result.exit_code == 0, result.output
    assert Run.open(tmp_path / "run").config.observe.states == ("a", "b")


def fitted_decays(folder, unit):
    """A run of four steps on decays of two channels given in `unit`, and the law of its values in that unit."""
    table = folder / f"t{unit:g}.csv"
    rows = [
        (f"s{i}", t, unit * (3 + np.exp(-t) * (i + 1)), unit * (1.0 + 0.1 * i * t))
        for i in range(8)
        for t in (0.0, 0.5, 1.5)
    ]
    pl.DataFrame(rows, schema=["who", "day", "a", "b"], orient="row").write_csv(table)
    (folder / "run.toml").write_text('task = "dynamics"\n[observe]\nstart = "first_row"\n')
    settings = load_config(
        folder / "run.toml",
        [
            f"data.path={table}",
            "data.id=who",
            "data.time=day",
            *FEW,
            "model.width=4",
            "train.steps=4",
            "evaluate.samples=50",
        ],
    )
    (folder / f"run{unit:g}").mkdir()
    run = Run.create(folder / f"run{unit:g}", *prepare(settings))
    assert train(run, Console(quiet=True))
    return run.evaluate(), run.problem


def test_fit_is_the_same_in_any_unit_of_the_values(tmp_path):
    (one, problem), *others = [fitted_decays(tmp_path, unit) for unit in (1.0, 1e-6, 1e3)]
    quantiles = one.details.laws["neural ODE"].quantiles((0.05, 0.5, 0.95))
    for unit, (other, _) in zip((1e-6, 1e3), others, strict=True):
        found = other.details.laws["neural ODE"].quantiles((0.05, 0.5, 0.95))
        np.testing.assert_allclose(found / unit, quantiles, rtol=1e-7)
        for row, scaled in zip(one.rows(), other.rows(), strict=True):
            np.testing.assert_allclose(
                [scaled["in 90 %"], scaled["RMSE"] / unit], [row["in 90 %"], row["RMSE"]], rtol=1e-6
            )
            np.testing.assert_allclose(scaled["NLL"] - np.log(unit), row["NLL"], rtol=1e-6)
    assert np.isfinite(quantiles[:, problem.panel.mask]).all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([7.0] * 4, "channel 'b' is 7 wherever it is fitted"),
        ([None, None, 1.0, 2.0], "channel 'b' has no value to fit (all of its 8 lie in what is held out)"),
    ],
)
def test_channel_with_nothing_to_fit_is_named(values, message, tmp_path):
    rows = [(f"s{i}", t, 0.1 * t + i, values[t]) for i in range(4) for t in range(4)]
    pl.DataFrame(rows, schema=["who", "day", "a", "b"], orient="row").write_csv(tmp_path / "t.csv")
    (tmp_path / "run.toml").write_text('task = "dynamics"\n')
    columns = [f"data.path={tmp_path / 't.csv'}", "data.id=who", "data.time=day", "data.test_after=1.5"]
    result = invoke("fit", tmp_path / "run.toml", *columns, "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert message in result.stderr and "leave it out by data.channels=['a']" in result.stderr
    assert result.stderr.count("\n") == 1


def test_series_that_start_from_the_mean_are_named(tmp_path):
    rows = [
        (f"s{i}", t, None if i == 2 else t + i, None if i < 5 and t < 2 else 0.5 * t)
        for i in range(7)
        for t in range(4)
    ]
    pl.DataFrame(rows, schema=["who", "day", "a", "b"], orient="row").write_csv(tmp_path / "t.csv")
    (tmp_path / "run.toml").write_text('task = "dynamics"\n')
    columns = [f"data.path={tmp_path / 't.csv'}", "data.id=who", "data.time=day", "data.test_after=1.5"]
    lines = {}
    for more in ([], ["data.channels=['b']"], ["data.test_after=2.5"]):
        config = load_config(tmp_path / "run.toml", [*columns, *more])
        lines[len(lines)] = TASKS["dynamics"].describe(*prepare(config))
    said = "no value to fit, so that the start is the mean over all series: "
    assert lines[0][-1] == said + "'a' of s2; 'b' of s0, s1, s2 and 2 more"
    assert lines[1][-1] == said + "'b' of s0, s1, s2 and 2 more"
    assert lines[2][-1] == said + "'a' of s2"


def test_last_value_of_channels_that_take_turns_has_a_spread():
    panel = make_spirals(series=3)
    mask = np.zeros_like(panel.mask)
    mask[:, ::2, 0] = mask[:, 1::2, 1] = True
    early = mask & (panel.times <= 3)[..., None]
    problem = DynamicsProblem(panel, np.where(mask, panel.values, 0.0), early, early, mask & ~early, np.arange(3))
    law = baselines(problem)["last value"]
    assert np.isfinite(law.log_density(problem.values)[mask]).all()
    times, values = panel.times[:, ::2], panel.values[:, ::2, 0]
    kept = times[:, 1:] <= 3
    rate = (np.diff(values) ** 2)[kept].sum() / np.diff(times)[kept].sum()
    last = np.where(early[..., 0], panel.times, 0).max(1)
    np.testing.assert_allclose(law.std[:, -2:, 0].max(1), np.sqrt(rate * (panel.times[:, -1] - last)), rtol=1e-6)


LYNX, SPIRAL = "hybrid_lynx_hare.toml", "neural_ode_spiral.toml"


@pytest.mark.parametrize(
    ("config", "overrides", "message"),
    [
        (LYNX, ["observe.observed.lynx=wolf"], "channel 'lynx' observes the state 'wolf', but the states are prey"),
        (LYNX, ["observe.observed.fox=prey"], "names the channels hare, lynx, fox, but the data have hare, lynx"),
        (
            SPIRAL,
            ["train.polish=5", "train.batch_size=4"],
            "train.polish lowers the loss of all 27 series at once: set train.batch_size to as many (now 4)",
        ),
        (LYNX, ["data.test_after=99"], "no value is left to score"),
        (SPIRAL, ["observe.states=['x', 'y', 'z']"], "needs all of the states x, y, z in the first row"),
    ],
)
def test_config_that_does_not_fit_its_data_is_refused_before_a_folder_is_made(config, overrides, message, tmp_path):
    result = invoke("fit", CONFIGS / config, *overrides, "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("config", "override", "message"),
    [
        (LYNX, "model.known.known=lorentz", "no system known = 'lorentz'; the systems are lotka_volterra, logistic"),
        (LYNX, "model.known.parameters.brith=1.0", "lotka_volterra has no parameter 'brith'; its parameters are birth"),
        (LYNX, "model.hybrid.parameters.birth=-1.0", "'birth' needs a start strictly between its bounds"),
        (
            LYNX,
            "model.hybrid.residual_states=['fox']",
            "residual_states names the state 'fox', but the states are prey, pred",
        ),
        (
            LYNX,
            "observe.states=['a', 'b']",
            "states of the known system are prey, predator, but observe.states are a, b",
        ),
        (LYNX, "observe.positive=false", "noise = 'log_normal' needs positive = true"),
        (LYNX, "data.validate_after=16.0", "validate_after = 16 must lie before test_after = 15.5"),
        (SPIRAL, "model=known", "model.known: missing; set it in the file or as model.known=VALUE"),
        (LYNX, "model.hybrid.known=pendulum", "pendulum has no parameter 'birth'; its parameters are"),
        (LYNX, "train={polish=5, patience=2}", "polish = 5 does not go with patience = 2"),
        (LYNX, "train={polish=5, ema=0.9}", "polish = 5 does not go with ema = 0.9"),
        (SPIRAL, "observe.start=learned", "set data.test_after"),
        (
            SPIRAL,
            "objective.shooting=multiple",
            "objective.shooting = 'multiple' learns starts, but observe.start is 'first_row'",
        ),
    ],
)
def test_bad_configs_are_refused_in_one_line(config, override, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(CONFIGS / config, [override])
    assert "\n" not in str(caught.value)


def test_log_field_solves_for_logarithms():
    field, y = lotka_volterra(), jnp.array([30.0, 4.0])
    np.testing.assert_allclose(nde.LogField(field)(0.0, jnp.log(y)) * y, field(0.0, y))
    hare, lynx = y
    np.testing.assert_allclose(field(0.0, y), [(0.5 - 0.025 * lynx) * hare, (0.025 * hare - 0.8) * lynx])


def test_standard_field_brings_units_there_and_back():
    field = nde.StandardField(lambda t, y, args: y, location=[1.0, 2.0], scale=[2.0, 4.0], rate=[3.0, 5.0])
    np.testing.assert_allclose(field(0.0, jnp.array([5.0, 6.0])), [6.0, 5.0])
    with pytest.raises(ValueError, match=r"needs a positive scale for each location .* scale=\[0.0\]"):
        nde.StandardField(field, location=[0.0], scale=[0.0], rate=[1.0])


def test_pendulum_swings_at_its_small_angle_period():
    ts = jnp.array([0.0, 2 * jnp.pi * jnp.sqrt(0.5 / 9.81)])
    model = nde.NeuralODE(pendulum(0.5), controller=diffrax.PIDController(rtol=1e-9, atol=1e-12))
    np.testing.assert_allclose(model(ts, jnp.array([1e-4, 0.0]))[1], [1e-4, 0.0], atol=1e-10)


def test_observed_states_are_found_by_name():
    assert observed_states({"lynx": "predator", "hare": "prey"}, ("prey", "predator")) == (1, 0)
    with pytest.raises(ValueError, match="channel 'fox' observes the state 'fox', but the states are prey, predator"):
        observed_states({"fox": "fox"}, ("prey", "predator"))


def test_made_data_are_the_same_for_the_same_seed_and_obey_their_equation():
    one, other = make_pendulum(seed=3), make_pendulum(seed=3)
    np.testing.assert_array_equal(one.values, other.values)
    assert one.values.shape == (1, 120, 1)
    assert one.times.max() <= 24
    assert not np.array_equal(one.values, make_pendulum(seed=4).values)
    still = make_spirals(noise=0.0, series=2)
    radius, t = np.linalg.norm(still.values, axis=-1), still.times
    # r' = r (1 - r²) / 4 makes 1 / r² - 1 fall as exp(-t / 2)
    np.testing.assert_allclose(1 / radius**2 - 1, (1 / radius[:, :1] ** 2 - 1) * np.exp(-t / 2), atol=1e-5)
    np.testing.assert_allclose(pendulum_drag(np.array([-2.0, 2.0])), [0.6, -0.6])


def test_range_of_a_parameter_needs_two_members():
    fields = [KnownField(lambda t, y, p: p.rate * y, {"rate": nde.Parameter(value)}) for value in (1.0, 2.0)]
    models = [SimpleNamespace(ode=SimpleNamespace(field=field)) for field in fields]
    assert parameter_notes({"known system": models[:1]}) == ["known system: rate 1"]
    assert parameter_notes({"known system": models}) == ["known system: rate 1.5 (1 to 2)"]


def test_failed_fit_says_why_in_one_line_and_goes_on_with_an_override(tmp_path):
    rows = [(f"s{i}", t, np.exp(-0.1 * t) * (1 + 0.1 * i)) for i in range(2) for t in np.arange(8.0)]
    pl.DataFrame(rows, schema=["id", "t", "x"], orient="row").write_csv(tmp_path / "d.csv")
    (tmp_path / "c.toml").write_text(
        f'task = "dynamics"\n[data]\npath = "{tmp_path / "d.csv"}"\nid = "id"\ntime = "t"\ntest_after = 5.0\n'
        "[model]\nwidth = 3\n[solver]\nmax_steps = 2\n[train]\nsteps = 2\nvalidate_every = 1\n"
        "[evaluate]\nsamples = 40\n"
    )
    folder = tmp_path / "run"
    failed = invoke("fit", tmp_path / "c.toml", "--out", folder)
    assert failed.exit_code == 1
    assert failed.stderr.count("\n") == 1
    told = (
        "nde: neural ODE, step 1, training: series s0, s1 could not be solved (the maximum number of solver steps was"
    )
    assert failed.stderr.startswith(told + " reached at t = 0.")
    assert "raise solver.max_steps (now 2)" in failed.stderr
    assert "There is no checkpoint yet" in failed.stderr
    assert invoke("fit", "--resume", folder, "solver.max_steps=3").exit_code == 1
    assert tomllib.loads((folder / "config.toml").read_text())["solver"]["max_steps"] == 2  # as if not tried
    mended = invoke("fit", "--resume", folder, "solver.max_steps=400")
    assert mended.exit_code == 0, mended.output
    assert tomllib.loads((folder / "config.before-1.toml").read_text())["solver"]["max_steps"] == 2
    assert [row["step"] for row in rows_of(folder, 0) if "validation" in row] == [1, 2]
    again = invoke("fit", "--resume", folder, "solver.max_steps=3", "train.steps=3")
    assert again.exit_code == 1
    assert "The checkpoint of step 2 is kept" in again.stderr
    assert tomllib.loads((folder / "config.toml").read_text())["solver"]["max_steps"] == 400
    config = (folder / "config.toml").read_text()
    (folder / "config.toml").write_text(config.replace("max_steps = 400", "max_steps = 3"))
    scored = invoke("evaluate", folder)
    assert scored.exit_code == 1
    assert scored.stderr.startswith("nde: series s0, s1 could not be solved (the maximum number of solver steps")


def test_law_in_other_units_is_the_law_of_the_values_in_them():
    law = GaussianLikelihood(2, scale=0.3)
    scaled = ScaledLikelihood(law, unit=[1e-6, 1e3])
    unit, values = np.array([1e-6, 1e3]), np.array([[1.2, 0.4], [0.9, -3.0]])
    found = scaled.log_prob(jnp.asarray(values * unit), jnp.asarray(unit + 0 * values))
    np.testing.assert_allclose(
        found, np.asarray(law.log_prob(jnp.asarray(values), jnp.ones((2, 2)))) - np.log(unit), rtol=1e-12
    )
    key = jax.random.key(0)
    drawn, own = (
        one.sample(loc[None, None], series=["a"], key=key) for one, loc in ((scaled, values * unit), (law, values))
    )
    np.testing.assert_allclose(drawn, unit * own, rtol=1e-12)
    with pytest.raises(ValueError, match=r"needs positive units, but got unit=\[0.0\]"):
        ScaledLikelihood(law, unit=[0.0])


def test_affine_field_moves_standardised_states_as_their_own():
    field, m, s = lotka_volterra(), np.array([20.0, 10.0]), np.array([5.0, 2.0])
    affine = nde.AffineField(field, location=m, scale=s)
    z = jnp.array([0.5, -1.0])
    np.testing.assert_allclose(affine(0.0, z) * s, field(0.0, m + s * z))
    assert affine.state_names == ("prey", "predator")
    with pytest.raises(ValueError, match="needs a positive scale for each location"):
        nde.AffineField(field, location=[0.0], scale=[-1.0])
    with pytest.raises(ValueError, match="needs both or none"):
        nde.ObservedODE(None, None, None, (0,), location=(0.0,))
