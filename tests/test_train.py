"""The training loop, on a model that knows no differential equation."""

import gc
import io
import json
import os
import resource
import signal
from types import SimpleNamespace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from chex import assert_max_traces, assert_trees_all_equal
from rich.console import Console

from nde.data import index_batches
from nde.train import (
    adam_with_warmup,
    BatchLoss,
    CheckpointError,
    CheckpointNotWritten,
    Checkpoints,
    FailedStep,
    fit,
    gradient_update,
    Interrupt,
    MetricsFile,
    NonFiniteLoss,
    ProgressPrinter,
    read_metrics,
    Schedule,
    terminated_as_interrupted,
    then_lbfgs,
)

X = jnp.asarray(np.random.default_rng(0).standard_normal((12, 3)))
DATA = (X, X @ jnp.array([1.0, -2.0, 0.5]))
NAMES = [f"series {i}" for i in range(12)]
OPTIMISER = optax.adam(0.05)


class Linear(eqx.Module):
    weight: jax.Array
    label: str = eqx.field(static=True, default="linear")


def squares(model, batch, step, key):
    x, y = batch
    noise = 0.01 * jax.random.normal(key, y.shape)
    losses = (x @ model.weight - y + noise) ** 2
    return BatchLoss(jnp.mean(losses), {"square": jnp.mean(losses)}, losses)


def start():
    return UPDATE.init(Linear(jnp.zeros(3)))


def validate(model):
    return jnp.mean((DATA[0] @ model.weight - DATA[1]) ** 2)


UPDATE = gradient_update(squares, OPTIMISER)


def run(state, steps, *, update=UPDATE, schedule=None, validate=validate, callbacks=(), stop=lambda: False, data=DATA):
    return fit(
        update, state, data, index_batches(12, 4, 100, seed=0), validate, schedule or Schedule(steps, every=10),
        key=jax.random.key(0), names=NAMES, callbacks=callbacks, stop=stop,
    )  # fmt: skip


def test_training_lowers_the_loss():
    outcome = run(start(), 80)
    assert outcome.reason == "finished"
    assert float(validate(outcome.state.model)) < 0.1 * float(validate(start().model))
    assert int(outcome.state.step) == 80
    assert float(outcome.state.best_score) == pytest.approx(float(validate(outcome.state.best_model)), rel=1e-6)


def test_step_is_compiled_once_also_from_weakly_typed_parameters():
    counted = assert_max_traces(squares, n=1)
    weak = jnp.full(3, jnp.exp(0.5))
    assert weak.weak_type
    update = gradient_update(counted, OPTIMISER)
    run(update.init(Linear(weak)), 5, update=update)


def test_resumed_training_is_bit_identical(tmp_path):
    whole = run(start(), 30).state
    checkpoints = Checkpoints(tmp_path)
    steps = iter(range(100))
    outcome = run(start(), 30, callbacks=(checkpoints,), stop=lambda: next(steps) == 16)
    assert outcome.reason == "interrupted"
    checkpoints.close()
    restored = Checkpoints(tmp_path).restore(start())
    assert int(restored.step) == 17
    resumed = run(restored, 30).state
    assert_trees_all_equal(eqx.filter(whole, eqx.is_array), eqx.filter(resumed, eqx.is_array))


def test_best_checkpoint_is_the_best_model(tmp_path):
    scores = iter([3.0, 1.0, 2.0])
    models = []

    def score(model):
        models.append(model)
        return next(scores)

    checkpoints = Checkpoints(tmp_path)
    state = run(start(), 30, validate=score, callbacks=(checkpoints,)).state
    checkpoints.close()
    opened = Checkpoints(tmp_path)
    best = opened.restore_best(Linear(jnp.zeros(3)))
    assert_trees_all_equal(best.weight, models[1].weight)
    assert int(state.best_step) == 20
    assert int(opened.restore(start()).step) == 30
    assert sorted(p.name for p in (tmp_path / "best").iterdir() if p.name.isdigit()) == ["20"]


