"""The engine beside torchdiffeq on problem A of `engine.py`: time of the gradient, in one process, alternating.

    pip install '.[bench]' && python tests/bench/engine_torch.py [--rounds 3] [--out …]

The same field (MLP 4-64-64-4 with relu and a rotation, the same weights), 10 s, 50 save times, rtol = atol = 1e-6,
batch 128, float32. torchdiffeq (`odeint`, dopri5) controls the whole batch by one step size, nde (Tsit5) each example
by its own.
"""

import argparse
import json
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import torch
import torchdiffeq
from engine import loss_of, machine, medians, mlp_row

import nde


class Field(torch.nn.Module):
    """The row's field, in torch."""

    def __init__(self, row):
        super().__init__()
        layers = [x for x in jax.tree.leaves(row.parameters) if eqx.is_array(x)]
        tensors = [torch.tensor(np.asarray(x)) for x in layers]
        self.linears = torch.nn.ModuleList()
        for weight, bias in zip(tensors[::2], tensors[1::2], strict=True):
            linear = torch.nn.Linear(weight.shape[1], weight.shape[0])
            linear.weight.data, linear.bias.data = weight, bias
            self.linears.append(linear)
        self.turn = 3.0 * torch.tensor(np.kron(np.eye(2), [[0.0, 1.0], [-1.0, 0.0]]), dtype=torch.float32)

    def forward(self, t, y):
        """The rate of change."""
        x = 3.0 * y
        for linear in self.linears[:-1]:
            x = torch.relu(linear(x))
        return 4.0 * self.linears[-1](x) + y @ self.turn.T


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "engine_torch.json")
    options = parser.parse_args()
    torch.set_num_threads(2)
    row = mlp_row(64, 10.0, 128)
    field, y0, ts = Field(row), torch.tensor(np.asarray(row.y0)), torch.tensor(np.asarray(row.ts))
    first = np.asarray(jax.vmap(lambda y: row.field(0.0, y, row.parameters))(row.y0))
    assert np.allclose(first, field(0.0, y0).detach().numpy(), atol=1e-5), "the fields differ"

    def torch_gradient(method):
        field.zero_grad()
        loss = torch.mean(method(field, y0, ts, rtol=1e-6, atol=1e-6) ** 2)
        loss.backward()
        return loss.item()

    loss = loss_of(row, nde.diffeqsolve)
    gradient = jax.jit(jax.value_and_grad(lambda p: loss(p)[0]))
    functions = {
        "nde": lambda: gradient(row.parameters),
        "odeint": lambda: torch_gradient(torchdiffeq.odeint),
    }
    losses = {"nde": float(functions["nde"]()[0]), "odeint": functions["odeint"]()}
    times = dict(zip(functions, medians(list(functions.values()), options.rounds), strict=True))
    result = {
        "ms": {name: round(x, 1) for name, x in times.items()},
        "ratio": {name: round(x / times["nde"], 2) for name, x in times.items()},
        "loss": losses,
        "versions": {"torch": torch.__version__, "torchdiffeq": torchdiffeq.__version__},
        "machine": machine(),
    }
    print(json.dumps(result))
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
