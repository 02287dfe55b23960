"""What regularising the solver buys: quality against evaluations of the field, of three models and nine regularisers.

    python tests/bench/regularise.py study digits|patients|spiral [--double]
    python tests/bench/regularise.py time digits|patients|spiral
    python tests/bench/regularise.py table

`study` trains the model without a regulariser from three seeds; with each regulariser at five weights from the first
seed, chooses by validation data the weight with the fewest evaluations whose loss is at most 1.1 times that of the
plain model of the same seed (or, where there is none, the one of the least loss), and trains that from three seeds. All
have the same number of steps, on the same batches. Scores are of held-out data; evaluations are those of one example in
the mean. It goes on where it was stopped: every trained model is a row of tests/bench/results/regularise_*.json.
`--double` is one run of plain and ERNODE in double precision at a tolerance of 1.4e-8, as in the papers.

`time`, on an idle machine, trains the first seed's models again for the time of it, without compilation, and times
predictions of the test data by all of them in turn, medians. `table` prints what is stored and draws it.
"""

import argparse
import json
import math
import os
import statistics
import time
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib
import numpy as np
from regularise_problems import PROBLEMS

from nde import regularise as R

RESULTS = Path(__file__).parent / "results"
LEFT = 0.1
"""The share of a weight that is left at the end of training."""
RATIO = 0.01
"""The weight of stiffness over that of the error where both are used."""


def regulariser(name: str, weight: float) -> R.AbstractRegulariser | None:
    """By its name in the table; STEER's weight is its spread."""
    made = {
        "none": lambda: None,
        "ERNODE": R.ErrorEstimate,
        "SRNODE": R.StiffnessEstimate,
        "ER+SR": lambda: R.Together((R.ErrorEstimate(), R.StiffnessEstimate()), (1.0, RATIO)),
        "local, unbiased": R.LocalErrorEstimate,
        "local, biased": lambda: R.LocalErrorEstimate(biased=True),
        "RNODE": lambda: R.Together((R.KineticEnergy(), R.JacobianNorm())),
        "TayNODE": lambda: R.TaylorDerivative(2),
        "STEER": lambda: R.RandomEndTime(weight),
    }
    return made[name]()


WEIGHTS = {
    "digits": {
        "ERNODE": [3e-2, 0.1, 0.3, 1, 3],
        "SRNODE": [1e-4, 1e-3, 1e-2, 3e-2, 1e-1],
        "ER+SR": [3e-2, 0.1, 0.3, 1, 3],
        "local, unbiased": [3e-2, 0.1, 0.3, 1, 3],
        "local, biased": [3e-2, 0.1, 0.3, 1, 3],
        "RNODE": [1e-4, 3e-4, 1e-3, 3e-3, 1e-2],
        "TayNODE": [1e-6, 1e-5, 1e-4, 1e-3, 1e-2],
        "STEER": [0.1, 0.2, 0.3, 0.4, 0.5],
    },
}
WEIGHTS["patients"] = WEIGHTS["digits"] | {
    name: [1e-3, 1e-2, 0.1, 1, 10] for name in ("ERNODE", "ER+SR", "local, unbiased", "local, biased")
}
WEIGHTS["spiral"] = WEIGHTS["patients"]


