"""The folder of a run."""

import dataclasses
import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import jax
import numpy as np

from nde import config as configs
from nde.config import RunConfig
from nde.data import Normaliser
from nde.models import LatentSDE
from nde.runs.problem import Problem, RunError
from nde.train import Checkpoints


def new_folder(config_path: Path, out: Path | None) -> Path:
    """Make a run's folder: `out`, or `runs/<config>-<date-time>`.

    **Raises:** `RunError` if it exists already.
    """
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    folder = Path("runs") / f"{config_path.stem}-{stamp}" if out is None else out
    if folder.exists():
        raise RunError(f"{folder}: exists already, and nothing is written over; give another --out.")
    folder.mkdir(parents=True)
    return folder


@dataclass(frozen=True)
class Run:
    """An opened run folder."""

    folder: Path
    config: RunConfig

    @classmethod
    def create(cls, folder: Path, config: RunConfig, problem: Problem) -> "Run":
        """Write what a run starts with, its config from [`nde.runs.resolve`][], into an empty folder."""
        configs.save_config(config, folder / "config.toml")
        _write_normaliser(folder / "normaliser.json", problem.normaliser)
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

    @property
    def metrics_path(self) -> Path:
        """The file of loss and validation lines."""
        return self.folder / "metrics.jsonl"

    def normaliser(self) -> Normaliser:
        """What the run's training series were standardised with."""
        saved = json.loads((self.folder / "normaliser.json").read_text())
        arrays = (np.array(saved[name]) for name in ("log", "mean", "std"))
        return Normaliser(tuple(saved["channels"]), *arrays)

    def new_model(self, member: int = 0, *, horizon: float = 0.0) -> LatentSDE:
        """The untrained model of a member, solved up to the config's horizon or the one given, whichever is later."""
        channels, model = self.config.data.channels, self.config.model
        assert channels is not None and model.horizon is not None
        key = member_key(self.config, member, "initial weights")
        return configs.build_model(model, len(channels), horizon=max(horizon, model.horizon), key=key)

    def models(self, *, horizon: float = 0.0) -> list[LatentSDE]:
        """The best model of each member.

        **Raises:** `RunError` if one was never validated.
        """
        models = []
        for member in range(self.config.train.members):
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


def member_key(config: RunConfig, member: int, purpose: str) -> jax.Array:
    """A key of its own for each member and purpose, from the run's seed."""
    purposes = ("initial weights", "training", "validation", "forecasts", "figures")
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(config.seed), purposes.index(purpose)), member)


def _write_normaliser(path: Path, normaliser: Normaliser) -> None:
    fields = dataclasses.asdict(normaliser)
    plain = {name: value.tolist() if isinstance(value, np.ndarray) else list(value) for name, value in fields.items()}
    path.write_text(json.dumps(plain, indent=1) + "\n")
