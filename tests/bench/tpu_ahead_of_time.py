"""Solves and their gradients compile for a TPU, ahead of time and without one.

    pip install '.[tpu]'
    TPU_SKIP_MDS_QUERY=1 JAX_PLATFORMS=cpu python tests/bench/tpu_ahead_of_time.py

libtpu, from PyPI, holds the compiler; a topology stands for the machine, here a v5e host of 2 x 2 chips, over which the
batch is split and the parameters are not. Stored are, for each function, the compiler's own analyses: of memory, in
bytes a chip; of cost, in floating-point operations and bytes a chip, where a loop's body counts once and not as often
as it runs; and the collectives, of which those in loops are the price of splitting a batch over chips: whether any
example goes on, what was saved, and the sum of a shared parameter's gradient, each once a step. That it compiles is
the result: nothing is run, and no time of a run follows. A minute.
"""

import argparse
import json
import re
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import diffrax
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from diffrax import ControlTerm, MultiTerm, ODETerm, PIDController, SaveAt
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import nde

TOPOLOGY = "v5e:2x2"
STATE, BATCH = 8, 1024
F32 = np.float32
PID = PIDController(rtol=1e-3, atol=1e-3)
TS = np.linspace(0, 1, 9, dtype=F32)
COLLECTIVES = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"
KEPT_MEMORY = ("argument", "output", "temp", "generated_code", "alias", "peak_memory")


def drift(t, y, w):
    """A field of one layer."""
    return jnp.tanh(w @ y)


def ode(w, y0):
    """Tsit5 with adaptive steps, saved at times."""
    saveat = SaveAt(ts=jnp.asarray(TS))
    return nde.diffeqsolve(
        ODETerm(drift),
        diffrax.Tsit5(),
        F32(0),
        F32(1),
        None,
        y0,
        w,
        saveat=saveat,
        stepsize_controller=PID,
        max_steps=256,
        throw=False,
    ).ys


def sde(w, y0):
    """Diagonal noise at constant steps."""
    path = nde.BrownianGrid(0.0, 1.0, 32, jax.ShapeDtypeStruct((STATE,), jnp.float32), jr.key(0))
    terms = MultiTerm(ODETerm(drift), ControlTerm(lambda t, y, w: 0.1 * jnp.diag(y), path))
    saveat = SaveAt(ts=jnp.asarray(TS))
    return nde.diffeqsolve(terms, diffrax.EulerHeun(), 0.0, 1.0, 1 / 32, y0, w, saveat=saveat, throw=False).ys


def cde(w, y0):
    """Driven by a path of one channel, linear between its points, with adaptive steps."""
    path = diffrax.LinearInterpolation(jnp.asarray(TS), jnp.outer(TS, y0[:1]))
    term = ControlTerm(lambda t, y, w: jnp.tanh(w @ y)[:, None], path)
    return nde.diffeqsolve(
        term, diffrax.Heun(), F32(0), F32(1), None, y0, w, stepsize_controller=PID, max_steps=256, throw=False
    ).ys


def loss(solve):
    """The mean square over a batch, of parameters that its examples share."""
    return lambda w, ys: jnp.mean(jax.vmap(solve, (None, 0))(w, ys) ** 2)


def collectives_in_loops(text: str) -> list[str]:
    """What JAX operations inside a loop's body or condition became collectives."""
    lines = [line for line in text.splitlines() if re.search(rf" ({COLLECTIVES})(-start)?\(", line)]
    names = [name for line in lines for name in re.findall(r'op_name="([^"]*)"', line)]
    return sorted(name[name.index("while/") :] for name in names if "while/" in name)


def compiled(function, mesh: Mesh) -> dict:
    """What the compiler says of a function of parameters and a batch that is split over a mesh."""
    whole, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("batch"))
    arguments = (
        jax.ShapeDtypeStruct((STATE, STATE), F32, sharding=whole),
        jax.ShapeDtypeStruct((BATCH, STATE), F32, sharding=split),
    )
    began = time.perf_counter()
    lowered = jax.jit(function).trace(*arguments).lower(lowering_platforms=("tpu",))
    binary = lowered.compile()
    seconds = time.perf_counter() - began
    text, memory, cost = binary.as_text() or "", binary.memory_analysis(), binary.cost_analysis() or {}
    sizes = {name: getattr(memory, f"{name}_size_in_bytes", None) for name in KEPT_MEMORY[:-1]}
    return {
        "seconds_to_compile": round(seconds, 1),
        "memory_analysis_bytes": sizes | {"peak_memory": getattr(memory, "peak_memory_in_bytes", None)},
        "cost_analysis": {k: cost[k] for k in ("flops", "bytes accessed", "transcendentals") if k in cost},
        "host_callbacks": len(re.findall("callback|host_compute", text)),
        "collectives": dict(sorted(Counter(re.findall(rf" ({COLLECTIVES})(?:-start)?\(", text)).items())),
        "collectives_in_loops": collectives_in_loops(text),
        "loops": len(re.findall(r" while\(", text)),
    }


def main():
    """Compile all, print and store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "tpu_ahead_of_time.json")
    out = parser.parse_args().out
    devices = topologies.get_topology_desc(TOPOLOGY, "tpu").devices
    mesh = Mesh(np.array(devices), ("batch",))
    result = {
        "topology": TOPOLOGY,
        "device_kind": devices[0].device_kind,
        "devices": len(devices),
        "state": STATE,
        "batch": BATCH,
        "versions": {name: version(name) for name in ("jax", "jaxlib", "libtpu", "diffrax", "equinox")},
        "functions": {},
    }
    for solve in (ode, sde, cde):
        for kind, function in (("value", loss(solve)), ("value_and_grad", jax.value_and_grad(loss(solve), (0, 1)))):
            result["functions"][f"{solve.__name__}, {kind}"] = found = compiled(function, mesh)
            print(solve.__name__, kind, found)
    out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
