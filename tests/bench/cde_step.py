"""A training step of a neural CDE: loss and gradient of a batch, one midpoint step from row to row, in one process.

    pip install '.[bench]' torchcde && python tests/bench/cde_step.py [--rounds 15] [--rows 100,500,2000] [--out …]

Two channels (a path of five), a state of 32, a field of one hidden layer of 64 softplus units and a final tanh, batch
32, float32, cross-entropy of three classes. Each way is timed right after the scan whose steps are recomputed: medians
in ms on the clock, and of all processors; `over_scan` and `processors_over_scan` are the medians of the ratios of the
two. `differs` is the largest difference of the gradient from the scan's, over the largest entry of its leaf.

scan, recomputed   by hand: a `lax.scan` over the path's derivatives at the stages times the step, which lie ready, with
                   the inside of each step recomputed on the way back (`jax.checkpoint`)
scan, stored       the same without `jax.checkpoint`
nde.diffeqsolve    `ControlTerm(field, path).to_ode()` with `StepTo(times)`, from a path that lies ready
nde, KnotTerm      `KnotTerm(field, path)`, likewise
NeuralCDE          `steps_per_row=1`, from times, values and mask on: the path is made in each call
nde fit            what a training step of `nde fit` differentiates, likewise, of the model that a config builds: its
                   field scales the channels of the path, and its first state comes from one more layer
diffrax            as `nde.diffeqsolve`, with its default adjoint
torchcde           `cdeint` with torchdiffeq's midpoint, backward through its operations, from a path that lies ready
"""

import argparse
import importlib.metadata
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from peers_solves import installed, LeftOut
from timing import load, processor

import nde
from nde.config import MODELS, SeriesFacts, SolverConfig
from nde.models import series_path
from nde.objectives import classification_loss
from nde.train import batch_loss

SCAN = "scan, recomputed"
CHANNELS, STATE, WIDTH, CLASSES, BATCH = 2, 32, 64, 3, 32
PATH = 1 + 2 * CHANNELS
SLOW_ROWS, SLOW_ROUNDS = 500, 3
"""From so many rows on the slow peers run so many rounds alone."""


class Series(NamedTuple):
    """A batch: times `(batch, rows)`, values and mask `(batch, rows, channels)`, a label each."""

    times: jax.Array
    values: jax.Array
    mask: jax.Array
    labels: jax.Array


class Way(NamedTuple):
    """One row of the table: a loss `(model, *arrays)`, its arrays, and the model."""

    loss: Callable[..., jax.Array]
    arrays: tuple[Any, ...]
    model: Any


def series(rows: int, seed: int = 0) -> Series:
    """Random walks on uneven times: one row of times for all, since torchcde has no others.

    The path's slope jumps nowhere, so that on which side of a row a stage reads it makes no difference.
    """
    rng = np.random.default_rng(seed)
    times = (np.arange(rows) + rng.uniform(-0.15, 0.15, size=rows)) / rows
    values = np.cumsum(rng.normal(size=(BATCH, rows, CHANNELS)), axis=1) / rows**0.5
    arrays = np.broadcast_to(times, (BATCH, rows)), values
    labels = rng.integers(CLASSES, size=BATCH)
    return Series(*(jnp.asarray(x, jnp.float32) for x in arrays), jnp.ones(values.shape, bool), jnp.asarray(labels))


def neural_cde() -> nde.NeuralCDE:
    """The architecture of every row but that of `nde fit`."""
    keys = jax.random.split(jax.random.key(0), 3)
    field = nde.fields.CDEField(STATE, PATH, WIDTH, 1, key=keys[1])
    start, readout = eqx.nn.Linear(PATH, STATE, key=keys[0]), eqx.nn.Linear(STATE, CLASSES, key=keys[2])
    return nde.NeuralCDE(start, field, readout, solver=nde.Midpoint(), steps_per_row=1)


def cross_entropy(logits: jax.Array, label: jax.Array) -> jax.Array:
    return -jax.nn.log_softmax(logits)[label]


def mean_of(one: Callable) -> Callable:
    """The mean over a batch."""
    return lambda model, *arrays: jnp.mean(jax.vmap(partial(one, model))(*arrays))


