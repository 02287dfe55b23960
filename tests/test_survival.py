"""Training that goes on past what fails: the update of the others, what is told, and where it ends."""

import json
from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import polars as pl
import pytest
from typer.testing import CliRunner

import nde
from nde.cli import app
from nde.runs import reproduce, RunError
from nde.train import (
    BatchLoss,
    Checkpoints,
    FailedStep,
    fit,
    gradient_update,
    MetricsFile,
    NonFiniteLoss,
    read_metrics,
    Schedule,
    surviving,
    times_left_out,
    with_setbacks,
)

X = jnp.asarray(np.random.default_rng(0).standard_normal((6, 3)))
NAMES = [f"s{i}" for i in range(6)]
KINDS = ("error", "loss", "gradient")


def failing_loss(kind):
    """Squares, of which an example with a first entry above 1e6 fails."""

    def each(weight, x):
        bad, inside = x[0] > 1e6, x @ weight - 1.0
        if kind == "error":
            return eqx.error_if(inside, bad, "Too large.") ** 2
        if kind == "loss":
            return jnp.where(bad, jnp.nan, inside**2)
        return inside**2 + 0 * jnp.sqrt(jnp.where(bad, inside - inside, 1.0))  # its slope at zero is infinite

    def loss(model, batch, step, key):
        losses = jax.vmap(lambda x: each(model, x))(batch)
        return BatchLoss(jnp.mean(losses), {}, losses)

    return loss


class Reports:
    """Keeps what each step left out, and what each validation found."""

    def __init__(self):
        self.out, self.scores = [], []

    def on_step(self, step, report):
        self.out.append(dict(report.left_out))

    def on_validation(self, state, score):
        self.scores.append(score)

    def on_end(self, state):
        pass

    on_failure = on_end


def run(update, batches, data=X, *, every=100, failed="leave_out", validate=lambda model: 0.0, start=None, more=()):
    reports = Reports()
    state = update.init(jnp.zeros(3) if start is None else start)
    outcome = fit(
        update, state, data, batches, validate, Schedule(len(batches), every), key=jax.random.key(0), names=NAMES,
        callbacks=(reports, *more), failed=failed,
    )  # fmt: skip
    return outcome.state, reports


@pytest.mark.parametrize("kind", KINDS)
def test_updates_are_those_of_the_batches_without_what_fails(kind, tmp_path):
    update = gradient_update(failing_loss(kind), optax.adam(0.1))
    batches, broken = [np.arange(6), np.arange(1, 5), np.arange(6)], X.at[2, 0].set(1e7)
    log = MetricsFile(tmp_path / "metrics.jsonl", every=10)
    state, reports = run(update, batches, broken, more=(log,))
    clean, _ = run(update, [b[b != 2] for b in batches], failed="stop")
    np.testing.assert_array_equal(np.asarray(state.model), np.asarray(clean.model))
    cause = "too large" if kind == "error" else "its loss or gradient is not finite"
    assert reports.out == [{"s2": cause}] * 3
    assert times_left_out(read_metrics(tmp_path / "metrics.jsonl"), 0) == {"s2": 3}


def test_what_failed_is_tried_again_after_a_validation():
    def loss(model, batch, step, key):  # s0 can be had from step 3 on
        losses = jnp.where((batch[:, 0] == X[0, 0]) & (step < 3), jnp.nan, (batch @ model - 1.0) ** 2)
        return BatchLoss(jnp.mean(losses), {}, losses)

    _, reports = run(gradient_update(loss, optax.sgd(0.1)), [np.arange(6)] * 8, every=5)
    assert [bool(out) for out in reports.out] == [True] * 5 + [False] * 3


def test_batch_of_nothing_but_failures_is_skipped():
    update = gradient_update(failing_loss("error"), optax.adam(0.1))
    broken = X.at[2, 0].set(1e7)
    state, reports = run(update, [np.array([i]) for i in (2, 0, 2, 1)], broken)
    clean, _ = run(update, [np.array([i]) for i in (0, 1)], failed="stop")
    np.testing.assert_array_equal(np.asarray(state.model), np.asarray(clean.model))
    assert int(state.step) == 4
    assert [list(out) for out in reports.out] == [["s2"], [], ["s2"], []]


@pytest.mark.parametrize(("kind", "error"), [("error", FailedStep), ("loss", NonFiniteLoss)])
def test_failure_of_all_goes_back_to_the_last_validation_and_ends_when_that_does_not_help(kind, error):
    def loss(model, batch, step, key):  # it falls for ever, and fails below -2.5; each step goes down by one
        bad = model < -2.5
        value = eqx.error_if(model, bad, "Too low.") if kind == "error" else jnp.where(bad, jnp.nan, model)
        return BatchLoss(value, {}, jnp.full(len(batch), value))

    seen = []
    update = gradient_update(loss, optax.sgd(1.0))
    with pytest.raises(error, match="^step 8: "):  # each time back it goes half as fast
        run(update, [np.arange(6)] * 20, every=2, start=jnp.zeros(()), validate=lambda m: seen.append(float(m)) or 0.0)
    assert seen == [-2.0, -2.5, -2.75]  # from -3 back to -2, then to -2.5, from -2.75 to -2.5 again


