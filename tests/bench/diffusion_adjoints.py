"""Gradients through samplers: their error at few steps, and their time and memory.

    python tests/bench/diffusion_adjoints.py

Error: the gradient of a function of the sample in the start, of a mixture of two Gaussians in the plane of variance
0.01, VP, steps even in log-SNR, float64; against the gradient of a solve in 2000 steps. Heun's steps in x are of the
probability-flow ODE written out; the others are in the variables without the linear part. `ContinuousAdjoint` is
AdjointDPM and AdjointDEIS there. Time and memory: a network of width 64 on 64 points, float32, the gradient in start
and weights. Results are stored in `results/diffusion_adjoints.json`.
"""

import json
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from timing import load, medians_in_turn, processor

import nde
from nde.diffusion import diffusion_model_term, GaussianMixture, log_snr_times, VariancePreserving

OUT = Path(__file__).parent / "results" / "diffusion_adjoints.json"
SCHEDULE = VariancePreserving()
STEPS = (10, 20, 50)
SOLVERS = {
    "Heun in x": (nde.Heun(), "data"),
    "Lawson(Heun), noise form": (nde.Lawson(nde.Heun()), "noise"),
    "Lawson(Heun), data form": (nde.Lawson(nde.Heun()), "data"),
    "Exponential(2), noise form": (nde.Exponential(2), "noise"),
    "Exponential(2), data form": (nde.Exponential(2), "data"),
    "ExponentialAdams(2), data form": (nde.ExponentialAdams(2), "data"),
}
ADJOINTS = {"discrete": nde.CheckpointAdjoint(), "continuous": nde.ContinuousAdjoint()}


def sample(field: Any, solver: Any, form: str, steps: int, adjoint: Any, x: Any) -> Any:
    """The end of a sampler."""
    times = log_snr_times(SCHEDULE, steps)
    term = diffusion_model_term(field, SCHEDULE, form)
    options = {"stepsize_controller": nde.StepTo(times), "adjoint": adjoint, "max_steps": steps + 1}
    return nde.diffeqsolve(term, solver, times[0], times[-1], None, x, **options).ys[-1]


def errors(points: int = 64) -> dict[str, Any]:
    """The median relative error of a gradient over starts, in float64."""
    with jax.enable_x64():
        mixture = GaussianMixture(None, means=jnp.array([[-1.0, 0.5], [1.0, -0.7]]), std=0.1)
        starts = jax.random.normal(jax.random.key(0), (points, 2))

        def gradient(solver, form, steps, adjoint):
            field = mixture.prediction(SCHEDULE, form)

            def loss(x):
                return jnp.sum(jnp.sin(3 * sample(field, solver, form, steps, adjoint, x)))

            return jax.jit(jax.vmap(jax.grad(loss)))(starts)

        exact = gradient(nde.Exponential(3), "data", 2000, ADJOINTS["discrete"])
        size = jnp.linalg.norm(exact, axis=-1) + 1e-2 * jnp.linalg.norm(exact, axis=-1).max()
        found: dict[str, Any] = {}
        for name, (solver, form) in SOLVERS.items():
            for kind, adjoint in ADJOINTS.items():
                off = [gradient(solver, form, n, adjoint) - exact for n in STEPS]
                found[f"{name}, {kind}"] = [float(jnp.median(jnp.linalg.norm(x, axis=-1) / size)) for x in off]
                print(name, kind, found[f"{name}, {kind}"], flush=True)
        return found


def costs(points: int = 64, counts: tuple[int, ...] = (20, 80)) -> dict[str, Any]:
    """Milliseconds and MiB of a gradient through samplers of order 2, by the number of steps."""
    network = eqx.nn.MLP(3, 2, 64, 2, key=jax.random.key(0))
    starts = jax.random.normal(jax.random.key(1), (points, 2))
    adams, rex = nde.ExponentialAdams(2), nde.Rex(nde.Heun())
    ways = {
        "ExponentialAdams(2), checkpoint": (adams, nde.CheckpointAdjoint()),
        "ExponentialAdams(2), continuous": (adams, nde.ContinuousAdjoint()),
        "Exponential(2), continuous": (nde.Exponential(2), nde.ContinuousAdjoint()),
        "Rex(Heun), reversible": (rex, nde.ReversibleAdjoint()),
    }
    result: dict[str, Any] = {}
    for steps in counts:
        functions, memory = {}, {}
        for name, (solver, adjoint) in ways.items():

            def loss(inputs, solver=solver, adjoint=adjoint, steps=steps):
                network, starts = inputs

                def field(t, x, args):
                    return network(jnp.append(x, t))

                each = jax.vmap(lambda x: sample(field, solver, "data", steps, adjoint, x))(starts)
                return jnp.mean(each**2)

            compiled = eqx.filter_jit(eqx.filter_grad(loss)).lower((network, starts)).compile()
            memory[name] = round(compiled.compiled.memory_analysis().temp_size_in_bytes / 2**20, 2)
            functions[name] = lambda compiled=compiled: jax.tree.leaves(compiled((network, starts)))
        times = medians_in_turn(functions)
        result[str(steps)] = {name: {"ms": round(ms, 2), "MiB": memory[name]} for name, ms in times.items()}
        print(steps, result[str(steps)], flush=True)
    return result


def main() -> None:
    """Measure, print, store."""
    before = load()
    found = {"steps": STEPS, "errors": errors(), "costs": costs()}
    found = {"load": before, "jax": jax.__version__, **processor(), **found}
    OUT.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
