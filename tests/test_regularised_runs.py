"""The section `[regularise]`: what it adds to a training loss, to nothing else, and what is refused."""

import re
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import pytest
from rich.console import Console

from nde.config import (
    build_regulariser,
    build_share,
    ConfigError,
    load_config,
    PointFacts,
    RegulariseConfig,
    SolverConfig,
    TrainConfig,
)
from nde.data import Dataset, DATASETS
from nde.data.datasets.basic_motions import labelled_panel
from nde.regularise import ErrorEstimate, KineticEnergy, LearnedEndTime, RandomEndTime
from nde.runs import prepare, Run, train
from nde.tasks import new_model, TASKS
from nde.train import read_metrics

CONFIGS = Path(__file__).parent.parent / "configs"
SMALL = {
    "cnf_2d": ["data.points=30", "data.validation_points=10", "data.test_points=10", "model.width=4", "solver.dt0=0.5"],
    "neural_ode_spiral": ["model.width=4", "solver.rtol=1e-2", "objective.shooting=single"],
    "cde_motions": ["model=neural_cde", "model.state_size=2", "model.width=4", "solver.dt0=0.5"],
    "latent_sde_pbc": ["model.state_size=2", "model.width=4", "solver.dt0=1.0", "objective.samples=1"],
}
ASKED = {
    "cnf_2d": ["regularise.penalties.stiffness=0.1", "regularise.penalties.taylor=0.2"],
    "neural_ode_spiral": ["regularise.penalties.local_error=0.3", "regularise.penalties.error_squares=1e-3"],
    "cde_motions": ["regularise.penalties.jacobian=0.5", "regularise.penalties.kinetic=0.1"],
    "latent_sde_pbc": ["regularise.penalties.kinetic=0.5"],
}


def made_up():
    values, names = np.random.default_rng(0).standard_normal((12, 6, 6)), np.array(["high", "low"] * 6)
    return labelled_panel(values, names, values[:4], names[:4])


@pytest.mark.parametrize("name", SMALL)
def test_a_loss_has_its_penalty_added_by_a_weight_that_falls(name, monkeypatch):
    monkeypatch.setitem(DATASETS, "basic_motions", Dataset(made_up, "labelled"))

    def losses(*extra):
        config = load_config(CONFIGS / f"{name}.toml", [*SMALL[name], "train.steps=11", *extra])
        config, problem = prepare(config)
        task, (member, *_) = TASKS[config.task], config.members()
        model = new_model(config, member, task.facts(config))
        batch = jax.tree.map(lambda x: np.asarray(x)[:3], task.examples(config, problem, member).arrays)
        return eqx.filter_jit(task.loss(config, problem)), model, batch

    loss, model, batch = losses()
    plain = loss(model, batch, np.int32(0), jax.random.key(1))
    assert "penalty" not in plain.parts
    loss, model, batch = losses(*ASKED[name], "regularise.anneal=0.1")
    for step, share in ((0, 1.0), (5, np.sqrt(0.1)), (10, 0.1)):
        found = loss(model, batch, np.int32(step), jax.random.key(1))
        penalty = float(found.parts["penalty"])
        assert penalty > 0
        if name != "latent_sde_pbc" or step == 0:  # whose other weights rise
            assert float(found.loss - plain.loss) == pytest.approx(share * penalty, rel=1e-4)


def test_a_run_reports_the_penalty_and_learns_its_end(tmp_path):
    extra = ["train.steps=4", "train.validate_every=4", "train.log_every=1", "train.batch_size=10", "train.warmup=0"]
    extra += ["evaluate.tolerance=1e-2", "regularise.penalties.end_time=5.0"]
    config = load_config(CONFIGS / "cnf_2d.toml", [*SMALL["cnf_2d"], *extra])
    run = Run.create(tmp_path, *prepare(config))
    assert train(run, Console(quiet=True))
    spans = [row["penalty"] for row in read_metrics(run.metrics_path) if "penalty" in row]
    assert spans[0] == pytest.approx(5.0, rel=1e-5)
    assert spans[-1] < spans[0]
    assert 5 * Run.open(tmp_path).models()["flow"][0].field.span < spans[-1]


def test_names_become_regularisers():
    assert build_regulariser(RegulariseConfig()) is None
    config = RegulariseConfig(penalties={"error_squares": 0.5, "kinetic": 2.0}, random_end_time=0.25)
    built = build_regulariser(config)
    assert built.regularisers == [RandomEndTime(0.25), ErrorEstimate("squares"), KineticEnergy()]
    assert built.weights == [1.0, 0.5, 2.0]
    share = build_share(RegulariseConfig(anneal=0.01), TrainConfig(steps=101))
    assert [float(share(step)) for step in (0, 50, 100)] == pytest.approx([1.0, 0.1, 0.01], rel=1e-5)
    assert build_share(RegulariseConfig(), TrainConfig())(7) == 1.0
    (flow,) = load_config(CONFIGS / "cnf_2d.toml").model
    made = flow.build(PointFacts(2, learned_end=True), SolverConfig(), key=jax.random.key(0))
    assert isinstance(made.field, LearnedEndTime)


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        (
            "cnf_2d",
            ["penalties.smooth=1"],
            "there is no penalty 'smooth'; the penalties are error, error_squares, stiff",
        ),
        (
            "cnf_2d",
            ["penalties.kinetic=-1"],
            "regularise.penalties.kinetic: Input should be greater than or equal to 0",
        ),
        ("cnf_2d", ["penalty=1"], "regularise.penalty: unknown key; the keys here are penalties, taylor_order"),
        ("cnf_2d", ["random_end_time=0.7"], "regularise.random_end_time: Input should be less than or equal to 0.5"),
        ("cnf_2d", ["penalties.error=1"], "'error' with a model 'flow' and this solver; it serves kinetic"),
        ("cde_motions", ["penalties.error=1"], "can not have 'error' with a model 'neural_cde' and this solver"),
        (
            "cde_motions",
            ["penalties.stiffness=1"],
            "can not have 'stiffness' with a model 'neural_cde' and this solver",
        ),
        ("cde_motions", ["penalties.taylor=1"], "it serves kinetic, jacobian"),
        ("latent_sde_pbc", ["penalties.local_error=1"], "'local_error' with a model 'latent_sde' and this solver"),
        (
            "latent_sde_pbc",
            ["random_end_time=0.2"],
            "random_end_time can not be had with a model 'latent_sde' and this solver",
        ),
        ("neural_ode_spiral", ["penalties.end_time=1"], "can not have 'end_time' with a model 'neural_ode'"),
    ],
)
def test_what_a_kind_can_not_serve_is_refused(name, overrides, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_config(CONFIGS / f"{name}.toml", [f"regularise.{x}" for x in overrides])


@pytest.mark.parametrize("adjoint", ["reversible", "continuous"])
def test_the_estimates_of_the_steps_need_the_checkpoint_adjoint(adjoint):
    message = re.escape(f"can not have 'error' with solver.adjoint = '{adjoint}'; it serves local_error")
    with pytest.raises(ConfigError, match=message):
        load_config(CONFIGS / "neural_ode_spiral.toml", [f"solver.adjoint={adjoint}", "regularise.penalties.error=1"])


def test_several_starts_have_no_regulariser():
    overrides = ["objective.shooting=multiple", "observe.start=learned", "data.test_after=3.0"]
    with pytest.raises(ConfigError, match=r"\[regularise\] needs objective.shooting = 'single', but it is 'multiple'"):
        load_config(CONFIGS / "neural_ode_spiral.toml", [*overrides, "regularise.penalties.kinetic=1"])
