"""nde.diffeqsolve against diffrax.diffeqsolve, over the product of what a solve can be made of.

    python tests/bench/conformance.py --minutes 20

Problems × solvers × step-size controllers × SaveAt × events, as far as they go together, in a shuffled but fixed order,
and before them corners and wrong inputs that no product meets. A row is one solve: it is stored as a line of JSON in
tests/bench/results/conformance.json when it is done, and a later run goes on where the last one ended. A row holds the
worst relative difference of the values (`ys`, `ts`, dense output, states) and of the gradient in a parameter and in the
start, and whether statistics, result codes and types of errors are the same. `--report` prints the rows that differ.
"""

import argparse
import itertools
import json
import random
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import jax.random as jr
import lineax
import numpy as np
import optimistix
from diffrax import ControlTerm, MultiTerm, ODETerm, SaveAt, SubSaveAt

import nde

jax.config.update("jax_enable_x64", True)  # before anything below is made

RESULTS = Path(__file__).parent / "results" / "conformance.json"
PARAMETER = 0.9
TS = jnp.linspace(0.0, 2.0, 6)
Y0 = jnp.array([1.0, 2.0])
NEWTON = optimistix.Newton(1e-9, 1e-9)


def predators(t, y, a):
    """Lotka and Volterra's, with a season."""
    prey, predator = y[0], y[1]
    return jnp.stack([a * prey - 0.4 * prey * predator, 0.3 * prey * predator * jnp.cos(0.1 * t) - 0.5 * predator])


def brownian(kind: Any = diffrax.BrownianIncrement, shape=(2,)):
    """A path on which every solver may ask at any time."""
    return diffrax.VirtualBrownianTree(0.0, 2.0, 1e-2, shape, jr.key(0), levy_area=kind)


def noisy(kind: Any = diffrax.BrownianIncrement, additive=False):
    """Drift and diagonal noise."""
    field = (lambda t, y, a: 0.1 * a * jnp.eye(2)) if additive else (lambda t, y, a: 0.1 * a * jnp.diag(y))
    return MultiTerm(ODETerm(predators), ControlTerm(field, brownian(kind)))


def driven():
    """A linear path with kinks."""
    path = diffrax.LinearInterpolation(jnp.linspace(0, 2, 7), jnp.cumsum(jr.normal(jr.key(1), (7, 2)), 0))
    return ControlTerm(lambda t, y, a: jnp.sin(a * y)[:, None] * jnp.ones((2, 2)), path)