def test_a_run_that_ends_between_its_last_state_and_the_best_loses_neither(tmp_path, monkeypatch):
    """A machine that goes down, or a disk that fills, once the best state is on disk as the last one alone."""
    save = Checkpoints._save

    def one_run(**given):
        scores = iter([3.0, 1.0, 2.0])
        return run(start(), 30, validate=lambda model: next(scores), **given).state

    whole = one_run()

    def until_the_second_best(self, manager, state):
        if manager is self._best and int(state.step) == 20:
            raise CheckpointNotWritten("the power is gone")
        save(self, manager, state)

    checkpoints = Checkpoints(tmp_path)
    monkeypatch.setattr(Checkpoints, "_save", until_the_second_best)
    with pytest.raises(CheckpointNotWritten):
        one_run(callbacks=(checkpoints,))
    checkpoints.close()
    monkeypatch.setattr(Checkpoints, "_save", save)
    opened = Checkpoints(tmp_path)
    assert_trees_all_equal(opened.restore_best(start().model).weight, whole.best_model.weight)
    run(opened.restore(start()), 30, validate=lambda model: 2.0, callbacks=(opened,))
    opened.close()
    again = Checkpoints(tmp_path)
    assert_trees_all_equal(again.restore_best(start().model).weight, whole.best_model.weight)
    assert sorted(p.name for p in (tmp_path / "best").iterdir() if p.name.isdigit()) == ["20"]


def test_training_without_checkpoints_restores_nothing(tmp_path):
    assert Checkpoints(tmp_path).restore(start()) is None
    assert Checkpoints(tmp_path).restore_best(start().model) is None


def test_patience_stops_early():
    scores = iter([1.0, 2.0, 2.0, 0.0])
    outcome = run(start(), 90, schedule=Schedule(90, every=10, patience=2), validate=lambda model: next(scores))
    assert (outcome.reason, int(outcome.state.step), int(outcome.state.best_step)) == ("no improvement", 30, 10)


def test_non_finite_loss_stops_with_its_culprits_and_keeps_the_state_of_the_last_validation(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    batches = index_batches(12, 4, 100, seed=0)
    number = next(i for i in range(12) if i not in batches[0])
    broken = (DATA[0], DATA[1].at[number].set(jnp.nan))
    first = next(i for i in range(100) if number in batches[i])
    with pytest.raises(
        NonFiniteLoss, match=rf"step {first + 1}: .*square; series: series {number}; gradients of: \.weight"
    ):
        run(start(), 30, data=broken, schedule=Schedule(30, every=first), callbacks=(checkpoints,))
    checkpoints.close()
    kept = Checkpoints(tmp_path).restore(start())
    assert int(kept.step) == first
    clean = run(start(), first).state
    assert_trees_all_equal(kept.model.weight, clean.model.weight)


class Exploding(eqx.Module):
    weight: jax.Array

    def __call__(self, x):
        return eqx.error_if(x @ self.weight, x[0] > 1e6, "Too large. Try something smaller.")


def explode(model, batch, step, key):
    losses = jax.vmap(model)(batch[0]) ** 2
    return BatchLoss(jnp.mean(losses), {}, losses)


def test_step_that_fails_at_run_time_names_its_step_its_example_and_the_cause(tmp_path):
    update = gradient_update(explode, OPTIMISER)
    state = update.init(Exploding(jnp.ones(3)))
    checkpoints = Checkpoints(tmp_path)
    broken = (DATA[0].at[7, 0].set(1e7), DATA[1])
    batches = index_batches(12, 4, 100, seed=0)
    first = next(i for i in range(100) if 7 in batches[i])
    with pytest.raises(FailedStep, match=rf"^step {first + 1}: series 7: too large\.$") as caught:
        run(state, 30, update=update, data=broken, callbacks=(checkpoints,))
    assert caught.value.failure.indices == [7]
    assert checkpoints.step is None


def test_failed_validation_names_its_step():
    def score(model):
        return eqx.filter_jit(explode)(model, (X.at[3, 0].set(1e7), X), 0, None).loss

    update = gradient_update(explode, OPTIMISER)
    with pytest.raises(FailedStep, match=r"^step 10, validation: an example: too large\.$"):
        run(update.init(Exploding(jnp.ones(3))), 30, update=update, validate=score)


def trained(folder, steps=20):
    checkpoints = Checkpoints(folder)
    scores = iter([1.0, 2.0])
    state = run(start(), steps, validate=lambda model: next(scores), callbacks=(checkpoints,)).state
    checkpoints.close()
    return state


def damage(folder):
    """Flip a bit in the middle of the largest file."""
    path = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(folder):
    for path in folder.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:20])


