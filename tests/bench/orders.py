"""Strong orders of the SDE solvers through `nde.diffeqsolve`.

    python tests/bench/orders.py [--paths 4000] [--rows geometric,CIR,…]

The root mean square error at the end of 8 to 128 steps, over paths that are the same for all of them, against closed
forms where there are any and else against a solve with 2⁶ times as many steps as the finest on the same path; the order
is the slope. CIR: dy = (1 - y) dt + 1.2 √y ∘ dW near zero, where √y has no bounded derivative, by constant and by
adaptive steps (SPaRK with a PI controller), against the mean number of steps, beside a solve with 2¹⁴ steps.
Double precision.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import jax.random as jr

import nde

sys.path.insert(0, str(Path(__file__).parents[1]))
from problems import PROBLEMS, slope, strong_errors  # noqa: E402  (after its folder is on the path)

COMMUTATIVE = [
    (diffrax.EulerHeun(), 1.0), (diffrax.Heun(), 1.0), (diffrax.Midpoint(), 1.0), (diffrax.Ralston(), 1.0),
    (diffrax.StratonovichMilstein(), 1.0), (diffrax.ReversibleHeun(), None), (diffrax.SPaRK(), 1.0),
    (diffrax.GeneralShARK(), 1.0), (diffrax.SlowRK(), 1.5),
]  # fmt: skip
ADDITIVE = [
    (diffrax.Euler(), 1.0), (diffrax.Heun(), 1.0), (diffrax.SEA(), 1.0), (diffrax.SRA1(), 1.5), (diffrax.ShARK(), 1.5),
    (diffrax.SPaRK(), 1.5), (diffrax.GeneralShARK(), 1.5), (diffrax.SlowRK(), 1.5),
]  # fmt: skip
# For each problem the solvers, with the order that is claimed for them there; `None` where none is.
TABLE: dict[str, list[tuple[Any, float | None]]] = {
    "geometric, Itô": [(diffrax.Euler(), 0.5), (diffrax.ItoMilstein(), 1.0)],
    "geometric": COMMUTATIVE,
    "hyperbolic": COMMUTATIVE,
    "diagonal": [(diffrax.Heun(), 1.0), (diffrax.StratonovichMilstein(), 1.0), (diffrax.SPaRK(), 1.0)],
    "Ornstein-Uhlenbeck, time-dependent": ADDITIVE[:5],
    "additive": ADDITIVE,
    "not commutative": [
        (diffrax.EulerHeun(), 0.5), (diffrax.Heun(), 0.5), (diffrax.SPaRK(), 0.5), (diffrax.GeneralShARK(), 0.5),
        (diffrax.SlowRK(), 0.5),
    ],
    "Langevin": [(diffrax.ALIGN(), 2.0), (diffrax.ShOULD(), 3.0), (diffrax.QUICSORT(), 3.0)],
}  # fmt: skip
STEPS = [8, 16, 32, 64, 128]


def cir(paths: int) -> dict[str, Any]:
    """Constant and adaptive steps on the Cox–Ingersoll–Ross equation."""
    finest = 2**14

    def solve(key, number, controller):
        path = nde.VirtualBrownianTree(0.0, 1.0, 2.0**-16, (), key, levy_area=diffrax.SpaceTimeLevyArea)
        terms = diffrax.MultiTerm(
            diffrax.ODETerm(lambda t, y, args: 1.0 - y),
            diffrax.ControlTerm(lambda t, y, args: 1.2 * jnp.sqrt(jnp.maximum(y, 0.0)), path),
        )
        dt0 = 1 / number if controller is None else None
        controller = diffrax.ConstantStepSize() if controller is None else controller
        found = nde.diffeqsolve(
            terms, diffrax.SPaRK(), 0.0, 1.0, dt0, jnp.array(0.1), stepsize_controller=controller, max_steps=2**15
        )
        return found.ys[0], found.stats["num_steps"]

    keys = jr.split(jr.key(7), paths)

    def run(number, controller=None):
        return jax.jit(jax.vmap(lambda key: solve(key, number, controller)))(keys)

    exact, _ = run(finest)
    rows: dict[str, Any] = {}
    for name, settings in {"constant": [16, 32, 64, 128, 256], "adaptive": [1e-1, 3e-2, 1e-2, 3e-3, 1e-3]}.items():
        steps, errors = [], []
        for setting in settings:
            controller = None
            if name == "adaptive":
                controller = diffrax.PIDController(rtol=0.0, atol=setting, pcoeff=0.1, icoeff=0.3, dtmin=2.0**-14)
            ys, count = run(setting, controller)
            steps.append(float(jnp.mean(count)))
            errors.append(float(jnp.sqrt(jnp.mean((ys - exact) ** 2))))
        rows[name] = {"mean_steps": steps, "errors": errors, "order": round(slope(steps, errors), 3)}
    rows["ratio_of_orders"] = round(rows["adaptive"]["order"] / rows["constant"]["order"], 2)
    return rows


def main() -> None:
    """Measure, print, store."""
    jax.config.update("jax_enable_x64", True)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paths", type=int, default=4000)
    parser.add_argument("--rows", default=";".join([*TABLE, "CIR"]), help="separated by ;")
    options = parser.parse_args()
    path = Path(__file__).parent / "results" / "orders.json"
    stored = json.loads(path.read_text()) if path.exists() else {"rows": {}}
    stored["machine"] = {"cores": os.cpu_count(), "jax": jax.__version__, "diffrax": diffrax.__version__}
    for name in options.rows.split(";"):
        row: dict[str, Any] = {}
        if name == "CIR":
            row = cir(options.paths // 10)
        for solver, claimed in TABLE.get(name, []):
            errors = strong_errors(PROBLEMS[name], solver, STEPS, options.paths)
            order = round(slope(STEPS[1:], errors[1:]), 3)
            row[type(solver).__name__] = {"order": order, "claimed": claimed, "errors": errors}
            print(name, type(solver).__name__, order, claimed, flush=True)
        if name == "CIR":
            print(name, json.dumps(row), flush=True)
        stored["rows"][name] = {"paths": options.paths, **row}
        path.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