ODE = ODETerm(predators)
PROBLEMS: dict[str, dict[str, Any]] = {
    "ode": dict(terms=ODE),
    "backward": dict(terms=ODE, t0=2.0, t1=0.0, dt0=-0.15),
    "short step": dict(terms=ODE, t0=-0.3, t1=0.4, dt0=0.03),
    "one step": dict(terms=ODE, dt0=7.0),
    "tree": dict(
        terms=ODETerm(lambda t, y, a: {"a": -a * y["b"][0, 0], "b": jnp.cos(t) * y["b"]}),
        y0={"a": jnp.array(1.0), "b": jnp.ones((2, 1))},
    ),
    "scalar": dict(terms=ODETerm(lambda t, y, a: -a * y * jnp.sin(t)), y0=jnp.array(1.5)),
    "complex": dict(terms=ODETerm(lambda t, y, a: 1j * a * y), y0=jnp.array([1 + 1j, 0.5])),
    "single precision": dict(
        terms=ODE, y0=Y0.astype(jnp.float32), t0=np.float32(0), t1=np.float32(2), dt0=np.float32(0.15)
    ),
    "cde": dict(terms=driven()),
    "split": dict(terms=MultiTerm(ODE, ODETerm(lambda t, y, a: -a * y))),
    "pair": dict(
        terms=(ODETerm(lambda t, y, a: a * y), ODETerm(lambda t, y, a: -y)), y0=(jnp.ones(2), jnp.zeros(2)), pair=True
    ),
    "sde": dict(terms=noisy(), noise=diffrax.BrownianIncrement),
    "sde, space-time": dict(terms=noisy(diffrax.SpaceTimeLevyArea), noise=diffrax.SpaceTimeLevyArea),
    "sde, additive": dict(terms=noisy(diffrax.SpaceTimeLevyArea, True), noise=diffrax.SpaceTimeLevyArea, additive=True),
}
TOLERANT = optimistix.Newton(1e-8, 1e-8)
# Which problems a solver is for: "ode" (any without noise), "split", "pair", "sde", "area", "additive".
SOLVERS: dict[str, tuple[Callable, str]] = {
    "Euler": (diffrax.Euler, "ode sde area additive"),
    "Heun": (diffrax.Heun, "ode sde"),
    "Midpoint": (diffrax.Midpoint, "ode sde"),
    "Ralston": (diffrax.Ralston, "ode sde"),
    "Bosh3": (diffrax.Bosh3, "ode"),
    "Tsit5": (diffrax.Tsit5, "ode"),
    "Dopri5": (diffrax.Dopri5, "ode"),
    "Dopri8": (diffrax.Dopri8, "ode"),
    "LeapfrogMidpoint": (diffrax.LeapfrogMidpoint, "ode"),
    "ReversibleHeun": (diffrax.ReversibleHeun, "ode sde"),
    "HalfSolver(Euler)": (lambda: diffrax.HalfSolver(diffrax.Euler()), "ode"),
    "HalfSolver(EulerHeun)": (lambda: diffrax.HalfSolver(diffrax.EulerHeun()), "sde"),
    "ImplicitEuler": (lambda: diffrax.ImplicitEuler(root_finder=TOLERANT), "ode"),
    "Kvaerno3": (lambda: diffrax.Kvaerno3(root_finder=TOLERANT), "ode"),
    "Kvaerno5": (lambda: diffrax.Kvaerno5(root_finder=TOLERANT), "ode"),
    "KenCarp3": (lambda: diffrax.KenCarp3(root_finder=TOLERANT), "split"),
    "KenCarp4": (lambda: diffrax.KenCarp4(root_finder=TOLERANT), "split"),
    "Sil3": (lambda: diffrax.Sil3(root_finder=TOLERANT), "split"),
    "SemiImplicitEuler": (diffrax.SemiImplicitEuler, "pair"),
    "EulerHeun": (diffrax.EulerHeun, "sde area additive"),
    "ItoMilstein": (diffrax.ItoMilstein, "sde"),
    "StratonovichMilstein": (diffrax.StratonovichMilstein, "sde"),
    "SPaRK": (diffrax.SPaRK, "area additive"),
    "GeneralShARK": (diffrax.GeneralShARK, "area additive"),
    "SlowRK": (diffrax.SlowRK, "area additive"),
    "SEA": (diffrax.SEA, "additive"),
    "SRA1": (diffrax.SRA1, "additive"),
    "ShARK": (diffrax.ShARK, "additive"),
}
LOOSE = diffrax.PIDController(rtol=1e-2, atol=1e-2, dtmin=1e-3, force_dtmin=True)
TIGHT = diffrax.PIDController(rtol=1e-5, atol=1e-6, pcoeff=0.3, icoeff=0.4)
CONTROLLERS: dict[str, Any] = {
    "constant": diffrax.ConstantStepSize(),
    "PID, loose": LOOSE,
    "PID, tight": TIGHT,
    "PID, no dt0": diffrax.PIDController(rtol=1e-3, atol=1e-3, dtmax=0.3),
    "clip": diffrax.ClipStepSizeController(LOOSE, step_ts=jnp.array([0.31, 0.2]), jump_ts=jnp.array([0.35])),
    "clip with memory": diffrax.ClipStepSizeController(LOOSE, store_rejected_steps=8),
    "StepTo": "StepTo",
}
SAVES: dict[str, Callable[[Any], SaveAt]] = {
    "t1": lambda ts: SaveAt(t1=True),
    "t0": lambda ts: SaveAt(t0=True),
    "ts": lambda ts: SaveAt(ts=ts),
    "ts inside": lambda ts: SaveAt(t0=True, t1=True, ts=ts[1:-1]),
    "steps": lambda ts: SaveAt(steps=True),
    "every third step": lambda ts: SaveAt(t0=True, t1=True, steps=3),
    "every fifth step and ts": lambda ts: SaveAt(ts=ts, steps=5),
    "dense": lambda ts: SaveAt(dense=True),
    "dense and ts": lambda ts: SaveAt(dense=True, ts=ts, t1=True),
    "fn": lambda ts: SaveAt(ts=ts, fn=lambda t, y, a: {"t": t * a, "y": jax.tree.map(jnp.sin, y)}),
    "subs": lambda ts: SaveAt(
        subs={"a": SubSaveAt(ts=ts[::2]), "b": [SubSaveAt(t1=True, steps=2, fn=lambda t, y, a: t), SubSaveAt(t0=True)]}
    ),
    "states": lambda ts: SaveAt(t1=True, solver_state=True, controller_state=True, made_jump=True),
}


