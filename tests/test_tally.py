"""What training counts of solves, and what a run shows of it."""

import io
import json
import struct

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rich.console import Console
from tensorboardX.proto.event_pb2 import Event

import nde
from nde.train import batch_loss, fit, gradient_update, MetricsFile, ProgressPrinter, Schedule, Sharing, TensorBoardFile

SIZE = 5
TIMES = np.tile(np.linspace(0, 1, 4, dtype=np.float32), (SIZE, 1)) * np.arange(1, SIZE + 1, dtype=np.float32)[:, None]
VALUES = np.random.default_rng(0).standard_normal((SIZE, 4, 1)).astype(np.float32)
DATA = (TIMES, VALUES, np.ones_like(VALUES), np.arange(SIZE), VALUES[:, 0])


def model(**numerics):
    ode = nde.NeuralODE(nde.MLPField(1, 3, 1, key=jax.random.key(0)), **numerics)
    return nde.ObservedODE(ode, None, nde.GaussianLikelihood(1), observed=(0,))


def counts_of(model, **options):
    update = gradient_update(batch_loss(nde.TrajectoryFit()), optax.sgd(0.1), counted=True, **options)
    _, report = update.compiled(update.init(model), DATA, np.arange(SIZE), jax.random.key(0))
    return {name: float(value) for name, value in report.counts.items()}


@pytest.mark.parametrize("sharing", [None, Sharing(turns=5)])
@pytest.mark.parametrize("numerics", [{}, {"solver": nde.Heun(), "controller": diffrax.ConstantStepSize(), "dt0": 0.1}])
def test_a_step_counts_the_solves_of_its_batch_as_their_own_statistics_say(numerics, sharing):
    whole = model(**numerics)
    stats = [whole.ode.solve(ts, y0).stats for ts, y0 in zip(TIMES, DATA[-1], strict=True)]
    names = {"accepted": "num_accepted_steps", "rejected": "num_rejected_steps", "evaluations": "num_field_evaluations"}
    expected = {"solves": SIZE} | {name: sum(int(s[key]) for s in stats) for name, key in names.items()}
    assert counts_of(whole, sharing=sharing) == expected


def test_counting_leaves_an_update_as_it_is():
    loss = batch_loss(nde.TrajectoryFit())
    found = []
    for counted in (False, True):
        update = gradient_update(loss, optax.adam(0.1), counted=counted)
        state = update.init(model())
        for _ in range(3):
            state, report = update.compiled(state, DATA, np.arange(SIZE), jax.random.key(0))
        found.append((jax.tree.leaves(eqx.filter(state, eqx.is_array)), report.counts))
    for one, other in zip(found[0][0], found[1][0], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)
    assert found[0][1] == {}
    assert set(found[1][1]) == {"solves", "accepted", "rejected", "evaluations"}


def test_solves_within_scans_samples_and_checkpoints_are_counted():
    ode = nde.NeuralODE(nde.MLPField(1, 3, 1, key=jax.random.key(0)), controller=diffrax.ConstantStepSize(), dt0=0.25)

    def loss(ode, batch, step, key):
        @jax.checkpoint
        def piece(y, _):
            return ode(jnp.array([0.0, 1.0]), y)[-1], None

        ends = jax.vmap(lambda y: jax.lax.scan(piece, y, length=3)[0])(batch)
        return nde.train.BatchLoss(jnp.sum(ends), {}, ends[:, 0])

    update = gradient_update(loss, optax.sgd(0.1), counted=True)
    _, report = update.compiled(update.init(ode), jnp.ones((7, 1)), np.arange(7), jax.random.key(0))
    assert float(report.counts["solves"]) == 21
    assert float(report.counts["accepted"]) == 21 * 4


def events_of(path):
    """The scalars of an events file: records of a length, its checksum, an event and its checksum."""
    found, data = {}, path.read_bytes()
    while data:
        (size,) = struct.unpack("<Q", data[:8])
        event = Event.FromString(data[12 : 12 + size])
        found |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
        data = data[16 + size :]
    return found


def test_every_step_says_what_it_took_in_the_file_on_the_screen_and_for_tensorboard(tmp_path):
    update = gradient_update(batch_loss(nde.TrajectoryFit()), optax.sgd(0.1), counted=True)
    screen = io.StringIO()
    callbacks = (
        MetricsFile(tmp_path / "metrics.jsonl", every=2),
        TensorBoardFile(tmp_path / "board", every=2),
        ProgressPrinter(4, every=2, console=Console(file=screen, width=200)),
    )
    fit(
        update, update.init(model()), DATA, [np.arange(SIZE)] * 4, lambda model: 1.5, Schedule(4, 4),
        key=jax.random.key(0), names="abcde", callbacks=callbacks,
    )  # fmt: skip
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4, 4]
    steps = [row for row in rows if "loss" in row]
    (board,) = (tmp_path / "board").iterdir()
    events = events_of(board)
    for row in steps:
        assert row["solves"] == SIZE
        assert row["evaluations"] >= 6 * (row["accepted"] + row["rejected"])
        assert row["seconds_step"] > 0 < row["seconds_data"]
        for name in ("loss", "gradient_norm", "evaluations", "rejected"):
            assert events["train/" + name, row["step"]] == pytest.approx(row[name], rel=1e-6)
    assert events["validation/score", 4] == 1.5
    each = round(steps[-1]["evaluations"] / SIZE)
    assert f"{each} evaluations a solve" in screen.getvalue()