def paths(data: Series) -> Any:
    """The path of each series."""
    return jax.jit(jax.vmap(partial(series_path, scaled=True)))(*data[:3])


def by_scan(data: Series, wrap: Callable) -> Way:
    """By hand."""
    path = paths(data)

    def at_stages(path, ts):
        middles = 0.5 * (ts[1:] + ts[:-1])
        slopes = [jax.vmap(partial(path.derivative, left=False))(ts[:-1]), jax.vmap(path.derivative)(middles)]
        return tuple((ts[1:] - ts[:-1])[:, None] * slope for slope in slopes)

    increments = jax.jit(jax.vmap(at_stages))(path, data.times)
    first = jax.vmap(lambda path: path.evaluate(path.t0))(path)

    def one(model, first, increments, label):
        def step(y, dx):
            middle = y + 0.5 * (model.field(0.0, y) @ dx[0])
            return y + model.field(0.0, middle) @ dx[1], None

        y, _ = jax.lax.scan(wrap(step), model.initial(first), increments)
        return cross_entropy(model.readout(y), label)

    return Way(mean_of(one), (first, increments, data.labels), neural_cde())


def by_library(library: Any, data: Series) -> Way:
    """diffrax, and nde's engine."""
    steps = data.times.shape[1] - 1

    def one(model, path, ts, label):
        term, y0 = diffrax.ControlTerm(model.field, path).to_ode(), model.initial(path.evaluate(ts[0]))
        grid = diffrax.StepTo(ts)
        solution = library.diffeqsolve(
            term, diffrax.Midpoint(), ts[0], ts[-1], None, y0, stepsize_controller=grid, max_steps=steps
        )
        return cross_entropy(model.readout(solution.ys[-1]), label)

    return Way(mean_of(one), (paths(data), data.times, data.labels), neural_cde())


def by_knots(data: Series) -> Way:
    """From knot to knot of a path that lies ready."""
    steps = data.times.shape[1] - 1

    def one(model, path, label):
        term, y0 = nde.terms.KnotTerm(model.field, path), model.initial(path.evaluate(path.t0))
        ends = np.float32(0), np.float32(steps)
        solution = nde.diffeqsolve(term, diffrax.Midpoint(), *ends, 1.0, y0, max_steps=steps)
        return cross_entropy(model.readout(solution.ys[-1]), label)

    return Way(mean_of(one), (paths(data), data.labels), neural_cde())


def by_model(data: Series) -> Way:
    """`NeuralCDE` as it is called."""
    return Way(mean_of(lambda model, *x: cross_entropy(model(*x[:3]), x[3])), data, neural_cde())


def by_fit(data: Series) -> Way:
    """The loss of `nde fit`."""
    rows = data.times.shape[1]
    section = MODELS["neural_cde"](state_size=STATE, width=WIDTH, depth=1)
    facts = SeriesFacts(CHANNELS, 1.0, 1.0, rows, CLASSES)
    model = section.build(facts, SolverConfig(name="midpoint", steps_per_row=1), key=jax.random.key(0))
    loss = batch_loss(classification_loss)
    return Way(lambda model, *x: loss(model, x, jnp.asarray(0), jax.random.key(0)).loss, data, model)


def compiled(way: Way) -> Callable[[], Any]:
    """Loss and gradient, as a call without arguments."""
    weights, rest = eqx.partition(way.model, eqx.is_inexact_array)
    call = jax.jit(jax.value_and_grad(lambda weights, *x: way.loss(eqx.combine(weights, rest), *x)))
    return lambda: jax.block_until_ready(call(weights, *way.arrays))