def test_training_stopped_anywhere_among_failures_goes_the_same_way_when_it_is_resumed(tmp_path):
    def loss(model, batch, step, key):  # s0 fails until step 5, and for good below -5.6; the rest falls
        losses = jnp.where((batch[:, 0] == X[0, 0]) & (step < 5), jnp.nan, model + 0.1 * batch[:, 1])
        value = jnp.where(model < -5.6, jnp.nan, jnp.mean(losses))
        return BatchLoss(value, {}, losses)

    batches = [np.arange(6) if i % 2 else np.array([0, 3]) for i in range(14)]
    update = gradient_update(loss, optax.sgd(1.0))
    options = {"key": jax.random.key(0), "names": NAMES, "failed": "leave_out"}
    schedule, begin, ways = Schedule(14, 4), with_setbacks(update.init(jnp.zeros(())), 6), []

    def go(state, callbacks=(), stop=lambda: False):
        return fit(update, state, X, batches, float, schedule, callbacks=callbacks, stop=stop, **options).state

    whole = go(update.init(jnp.zeros(())), [Reports()])
    assert float(whole.rate) in (0.25, 0.5)
    for end in range(1, 14):
        steps, checkpoints, again = iter(range(1, 20)), Checkpoints(tmp_path / str(end)), Reports()
        go(update.init(jnp.zeros(())), [checkpoints], lambda: next(steps) == end)  # noqa: B023  (called at once)
        state = go(checkpoints.restore(begin), [checkpoints, again])
        checkpoints.close()
        for name in ("model", "rate", "best_model", "best_score", "best_step"):
            np.testing.assert_array_equal(np.asarray(getattr(state, name)), np.asarray(getattr(whole, name)))
        ways.append([list(out) for out in again.out])
    assert ways[2] == ways[0][2:]  # what is left out is so after the stop


def test_training_that_begins_to_forgive_goes_back_to_where_it_was_resumed(tmp_path):
    """A checkpoint of a training that stops at failures remembers no state to go back to: it is that one."""
    state = gradient_update(failing_loss("loss"), optax.sgd(0.1)).init(jnp.zeros(3))
    later = replace(state, step=jnp.asarray(10, jnp.int32), model=jnp.full(3, 2.0))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.keep(later)
    found = checkpoints.restore(with_setbacks(state, 6))
    checkpoints.close()
    assert int(found.setbacks.good_step) == 10
    np.testing.assert_array_equal(np.asarray(found.setbacks.good_model), np.asarray(later.model))
    assert float(found.rate) == 1.0


def test_no_training_goes_back_to_a_state_whose_validation_failed():
    def loss(model, batch, step, key):  # as above, to -4.5
        value = jnp.where(model < -4.5, jnp.nan, model)
        return BatchLoss(value, {}, jnp.full(len(batch), value))

    seen = []

    def score(model):
        seen.append(float(model))
        return float(eqx.filter_jit(lambda m: eqx.error_if(m, m < -3.5, "Too low."))(model))

    with pytest.raises(NonFiniteLoss):
        run(gradient_update(loss, optax.sgd(1.0)), [np.arange(6)] * 40, every=2, start=jnp.zeros(()), validate=score)
    assert seen[:3] == [-2.0, -4.0, -2.5]  # half a step from -2


def test_each_example_is_named_with_its_own_cause():
    def loss(model, batch, step, key):
        losses = jax.vmap(lambda x: eqx.error_if(x @ model - 1.0, x[0] > 1e6, "Too large.") ** 2)(batch)
        return BatchLoss(jnp.mean(losses), {}, losses)

    broken = X.at[2, 0].set(1e7).at[4, 1].set(jnp.nan)
    _, reports = run(gradient_update(loss, optax.adam(0.1)), [np.arange(6)], broken)
    assert reports.out == [{"s2": "too large", "s4": "its loss or gradient is not finite"}]


def test_failed_validation_is_a_bad_one_unless_it_is_the_only():
    def score(model):
        return float(eqx.filter_jit(lambda m: eqx.error_if(m, m[0] < 0.5, "Too small."))(model)[0])

    update = gradient_update(lambda m, b, s, k: BatchLoss(-m[0], {}, b[:, 0] * 0.0), optax.sgd(0.2))
    state, reports = run(update, [np.arange(6)] * 4, every=2, validate=score)
    assert reports.scores[0] == np.inf
    assert int(state.best_step) == 4
    with pytest.raises(FailedStep, match=r"^step 2, validation: an example: too small\.$"):
        run(update, [np.arange(6)] * 2, every=2, validate=score)


