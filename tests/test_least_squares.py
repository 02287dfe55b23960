"""Levenberg–Marquardt: beside scipy's, through a solve that can fail, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import polars as pl
import pytest
from scipy.optimize import least_squares

from nde.config import ConfigError, load_config
from nde.fields import parameter_values
from nde.objectives import (
    ChannelLikelihood,
    GaussianLikelihood,
    PoissonLikelihood,
    ScaledLikelihood,
)
from nde.runs import prepare
from nde.tasks import TASKS
from nde.train import BatchLoss, gradient_update, then_least_squares

TIMES = np.linspace(0.0, 1.0, 12)
NOISE = 0.1 * np.random.default_rng(3).standard_normal((2, 12))
LAWS = {
    "normal": GaussianLikelihood(2),
    "in units": ScaledLikelihood(GaussianLikelihood(2), unit=(3.0, 0.2)),
    "a law a channel": ChannelLikelihood([GaussianLikelihood(1), ScaledLikelihood(GaussianLikelihood(1), unit=[5.0])]),
}


def test_optimum_of_two_exponentials_is_scipys():
    start, values = np.array([1.0, 2.0, 0.5, 0.3]), np.exp(-3 * TIMES) + 0.5 * np.exp(-0.5 * TIMES) + 0.02 * NOISE[0]

    def residuals(p, numpy=np):
        return p[0] * numpy.exp(-p[1] * TIMES) + p[2] * numpy.exp(-p[3] * TIMES) - values

    def loss(model, batch, step, key):
        squares = residuals(model, jnp) ** 2
        return BatchLoss(jnp.mean(squares), {}, squares)

    update = then_least_squares(
        gradient_update(loss, optax.adam(1e-2)), lambda model, batch: residuals(model, jnp), after=1
    )
    state = update.init(jnp.asarray(start))
    rows, data = np.arange(12), jnp.asarray(values)
    first, _ = update.compiled(state, data, rows, jax.random.key(0))
    np.testing.assert_allclose(np.abs(np.asarray(first.model) - start), 1e-2, rtol=1e-3)  # Adam's step
    for _ in range(2):
        first, report = update.compiled(first, data, rows, jax.random.key(0))
    expected = least_squares(residuals, start, method="lm", xtol=1e-12, ftol=1e-12)
    np.testing.assert_allclose(first.model, expected.x, rtol=1e-5)
    assert int(first.step) == 3
    assert float(report.gradient_norm) < 1e-6


@pytest.mark.parametrize("name", LAWS)
def test_deviation_that_is_set_is_that_of_the_law(name):
    law = LAWS[name].with_deviation(jnp.array([0.7, 0.4]))
    np.testing.assert_allclose(jnp.sqrt(law.variance(jnp.zeros(2))), [0.7, 0.4], rtol=1e-12)
    assert np.all(np.isfinite(law.with_deviation(jnp.zeros(2)).variance(jnp.zeros(2))))


def test_law_without_a_deviation_says_so():
    with pytest.raises(ValueError, match="^A PoissonLikelihood has no standard deviation to be set"):
        PoissonLikelihood().with_deviation(jnp.ones(1))


@pytest.fixture
def blowing_up(tmp_path):
    """y' = r y² from one and from 1.2, which blows up in what is fitted for r above 0.83, and lies at 0.75."""
    starts = (1.0, 1.2)
    rows = [
        (f"s{i}", t, s / (1 - 0.75 * s * t) + (NOISE[i, k % 12] if k else 0.0))
        for i, s in enumerate(starts)
        for k, t in enumerate([*TIMES, 1.5])
        if k < 12 or i == 0
    ]
    pl.DataFrame(rows, schema=["id", "t", "x"], orient="row").write_csv(tmp_path / "d.csv")
    (tmp_path / "field.py").write_text(
        "STATES, PARAMETERS = ('x',), {'rate': 0.1}\n\n\ndef field(t, y, p):\n    return [p.rate * y[0] ** 2]\n"
    )
    (tmp_path / "c.toml").write_text(
        f'task = "dynamics"\n[data]\npath = "{tmp_path / "d.csv"}"\nid = "id"\ntime = "t"\ntest_after = 1.2\n'
        f'[observe]\nstart = "first_row"\n[[model]]\nname = "known"\nknown = "{tmp_path}/field.py:field"\n'
        "[solver]\nrtol = 1e-8\natol = 1e-10\nmax_steps = 200\n"
        '[train]\nsteps = 1\npolish = 4\npolish_method = "lm"\nwarmup = 0\n'
    )
    return tmp_path / "c.toml"


def test_fit_by_squares_turns_back_from_failed_solves_and_is_scipys_with_the_likeliest_noise(blowing_up):
    config, problem = prepare(load_config(blowing_up))
    task, member = TASKS["dynamics"], config.members()[0]
    update = task.update(config, problem)
    data = jax.tree.map(jnp.asarray, task.examples(config, problem, member).arrays)
    state = update.init(member.section.build(task.facts(config), config.solver, key=jax.random.key(0)))
    for _ in range(5):
        state, report = update.compiled(state, data, np.arange(2), jax.random.key(0))
    starts = np.array([[1.0], [1.2]])
    seen = starts / (1 - 0.75 * starts * TIMES) + NOISE * (TIMES > 0)
    expected = least_squares(lambda r: (starts / (1 - r[0] * starts * TIMES) - seen).ravel(), [0.3], max_nfev=500)
    np.testing.assert_allclose(parameter_values(state.model.ode.field)["rate"], expected.x[0], rtol=1e-6)
    deviation = jnp.sqrt(state.model.likelihood.variance(jnp.zeros(1)))
    np.testing.assert_allclose(deviation, np.sqrt(np.mean(expected.fun**2)), rtol=1e-5)
    assert float(report.gradient_norm) < 1e-3


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (["observe.noise=proportional"], "noise = 'proportional'"),
        (["observe.below.x=0.1"], "limits of quantification"),
        (["objective.shooting=multiple", "observe.start=learned"], "objective.shooting = 'multiple'"),
        (["objective.residual_weight=0.1"], "objective.residual_weight"),
        (["regularise.penalties.error=0.1"], r"\[regularise\]"),
        (["model.parameters.rate.prior.name=normal", "model.parameters.rate.prior.location=1.0",
          "model.parameters.rate.prior.scale=1.0"], "a prior"),
    ],
)  # fmt: skip
def test_losses_that_are_no_sum_of_squares_are_refused_in_one_line(blowing_up, changes, named):
    with pytest.raises(ConfigError, match=f"polish_method = 'lm' needs a sum of squares, which {named} is not"):
        load_config(blowing_up, changes)
