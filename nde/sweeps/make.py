"""Make a sweep, or go on with one: `nde.sweep`."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console
from rich.table import Table

from nde.config import RunConfig
from nde.runs import Run, RunError, RunFailed
from nde.sweeps.figure import plot_sweep
from nde.sweeps.kept import Kept, make_or_reopen
from nde.sweeps.study import check_installed, is_held
from nde.sweeps.trial import rows_of
from nde.sweeps.worker import work, work_in_processes
from nde.train import read_metrics

SHOWN = 20


@dataclass(frozen=True)
class Sweep:
    """A sweep's folder: made by `nde.sweep` or `nde sweep`, opened by `Sweep.open`."""

    kept: Kept

    @classmethod
    def open(cls, folder: str | Path) -> "Sweep":
        """Open a folder that `nde sweep` made.

        **Raises:** `nde.runs.RunError` if it is none, or without Optuna.
        """
        check_installed()
        return cls(Kept.open(Path(folder)))

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.kept.folder

    def rows(self) -> list[dict[str, Any]]:
        """A row for each setting, the best first: its `trial`, `state`, values, `score`, `error`, `folders`, `failure`.

        `score` is the best validation score, lower is better, the mean over its `seeds`, and `error` its standard
        error; of a setting that was pruned the score when it was; `nan` where there is none.
        """
        study = self.kept.study()
        running = {trial.number: is_held(self.folder, trial.number) for trial in study.get_trials(deepcopy=False)}
        return rows_of(study, self.kept.grid, self.folder, running)

    @property
    def best(self) -> Run:
        """The run of the best setting, of its seeds the one that validated best.

        **Raises:** `nde.runs.RunFailed` if no setting is finished, with why the first failed.
        """
        rows = self.rows()
        if not rows or rows[0]["state"] != "finished":
            failures = [row["failure"] for row in rows if row["failure"]]
            why = f"; the first that failed: {failures[0]}" if failures else ""
            raise RunFailed(f"{self.folder}: none of {len(rows)} settings is finished{why}")
        scores = rows[0]["scores"]
        return Run.open(rows[0]["folders"][scores.index(min(scores))])

    def table(self) -> Table:
        """The first settings, for the terminal."""
        rows = self.rows()[:SHOWN]
        columns = {"trial": [str(row["trial"]) for row in rows]}
        columns |= {key: [row[key].strip('"') for row in rows] for key in self.kept.grid.keys}
        columns["score"] = [_shown(row) for row in rows]
        columns["state"] = [row["state"] for row in rows]
        several = len(self.kept.grid.seeds) > 1
        caption = "best validation score, lower is better" + (", mean over seeds ± standard error" if several else "")
        table = Table(title=f"sweep {self.folder.name}", caption=caption)
        for name in columns:
            table.add_column(name, justify="left" if name == "state" else "right", overflow="fold")
        for cells in zip(*columns.values(), strict=True):
            table.add_row(*cells)
        return table

    def lines(self) -> list[str]:
        """How many settings came to what, and why those failed that did."""
        rows = self.rows()
        counts = {
            state: sum(row["state"] == state for row in rows) for state in dict.fromkeys(r["state"] for r in rows)
        }
        lines = [f"{len(rows)} settings: " + ", ".join(f"{count} {state}" for state, count in counts.items())]
        lines += [f"trial {row['trial']} failed: {row['failure']}" for row in rows if row["failure"]][:5]
        return lines

    def write(self) -> list[Path]:
        """Write `results.csv`, `results.json` and `sweep.png` into the folder."""
        rows, keys = self.rows(), self.kept.grid.keys
        flat = [
            {
                **{name: value for name, value in row.items() if name not in ("scores", "folders")},
                "folder": " ".join(row["folders"]),
            }
            for row in rows
        ]
        paths = [self.folder / name for name in ("results.csv", "results.json", "sweep.png")]
        pl.DataFrame(flat, infer_schema_length=None).write_csv(paths[0], float_precision=6)
        plain = [{name: None if value != value else value for name, value in row.items()} for row in rows]
        paths[1].write_text(json.dumps({"keys": keys, "settings": plain}, indent=1) + "\n")
        curves = {row["trial"]: _curves(row["folders"]) for row in rows}
        name = next((Run.open(place).task.score_name for row in rows for place in row["folders"]), "validation score")
        figure = plot_sweep(rows, keys, curves, choices=self.kept.grid.choices, score_name=name)
        figure.savefig(paths[2], dpi=150, bbox_inches="tight")
        return paths