@pytest.mark.parametrize("harm", [damage, truncate])
def test_unreadable_checkpoint_falls_back_to_the_other_and_says_so(tmp_path, harm):
    whole = trained(tmp_path)
    harm(tmp_path / "last" / "20")
    opened = Checkpoints(tmp_path)
    assert_trees_all_equal(opened.restore_best(start().model).weight, whole.best_model.weight)
    assert opened.notes == []
    state = opened.restore(start())
    assert int(state.step) == 10
    assert len(opened.notes) == 1
    assert "last/20 can not be read" in opened.notes[0]
    scores = iter([2.0])
    resumed = run(state, 20, validate=lambda model: next(scores), callbacks=(opened,)).state
    opened.close()
    assert_trees_all_equal(eqx.filter(whole, eqx.is_array), eqx.filter(resumed, eqx.is_array))
    again = Checkpoints(tmp_path)
    assert int(again.restore(start()).step) == 20
    assert again.notes == []
    harm(tmp_path / "best" / "10")
    assert_trees_all_equal(again.restore_best(start().model).weight, whole.best_model.weight)
    harm(tmp_path / "last" / "20")
    with pytest.raises(CheckpointError, match=r"best/10 can not be read .*last/20 can not be read .*remove "):
        again.restore_best(start().model)