def test_rows_that_fail_are_filled_by_one_that_does_not():
    solve = eqx.filter_jit(lambda rows: eqx.error_if(rows, jnp.any(rows == 2), "Two."))
    values, failed = surviving(lambda rows: solve(jnp.asarray(rows)), np.arange(4), "abcd")
    assert (np.asarray(values).tolist(), failed) == ([0, 1, 0, 3], [2])


def test_equations_are_found_of_networks_though_a_series_can_not_be_solved(tmp_path):
    """A network beside y' = y²: of s9, which blows up within what is fitted, it has no solution to regress on."""
    times = np.arange(0.0, 2.0, 0.25)
    rows = [(f"s{i}", t, min(i / (6 - i * t), 5.0) if i * t < 6 else 5.0) for i in (1, 2, 9) for t in times]
    pl.DataFrame(rows, schema=["id", "t", "x"], orient="row").write_csv(tmp_path / "d.csv")
    known = nde.KnownField(lambda t, y, p: p.rate * y**2, {"rate": nde.Parameter(1.0)}, states=("x",))
    config = {
        "task": "dynamics",
        "data": {"path": str(tmp_path / "d.csv"), "id": "id", "time": "t", "test_after": 1.0},
        "observe": {"start": "first_row"},
        "model": [{"name": "hybrid", "known": known, "width": 4}],
        "solver": {"max_steps": 60},
        "train": {"steps": 2, "validate_every": 2},
        "evaluate": {"samples": 20, "closed_form": {"degree": 1}},
    }
    evaluation = nde.fit(config, out=tmp_path / "run", progress=False).evaluate()
    assert any("added to the rate of x: " in line for line in evaluation.lines())
    assert any("could not solve s9; no method is scored on it" in line for line in evaluation.lines())


def test_run_names_and_counts_the_series_that_it_can_not_solve(tmp_path):
    # y' = y² from i / 6 blows up at 6 / i: s9 within what is fitted, s4 in what is held out.
    times, rows = np.arange(0.0, 2.0, 0.25), []
    for i in (1, 2, 4, 9):
        rows += [(f"s{i}", t, min(i / (6 - i * t), 5.0) if i * t < 6 else 5.0) for t in times]
    pl.DataFrame(rows, schema=["id", "t", "x"], orient="row").write_csv(tmp_path / "d.csv")
    (tmp_path / "field.py").write_text(
        "STATES, PARAMETERS = ('x',), {'rate': 1.0}\n\n\ndef field(t, y, p):\n    return [p.rate * y[0] ** 2]\n"
    )
    (tmp_path / "c.toml").write_text(
        f'task = "dynamics"\n[data]\npath = "{tmp_path / "d.csv"}"\nid = "id"\ntime = "t"\ntest_after = 1.0\n'
        f'[observe]\nstart = "first_row"\n[[model]]\nname = "known"\nknown = "{tmp_path}/field.py:field"\n'
        "[solver]\nmax_steps = 60\n[train]\nsteps = 4\nvalidate_every = 2\nwarmup = 0\nlog_every = 1\n"
        "[evaluate]\nsamples = 40\n"
    )
    folder = tmp_path / "run"
    result = CliRunner().invoke(app, ["fit", str(tmp_path / "c.toml"), "--out", str(folder)])
    assert result.exit_code == 0, result.output
    assert "left out of the loss: s9 (the maximum number of solver steps was reached" in result.output
    assert times_left_out(read_metrics(folder / "metrics.jsonl"), 0) == {"s9": 4}
    found = json.loads((folder / "results.json").read_text())
    assert found["values_scored"] == 2 * 3
    assert "known system: left out of the training, of 4 steps: s9 at 4" in found["notes"]
    assert "known system: could not solve s4, s9; no method is scored on it" in found["notes"]
    with pytest.raises(ValueError, match=r"no \[\[model\]\] learns a term; hybrid and neural_ode do"):
        nde.open_run(folder).evaluate(**{"closed_form.degree": 1})
    stop = ["fit", str(tmp_path / "c.toml"), "train.failed=stop", "--out", str(tmp_path / "stopped")]
    said = CliRunner().invoke(app, stop).stderr
    assert "step 1, training: series s9 could not be solved" in said
    kept = tmp_path / "stopped" / "failure-1"
    assert said.endswith(f"It is made again by: python {kept / 'reproduce.py'}\n")
    assert sorted(json.loads((kept / "failure.json").read_text())["examples"]) == ["s1", "s2", "s4", "s9"]
    with pytest.raises(eqx.EquinoxRuntimeError, match="maximum number of solver steps"):
        reproduce(kept)
    with pytest.raises(RunError, match=r"stopped: no failure is kept here \(no failure\.json\)"):
        reproduce(kept.parent)
