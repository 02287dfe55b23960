"""SDE solves beside diffrax (and torchsde, where it is installed): forward and gradient, in one process, alternating.

    python tests/bench/sde.py [--rows heun,euler,…] [--rounds 5] [--out tests/bench/results/sde.json]

Float32, batch 256, a state of 4 with diagonal noise, drift and diffusion each a network 4-32-4. Gradients in the
parameters of both. diffrax has its own tree (`tol` half a step) and its default adjoint. Ratios are theirs over ours.

heun            200 steps of Stratonovich Heun; nde on a BrownianGrid. torchsde: `sdeint(method="heun")`
reversible      200 steps of reversible Heun, nde by its ReversibleAdjoint; torchsde: `sdeint` and `sdeint_adjoint`
euler           1000 steps of Euler-Maruyama
euler-tree      the same, both with their own trees
adaptive        SPaRK, rtol = atol = 1e-3, each with its tree (W and H)
inside          nde's adaptive loop with its tree against diffrax's with its own, Heun with an error estimate, forward
euler-plain     as euler, with a field that costs next to nothing, sin(w y), so that noise and loop are what is timed
inside-plain    as inside, with that field
"""

import argparse
import importlib.util
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from engine import machine, medians

import nde

BATCH, SIZE, WIDTH = 256, 4, 32


class Sine(eqx.Module):
    """A field of one operation an entry."""

    weight: jax.Array

    def __call__(self, y):
        return jnp.sin(self.weight * y)


def parameters(name: str) -> Any:
    """Drift and diffusion of a row."""
    if name.endswith("plain"):
        return [Sine(jnp.linspace(-1.0, 1.0, SIZE)), Sine(jnp.linspace(0.5, 1.0, SIZE))]
    return [eqx.nn.MLP(SIZE, SIZE, WIDTH, 1, activation=jnp.tanh, key=key) for key in jr.split(jr.key(0))]


def loss_of(library: Any, weights: Any, rest: Any, keys: Any, *, solver, path, dt0, controller, adjoint=None) -> Any:
    """The mean square of the last state over the batch."""

    def one(drift, diffusion, key):
        noise = nde.fields.diffusion_term(lambda t, y, args: 0.5 + 0.1 * diffusion(y), path(key), diagonal=True)
        terms = diffrax.MultiTerm(diffrax.ODETerm(lambda t, y, args: drift(y)), noise)
        more = {} if adjoint is None else {"adjoint": adjoint}
        solution = library.diffeqsolve(
            terms, solver, 0.0, 1.0, dt0, 0.5 * jnp.ones(SIZE), stepsize_controller=controller, **more
        )
        return jnp.mean(solution.ys**2)

    drift, diffusion = eqx.combine(weights, rest)
    return jnp.mean(jax.vmap(partial(one, drift, diffusion))(keys))


def grid(steps: int, key) -> Any:
    return nde.BrownianGrid(0.0, 1.0, steps, jax.ShapeDtypeStruct((SIZE,), jnp.float32), key)


def tree(kind: Any, tol: float, levy: Any, key) -> Any:
    return kind(0.0, 1.0, tol, jax.ShapeDtypeStruct((SIZE,), jnp.float32), key, levy)


W, WH = diffrax.BrownianIncrement, diffrax.SpaceTimeLevyArea


def variants(name: str) -> dict[str, dict[str, Any]]:
    """What diffrax and nde run in a row."""
    theirs, ours = diffrax.VirtualBrownianTree, nde.VirtualBrownianTree
    constant = diffrax.ConstantStepSize()
    loose = diffrax.PIDController(rtol=1e-3, atol=1e-3, dtmin=1e-4, force_dtmin=True)

    def fixed(solver, steps, nde_path, **more):
        both = {"solver": solver, "dt0": 1 / steps, "controller": constant}
        return {
            "diffrax": {**both, "path": partial(tree, theirs, 0.5 / steps, W)},
            "nde": {**both, "path": nde_path, **more},
        }

    def adaptive(solver, levy):
        both = {"solver": solver, "dt0": 0.01, "controller": loose}
        return {
            "diffrax": {**both, "path": partial(tree, theirs, 5e-5, levy)},
            "nde": {**both, "path": partial(tree, ours, 5e-5, levy)},
        }

    return {
        "heun": lambda: fixed(diffrax.Heun(), 200, partial(grid, 200)),
        "reversible": lambda: fixed(diffrax.ReversibleHeun(), 200, partial(grid, 200), adjoint=nde.ReversibleAdjoint()),
        "euler": lambda: fixed(diffrax.Euler(), 1000, partial(grid, 1000)),
        "euler-tree": lambda: fixed(diffrax.Euler(), 1000, partial(tree, ours, 0.5 / 1000, W)),
        "adaptive": lambda: adaptive(diffrax.SPaRK(), WH),
        "inside": lambda: adaptive(diffrax.Heun(), W),
    }[name.removesuffix("-plain")]()


