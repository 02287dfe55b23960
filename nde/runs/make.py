"""Make a run: `nde.fit`."""

import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console

from nde import config as configs
from nde.data import as_frame, write_frame
from nde.runs.folder import free_folder, prepare, Run, TABLE
from nde.runs.side_by_side import train_side_by_side
from nde.runs.training import train
from nde.tasks import RunError, RunFailed
from nde.train import first_says, is_first_process, is_one_of_several


def fit(
    config: "str | Path | Mapping[str, Any] | configs.RunConfig",
    *,
    data: Any = None,
    out: str | Path | None = None,
    progress: bool = True,
    processes: int = 1,
) -> Run:
    """Train what a config says, as `nde fit` does, and give back the run.

    ```python
    run = nde.fit({"task": "forecast", "data": {"id": "patient", "time": "day"}, "model": [{"name": "latent_sde"}]},
                  data=frame)
    run.evaluate().rows()
    run.predict(frame, ahead=[30.0, 60.0])
    ```

    **Arguments:**

    - `config`: the path of a TOML file, nested dictionaries of the same keys, or a validated config.
    - `data`: in place of `data.path`: a path, or a polars or pandas frame, which is kept in the run's folder, as
      `data.parquet`. The index of a pandas frame is no column. A lazy frame of polars is written there in pieces, and
      may be longer than memory: only the panel that the config makes of it must fit.
    - `out`: the run's folder, which must not exist; `runs/TASK-DATE-TIME` (of a file, its name) if not given.
    - `progress`: whether to print how the training goes.
    - `processes`: how many members are trained at once, each in a process of its own; of several GPUs each has its
      share, and this process had better be kept from taking their memory, by `XLA_PYTHON_CLIENT_PREALLOCATE=false`.

    **Returns:** a `nde.Run`: `evaluate()`, `predict(frame)`, `figures()`, `models()`.

    **Raises:** `nde.config.ConfigError` for a bad config, `nde.data.TableError` for a bad table, `nde.runs.RunError`
    for data and models that do not go together or a folder that exists, `nde.runs.RunFailed` for a training that
    failed. The folder of what was refused is not left behind.
    """
    if processes < 1:
        raise RunError(f"processes must be at least 1, but is {processes}.")
    console = Console(quiet=not (progress and is_first_process()))
    run = made_once(lambda: _make(config, data, out))
    for code in run.config.own_code():
        console.print(code.said(), soft_wrap=True, highlight=False, markup=False)
    several = partial(train_side_by_side, run, processes, cached=False, quiet=not progress)
    if not (several() if processes > 1 else train(run, console)):
        raise RunFailed(f"stopped by a signal; go on with: nde fit --resume {run.folder}")
    if not is_one_of_several():
        run.task.finish(run, run.problem)
    return run


def made_once(make: Callable[[], Run]) -> Run:
    """The run that `make` makes: by the first process alone, if there are several; the others open its folder.

    **Raises:** what `make` raises, and in the other processes `RunError` that it did.
    """
    run, folder = None, ""
    try:
        if is_first_process():
            run = make()
            folder = str(run.folder.absolute())
    finally:  # the others wait for what it says
        folder = first_says(folder)
    if run is not None:
        return run
    if not folder:
        raise RunError("the first of the processes could not make the run; it says why.")
    return Run.open(folder)


def _make(config: Any, data: Any, out: str | Path | None) -> Run:
    """Make the folder of a run, with what it starts with."""
    folder = free_folder(Path(config).stem if isinstance(config, str | Path) else _task(config), out)
    is_frame = data is not None and not isinstance(data, str | Path)
    path = folder.absolute() / TABLE if is_frame else data
    settings = configs.load_config(config, [] if path is None else [f"data.path={path}"])
    frame = as_frame(data) if is_frame and not isinstance(data, pl.LazyFrame) else data
    folder.mkdir(parents=True)
    try:
        if is_frame:
            write_frame(frame, folder / TABLE)
        return Run.create(folder, *prepare(settings))
    except BaseException:
        shutil.rmtree(folder)  # it was made here, and holds nothing yet
        raise


def _task(config: Any) -> str:
    task = config.get("task") if isinstance(config, Mapping) else getattr(config, "task", None)
    return task if isinstance(task, str) else "run"
