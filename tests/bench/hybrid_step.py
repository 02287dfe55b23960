"""A step of a fit, gradient and Adam, beside diffrax and torchdiffeq: a hybrid of one series, and theophylline.

    pip install '.[bench]' && taskset -c 0 python tests/bench/hybrid_step.py --out tests/bench/results/hybrid_step.json

Two fits, each with the same field, weights, start, rows, loss and tolerances (1e-4, 1e-6) in all three, by Tsit5 in nde
and diffrax and by Dormand and Prince's method in torchdiffeq, which has no other of its kind: growth and death of prey
and predator with a network, 2-16-2, for their interaction, one series of 30 rows; and one compartment with absorption,
twelve subjects of eleven rows whose dose is their start, three parameters that all share. torchdiffeq takes the
subjects as one state, with one step size. In one process, on one thread, alternating, medians after warm-up, of whole
steps called from Python; the times are those for which the process had the processor, which other work on the machine
does not lengthen.
"""

import argparse
import json
import time
from importlib.metadata import version
from pathlib import Path

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
import torchdiffeq
from timing import load

import nde

RTOL, ATOL, RATE = 1e-4, 1e-6, 1e-3
WEIGHTS = [np.random.default_rng(0).normal(size=shape).astype(np.float32) * 0.3 for shape in ((16, 2), (2, 16))]
HYBRID = {"first": WEIGHTS[0], "second": WEIGHTS[1], "growth": np.float32(1.3), "death": np.float32(1.8)}
KINETICS = {"ka": np.float32(1.5), "cl": np.float32(0.04), "v": np.float32(0.5)}


def prey(xp, tanh):
    """Prey and predator, of `(2,)`, by the functions of a library."""

    def rates(t, y, p):
        added = p["second"] @ tanh(p["first"] @ y)
        return xp.stack([p["growth"] * y[0], -p["death"] * y[1]]) + added

    return rates


def absorption(xp, axis):
    """Gut and blood, along the last axis."""

    def rates(t, y, p):
        taken = p["ka"] * y[..., 0]
        return xp.stack([-taken, taken - p["cl"] / p["v"] * y[..., 1]], **axis)

    return rates


def problems() -> dict[str, tuple]:
    """Name to fields of jax and torch, parameters, times, starts `(series, state)`."""
    times = np.linspace(0.0, 3.0, 30, dtype=np.float32)
    rows = np.array([0, 0.25, 0.5, 1, 2, 3.5, 5, 7, 9, 12, 24], np.float32)
    doses = np.stack([np.linspace(3.1, 5.9, 12), np.zeros(12)], axis=1).astype(np.float32)
    start = np.array([[0.44, 4.63]], np.float32)
    return {
        "hybrid, one series": (prey(jnp, jnp.tanh), prey(torch, torch.tanh), HYBRID, times, start),
        "theophylline, twelve subjects": (
            absorption(jnp, {"axis": -1}), absorption(torch, {"dim": -1}), KINETICS, rows, doses,
        ),
    }  # fmt: skip


def of_jax(field, parameters, times, starts, values, way: str):
    """A compiled step by nde or diffrax; a call makes one."""
    ts, starts, values = jnp.asarray(times), jnp.asarray(starts), jnp.asarray(values)
    control = diffrax.PIDController(rtol=RTOL, atol=ATOL)

    def solved(p, y0):
        if way == "nde":
            return nde.NeuralODE(lambda t, y, args: field(t, y, args), solver=nde.Tsit5(), controller=control)(
                ts, y0, p
            )
        term, saved = diffrax.ODETerm(field), diffrax.SaveAt(ts=ts)
        return diffrax.diffeqsolve(
            term, diffrax.Tsit5(), ts[0], ts[-1], None, y0, p, stepsize_controller=control, saveat=saved
        ).ys

    optimiser = optax.adam(RATE)

    def error(p):
        # one series needs no vmap
        ys = solved(p, starts[0])[None] if len(starts) == 1 else jax.vmap(lambda y0: solved(p, y0))(starts)
        return jnp.mean((ys - values) ** 2)

    @jax.jit
    def step(p, state):
        loss, slope = jax.value_and_grad(error)(p)
        changes, state = optimiser.update(slope, state)
        return optax.apply_updates(p, changes), state, loss

    kept = [jax.tree.map(jnp.asarray, parameters)]
    kept.append(optimiser.init(kept[0]))

    def call() -> float:
        kept[0], kept[1], loss = step(*kept)
        return float(loss)

    return call


def of_torch(field, parameters, times, starts, values):
    """A step by torchdiffeq; a call makes one."""
    p = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in parameters.items()}
    optimiser = torch.optim.Adam(list(p.values()), lr=RATE)
    ts, single = torch.tensor(times), len(starts) == 1
    y0 = torch.tensor(starts[0] if single else starts)
    target = torch.tensor(values[0] if single else np.swapaxes(values, 0, 1))

    def call() -> float:
        optimiser.zero_grad()
        ys = torchdiffeq.odeint(lambda t, y: field(t, y, p), y0, ts, rtol=RTOL, atol=ATOL, method="dopri5")
        loss = ((ys - target) ** 2).mean()
        loss.backward()
        optimiser.step()
        return float(loss.detach())

    return call


def milliseconds(call, least: float = 0.1) -> float:
    """The processor time of a call, the mean over as many as fill `least` seconds."""
    count, began = 0, time.process_time()
    while (spent := time.process_time() - began) < least or count == 0:
        call()
        count += 1
    return 1e3 * spent / count


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = {}
    for name, (field, other, parameters, times, starts) in problems().items():
        values = np.random.default_rng(1).normal(size=(len(starts), len(times), 2)).astype(np.float32)
        given = (parameters, times, starts, values)
        calls = {"nde": of_jax(field, *given, "nde"), "diffrax": of_jax(field, *given, "diffrax")}
        calls["torchdiffeq"] = of_torch(other, *given)
        losses = {way: call() for way, call in calls.items()}
        assert np.allclose(list(losses.values()), losses["nde"], rtol=1e-3), losses  # one loss in all three
        rounds = [{way: milliseconds(call) for way, call in calls.items()} for _ in range(args.rounds)]
        found[name] = {"ms": {way: float(np.median([one[way] for one in rounds])) for way in calls}, "loss": losses}
        print(name, found[name], flush=True)
    names = ("jax", "diffrax", "torch", "torchdiffeq", "nde")
    result = {"rows": found, "load": load(), "versions": {name: version(name) for name in names}}
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
