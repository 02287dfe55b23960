"""The processes of a sweep: each takes a trial after another until none is left."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import jax
from rich.console import Console

from nde.sweeps.kept import Kept
from nde.sweeps.study import claimed
from nde.sweeps.trial import run_trial
from nde.train import keep_compiled

_START = "import sys; from nde.sweeps.worker import main; main(*sys.argv[1:])"


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

    Each ends when its standard input does: when this process asks it to, and also when this process is killed. Ctrl-C
    reaches this process alone, which then asks each once.

    **Raises:** `KeyboardInterrupt` after all have come to a stop.
    """
    given = [str(kept.folder), str(trials), str(int(cached)), str(int(quiet))]
    env = {**os.environ, "JAX_ENABLE_X64": str(int(jax.config.jax_enable_x64))}  # pyright: ignore[reportAttributeAccessIssue]
    env.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the first would take the accelerator's memory
    started = [
        subprocess.Popen([sys.executable, "-c", _START, *given], stdin=subprocess.PIPE, start_new_session=True, env=env)
        for _ in range(processes)
    ]
    try:
        codes = [each.wait() for each in started]
    except KeyboardInterrupt:
        for each in started:
            assert each.stdin is not None
            each.stdin.close()
        try:
            for each in started:
                each.wait()
        except KeyboardInterrupt:
            for each in started:
                each.kill()
        raise
    finally:
        for each in started:
            if each.stdin is not None:
                each.stdin.close()
    return [code for code in codes if code]


def main(folder: str, trials: str, cached: str, quiet: str) -> None:
    """A process of `work_in_processes`."""
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    if cached == "1":
        keep_compiled()
    try:
        done = work(Kept.open(Path(folder)), int(trials), Console(quiet=quiet == "1"))
    except KeyboardInterrupt:
        done = False
    sys.stdout.flush()
    os._exit(0 if done else 130)  # the thread still reads


def _stop_with_parent() -> None:
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGINT)