def by_torchcde(data: Series) -> Callable[[], Any]:
    """The same weights in torch; loss and gradient as a call without arguments."""
    torchcde, torch = installed("torchcde"), installed("torch")
    model, path = neural_cde(), paths(data)
    cubic, square, slope, values = path.coeffs
    stacked = torch.tensor(np.concatenate([values, slope, 2 * square, 3 * cubic], axis=-1))
    times, labels = torch.tensor(np.array(data.times[0])), torch.tensor(np.array(data.labels)).long()
    control = torchcde.CubicSpline(stacked, times)
    layers = [model.initial, *model.field.network.layers, model.readout]
    weights = [torch.tensor(np.array(x), requires_grad=True) for each in layers for x in (each.weight, each.bias)]
    linear = torch.nn.functional.linear

    def field(t, z):
        hidden = torch.nn.functional.softplus(linear(z, *weights[2:4]))
        return torch.tanh(linear(hidden, *weights[4:6])).reshape(BATCH, STATE, PATH)

    def call():
        z0 = linear(control.evaluate(times[0]), *weights[:2])
        z = torchcde.cdeint(control, field, z0, times, adjoint=False, method="midpoint")[:, -1]
        loss = torch.nn.functional.cross_entropy(linear(z, *weights[6:8]), labels)
        return loss, torch.autograd.grad(loss, weights)

    return call


def medians(calls: Mapping[str, Callable], rounds: int, slow: set[str]) -> dict[str, dict[str, float]]:
    """Median milliseconds of each, and its ratio to the scan that ran just before it: on the clock, and of processors.

    The scan next to it meets the same machine; a call of a peer, or one that writes much memory, is a bad neighbour.
    """
    found = {}
    for name, call in calls.items():
        pairs = []
        for _ in range(SLOW_ROUNDS if name in slow else rounds):
            pairs.append((_taken(calls[SCAN]), _taken(call)))
        clock, processors = (1e3 * statistics.median(own[kind] for _, own in pairs) for kind in (0, 1))
        over = [statistics.median(own[kind] / scan[kind] for scan, own in pairs) for kind in (0, 1)]
        found[name] = {"ms": float(f"{clock:.4g}"), "processors_ms": float(f"{processors:.4g}")}
        found[name] |= {"over_scan": round(over[0], 3), "processors_over_scan": round(over[1], 3)}
    return found


def _taken(call: Callable) -> tuple[float, float]:
    clock, processors = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - clock, time.process_time() - processors


def measure(rows: int, rounds: int) -> dict[str, Any]:
    """One table."""
    data = series(rows)
    ways = {
        SCAN: by_scan(data, partial(jax.checkpoint, prevent_cse=False)),
        "scan, stored": by_scan(data, lambda step: step),
        "nde.diffeqsolve": by_library(nde, data),
        "nde, KnotTerm": by_knots(data),
        "NeuralCDE": by_model(data),
        "nde fit": by_fit(data),
        "diffrax": by_library(diffrax, data),
    }
    found: dict[str, Any] = {}
    calls: dict[str, Callable] = {name: compiled(way) for name, way in ways.items()}
    try:
        calls["torchcde"] = by_torchcde(data)
    except LeftOut as reason:
        found["torchcde"] = {"left_out": str(reason)}
    reference: list[np.ndarray] = []
    for name, call in calls.items():
        start = time.perf_counter()
        leaves = [np.asarray(x) for x in jax.tree.leaves(call()[1])]
        reference = reference or leaves
        found[name] = {"first_call_s": round(time.perf_counter() - start, 2)}
        if name != "nde fit":
            apart = [float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(leaves, reference, strict=True)]
            found[name]["differs"] = float(f"{max(apart):.1e}")
    slow = {"diffrax", "torchcde"} if rows >= SLOW_ROWS else set()
    for name, times in medians(calls, rounds, slow).items():
        found[name] |= times
    return found


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--rows", default="100,500,2000")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "cde_step.json")
    options = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # else torch's threads spin while the next is timed
    stored = json.loads(options.out.read_text()) if options.out.exists() else {"rows": {}}
    packages = ("jax", "diffrax", "equinox", "torch", "torchcde", "torchdiffeq")
    known = {each.metadata["Name"]: each.version for each in importlib.metadata.distributions()}
    stored["machine"] = processor() | {name: known[name] for name in packages if name in known}
    for rows in map(int, options.rows.split(",")):
        before = load()
        found = measure(rows, options.rounds)
        stored["rows"][str(rows)] = {"load": [before, load()], "rounds": options.rounds, "ways": found}
        for name, each in found.items():
            print(rows, name, json.dumps(each), flush=True)
        options.out.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