def sweep(
    config: "str | Path | Mapping[str, Any] | RunConfig",
    grid: "str | Path | Mapping[str, Any]",
    *,
    data: Any = None,
    out: str | Path | None = None,
    trials: int | None = None,
    processes: int = 1,
    progress: bool = True,
    overrides: Sequence[str] = (),
    cached: bool = False,
) -> Sweep:
    """Train a config in many settings and compare their validation scores, as `nde sweep` does.

    ```python
    found = nde.sweep("configs/cnf_2d.toml", {"grid": {"model.width": [16, 64]}}, out="sweeps/flow")
    found.rows()
    found.best.evaluate().rows()
    ```

    Called again with the same `out` it goes on: with trials that were stopped from their checkpoints, and with more if
    `trials` says so.

    **Arguments:**

    - `config`, `data`: as of `nde.fit`.
    - `grid`: see `nde.sweeps.read_grid`.
    - `out`: the sweep's folder; `sweeps/CONFIG-DATE-TIME` if not given.
    - `trials`: how many settings, each trained by all seeds.
    - `processes`: how many settings at once, each in a process of its own.
    - `progress`: whether a line is printed for each trial.
    - `overrides`: `section.key=value` over the config. `cached`: see `nde.train.keep_compiled`; of `processes` alone.

    **Raises:** what `nde.fit` raises, before a folder is made; `KeyboardInterrupt` after Ctrl-C, when all have stopped;
    `nde.runs.RunFailed` for a process that ended by itself. A setting that fails is recorded in its row.
    """
    check_installed()
    if processes < 1 or (trials is not None and trials < 1):
        raise RunError(f"processes and trials must be at least 1, but are {processes} and {trials}.")
    name = Path(config).stem if isinstance(config, str | Path) else "sweep"
    folder = new_place(name) if out is None else Path(out)
    kept = make_or_reopen(folder, config, grid, data, overrides)
    return go_on(kept, trials, processes, Console(quiet=not progress), cached=cached)


def new_place(name: str) -> Path:
    """Where a sweep lies that is given no folder: `sweeps/NAME-DATE-TIME`."""
    return Path("sweeps") / f"{name}-{datetime.now().strftime('%Y%m%d-%H%M%S')}"


def go_on(kept: Kept, trials: int | None, processes: int, console: Console, *, cached: bool = False) -> Sweep:
    """Make what is not yet made of a sweep; what this raises is said of `nde.sweep`."""
    console.print(f"sweep folder: {kept.folder}", soft_wrap=True, highlight=False, markup=False)
    count = kept.grid.trials(trials)
    if processes == 1:
        if not work(kept, count, console):
            raise KeyboardInterrupt
    else:
        codes = work_in_processes(kept, count, processes, cached=cached, quiet=console.quiet)
        if 130 in codes:
            raise KeyboardInterrupt
        if codes:
            raise RunFailed(
                f"{len(codes)} of {processes} processes ended early (exit code {codes[0]}); go on as before"
            )
    found = Sweep(kept)
    found.write()
    return found


def _shown(row: Mapping[str, Any]) -> str:
    if math.isnan(row["score"]):
        return "–"
    error = "" if math.isnan(row["error"]) else f" ± {row['error']:.4f}"
    return f"{row['score']:.4f}{error}"


def _curves(folders: Sequence[str]) -> list[list[tuple[int, float]]]:
    """Steps and validation scores of each run of a setting, of each of its members."""
    found: list[list[tuple[int, float]]] = []
    for path in (Path(place) / "metrics.jsonl" for place in folders):
        rows = [row for row in (read_metrics(path) if path.is_file() else []) if "validation" in row]
        for member in sorted({row["member"] for row in rows}):
            found.append([(row["step"], row["validation"]) for row in rows if row["member"] == member])
    return found