def first(y):
    """One real number of a state."""
    return jnp.real(jax.tree.leaves(y)[0]).reshape(-1)[0]


# diffrax gives the third argument by name where it locates an event.
EVENTS: dict[str, diffrax.Event | None] = {
    "none": None,
    "none, too few steps": None,
    "boolean": diffrax.Event(lambda t, y, args, **kw: first(y) > 1.3),
    "boolean at the start": diffrax.Event(lambda t, y, args, **kw: first(y) < 5),
    "real": diffrax.Event(lambda t, y, args, **kw: first(y) - args * 0.8),
    "located": diffrax.Event(lambda t, y, args, **kw: first(y) - args * 0.8, NEWTON),
    "located by bisection": diffrax.Event(
        lambda t, y, args, **kw: first(y) - 1.2 + 0.1 * jnp.abs(t), optimistix.Bisection(1e-9, 1e-9)
    ),
    "two, directions": diffrax.Event(
        {"a": lambda t, y, args, **kw: first(y) - 0.8, "b": lambda t, y, args, **kw: jnp.abs(t - 0.2) > 1.5},
        NEWTON,
        direction={"a": False, "b": None},
    ),
}


def kind(problem: dict[str, Any], solver: str) -> bool:
    """Whether a solver is for a problem."""
    name = {None: "ode", diffrax.BrownianIncrement: "sde"}.get(problem.get("noise"), "area")
    name = "additive" if problem.get("additive") else "pair" if problem.get("pair") else name
    return name in SOLVERS[solver][1].split() or (
        "split" in SOLVERS[solver][1] and isinstance(problem["terms"], MultiTerm) and name == "ode"
    )


NO_ERROR_ESTIMATE = {"Euler", "LeapfrogMidpoint", "SemiImplicitEuler", "EulerHeun", "ItoMilstein"}
NO_ERROR_ESTIMATE |= {"StratonovichMilstein", "SEA"}


def rows() -> Iterator[tuple[str, dict[str, Any]]]:
    """The names and the options of all solves of the product that go together."""
    for p, s, c, v, e in itertools.product(PROBLEMS, SOLVERS, CONTROLLERS, SAVES, EVENTS):
        problem = dict(PROBLEMS[p])
        adaptive = c not in ("constant", "StepTo")
        if not kind(problem, s) or (adaptive and s in NO_ERROR_ESTIMATE):
            continue
        noise = [problem.pop(k, None) for k in ("noise", "additive", "pair")][0]
        if p == "split" and "split" not in SOLVERS[s][1]:
            continue
        if noise is not None and (c == "PID, tight" or (c == "clip with memory")):
            continue
        t0, t1 = problem.get("t0", 0.0), problem.get("t1", 2.0)
        ts = t0 + (t1 - t0) * TS.astype(np.result_type(t0, np.float32) if isinstance(t0, np.floating) else float) / 2
        options: dict[str, Any] = {"dt0": 0.15, **problem, "solver": SOLVERS[s][0](), "saveat": SAVES[v](ts)}
        options |= dict(stepsize_controller=CONTROLLERS[c], event=EVENTS[e], max_steps=300, throw=False)
        if c == "StepTo":
            options |= dict(
                dt0=None,
                stepsize_controller=diffrax.StepTo((t0 + (t1 - t0) * jnp.sqrt(TS / 2)).astype(ts.dtype).at[-1].set(t1)),
            )
        if c == "PID, no dt0":
            options["dt0"] = None
        if e == "none, too few steps":
            options["max_steps"] = 4
        yield f"{p} | {s} | {c} | {v} | {e}", options


