"""The training loop, on a model that knows no differential equation."""

import io
import os
import signal

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
    Checkpoints,
    fit,
    Interrupt,
    make_step,
    MetricsFile,
    NonFiniteLoss,
    ProgressPrinter,
    read_metrics,
    Schedule,
    TrainState,
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
    return TrainState.create(Linear(jnp.zeros(3)), OPTIMISER)


def validate(model):
    return jnp.mean((DATA[0] @ model.weight - DATA[1]) ** 2)


UPDATE = make_step(squares, OPTIMISER)


def run(state, steps, *, update=UPDATE, schedule=None, validate=validate, observers=(), stop=lambda: False, data=DATA):
    return fit(
        update, state, data, index_batches(12, 4, 100, seed=0), validate, schedule or Schedule(steps, every=10),
        key=jax.random.key(0), names=NAMES, observers=observers, stop=stop,
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
    run(TrainState.create(Linear(weak), OPTIMISER), 5, update=make_step(counted, OPTIMISER))


def test_resumed_training_is_bit_identical(tmp_path):
    whole = run(start(), 30).state
    checkpoints = Checkpoints(tmp_path)
    steps = iter(range(100))
    outcome = run(start(), 30, observers=(checkpoints,), stop=lambda: next(steps) == 16)
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
    state = run(start(), 30, validate=score, observers=(checkpoints,)).state
    checkpoints.close()
    opened = Checkpoints(tmp_path)
    best = opened.restore_best(Linear(jnp.zeros(3)))
    assert_trees_all_equal(best.weight, models[1].weight)
    assert int(state.best_step) == 20
    assert int(opened.restore(start()).step) == 30
    assert sorted(p.name for p in (tmp_path / "best").iterdir() if p.name.isdigit()) == ["20"]


def test_training_without_checkpoints_restores_nothing(tmp_path):
    assert Checkpoints(tmp_path).restore(start()) is None
    assert Checkpoints(tmp_path).restore_best(start().model) is None


def test_patience_stops_early():
    scores = iter([1.0, 2.0, 2.0, 0.0])
    outcome = run(start(), 90, schedule=Schedule(90, every=10, patience=2), validate=lambda model: next(scores))
    assert (outcome.reason, int(outcome.state.step), int(outcome.state.best_step)) == ("no improvement", 30, 10)


def test_non_finite_loss_stops_with_its_culprits_and_keeps_the_state(tmp_path):
    broken = (DATA[0], DATA[1].at[7].set(jnp.nan))
    checkpoints = Checkpoints(tmp_path)
    batches = index_batches(12, 4, 100, seed=0)
    first = next(i for i in range(100) if 7 in batches[i])
    with pytest.raises(NonFiniteLoss, match=rf"step {first + 1}: .*square; series: series 7; gradients of: \.weight"):
        run(start(), 30, data=broken, observers=(checkpoints,))
    checkpoints.close()
    kept = Checkpoints(tmp_path).restore(start())
    assert int(kept.step) == first
    clean = run(start(), first).state
    assert_trees_all_equal(kept.model.weight, clean.model.weight)


def test_validation_that_is_no_number_is_an_error():
    with pytest.raises(ValueError, match=r"step 10: the validation score is not a number"):
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
    run(start(), 20, observers=(MetricsFile(path, member=1, every=5),))
    run(start(), 20, observers=(MetricsFile(path, member=1, every=5),))
    rows = read_metrics(path)
    assert [row["step"] for row in rows if "loss" in row] == [5, 10, 15, 20]
    assert [row["step"] for row in rows if "validation" in row] == [10, 20]
    assert len(path.read_text().splitlines()) == 12
    assert {"member", "seconds", "square", "gradient_norm"} <= set(rows[0])


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_shows_loss_parts_and_rate(terminal):
    console = Console(force_terminal=terminal, width=200, record=True, file=io.StringIO())
    printer = ProgressPrinter(20, title="member 1/2", every=10, console=console)
    run(start(), 20, observers=(printer,))

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
        change, state = optimiser.update({"w": jnp.ones(2)}, state, parameters)
        sizes.append(float(jnp.abs(change["w"][0])))
    assert np.argmax(sizes) == 10
    assert sizes[0] == 0
    assert sizes[10] == pytest.approx(0.1, rel=1e-3)
    assert sizes[-1] == pytest.approx(0.002, rel=0.05)


def test_schedule_refuses_what_can_not_be():
    with pytest.raises(ValueError, match=r"every must be positive"):
        Schedule(steps=10, every=0)
