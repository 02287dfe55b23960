"""Compiled programs: one a shape, kept on disk, and checks that answer by NaN where an error would be a call back."""

import os
import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nde.data import RowsByLength
from nde.objectives import Terms
from nde.train import batch_loss, BatchLoss, checks_as_nan, compiled_folder, gradient_update, Sharing

KEY = jax.random.key(0)


def squares(model, x, *, step, key):
    return Terms(loss=jnp.mean((x - model) ** 2))


def counted():
    """The loss of squares, and a list that grows with each trace of it."""
    traces = []

    def objective(model, x, **options):
        traces.append(x.shape)
        return squares(model, x, **options)

    return batch_loss(objective), traces


@pytest.mark.parametrize("sharing", [None, Sharing(turns=2)])
def test_one_program_a_shape_of_batches(sharing):
    data = (RowsByLength(np.ones((4, 5)), np.array([2, 3, 5, 5]), np.array([3, 5])),)
    loss, traces = counted()
    update = gradient_update(loss, optax.sgd(0.1), sharing=sharing)
    state, seen = update.init(jnp.zeros(())), []
    for rows in ([0, 1], [2, 3], [1, 0], [3, 0]):
        state, _ = update.compiled(state, data, np.array(rows), KEY)
        seen.append(len(traces))
    assert 0 < seen[0] < seen[1] == seen[2] == seen[3]
    assert set(traces) == {(3,), (5,)}


def test_batches_that_are_filled_up_need_no_program_of_their_own():
    loss, traces = counted()
    update = gradient_update(loss, optax.sgd(0.1), sharing=Sharing(turns=4))
    state, data = update.init(jnp.zeros(())), (np.arange(8.0)[:, None],)
    update.compiled(state, data, np.arange(8), KEY)
    first = len(traces)
    for count in (8, 7, 5):
        new, report = update.compiled(state, data, np.arange(count), KEY)
        assert report.batch.per_example.shape == (count,)
        assert float(new.model) == pytest.approx(0.2 * np.arange(count).mean())
    assert len(traces) == first


def test_turns_make_the_update_of_the_whole_batch():
    def weighted(model, x, *, step, key):
        return Terms(loss=jnp.sum(model * x**2), penalty=jnp.sum(model**2) * x[0] ** 2)

    data, found = (np.random.default_rng(0).standard_normal((12, 3)),), []
    for turns in (None, 2, 4):
        sharing = None if turns is None else Sharing(turns=turns)
        update = gradient_update(batch_loss(weighted), optax.adam(0.1), sharing=sharing)
        state = update.init(jnp.array([1.0, -2.0, 0.5]))
        for step in range(3):
            state, report = update.compiled(state, data, np.arange(12) if step else np.arange(8), KEY)
        found.append((np.asarray(state.model), float(report.batch.loss), float(report.batch.parts["penalty"])))
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-12)


def test_checks_answer_by_nan_within_and_raise_outside_of_it():
    @eqx.filter_jit
    def checked(x):
        return 2 * eqx.error_if(x, x > 1, "Above one.")

    high = jnp.asarray(3.0)
    with checks_as_nan():
        assert np.isnan(checked(high))
        assert float(checked(jnp.asarray(0.5))) == 1.0
    with pytest.raises(eqx.EquinoxRuntimeError, match="Above one"):
        checked(high)
    with checks_as_nan():
        assert np.isnan(checked(high))


def test_a_failed_check_of_a_step_raises_though_the_step_is_compiled_without_it():
    def loss(model, batch, step, key):
        return BatchLoss(jnp.mean(eqx.error_if(model * batch, batch[0] > 1, "Above one.")), {}, batch)

    update = gradient_update(loss, optax.sgd(0.1))
    state = update.init(jnp.ones(()))
    with pytest.raises(eqx.EquinoxRuntimeError, match="Above one"):
        update.compiled(state, np.array([0.0, 2.0]), np.array([1]), KEY)
    assert float(update.compiled(state, np.array([0.0, 2.0]), np.array([0]), KEY)[0].model) == 1.0


PROGRAM = """
import diffrax, jax, jax.numpy as jnp, numpy as np, nde, optax
from nde.train import batch_loss, gradient_update, keep_compiled
keep_compiled()
model = nde.ObservedODE(nde.NeuralODE(nde.MLPField(1, 2, 1, key=jax.random.key(0))), None, nde.GaussianLikelihood(1),
                        observed=(0,))
update = gradient_update(batch_loss(nde.TrajectoryFit()), optax.sgd(0.1))
ones = np.ones((2, 3, 1), np.float32)
data = (np.tile(np.arange(3, dtype=np.float32), (2, 1)), ones, ones, np.arange(2), ones[:, 0])
update.compiled(update.init(model), data, np.arange(2), jax.random.key(0))
"""


def test_a_step_with_a_solve_is_kept_on_disk_where_the_user_keeps_caches(tmp_path, monkeypatch):
    env = {name: value for name, value in os.environ.items() if not name.startswith("JAX_COMPILATION_CACHE")}
    env |= {"XDG_CACHE_HOME": str(tmp_path), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.05"}
    env["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kept = []
    for _ in range(2):
        subprocess.run([sys.executable, "-c", PROGRAM], env=env, check=True, timeout=300)
        kept.append({path.name for path in compiled_folder().iterdir() if "step" in path.name})
    assert kept[0]
    assert kept[1] == kept[0]  # the second start found it
