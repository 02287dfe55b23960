"""What the command line does with a run beside training it; each asks the run's kind."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from nde.config import RunConfig
from nde.report import plot_training
from nde.runs.folder import Run
from nde.runs.interface import AbstractEvaluation, Prediction, RunError
from nde.runs.kinds import kind_of, KINDS
from nde.train import read_metrics


def load_problem(config: RunConfig) -> Any:
    """Read and prepare the data of a config.

    **Raises:** `ValueError` for data that can not be used, or that are not those which the run was made from.
    """
    return kind_of(config).load(config)


def resolve(config: RunConfig, problem: Any) -> Any:
    """The config with all that depends on the data filled in, so that it says the same when read elsewhere.

    **Raises:** `RunError` for a config that does not fit its data.
    """
    return kind_of(config).resolve(config, problem)


def finish(run: Run, problem: Any) -> None:
    """Learn and write what the run's folder keeps beside its trained models."""
    run.kind.finish(run, problem)


def evaluate(run: Run, problem: Any) -> Any:
    """Score the run's models and the baselines on what was held out: an `nde.runs.AbstractEvaluation`."""
    return run.kind.evaluate(run, problem)


def draw(run: Run, problem: Any, evaluation: AbstractEvaluation, folder: Path | None = None) -> list[Path]:
    """Write `training.png` and the kind's own figures into the run's `figures`, or another folder."""
    folder = run.folder / "figures" if folder is None else folder
    folder.mkdir(parents=True, exist_ok=True)
    names = run.kind.members(run.config)
    figures = {"training": plot_training(read_metrics(run.metrics_path), names=names)}
    figures |= run.kind.figures(run, problem, evaluation)
    paths = [folder / f"{name}.png" for name in figures]
    for path, figure in zip(paths, figures.values(), strict=True):
        figure.savefig(path, dpi=150, bbox_inches="tight")  # no legend is cut off
    return paths


def predict(
    run: Run,
    data: Path,
    out: Path,
    *,
    ahead: Sequence[float] = (),
    samples: int = 200,
    keep_samples: bool = False,
) -> pl.DataFrame:
    """Forecast the series of a table, and write the forecasts.

    **Arguments:**

    - `run`: the run whose models forecast. Its training table is not needed.
    - `data`: a table laid out like the one that it was trained on.
    - `out`: a `.csv` or `.parquet` file that does not exist yet.
    - `ahead`: times after each series' last row, in the table's unit, which for dates is the run's `data.date_unit`.
    - `samples`: how many.
    - `keep_samples`: whether each sample becomes a column `sample_0`, `sample_1`, …

    **Returns:** the table that was written.

    **Raises:** `RunError` if `out` exists or is of another type, or the run's kind does not forecast tables;
    `TableError` for a bad table.
    """
    if not run.kind.can_predict():
        able = ", ".join(name for name, kind in KINDS.items() if kind.can_predict())
        raise RunError(f"{run.folder}: a run of kind '{run.config.kind}' forecasts no tables; these kinds do: {able}.")
    if out.suffix not in (".csv", ".parquet"):
        raise RunError(f"{out}: unknown kind of table '{out.suffix}'; use .csv or .parquet.")
    if out.exists():
        raise RunError(f"{out}: exists already, and nothing is written over; give another --out.")
    if not out.parent.is_dir():
        raise RunError(f"{out}: no folder {out.parent} is there; make it, or give another --out.")
    if any(not 0 < step < math.inf for step in ahead):
        raise RunError(f"--ahead must hold times after the last row, above zero, but is {', '.join(map(str, ahead))}.")
    table = run.kind.predict(run, Prediction(data, ahead, samples, keep_samples, as_text=out.suffix == ".csv"))
    assert table is not None
    table.write_csv(out) if out.suffix == ".csv" else table.write_parquet(out)
    return table