class Trainer:
    """Training and judging of one problem; compiled once a regulariser."""

    def __init__(self, problem: Any):
        self.problem = problem
        self.steps: dict[Any, Any] = {}
        self.judge = eqx.filter_jit(problem.judge)

    def _step(self, name: str, weight: float):
        key = (name, weight if name == "STEER" else None)
        if key not in self.steps:
            chosen, problem = regulariser(name, weight), self.problem

            @eqx.filter_jit
            def step(model, state, batch, key, weight):
                def loss(model):
                    value, penalty = problem.outcome(model, batch, chosen, key)
                    return value + weight * penalty

                value, gradient = eqx.filter_value_and_grad(loss)(model)
                changes, state = problem.optimiser.update(gradient, state, eqx.filter(model, eqx.is_inexact_array))
                return eqx.apply_updates(model, changes), state, value

            self.steps[key] = step
        return self.steps[key]

    def train(self, name: str, weight: float, seed: int) -> tuple[Any, float]:
        """A trained model, and the seconds that the training took, without compilation."""
        problem, step = self.problem, self._step(name, weight)
        model = problem.make_model(jr.key(seed))
        state = problem.optimiser.init(eqx.filter(model, eqx.is_inexact_array))
        generator, dtype = np.random.default_rng(seed), jnp.result_type(float)
        schedule = R.weight_schedule(weight, LEFT * weight, problem.steps) if weight else R.weight_schedule(0.0)
        first = problem.draw(np.random.default_rng(0))
        jax.block_until_ready(step(model, state, first, jr.key(0), jnp.zeros((), dtype)))
        start = time.perf_counter()
        for number in range(problem.steps):
            now = jnp.asarray(0.0 if name == "STEER" else schedule(number), dtype)
            model, state, value = step(model, state, problem.draw(generator), jr.fold_in(jr.key(seed), number), now)
        jax.block_until_ready(value)
        return model, time.perf_counter() - start

    def row(self, name: str, weight: float, seed: int) -> dict[str, Any]:
        """Train, and judge; without scores where a solve failed on the way."""
        row: dict[str, Any] = {"regulariser": name, "weight": weight, "seed": seed}
        try:
            model, seconds = self.train(name, weight, seed)
        except eqx.EquinoxRuntimeError as error:
            nothing = {"loss": math.nan, "evaluations": math.nan, self.problem.measure: math.nan}
            said = [line for line in str(error).splitlines() if "EquinoxRuntimeError: " in line]
            return row | {"validation": nothing, "test": nothing, "failed": said[-1].partition(": ")[2]}
        for part in ("validation", "test"):
            loss, evaluations, second = (float(x) for x in self.judge(model, part))
            row[part] = {"loss": loss, "evaluations": evaluations, self.problem.measure: second}
        return row | {"seconds_loaded_machine": round(seconds, 1)}


class Store:
    """The rows of a study, on disk after each."""

    def __init__(self, study: str):
        self.path = RESULTS / f"regularise_{study.replace(', ', '_')}.json"

    def read(self) -> dict[str, Any]:
        """All of this study."""
        return json.loads(self.path.read_text()) if self.path.exists() else {"rows": []}

    def write(self, **changed: Any) -> None:
        """Change a part of it."""
        machine = {"machine": {"cores": os.cpu_count(), "jax": jax.__version__}}
        self.path.write_text(json.dumps(self.read() | machine | changed, indent=1) + "\n")

    def row(self, trainer: Trainer, name: str, weight: float, seed: int) -> dict[str, Any]:
        """A row, made if it is not there."""
        rows = self.read()["rows"]
        for row in rows:
            if (row["regulariser"], row["weight"], row["seed"]) == (name, weight, seed):
                return row
        row = trainer.row(name, weight, seed)
        print(json.dumps(row), flush=True)
        self.write(rows=[*self.read()["rows"], row])
        return row


def choose(rows: list[dict[str, Any]], limit: float) -> float:
    """The weight with the fewest evaluations among those that are good enough on validation data."""
    good = [row for row in rows if row["validation"]["loss"] <= limit]
    if good:
        return min(good, key=lambda row: row["validation"]["evaluations"])["weight"]
    return min(rows, key=lambda row: np.nan_to_num(row["validation"]["loss"], nan=np.inf))["weight"]


def study(name: str) -> None:
    """All rows of a study."""
    problem = PROBLEMS[name]()
    trainer, store = Trainer(problem), Store(name)
    plain = [store.row(trainer, "none", 0.0, seed) for seed in range(3)]
    limit = 1.1 * plain[0]["validation"]["loss"]
    chosen = {"none": 0.0}
    for each in problem.rows[1:]:
        tried = [store.row(trainer, each, weight, 0) for weight in WEIGHTS[name][each]]
        chosen[each] = choose(tried, limit)
        store.write(chosen=store.read().get("chosen", {}) | chosen, measure=problem.measure)
        for seed in (1, 2):
            store.row(trainer, each, chosen[each], seed)


def double() -> None:
    """Plain and ERNODE in double precision."""
    jax.config.update("jax_enable_x64", True)
    trainer, store = Trainer(PROBLEMS["digits"](1.4e-8)), Store("digits, double")
    weight = Store("digits").read()["chosen"]["ERNODE"]
    for name, each in (("none", 0.0), ("ERNODE", weight)):
        store.row(trainer, name, each, 0)
    store.write(chosen={"none": 0.0, "ERNODE": weight}, measure=trainer.problem.measure)


