"""The processes of a sweep: each takes a trial after another until none is left."""

from pathlib import Path

from rich.console import Console

from nde.runs import as_a_process, in_processes
from nde.sweeps.kept import Kept
from nde.sweeps.study import claimed
from nde.sweeps.trial import run_trial
from nde.train import keep_compiled


def work(kept: Kept, trials: int, console: Console) -> bool:
    """Make trials until there are `trials`, here; `False` if a signal ended one early."""
    study = kept.study()
    while True:
        with claimed(study, kept.grid, kept.folder, trials) as trial:
            if trial is None:
                return True
            if not run_trial(kept.folder, kept.grid, kept.overrides, trial, console):
                return False


def work_in_processes(kept: Kept, trials: int, processes: int, *, cached: bool, quiet: bool) -> list[int]:
    """The same in several processes at once; the exit codes of those that failed.

    **Raises:** `KeyboardInterrupt` after all have come to a stop.
    """
    given = [str(kept.folder), str(trials), str(int(cached)), str(int(quiet))]
    return in_processes("nde.sweeps.worker", [given] * processes)


def main(folder: str, trials: str, cached: str, quiet: str) -> None:
    """A process of `work_in_processes`."""
    if cached == "1":
        keep_compiled()
    with as_a_process():
        if not work(Kept.open(Path(folder)), int(trials), Console(quiet=quiet == "1")):
            raise KeyboardInterrupt
