"""Theophylline with a learned absorption, on subjects held out, beside first-order absorption.

    python tests/bench/learned_absorption.py [--steps 300]

Four folds of three subjects; both are populations of one compartment, fitted by their marginal likelihood from
configs/theophylline_population.toml. In the second a network of the amount in the gut is added to the rates of gut and
blood, the same for all subjects. Scores per value of held-out subjects, given none of their values and given two.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

import nde

HERE = Path(__file__).parent
STORED = HERE / "results" / "learned_absorption.json"
CONFIG = HERE.parent.parent / "configs" / "theophylline_population.toml"
MODELS = {
    "first-order absorption": [],
    "and a network of the gut": [
        "model.residual_states=['gut', 'central']",
        "model.residual_inputs=['gut']",
        "model.width=8",
    ],
}


def scores(overrides: list[str], fold: int, steps: int) -> dict[str, dict[str, float]]:
    given = [f"data.fold={fold}", f"train.steps={steps}", "evaluate.intervals=false", "objective.curvature=expected"]
    config = nde.config.load_config(CONFIG, [*given, *overrides])
    with tempfile.TemporaryDirectory() as folder:
        run = nde.fit(config, out=Path(folder) / "run", progress=False)
        found = {f"{many} given": run.evaluate(given=many).rows()[-1] for many in (0, 2)}
    return {way: {key: float(row[key]) for key in ("NLL", "RMSE", "RMSE, fitted")} for way, row in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
    start, stored = time.perf_counter(), {"steps": options.steps, "folds": {}}
    for name, overrides in MODELS.items():
        stored["folds"][name] = [scores(overrides, fold, options.steps) for fold in range(4)]
        mean = {way: np.mean([fold[way]["NLL"] for fold in stored["folds"][name]]) for way in ("0 given", "2 given")}
        print(name, mean, flush=True)
    stored["seconds"] = time.perf_counter() - start
    STORED.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
