"""Several starts of a training: what is drawn, which is kept, what a run says of them."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest

import nde
from nde.config import ConfigError, load_config
from nde.fields import draw_parameters, LogNormalPrior, NormalPrior, parameter_values
from nde.train import best_start, read_metrics, starts_tried, TrainingFailed, TrainState

SPRING = """
STATES = ("x", "v")
PARAMETERS = {"w": 1.0}


def field(t, y, p):
    return [y[1], -p.w**2 * y[0]]
"""


def drawn(parameter, count):
    field = nde.KnownField(lambda t, y, p: p.k * y, {"k": parameter})
    keys = jax.random.split(jax.random.key(0), count)
    return np.array([draw_parameters(field, key=key).parameters["k"].value for key in keys])


LAWS = {
    "uniform": (nde.Parameter(2.0, lower=1.0, upper=5.0), lambda x: (x - 1) / 4, (0.5, 1 / math.sqrt(12))),
    "log-uniform": (
        nde.Parameter(2.0, lower=1e-2, upper=1e2, log=True), lambda x: np.log10(x) / 4 + 0.5, (0.5, 1 / math.sqrt(12)),
    ),
    "prior": (nde.Parameter(1.0, prior=NormalPrior(3.0, 0.5)), lambda x: x, (3.0, 0.5)),
    "log prior": (nde.Parameter(1.0, log=True, prior=LogNormalPrior(3.0, 0.5)), np.log, (math.log(3), 0.5)),
    "lower": (nde.Parameter(2.0, lower=1.0), lambda x: np.log(x - 1), (0.0, 1.0)),
    "upper": (nde.Parameter(2.0, upper=5.0), lambda x: np.log((5 - x) / 3), (0.0, 1.0)),
    "log alone": (nde.Parameter(2.0, log=True), lambda x: np.log(x / 2), (0.0, 1.0)),
    "nothing": (nde.Parameter(-2.0), lambda x: (x + 2) / 2, (0.0, 1.0)),
}  # fmt: skip


@pytest.mark.parametrize("name", LAWS)
def test_parameters_are_drawn_from_their_law(name):
    parameter, standard, (mean, spread) = LAWS[name]
    found = standard(drawn(parameter, 120))
    assert abs(found.mean() - mean) < 4 * spread / math.sqrt(120)
    assert abs(found.std() - spread) < 0.25 * spread


def test_draws_keep_to_the_bounds_and_leave_alone_what_is_fixed():
    narrow = drawn(nde.Parameter(0.2, lower=0.1, upper=0.3, prior=NormalPrior(0.3, 0.2)), 50)
    assert np.all((narrow > 0.1) & (narrow < 0.3))
    beyond = drawn(nde.Parameter(0.2, lower=0.1, upper=0.3, prior=NormalPrior(9.0, 0.01)), 20)
    assert np.all((beyond > 0.1) & (beyond < 0.3))
    held = drawn(nde.Parameter(2.0, log=True, upper=2.1), 50)
    assert np.all(held < 2.1)
    assert np.all(drawn(nde.Parameter(0.7, fixed=True), 3) == 0.7)
    two = {name: nde.Parameter(1.0, log=True) for name in "ab"}
    values = parameter_values(draw_parameters(nde.KnownField(lambda t, y, p: y, two), key=jax.random.key(1)))
    assert values["a"] != values["b"]


def test_best_of_several_starts_goes_on_and_those_that_fail_are_told():
    def train(model):
        if model == 1:
            raise TrainingFailed("step 1: no.")
        state = TrainState.create(jnp.asarray(10.0 * model), ())
        score = jnp.inf if model == 2 else jnp.asarray(abs(model - 3.0))
        return TrainState(state.step, state.model, (), state.model, jnp.asarray(score), state.step)

    told = []
    best, tried = best_start([0, 1, 2, 4, 5], train, lambda number, one: told.append(number))
    assert (float(best), told) == (40.0, [0, 1, 2, 3, 4])
    assert [one.score for one in tried] == [3.0, math.inf, math.inf, 1.0, 2.0]
    assert [one.failure for one in tried] == [None, "step 1: no", "it could not be validated", None, None]
    with pytest.raises(TrainingFailed, match=r"^step 1: no\.$"):
        best_start([2, 1], train)


@pytest.fixture(scope="module")
def spring(tmp_path_factory):
    """A spring of frequency 3 over two periods, whose loss has a minimum near each of several frequencies."""
    folder = tmp_path_factory.mktemp("spring")
    times = np.linspace(0.0, 5.0, 26)
    rows = {"id": ["a"] * 26, "t": times, "x": np.cos(3 * times), "v": -3 * np.sin(3 * times)}
    pl.DataFrame(rows).write_csv(folder / "d.csv")
    (folder / "spring.py").write_text(SPRING)
    (folder / "c.toml").write_text(
        f'task = "dynamics"\n[data]\npath = "{folder / "d.csv"}"\nid = "id"\ntime = "t"\ntest_after = 4.0\n'
        f'[observe]\nstart = "first_row"\n[[model]]\nname = "known"\nknown = "{folder}/spring.py:field"\n'
        "parameters = { w = { start = 0.9, lower = 0.5, upper = 8.0, log = true } }\n"
        "[train]\nsteps = 60\nlearning_rate = 0.05\nvalidate_every = 30\nwarmup = 0\n[evaluate]\nsamples = 40\n"
    )
    return folder


def test_one_of_several_starts_finds_the_basin_that_the_only_one_does_not(spring, capsys):
    found = {}
    for starts in ({}, {"starts": 12, "start_steps": 10}):
        config = load_config(spring / "c.toml", [f"train.{key}={value}" for key, value in starts.items()])
        run = nde.fit(config, out=spring / str(len(found)))
        model = run.models()["known system"][0]
        found[len(found)] = float(parameter_values(model.ode.field)["w"])
    assert abs(found[0] - 3.0) > 1.0
    assert abs(found[1] - 3.0) < 0.01
    assert capsys.readouterr().out.count("known system start ") == 12
    tried = starts_tried(read_metrics(run.metrics_path), 0)
    best = int(np.argmin([one.score for one in tried])) + 1
    assert len(tried) == 12 and best > 1
    assert run.evaluate().lines()[-1] == f"known system: start {best} of 12 validated best"


def test_start_steps_without_starts_are_refused(spring):
    with pytest.raises(ConfigError, match="start_steps = 5 is of several starts"):
        load_config(spring / "c.toml", ["train.start_steps=5"])
