"""Eight Gaussians to two moons by flow matching: independent pairs and mini-batch transport, beside torchcfm.

    taskset -c 0 python tests/bench/flow_matching.py [steps]

Both with a network of 4 layers of 64 (SELU), batch 256 and Adam at 1e-3, as in torchcfm's notebook, in one process;
torchcfm where it is installed, by `pip install --no-deps torchcfm pot` beside torch. Our pairs by transport are made
once, their time counted. Each is scored by W2 to fresh points, beside its floor.
"""

import importlib.util
import json
import os
import sys
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import nde
from nde.data import sample_density
from nde.objectives import independent_pairs, Matching, transport_pairs
from nde.report import transport_distance
from nde.train import batch_loss, gradient_update

BATCH, PAIRS, SCORED = 256, 256 * 512, 1000
STORED = Path(__file__).parent / "results" / "flow_matching.json"


def points(seed: int, count: int = PAIRS) -> tuple[np.ndarray, np.ndarray]:
    return sample_density("eight_gaussians", count, seed=seed), sample_density("two_moons", count, seed=seed + 1)


class Network(eqx.Module):
    mlp: eqx.nn.MLP

    def __call__(self, t, x, args=None):
        return self.mlp(jnp.append(x, jnp.asarray(t, x.dtype)))


def ours(steps: int, coupling: str) -> dict[str, float]:
    mlp = eqx.nn.MLP(3, 2, 64, 3, activation=jax.nn.selu, key=jax.random.key(0))
    model = nde.InterpolantModel(Network(mlp), 2, normal=False)
    update = gradient_update(batch_loss(Matching()), optax.adam(1e-3))
    state, key, generator = update.init(model), jax.random.key(1), np.random.default_rng(0)
    x0, x1 = points(0)
    data = (jnp.asarray(x1, jnp.float32), jnp.asarray(x0, jnp.float32))
    update.compiled(state, data, generator.integers(PAIRS, size=BATCH), key)  # compiled before the clock starts
    start = time.perf_counter()
    make = transport_pairs(x0, x1, batch=BATCH) if coupling == "transport" else independent_pairs(PAIRS, PAIRS, PAIRS)
    data = (jnp.asarray(x1[make[1]], jnp.float32), jnp.asarray(x0[make[0]], jnp.float32))
    made = time.perf_counter() - start
    for _ in range(steps):
        state, report = update.compiled(state, data, generator.integers(PAIRS, size=BATCH), key)
    jax.block_until_ready(report.batch.loss)
    seconds = time.perf_counter() - start
    carry = jax.jit(jax.vmap(lambda x: state.model.forward(x)))
    return {"seconds": seconds, "pairs_seconds": made} | scored(carry(jnp.asarray(points(7)[0][:SCORED], jnp.float32)))


def theirs(steps: int, coupling: str) -> dict[str, float]:
    torch, matching = importlib.import_module("torch"), importlib.import_module("torchcfm.conditional_flow_matching")
    torch.manual_seed(0)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    widths, layers = [3, 64, 64, 64], []
    for a, b in zip(widths[:-1], widths[1:], strict=True):
        layers += [torch.nn.Linear(a, b), torch.nn.SELU()]
    network = torch.nn.Sequential(*layers, torch.nn.Linear(64, 2))
    optimiser = torch.optim.Adam(network.parameters(), 1e-3)
    kind = "ExactOptimalTransport" if coupling == "transport" else ""
    matcher = getattr(matching, f"{kind}ConditionalFlowMatcher")(sigma=0.0)
    x0, x1 = (torch.tensor(x, dtype=torch.float32) for x in points(0))
    start = time.perf_counter()
    for _ in range(steps):
        optimiser.zero_grad()
        rows0, rows1 = torch.randint(PAIRS, (2, BATCH))
        t, xt, ut = matcher.sample_location_and_conditional_flow(x0[rows0], x1[rows1])
        loss = ((network(torch.cat([xt, t[:, None]], -1)) - ut) ** 2).mean()
        loss.backward()
        optimiser.step()
    seconds = time.perf_counter() - start
    with torch.no_grad():
        x = torch.tensor(points(7)[0][:SCORED], dtype=torch.float32)
        for i in range(100):  # midpoint steps
            t = torch.full((SCORED, 1), i / 100)
            middle = x + 0.005 * network(torch.cat([x, t], -1))
            x = x + 0.01 * network(torch.cat([middle, t + 0.005], -1))
    return {"seconds": seconds} | scored(x.numpy())


def scored(samples) -> dict[str, float]:
    def law(count, seed):
        return sample_density("two_moons", count, seed=seed)

    found = transport_distance(np.asarray(samples), law(SCORED, 99), sampler=law, repeats=4)
    return {"W2": found.value, "W2_floor": found.floor}


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    makers = {"nde": ours}
    if all(importlib.util.find_spec(name) for name in ("torch", "torchcfm")):
        makers["torchcfm"] = theirs
    found = {}
    for coupling in ("independent", "transport"):
        for name, make in makers.items():
            found[f"{name}, {coupling}"] = row = make(steps, coupling)
            print(f"{name}, {coupling}: " + ", ".join(f"{k} {v:.3f}" for k, v in row.items()), flush=True)
    ratio = found["nde, transport"]["seconds"] / found["nde, independent"]["seconds"]
    print(f"transport takes {ratio:.2f} times as long as independent pairs")
    if steps == 20_000:
        STORED.write_text(json.dumps({"steps": steps, "rows": found, "ratio": ratio}, indent=1) + "\n")


if __name__ == "__main__":
    main()