def solve(diffeqsolve, a, y0, terms, solver, t0=0.0, t1=2.0, dt0=0.15, **options):
    """One solve."""
    return diffeqsolve(terms, solver, t0, t1, dt0, y0, a, **options)


def seen(solution: diffrax.Solution) -> tuple[Any, Any]:
    """All that a solution holds: what may differ in rounding, and what may not."""
    stats = {k: solution.stats[k] for k in ("num_steps", "num_accepted_steps", "num_rejected_steps")}
    inside = None
    if solution.interpolation is not None:
        t0, t1 = solution.t0, solution.t1
        inside = jax.vmap(lambda s: solution.evaluate(t0 + (t1 - t0) * s))(jnp.array([0.1, 0.5, 0.9]))
    states = (solution.solver_state, solution.controller_state)
    exact = (stats, solution.result._value, solution.made_jump, solution.event_mask)  # pyright: ignore
    return (solution.ts, solution.ys, inside, states), exact


def square(tree: Any) -> jax.Array:
    """A scalar of all that is finite."""
    parts = [jnp.sum(jnp.where(jnp.isfinite(x), jnp.abs(x) ** 2, 0)) for x in jax.tree.leaves(tree)]
    return jnp.asarray(sum(parts), float)


def outcome(diffeqsolve, options: dict[str, Any]) -> Any:
    """Values, the exact rest and the gradient of a solve; or the error that it is."""
    options = dict(options)
    y0 = options.pop("y0", Y0)
    differentiable = options.pop("differentiable", True)

    def loss(inputs):
        values, rest = seen(solve(diffeqsolve, *inputs, **options))
        return square((values[1], values[2])), (values, rest)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if not differentiable:
                return *jax.jit(loss)((PARAMETER, y0))[1], None
            (_, found), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))((PARAMETER, y0))
        return *jax.block_until_ready(found), gradient
    except Exception as error:  # whatever it is, it shall be the same of both
        return error


def difference(mine: Any, theirs: Any) -> float:
    """The largest difference of two trees of numbers relative to the larger of a leaf's largest and 1e-3."""
    worst = 0.0
    for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(theirs), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        if a.shape != b.shape or a.dtype != b.dtype or np.any(np.isfinite(a) != np.isfinite(b)):
            return float("inf")
        finite = np.isfinite(a)
        if finite.any():
            gap = np.abs(np.where(finite, a, 0) * 1.0 - np.where(finite, b, 0))
            worst = max(worst, float(gap.max() / max(1e-3, np.abs(b[finite]).max())))
    return worst


def compare(options: dict[str, Any]) -> dict[str, Any]:
    """One row of results."""
    began = time.perf_counter()
    mine, theirs = outcome(nde.diffeqsolve, options), outcome(diffrax.diffeqsolve, options)
    errors = [x if isinstance(x, Exception) else None for x in (mine, theirs)]
    if any(errors):
        names = [None if x is None else f"{type(x).__name__}: {str(x).split(': Traceback')[0][:300]}" for x in errors]
        return {"errors": names, "same_error": type(errors[0]) is type(errors[1])}
    (values, rest, gradient), (their_values, their_rest, their_gradient) = mine, theirs
    same = jax.tree.structure((values, rest)) == jax.tree.structure((their_values, their_rest))
    if not same:
        return {"same_structure": False}
    stats, codes = [
        all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, pair), strict=True))
        for pair in ((rest[0], their_rest[0]), (rest[1:], their_rest[1:]))
    ]
    return {
        "values": difference(values, their_values),
        "gradient": difference(gradient, their_gradient),
        "same_statistics": stats,
        "same_result": codes,
        "code": int(rest[1]),
        "steps": [int(x) for x in rest[0].values()],
        "seconds": round(time.perf_counter() - began, 1),
    }