def measure_times(name: str, rounds: int = 15) -> None:
    """Seconds of training and milliseconds of prediction, of the first seed's models."""
    problem = PROBLEMS[name]()
    trainer, store = Trainer(problem), Store(name)
    chosen, models, times = store.read()["chosen"], {}, {}
    for each, weight in chosen.items():
        models[each], seconds = trainer.train(each, weight, 0)
        times[each] = {"training_s": round(seconds, 2)}
        print(each, times[each], flush=True)
    _, again = trainer.train("none", 0.0, 0)
    times["none"]["training_s_again"] = round(again, 2)
    kept: dict[str, list[float]] = {each: [] for each in models}
    for number in range(rounds + 1):
        for each, model in models.items():
            start = time.perf_counter()
            jax.block_until_ready(trainer.judge(model, "test"))
            if number:
                kept[each].append(1e3 * (time.perf_counter() - start))
    for each, values in kept.items():
        times[each]["prediction_ms"] = round(statistics.median(values), 2)
        print(each, times[each], flush=True)
    store.write(times=times)


def table() -> None:
    """Medians and ranges over seeds; the fronts."""
    matplotlib.use("Agg")
    from matplotlib import pyplot  # after the backend is chosen

    studies = [name for name in (*PROBLEMS, "digits, double") if Store(name).read()["rows"]]
    figure, axes = pyplot.subplots(1, len(PROBLEMS), figsize=(5 * len(PROBLEMS), 4), layout="constrained")
    for place, name in enumerate(studies):
        found = Store(name).read()
        rows, measure = found["rows"], found["measure"]
        first = None
        print(f"\n{name}\n| regulariser | weight | loss | {measure} | evaluations | of plain | prediction | training |")
        print("|---|---|---|---|---|---|---|---|")
        for each, weight in found["chosen"].items():
            trained = [row for row in rows if (row["regulariser"], row["weight"]) == (each, weight)]
            own = [row["test"] for row in trained if "failed" not in row]
            columns = {key: np.array([row[key] for row in own]) for key in ("loss", measure, "evaluations")}
            first = columns if first is None else first
            cells = [f"{np.median(x):.3g} ({x.min():.3g} … {x.max():.3g})" for x in columns.values()]
            share = np.median(columns["evaluations"]) / np.median(first["evaluations"])
            times, plain = found.get("times", {}).get(each), found.get("times", {}).get("none")
            faster = ["", ""]
            if times:
                faster = [f"{plain[key] / times[key]:.2f} ×" for key in ("prediction_ms", "training_s")]
            failed = f" ({len(trained) - len(own)} of {len(trained)} failed)" if len(own) < len(trained) else ""
            print(f"| {each}{failed} | {weight:g} | {' | '.join(cells)} | {share:.2f} | {' | '.join(faster)} |")
        if place < len(PROBLEMS):
            _front(axes[place], name, rows)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=9)
    figure.savefig(RESULTS / "regularise.png", dpi=110)


def _front(axis: Any, name: str, rows: list[dict[str, Any]]) -> None:
    """Loss against evaluations on test data: all weights and seeds."""
    for number, each in enumerate(("none", *WEIGHTS["digits"])):
        own = [row["test"] for row in rows if row["regulariser"] == each]
        colour = "black" if each == "none" else f"C{number}"
        axis.plot(
            [x["evaluations"] for x in own], [x["loss"] for x in own], "o" if each == "none" else ".", color=colour,
            label=each, alpha=0.8,
        )  # fmt: skip
    ticks = [12, 25, 50, 100, 200, 400]
    axis.set_xscale("log")
    axis.set_xticks(ticks, [str(n) for n in ticks])
    axis.set_xticks([], minor=True)
    axis.set(title=name, xlabel="evaluations of the field at prediction", ylabel="held-out loss")
    if all(row["test"]["loss"] > 0 for row in rows):
        axis.set_yscale("log")


def main() -> None:
    """Do what is asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["study", "time", "table"])
    parser.add_argument("problem", nargs="?", choices=list(PROBLEMS))
    parser.add_argument("--double", action="store_true")
    options = parser.parse_args()
    if options.what == "table":
        table()
    elif options.problem is None:
        parser.error("name a problem")
    elif options.double:
        double()
    else:
        (study if options.what == "study" else measure_times)(options.problem)


if __name__ == "__main__":
    main()
