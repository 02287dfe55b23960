"""The folder of a run."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from jaxtyping import PyTree

from nde import config as configs
from nde.runs.interface import AbstractKind, member_key, RunError
from nde.runs.kinds import kind_of
from nde.train import Checkpoints


def free_folder(config_path: Path, out: Path | None) -> Path:
    """Where a run may lie, which is not made yet: `out`, or `runs/<config>-<date-time>`.

    **Raises:** `RunError` if it exists already.
    """
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    folder = Path("runs") / f"{config_path.stem}-{stamp}" if out is None else out
    if folder.exists():
        raise RunError(f"{folder}: exists already, and nothing is written over; give another --out.")
    return folder


def new_folder(config_path: Path, out: Path | None) -> Path:
    """Make the folder of `nde.runs.free_folder`, and raise what that raises."""
    folder = free_folder(config_path, out)
    folder.mkdir(parents=True)
    return folder


@dataclass(frozen=True)
class Run:
    """An opened run folder. `config` is of the class of its kind."""

    folder: Path
    config: Any

    @classmethod
    def create(cls, folder: Path, config: configs.RunConfig, problem: Any) -> "Run":
        """Write what a run starts with, its config from `nde.runs.resolve`, into an empty folder."""
        configs.save_config(config, folder / "config.toml")
        kind_of(config).save(folder, config, problem)
        return cls(folder, config)

    @classmethod
    def open(cls, folder: str | Path) -> "Run":
        """Open a folder that `nde fit` made.

        **Raises:** `RunError` if it is none.
        """
        folder = Path(folder)
        if not (folder / "config.toml").is_file():
            raise RunError(f"{folder}: no run is here (no config.toml); give the folder that `nde fit` made.")
        return cls(folder, configs.load_config(folder / "config.toml"))

    def changed(self, overrides: Sequence[str]) -> "Run":
        """The run with `section.key=value` overrides over its config, as to be evaluated; nothing is written."""
        return replace(self, config=configs.load_config(self.folder / "config.toml", overrides))

    def resumed(self, overrides: Sequence[str]) -> "Run":
        """The run with overrides of how it goes on with its training; nothing is written.

        **Raises:** `ConfigError` if one would change the data, the members or what a model consists of.
        """
        changed = self.changed(overrides)
        for key in configs.changed_keys(self.config, changed.config):
            if not configs.may_change(key):
                raise configs.ConfigError(
                    f"{key} can not be changed with --resume: it would change the data, the members or the model; "
                    f"what can: {', '.join(configs.CHANGEABLE)}. For another {key} make a new run."
                )
        return changed

    def keep_config(self) -> None:
        """Write a changed config over that of the folder, which is kept as `config.before-1.toml`, `-2`, …

        It is called once there is a checkpoint that was trained by it: one that fails at once leaves no trace.
        """
        path = self.folder / "config.toml"
        if configs.load_config(path) == self.config:
            return
        number = 1
        while (kept := self.folder / f"config.before-{number}.toml").exists():
            number += 1
        shutil.copy(path, kept)
        new = path.with_suffix(".tmp")
        configs.save_config(self.config, new)
        new.replace(path)

    @property
    def kind(self) -> AbstractKind:
        """What its kind knows."""
        return kind_of(self.config)

    @property
    def metrics_path(self) -> Path:
        """The file of loss and validation lines."""
        return self.folder / "metrics.jsonl"

    def new_model(self, member: int = 0, *, horizon: float = 0.0) -> PyTree:
        """The untrained model of a member, solved up to the config's horizon or the one given, whichever is later."""
        key = member_key(self.config, member, "initial weights")
        return self.kind.new_model(self.config, member, key=key, horizon=horizon)

    def models(self, *, horizon: float = 0.0) -> list[Any]:
        """The best model of each member.

        **Raises:** `RunError` if one was never validated.
        """
        models = []
        for member in range(len(self.kind.members(self.config))):
            checkpoints = self.checkpoints(member)
            model = checkpoints.restore_best(self.new_model(member, horizon=horizon))
            checkpoints.close()
            if model is None:
                raise RunError(
                    f"{self.folder}: member {member} has no checkpoint of a validated model; "
                    f"go on with `nde fit --resume {self.folder}`."
                )
            models.append(model)
        return models

    def checkpoints(self, member: int) -> Checkpoints:
        """The checkpoints of a member."""
        return Checkpoints(self.folder / "checkpoints" / str(member))
