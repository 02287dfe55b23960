"""Strong orders of the SDE solvers through `nde.diffeqsolve`.

    python tests/bench/orders.py [--paths 4000] [--rows geometric,CIR,…]

The root mean square error at the end of 8 to 128 steps, over paths that are the same for all of them, against closed
forms where there are any and else against a solve with 2⁶ times as many steps as the finest on the same path; the order
is the slope. CIR: the experiment of Jelinčič, Foster and Kidger (2024): dy = (1 - y) dt + 1.5 √y dW over [0, 4] from 1,
by a splitting along its flows, with constant steps and with steps that shorten where y is near zero, where √y has no
bounded derivative; against the mean number of steps, beside a solve with ever finer such steps.
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
from problems import PROBLEMS, slope, strong_errors  # after its folder is on the path

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
    # A linear drift has no second derivative, and so no term of order 3/2.
    "Ornstein-Uhlenbeck, time-dependent": [(s, 2.0 if order == 1.5 else order) for s, order in ADDITIVE[:5]],
    "additive": ADDITIVE,
    "not commutative": [
        (diffrax.EulerHeun(), 0.5), (diffrax.Heun(), 0.5), (diffrax.SPaRK(), 0.5), (diffrax.GeneralShARK(), 0.5),
        (diffrax.SlowRK(), 0.5),
    ],
    "Langevin": [(diffrax.ALIGN(), 2.0), (diffrax.ShOULD(), 3.0), (diffrax.QUICSORT(), 3.0)],
}  # fmt: skip
STEPS = [8, 16, 32, 64, 128]


class Splitting(diffrax.AbstractStratonovichSolver):
    """The splitting of dy = a(b - y) dt + σ √y dW along its own flows (Foster, dos Reis and Strange 2024, eq. 5.3).

    The drift's flow is exponential, that of σ √y ∘ dw is (√y + σw/2)²; the two pieces of w carry W/2 ± √3 H. A user's
    own solver: nde has no such row, and needs none.
    """

    a: float = 1.0
    b: float = 1.0
    sigma: float = 1.5

    term_structure = diffrax.MultiTerm[tuple[diffrax.ODETerm, diffrax.AbstractTerm]]
    interpolation_cls = diffrax.LocalLinearInterpolation
    minimal_levy_area = diffrax.AbstractSpaceTimeLevyArea

    def order(self, terms):
        return 2

    def strong_order(self, terms):
        return 1.5

    def init(self, terms, t0, t1, y0, args):
        return None

    def func(self, terms, t0, y0, args):
        return terms.vf(t0, y0, args)

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        drift, noise = terms.terms
        h, levy = drift.contr(t0, t1), noise.contr(t0, t1, use_levy=True)
        centre = self.b - self.sigma**2 / (4 * self.a)

        def drifted(y, part):
            return centre + jnp.exp(-self.a * h * part) * (y - centre)

        def moved(y, w):
            return (jnp.sqrt(jnp.maximum(y, 0.0)) + self.sigma / 2 * w) ** 2

        outer, inner = (3 - 3**0.5) / 6, 3**-0.5
        y = moved(drifted(y0, outer), levy.W / 2 + 3**0.5 * levy.H)
        y = moved(drifted(y, inner), levy.W / 2 - 3**0.5 * levy.H)
        y1 = drifted(y, outer)
        return y1, None, {"y0": y0, "y1": y1}, None, diffrax.RESULTS.successful


class StateSteps(diffrax.AbstractStepSizeController):
    """Steps of (c min(y0, y1))^(2/3): small where √y has a steep slope. A step a tenth longer than that is rejected."""

    c: float
    shortest: float = 2.0**-15

    def wrap(self, direction):
        return self

    def wanted(self, y):
        return jnp.clip((self.c * jnp.maximum(y, 0.0)) ** (2 / 3), self.shortest, 1.0)

    def init(self, terms, t0, t1, y0, dt0, args, func, error_order):
        return t0 + self.wanted(y0), None

    def adapt_step_size(self, t0, t1, y0, y1_candidate, args, y_error, error_order, controller_state):
        most = self.wanted(jnp.minimum(y0, y1_candidate))
        keep = t1 - t0 < 1.1 * most
        begin = jnp.where(keep, t1, t0)
        step = jnp.where(keep, self.wanted(y1_candidate), most)
        return keep, begin, begin + step, jnp.array(False), None, diffrax.RESULTS.successful


def cir(paths: int) -> dict[str, Any]:
    """Constant and adaptive steps on the Cox–Ingersoll–Ross equation."""
    solver, span = Splitting(), 4.0

    def solve(key, controller, dt0):
        path = nde.VirtualBrownianTree(0.0, span, 2.0**-17, (), key, levy_area=diffrax.SpaceTimeLevyArea)
        terms = diffrax.MultiTerm(
            diffrax.ODETerm(lambda t, y, args: solver.a * (solver.b - solver.sigma**2 / (4 * solver.a) - y)),
            diffrax.ControlTerm(lambda t, y, args: solver.sigma * jnp.sqrt(jnp.maximum(y, 0.0)), path),
        )
        found = nde.diffeqsolve(
            terms, solver, 0.0, span, dt0, jnp.array(1.0), stepsize_controller=controller, max_steps=2**17
        )
        return found.ys[0], found.stats["num_steps"]

    @jax.jit
    def run(controller, dt0):
        return jax.vmap(lambda key: solve(key, controller, dt0))(jr.split(jr.key(7), paths))

    exact, _ = run(StateSteps(2.0**-11), None)
    settings = {
        "constant": [(diffrax.ConstantStepSize(), 2.0**-k) for k in range(3, 10)],
        "adaptive": [(StateSteps(2.0**-k), None) for k in range(1, 8)],
    }
    rows: dict[str, Any] = {}
    for name, each in settings.items():
        steps, errors = [], []
        for controller, dt0 in each:
            ys, count = run(controller, dt0)
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
            row = cir(options.paths // 4)
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