def corners() -> dict[str, dict[str, Any]]:
    """Solves that the product does not meet, and inputs that are wrong."""
    base: dict[str, Any] = dict(terms=ODE, solver=diffrax.Tsit5(), throw=False, max_steps=100)
    adaptive = base | dict(stepsize_controller=LOOSE)
    stiff = ODETerm(lambda t, y, a: jnp.stack([y[0] ** 2 * 1e3 * a, y[1]]))
    return {
        "integers": base | dict(t0=0, t1=2, dt0=1, y0=jnp.array([1, 2])),
        "numbers of single precision beside arrays of double": base | dict(t0=np.float32(0.1), t1=2, dt0=0.1),
        "no time, constant": base | dict(t0=1.0, t1=1.0, saveat=SaveAt(t0=True, t1=True, ts=jnp.ones(2))),
        "no time, dense": adaptive | dict(t0=1.0, t1=1.0, saveat=SaveAt(dense=True)),
        "no time, steps": adaptive | dict(t0=1.0, t1=1.0, saveat=SaveAt(steps=True, t1=True)),
        "no bound on the steps": adaptive | dict(max_steps=None, differentiable=False),
        "no bound on the steps, constant": base | dict(max_steps=None, saveat=SaveAt(ts=TS), differentiable=False),
        "no bound but steps saved": adaptive | dict(max_steps=None, saveat=SaveAt(steps=True), differentiable=False),
        "no bound but dense": adaptive | dict(max_steps=None, saveat=SaveAt(dense=True), differentiable=False),
        "one step allowed": adaptive | dict(max_steps=1, saveat=SaveAt(ts=TS, t1=True)),
        "no step allowed": adaptive | dict(max_steps=0, saveat=SaveAt(t1=True)),
        "as many steps as allowed, constant": base | dict(max_steps=20, dt0=0.1, saveat=SaveAt(steps=1, t1=True)),
        "an end at infinity, too few steps": base | dict(t1=jnp.inf, max_steps=12, saveat=SaveAt(t1=True)),
        "a save time twice": adaptive | dict(saveat=SaveAt(ts=jnp.array([0.0, 0.5, 0.5, 2.0, 2.0]))),
        "a save time twice, constant": base | dict(saveat=SaveAt(ts=jnp.array([0.0, 0.5, 0.5, 2.0, 2.0]), steps=2)),
        "save times on the grid": base | dict(dt0=0.5, saveat=SaveAt(ts=jnp.array([0.5, 1.0, 1.5]), steps=1, t1=True)),
        "no save times": base | dict(saveat=SaveAt(ts=jnp.zeros(0), t1=True)),
        "integers saved": adaptive | dict(saveat=SaveAt(ts=TS, fn=lambda t, y, a: (y > 1.0, jnp.int32(t * 3)))),
        "an empty state": adaptive | dict(terms=ODETerm(lambda t, y, a: y), y0=jnp.zeros(0)),
        "no state": adaptive | dict(terms=ODETerm(lambda t, y, a: y), y0=()),
        "blows up, adaptive": adaptive | dict(terms=stiff, saveat=SaveAt(t1=True)),
        "blows up, dtmin": adaptive
        | dict(terms=stiff,
               stepsize_controller=diffrax.PIDController(rtol=1e-3, atol=1e-3, dtmin=1e-4, force_dtmin=False)),
        "a start that is not a number": adaptive | dict(y0=jnp.array([jnp.nan, 1.0]), saveat=SaveAt(t1=True)),
        "an implicit solver that fails": adaptive
        | dict(terms=stiff, solver=diffrax.Kvaerno3(root_finder=diffrax.VeryChord(1e-14, 1e-14))),
        "an implicit solver at constant steps": base
        | dict(solver=diffrax.Kvaerno3(root_finder=diffrax.VeryChord(1e-8, 1e-8)), saveat=SaveAt(ts=TS)),
        "a term of diagonal noise": base
        | dict(terms=MultiTerm(ODE, ControlTerm(lambda t, y, a: lineax.DiagonalLinearOperator(a * y), brownian())),
               solver=diffrax.StratonovichMilstein(), saveat=SaveAt(ts=TS)),
        "noise in time and backward": base
        | dict(terms=noisy(), solver=diffrax.EulerHeun(), t0=2.0, t1=0.0, dt0=-0.1, saveat=SaveAt(ts=TS[::-1])),
        "max_steps run out, error": adaptive | dict(max_steps=3, throw=True),
        "wrong order of save times": base | dict(saveat=SaveAt(ts=TS[::-1]), throw=True),
        "save times outside": base | dict(saveat=SaveAt(ts=TS + 1), throw=True),
        "a first step backward": base | dict(dt0=-0.1, throw=True),
        "a wrong order, no throw": base | dict(saveat=SaveAt(ts=TS[::-1])),
        "no first step": base | dict(dt0=None),
        "a first step for StepTo": base | dict(stepsize_controller=diffrax.StepTo(TS)),
        "StepTo elsewhere": base | dict(dt0=None, stepsize_controller=diffrax.StepTo(TS + 1), throw=True),
        "a solver that has no error estimate": adaptive | dict(solver=diffrax.LeapfrogMidpoint()),
        "terms that do not fit": base | dict(terms=(ODE, ODE)),
        "a field of another shape": base | dict(terms=ODETerm(lambda t, y, a: y[0])),
        "a field of another type": base | dict(terms=ODETerm(lambda t, y, a: y.astype(jnp.float32))),
        "implicit without tolerances": base | dict(solver=diffrax.Kvaerno3()),
        "complex times": base | dict(t1=2.0 + 1j),
        "an event that is not a scalar": adaptive | dict(event=diffrax.Event(lambda t, y, a, **kw: y)),
        "adaptive Euler for noise": adaptive | dict(terms=noisy(), solver=diffrax.Euler()),
    }  # fmt: skip


