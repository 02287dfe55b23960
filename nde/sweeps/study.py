"""The journal of a sweep: which settings there are, who is at them, what comes next. Optuna is known here alone."""

import fcntl
import importlib
import importlib.util
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nde.sweeps.grid import as_toml, Between, Grid
from nde.tasks import RunError

# An extra: what does not sweep is imported without it.
optuna: Any = importlib.import_module("optuna") if importlib.util.find_spec("optuna") else None


class FileLock:
    """A lock of the kernel's, which a process that is killed lets go at once; Optuna's own are waited out for 30 s."""

    def __init__(self, path: Path):
        self.path, self._file = path, None

    def acquire(self, wait: bool = True) -> bool:
        """Take the lock; without `wait` it is `False` if another has it."""
        self.path.parent.mkdir(exist_ok=True)
        file = self.path.open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            file.close()
            return False
        self._file = file
        return True

    def release(self) -> None:
        """Let it go."""
        if self._file is not None:
            self._file.close()
            self._file = None


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """While a folder is locked; not where its file system knows no locks of folders, as of some networks."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def check_installed() -> None:
    """Refuse to go on without Optuna."""
    if optuna is None:
        raise RunError("a sweep needs Optuna, which is not installed: pip install 'nde[sweep]', or pip install optuna.")


def open_study(folder: Path, grid: Grid, steps: int, every: int) -> Any:
    """The Optuna study of a sweep's folder, begun if there is none.

    **Arguments:** `steps`: of a whole setting, all seeds together; `every`: between two validations.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    settings = grid.settings
    if settings.pruner == "median":
        pruner = optuna.pruners.MedianPruner(n_startup_trials=settings.startup, n_warmup_steps=settings.warmup)
    elif settings.pruner == "hyperband":
        pruner = optuna.pruners.HyperbandPruner(min(every, steps), steps)
    else:
        pruner = optuna.pruners.NopPruner()
    path, lock = folder / "journal.log", FileLock(folder / "locks" / "journal")
    _mend(path, lock)
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path), lock_obj=lock))
    sampler = optuna.samplers.RandomSampler(settings.seed)
    options = {"storage": storage, "study_name": "sweep", "sampler": sampler, "pruner": pruner}
    try:
        return optuna.load_study(**options)
    except KeyError:
        return optuna.create_study(**options, direction="minimize", load_if_exists=True)


def _mend(path: Path, lock: FileLock) -> None:
    """Cut off a last line of the journal that was not written out, as on a full disk: Optuna would read no further."""
    lock.acquire()
    try:
        written = path.read_bytes() if path.is_file() else b""
        whole = written.rfind(b"\n") + 1
        if whole < len(written):
            os.truncate(path, whole)
    finally:
        lock.release()


@contextmanager
def claimed(study: Any, grid: Grid, folder: Path, trials: int) -> Iterator[Any]:
    """A trial for this process: one whose process is gone, or else a new one; `None` if there are `trials` already.

    Who holds a trial's lock is at it. Whether there is one to take up, and what comes next, is asked by one process at
    a time, so that no setting is taken twice.
    """
    trial, lock = None, None
    gate = FileLock(folder / "locks" / "next")
    gate.acquire()
    try:
        for frozen in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
            lock = _lock(folder, frozen.number)
            if lock.acquire(wait=False):
                trial = frozen
                break
        count = len(study.get_trials(deepcopy=False))
        if trial is None and count < trials:
            lock = _lock(folder, count)
            lock.acquire()
            study.add_trial(proposed(study, grid, count))
            trial = study.get_trials()[count]
    finally:
        gate.release()
    try:
        yield None if trial is None else optuna.trial.Trial(study, trial._trial_id)
    finally:
        if lock is not None:
            lock.release()


def is_held(folder: Path, number: int) -> bool:
    """Whether a process is at a trial."""
    lock = _lock(folder, number)
    with suppress(OSError):
        if lock.acquire(wait=False):
            lock.release()
            return False
    return True


def setting_of(params: dict[str, Any], grid: Grid) -> dict[str, str]:
    """A trial's setting, as TOML: of lists Optuna is given the texts, so that a value may be anything."""
    return {key: params[key] if key in grid.choices else as_toml(params[key]) for key in grid.keys}


def _lock(folder: Path, number: int) -> FileLock:
    return FileLock(folder / "locks" / f"{number:03d}")


def _short(value: Any, between: Between | None) -> Any:
    """A number of a range in four digits, which can be read and typed."""
    if between is None or between.step is not None:
        return value
    return min(max(float(f"{value:.4g}"), between.low), between.high)


def proposed(study: Any, grid: Grid, number: int) -> Any:
    """The next trial, which no other has the setting of while there are settings left.

    It is asked of a copy of the study, by a sampler seeded by its number: what is proposed depends on what is done
    alone, so that a sweep that was stopped goes the same way, and a proposal that is not taken leaves no trace.
    """
    done = study.get_trials()
    taken = {json.dumps(trial.params, sort_keys=True) for trial in done}
    space = {key: optuna.distributions.CategoricalDistribution(texts) for key, texts in grid.choices.items()}
    for key, each in grid.ranges.items():
        if each.is_whole:
            step = int(each.step or 1)
            space[key] = optuna.distributions.IntDistribution(int(each.low), int(each.high), log=each.log, step=step)
        else:
            space[key] = optuna.distributions.FloatDistribution(each.low, each.high, log=each.log, step=each.step)
    params: dict[str, Any] = {}
    if grid.sampler != "grid":
        kind = optuna.samplers.RandomSampler if grid.sampler == "random" else optuna.samplers.TPESampler
        copy = optuna.create_study(direction="minimize", sampler=kind(seed=grid.settings.seed + number))
        copy.add_trials(done)
        for _ in range(10):
            params = {key: _short(x, grid.ranges.get(key)) for key, x in copy.ask(space).params.items()}
            if json.dumps(params, sort_keys=True) not in taken:
                break
    if grid.size is not None and (not params or json.dumps(params, sort_keys=True) in taken):
        params = next(each for each in grid.combinations() if json.dumps(each, sort_keys=True) not in taken)
    return optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING, params=params, distributions=space)