def test_full_disk_is_one_line_and_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    state = trained(tmp_path)
    checkpoints = Checkpoints(tmp_path)
    monkeypatch.setattr("nde.train.checkpoint.disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(CheckpointNotWritten, match=r"step 21 could not be written \(0.0 MB are free.*step 20 is kept"):
        run(state, 21, validate=lambda model: 2.0, callbacks=(checkpoints,))
    assert int(checkpoints.restore(start()).step) == 20


def test_write_that_fails_midway_is_one_line_and_leaves_the_last_checkpoint(tmp_path, capfd):
    """Files past a size can not be written, as on a disk that fills up, by many of tensorstore's threads at once."""
    update = gradient_update(wide_squares, OPTIMISER)
    state = update.init({f"w{i}": jnp.asarray(np.random.default_rng(i).standard_normal(300)) for i in range(20)})
    checkpoints = Checkpoints(tmp_path)
    state = run(state, 1, update=update, validate=lambda model: 1.0, callbacks=(checkpoints,)).state
    after = eqx.tree_at(lambda s: s.step, state, state.step + 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(
            CheckpointNotWritten, match=r"^[^\n]*step 2 could not be written \([^\n]*that of step 1 is kept"
        ):
            checkpoints.on_end(after)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert checkpoints.step == 1
    assert_trees_all_equal(eqx.filter(checkpoints.restore(after), eqx.is_array), eqx.filter(state, eqx.is_array))
    checkpoints.on_end(after)
    assert checkpoints.step == 2
    checkpoints.close()
    gc.collect()
    assert capfd.readouterr() == ("", "")


def wide_squares(model, batch, step, key):
    losses = sum(jnp.sum(w**2) for w in model.values()) + 0 * batch[1]
    return BatchLoss(jnp.mean(losses), {}, losses)


class Swapped(eqx.Module):
    bias: jax.Array
    label: str = eqx.field(static=True, default="linear")


def test_checkpoint_of_another_model_is_refused_by_the_leaves_that_differ(tmp_path):
    trained(tmp_path)
    with pytest.raises(CheckpointError, match=r"lacks \.model\.bias.*besides .*\.model\.weight"):
        Checkpoints(tmp_path).restore(UPDATE.init(Swapped(jnp.zeros(3))))
    with pytest.raises(CheckpointError, match=r"\.best_model\.weight float64\[3\] for float64\[4\]"):
        Checkpoints(tmp_path).restore_best(Linear(jnp.zeros(4)))


class Pair(eqx.Module):
    a: jax.Array
    b: jax.Array


class Riap(eqx.Module):
    b: jax.Array
    a: jax.Array


def test_members_that_changed_places_are_restored_to_their_names(tmp_path):
    state = UPDATE.init(Pair(jnp.zeros(3), jnp.ones(3)))
    state = eqx.tree_at(lambda s: (s.step, s.best_score), state, (state.step + 1, jnp.zeros_like(state.best_score)))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.on_end(state)
    found = checkpoints.restore(UPDATE.init(Riap(jnp.full(3, 7.0), jnp.full(3, 7.0))))
    np.testing.assert_array_equal(found.model.a, 0)
    np.testing.assert_array_equal(found.model.b, 1)


def test_validation_that_is_no_number_is_an_error():
    with pytest.raises(NonFiniteLoss, match=r"step 10: the validation score is not a number"):
        run(start(), 30, validate=lambda model: float("nan"))


def test_interrupt_asks_once_and_puts_the_handler_back():
    before = signal.getsignal(signal.SIGINT)
    with Interrupt() as interrupt:
        assert not interrupt.asked
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.asked
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            signal.sigtimedwait([signal.SIGUSR1], 0.2)
    assert signal.getsignal(signal.SIGINT) is before


def test_metrics_are_written_and_later_lines_win(tmp_path):
    path = tmp_path / "metrics.jsonl"
    run(start(), 20, callbacks=(MetricsFile(path, member=1, every=5),))
    run(start(), 20, callbacks=(MetricsFile(path, member=1, every=5),))
    rows = read_metrics(path)
    assert [row["step"] for row in rows if "loss" in row] == [5, 10, 15, 20]
    assert [row["step"] for row in rows if "validation" in row] == [10, 20]
    assert len(path.read_text().splitlines()) == 12
    assert {"member", "seconds", "square", "gradient_norm"} <= set(rows[0])


def test_lines_after_the_step_that_is_gone_on_from_are_cut(tmp_path):
    path = tmp_path / "metrics.jsonl"
    run(start(), 20, callbacks=(MetricsFile(path, every=5),))
    other = '{"member": 1, "step": 20, "seconds": 0.0, "loss": 1.0}'
    path.write_text(path.read_text() + other + "\n" + '{"member": 0, "st')
    MetricsFile(path, every=5, start=10)
    lines = path.read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [5, 10, 10, 20]
    assert lines[-1] == other


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_shows_loss_parts_and_rate(terminal):
    console = Console(force_terminal=terminal, width=200, record=True, file=io.StringIO())
    printer = ProgressPrinter(20, title="member 1/2", every=10, console=console)
    run(start(), 20, callbacks=(printer,))

    text = console.export_text()
    assert "validation" in text
    assert "steps/s" in text or terminal
    assert "square" in text or terminal


def test_schedule_of_the_rate_rises_and_falls():
    parameters = {"w": jnp.ones(2)}
    optimiser = adam_with_warmup(learning_rate=0.1, steps=100, warmup=10)
    state = optimiser.init(parameters)
    sizes = []
    for _ in range(100):
        with jax.numpy_dtype_promotion("standard"):  # an integer count times a float
            change, state = optimiser.update({"w": jnp.ones(2)}, state, parameters)
        sizes.append(float(jnp.abs(change["w"][0])))
    assert np.argmax(sizes) == 10
    assert sizes[0] == 0
    assert sizes[10] == pytest.approx(0.1, rel=1e-3)
    assert sizes[-1] == pytest.approx(0.002, rel=0.05)


def test_schedule_refuses_what_can_not_be():
    with pytest.raises(ValueError, match=r"every must be positive"):
        Schedule(steps=10, every=0)


def test_termination_is_an_interruption_within_the_context_alone():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), terminated_as_interrupted():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before


def valley(model, batch, step, key):
    """Rosenbrock's function, whose minimum, zero at (1, 1), lies in a bent valley."""
    x, y = model
    value = (1 - x) ** 2 + 100 * (y - x**2) ** 2 + 0 * jnp.sum(batch)
    return BatchLoss(value, {}, jnp.broadcast_to(value, batch.shape))


def test_lbfgs_after_adam_finds_the_minimum_that_adam_alone_does_not():
    losses = {}
    for name, optimiser in {"adam": optax.adam(1e-2), "polished": then_lbfgs(optax.adam(1e-2), after=20)}.items():
        update = gradient_update(valley, optimiser)
        state = update.init(jnp.array([-1.2, 1.0]))
        for step in range(60):
            state, report = update.compiled(state, jnp.ones(1), jnp.arange(1), jax.random.key(0))
            if step == 19:
                losses.setdefault("first", []).append(state.model)
        losses[name] = float(valley(state.model, jnp.ones(1), 0, None).loss)
    np.testing.assert_array_equal(*losses["first"])
    assert losses["adam"] > 1
    assert losses["polished"] < 1e-12


def test_lbfgs_compiles_once_and_resumes_where_it_was():
    update = gradient_update(valley, then_lbfgs(optax.adam(1e-2), after=3))
    state, states = update.init(jnp.array([-1.2, 1.0])), []
    for _ in range(8):
        state, _ = update.compiled(state, jnp.ones(1), jnp.arange(1), jax.random.key(0))
        states.append(state)
    again, _ = update.compiled(states[5], jnp.ones(1), jnp.arange(1), jax.random.key(0))
    assert_trees_all_equal(again, states[6])
    with pytest.raises(ValueError, match="needs after >= 0 and memory >= 1, but got -1 and 20"):
        then_lbfgs(optax.adam(1e-2), after=-1)