def differs(row: dict[str, Any]) -> bool:
    """Whether a row shows a difference past rounding."""
    if "errors" in row:
        return not row["same_error"]
    if not row.get("same_structure", True) or not (row["same_statistics"] and row["same_result"]):
        return True
    limit = 1e-3 if row["name"].startswith("single") else 1e-6
    return not (row["values"] < limit and row["gradient"] < 10 * limit)


def main():
    """Go on where the last run ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--only", default="", help="rows whose name holds this text")
    parser.add_argument("--report", action="store_true", help="run nothing")
    given = parser.parse_args()
    lines = given.out.read_text().splitlines() if given.out.exists() else []
    done = {row["name"]: row for row in map(json.loads, lines)}
    table = list(rows())
    random.Random(0).shuffle(table)
    table = [*((f"corner | {name}", options) for name, options in corners().items()), *table]
    end = time.monotonic() + 60 * given.minutes
    for name, options in table:
        if given.report or time.monotonic() > end:
            break
        if name in done or given.only not in name:
            continue
        done[name] = row = {"name": name} | compare(options)
        with given.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        if differs(row):
            print(row, flush=True)
        jax.clear_caches()
    wrong = [row for row in done.values() if differs(row)]
    print(f"{len(done)} of {len(table)} done, {len(wrong)} differ")
    for row in wrong if given.report else []:
        print(json.dumps(row))


if __name__ == "__main__":
    main()
