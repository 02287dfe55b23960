"""What a sweep's folder keeps, so that the same command goes on with it."""

import shutil
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import tomli_w

from nde.config import changed_keys, ConfigError, load_config, RunConfig
from nde.data import as_frame
from nde.runs import prepare, RunError
from nde.sweeps.grid import check_grid, Grid, read_grid
from nde.sweeps.study import locked_folder, open_study

TABLE = "data.parquet"


@dataclass(frozen=True)
class Kept:
    """A sweep's folder: `config.toml` and `sweep.toml`, the grid with the overrides."""

    folder: Path
    grid: Grid
    overrides: list[str]

    @classmethod
    def open(cls, folder: Path) -> "Kept":
        """Read it.

        **Raises:** `RunError` if no sweep is there.
        """
        if not (folder / "sweep.toml").is_file():
            raise RunError(f"{folder}: no sweep is here (no sweep.toml); give the folder that `nde sweep` made.")
        kept = tomllib.loads((folder / "sweep.toml").read_text(encoding="utf-8"))
        overrides = kept.pop("overrides")
        return cls(folder, read_grid(kept), overrides)

    def study(self) -> Any:
        """Its journal, as an Optuna study."""
        config = load_config(self.folder / "config.toml", self.overrides)
        steps = config.train.all_steps * len(config.members()) * len(self.grid.seeds)
        return open_study(self.folder, self.grid, steps, config.train.validate_every)


def make_or_reopen(folder: Path, config: Any, grid: Any, data: Any, overrides: Sequence[str]) -> Kept:
    """The folder of a sweep, made if it is not there, and else held to the same config, grid and data.

    **Raises:** `ConfigError`, `RunError`, `nde.data.TableError` in one line, before a folder is made.
    """
    is_frame = data is not None and not isinstance(data, str | Path)
    frame = as_frame(data) if is_frame else None
    table = None if data is None else folder.absolute() / TABLE if is_frame else data
    overrides = [*overrides, *([] if table is None else [f"data.path={table}"])]
    read = read_grid(grid)
    first = check_grid(read, config, overrides)
    raw = _raw(grid)
    if not folder.exists() and frame is None:
        prepare(first)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked_folder(folder.parent):  # of several that begin at once one makes it
        if not folder.exists():
            return _make(folder, config, first, raw, frame, overrides)
    if not (folder / "sweep.toml").is_file():
        raise RunError(f"{folder}: exists already, and holds no sweep to go on with; give another --out.")
    kept = Kept.open(folder)
    _check_same(kept, config, read, overrides, frame)
    return kept


def _make(
    folder: Path, config: Any, first: RunConfig, raw: dict[str, Any], frame: Any, overrides: Sequence[str]
) -> Kept:
    folder.mkdir()
    try:
        if frame is not None:
            frame.write_parquet(folder / TABLE)
            prepare(first)
        for code in first.own_code():
            code.keep(folder)
        if isinstance(config, str | Path):
            shutil.copy(config, folder / "config.toml")
        else:
            (folder / "config.toml").write_text(_dumped(_tree(config), "config"), encoding="utf-8")
        load_config(folder / "config.toml", overrides)
        (folder / "sweep.toml").write_text(_dumped({"overrides": overrides, **raw}, "grid"), encoding="utf-8")
        kept = Kept.open(folder)
        kept.study()
    except BaseException:
        shutil.rmtree(folder)  # it was made here, and holds nothing yet
        raise
    return kept


def _check_same(kept: Kept, config: Any, grid: Grid, overrides: list[str], frame: pl.DataFrame | None) -> None:
    old = load_config(kept.folder / "config.toml", kept.overrides)
    changed = changed_keys(old, load_config(config, overrides))
    changed = [key for key in changed if "sha256" not in key]
    other = "give another --out"
    if changed:
        raise RunError(f"{kept.folder}: holds a sweep of a config with another {changed[0]}; {other}.")
    if kept.overrides != overrides:
        raise RunError(f"{kept.folder}: holds a sweep with other overrides, {' '.join(kept.overrides)}; {other}.")
    for name in ("choices", "ranges", "seeds"):
        if getattr(kept.grid, name) != getattr(grid, name):
            raise RunError(f"{kept.folder}: holds a sweep of another grid, over {', '.join(kept.grid.keys)}; {other}.")
    if kept.grid.settings.model_copy(update={"trials": None}) != grid.settings.model_copy(update={"trials": None}):
        raise RunError(f"{kept.folder}: holds a sweep with another [sweep]; {other}.")
    if frame is not None and not pl.read_parquet(kept.folder / TABLE).equals(frame):
        raise RunError(f"{kept.folder}: holds a sweep of other data; {other}.")


def _raw(grid: Any) -> dict[str, Any]:
    return dict(grid) if isinstance(grid, Mapping) else tomllib.loads(Path(grid).read_text(encoding="utf-8"))


def _tree(config: Any) -> dict[str, Any]:
    return config.model_dump(exclude_none=True) if isinstance(config, RunConfig) else dict(config)


def _dumped(tree: Mapping[str, Any], what: str) -> str:
    try:
        return tomli_w.dumps(tree)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{what}: a sweep keeps it as TOML, which this is not: {error}; name code in a file."
        ) from None
