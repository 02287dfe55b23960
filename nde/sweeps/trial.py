"""One trial of a sweep: the runs of a setting, a run for each seed, each an ordinary run's folder."""

import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
from rich.console import Console

from nde import runs
from nde.config import load_config
from nde.runs import Run, RunFailed
from nde.sweeps.grid import as_overrides, Grid, SEED
from nde.sweeps.study import optuna, setting_of
from nde.train import cause_of, FailedExamples, read_metrics, StepReport, TrainState

REFUSED = (RunFailed, ValueError, FailedExamples, eqx.EquinoxRuntimeError, jax.errors.JaxRuntimeError)
"""What ends a trial, and not the sweep."""


class Pruned(Exception):
    """The pruner ends a trial: at which step of how many."""


class Watch:
    """A callback of `nde.runs.train` that tells a trial's standing at each validation, and ends a hopeless one.

    The standing is the mean over the seeds so far of the best score so far, at the steps so far of all seeds: trials
    are compared where each has been trained by the same seeds for as long.
    """

    def __init__(self, trial: Any, run: Run, before: list[float], steps: int, last: int):
        self.trial, self.run, self.before, self.steps, self.last = trial, run, before, steps, last
        self.told = set(trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values)

    def on_step(self, step: int, report: StepReport) -> None:
        """Nothing."""

    def on_validation(self, state: TrainState, score: float) -> None:
        """Tell and ask."""
        value, member = standing(self.run)
        step = self.steps + member * self.run.config.train.all_steps + int(state.step)
        if not math.isfinite(value):
            return
        if step not in self.told:  # else it was, before the process ended
            self.told.add(step)
            scores = [*self.before, value]
            self.trial.report(sum(scores) / len(scores), step)
        if step < self.last and self.trial.should_prune():
            raise Pruned(f"pruned at step {step} of {self.last}")

    def on_end(self, state: TrainState) -> None:
        """Nothing."""

    def on_failure(self, state: TrainState) -> None:
        """Nothing."""


def standing(run: Run) -> tuple[float, int]:
    """The validation score of a run that is being trained, as far as it is, and which member is at it."""
    best: dict[int, float] = {}
    for row in read_metrics(run.metrics_path):
        if "best_step" in row:
            member = int(row["member"])
            best[member] = min(best.get(member, math.inf), row.get("validation", math.inf))
    by_label: dict[str, list[float]] = {}
    for member in run.config.members():
        if member.index in best:
            by_label.setdefault(member.label, []).append(best[member.index])
    return min((sum(found) / len(found) for found in by_label.values()), default=math.inf), max(best, default=0)


def folders(folder: Path, number: int, grid: Grid) -> list[Path]:
    """Where the runs of a trial lie: `trial_007`, or for each of several seeds `trial_007_seed_0`."""
    own = f"trial_{number:03d}"
    return [folder / (own if len(grid.seeds) == 1 else f"{own}_seed_{seed}") for seed in grid.seeds]


def run_trial(folder: Path, grid: Grid, overrides: list[str], trial: Any, console: Console) -> bool:
    """Train what is not yet trained of a trial, and write into the journal what came of it.

    **Returns:** `False` if a signal ended it early; it is taken up again.
    """
    setting = setting_of(trial.params, grid)
    scores: list[float] = []
    steps = 0
    states, study = optuna.trial.TrialState, trial.study
    title = f"trial {trial.number}: {' '.join(as_overrides(setting))}".rstrip(": ")
    _say(console, f"{title} …")
    try:
        for seed, place in zip(grid.seeds, folders(folder, trial.number, grid), strict=True):
            given = [] if seed is None else [f"{SEED}={seed}"]
            run = _opened(place, folder / "config.toml", [*overrides, *as_overrides(setting), *given])
            whole = run.config.train.all_steps * len(run.config.members())
            watch = Watch(trial, run, list(scores), steps, whole * len(grid.seeds))
            if not runs.train(run, Console(quiet=True), watch=[watch]):
                return False
            scores.append(min(run.validation_scores().values()))
            steps += whole
            if not math.isfinite(scores[-1]):
                raise RunFailed("no validation has a score")
    except Pruned as pruned:
        study.tell(trial, state=states.PRUNED)
        _say(console, f"{title}: {pruned}")
        return True
    except REFUSED as error:
        trial.set_user_attr("failure", _why(error))
        study.tell(trial, state=states.FAIL)
        _say(console, f"{title}: failed: {_why(error)}")
        return True
    trial.set_user_attr("scores", scores)
    study.tell(trial, sum(scores) / len(scores))
    _say(console, f"{title}: {sum(scores) / len(scores):.4f}")
    return True


def _opened(place: Path, config: Path, overrides: list[str]) -> Run:
    """The run of a folder, made if it is not there: elsewhere first, so that what is there is whole."""
    if not place.exists():
        part = place.with_name(place.name + ".part")
        shutil.rmtree(part, ignore_errors=True)  # of a process that was killed over it
        found = runs.prepare(load_config(config, overrides))
        part.mkdir(parents=True)
        Run.create(part, *found)
        part.rename(place)
    return Run.open(place)


def _why(error: BaseException) -> str:
    if isinstance(error, FailedExamples):
        return runs.explain_solve(error)
    if isinstance(error, eqx.EquinoxRuntimeError):
        return runs.explain_solve(FailedExamples(cause_of(error)))
    return (str(error).splitlines() or [type(error).__name__])[0]


def _say(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, highlight=False, markup=False)


def rows_of(study: Any, grid: Grid, folder: Path, running: Mapping[int, bool]) -> list[dict[str, Any]]:
    """A row for each trial, the best first, then the pruned ones, those that are not done, the failed."""
    names = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed"}
    rows = []
    for trial in study.get_trials(deepcopy=False):
        scores = trial.user_attrs.get("scores", [])
        count = len(scores)
        spread = sum((x - sum(scores) / count) ** 2 for x in scores) / (count - 1) if count > 1 else math.nan
        places = [place for place in folders(folder, trial.number, grid) if place.exists()]
        state = names.get(trial.state.name, "running" if running.get(trial.number) else "stopped")
        rows.append(
            {
                "trial": trial.number,
                "state": state,
                **setting_of(trial.params, grid),
                "score": trial.value if trial.value is not None else math.nan,
                "error": math.sqrt(spread / count) if count > 1 else math.nan,
                "seeds": count,
                "scores": scores,
                "folders": [str(place) for place in places],
                "failure": trial.user_attrs.get("failure"),
            }
        )
    order = ["finished", "pruned", "running", "stopped", "failed"]
    return sorted(
        rows, key=lambda row: (order.index(row["state"]), math.inf if math.isnan(row["score"]) else row["score"])
    )