def torch_functions(name: str, weights: list[Any]) -> dict[str, Callable]:
    """torchsde's solves of the same equation."""
    import torch
    import torchsde

    torch.set_num_threads(2)

    class Equation(torch.nn.Module):
        noise_type, sde_type = "diagonal", "stratonovich"

        def __init__(self):
            super().__init__()
            self.drift, self.diffusion = (self._network(x) for x in weights)

        def _network(self, network):
            layers = []
            for linear in network.layers:
                layer = torch.nn.Linear(*linear.weight.shape[::-1])
                layer.weight.data = torch.tensor(np.asarray(linear.weight))
                layer.bias.data = torch.tensor(np.asarray(linear.bias))
                layers += [layer, torch.nn.Tanh()]
            return torch.nn.Sequential(*layers[:-1])

        def f(self, t, y):
            return self.drift(y)

        def g(self, t, y):
            return 0.5 + 0.1 * self.diffusion(y)

    equation, y0, ts = Equation(), 0.5 * torch.ones(BATCH, SIZE), torch.tensor([0.0, 1.0])

    def run(solve, grad, **more):
        with torch.set_grad_enabled(grad):
            loss = torch.mean(solve(equation, y0, ts, dt=1 / 200, **more)[-1] ** 2)
        if grad:
            equation.zero_grad()
            loss.backward()

    if name == "heun":
        return {
            "forward": {"torchsde": lambda: run(torchsde.sdeint, False, method="heun")},
            "gradient": {"torchsde": lambda: run(torchsde.sdeint, True, method="heun")},
        }
    if name == "reversible":
        back = {"method": "reversible_heun", "adjoint_method": "adjoint_reversible_heun"}
        return {
            "forward": {"torchsde": lambda: run(torchsde.sdeint, False, method="reversible_heun")},
            "gradient": {
                "torchsde": lambda: run(torchsde.sdeint, True, method="reversible_heun"),
                "torchsde, adjoint": lambda: run(torchsde.sdeint_adjoint, True, **back),
            },
        }
    return {"forward": {}, "gradient": {}}


def measure(name: str, rounds: int) -> dict[str, Any]:
    """One row."""
    networks, keys = parameters(name), jr.split(jr.key(1), BATCH)
    weights, rest = eqx.partition(networks, eqx.is_array)
    runs: dict[str, dict[str, Callable]] = {"forward": {}, "gradient": {}}
    memory = {}
    for library, options in zip((diffrax, nde), variants(name).values(), strict=True):
        loss = jax.jit(lambda w, library=library, options=options: loss_of(library, w, rest, keys, **options))
        gradient = jax.jit(jax.grad(loss)).lower(weights).compile()
        memory[library.__name__] = round(gradient.memory_analysis().temp_size_in_bytes / 2**20, 3)
        runs["forward"][library.__name__] = lambda f=loss: f(weights)
        runs["gradient"][library.__name__] = lambda f=gradient: f(weights)
    result: dict[str, Any] = {"gradient_memory_MiB": memory}
    if importlib.util.find_spec("torchsde") is not None:
        for what, functions in torch_functions(name, networks).items():
            runs[what] |= functions
    for what, functions in runs.items():
        times = dict(zip(functions, medians(list(functions.values()), rounds), strict=True))
        result[f"{what}_ms"] = {k: round(v, 2) for k, v in times.items()}
        result[f"{what}_ratio"] = {k: round(v / times["nde"], 2) for k, v in times.items() if k != "nde"}
    return result


ROWS = ("heun", "reversible", "euler", "euler-tree", "adaptive", "inside", "euler-plain", "inside-plain")


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "sde.json")
    options = parser.parse_args()
    stored = json.loads(options.out.read_text()) if options.out.exists() else {"rows": {}}
    stored["machine"] = machine()
    for name in options.rows.split(","):
        stored["rows"][name] = measure(name, options.rounds)
        print(name, json.dumps(stored["rows"][name]), flush=True)
        options.out.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
