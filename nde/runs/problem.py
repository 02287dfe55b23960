"""A config's data, ready for a model."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nde.config import RunConfig
from nde.data import Normaliser, Panel, read_panel, Split, split_series


class RunError(ValueError):
    """A run folder that can not be used: one line naming it and what would be right."""


@dataclass(frozen=True)
class Problem:
    """A config's data, ready for a model.

    - `panel`: all series, in their own units.
    - `split`: which of them train, stop the training and are scored.
    - `normaliser`: fitted on the training fold (`split.fold`).
    - `values`: `(series, rows, channels)`, standardised.
    """

    panel: Panel
    split: Split
    normaliser: Normaliser
    values: np.ndarray

    def arrays(self, series: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Times, standardised values and mask of some series."""
        return self.panel.times[series], self.values[series], self.panel.mask[series]


def load_problem(config: RunConfig) -> Problem:
    """Read, split and normalise the data of a config.

    **Raises:** `TableError` or `ValueError` for a bad table or split, `RunError` if the table is not the one that the
    config's `data.sha256` was made from.
    """
    data = config.data
    path = data.table_path()
    panel = read_panel(path, data.table_format())
    if data.sha256 is not None and data.sha256 != _sha256(path):
        raise RunError(f"{path}: the table has changed since the run was made; give the run back its table.")
    split = split_series(len(panel), fold=data.fold, folds=data.folds, validation=data.validation, seed=data.split_seed)
    normaliser = Normaliser.fit(panel[split.fold], data.log)
    return Problem(panel, split, normaliser, normaliser.apply(panel))


def resolve(config: RunConfig, problem: Problem) -> RunConfig:
    """The config with all that depends on the data filled in, so that it says the same when read elsewhere."""
    data, model = config.data, config.model
    horizon = model.horizon or float(problem.panel.times.max())
    path = None if data.path is None else str(Path(data.path).absolute())
    update = {"path": path, "sha256": _sha256(data.table_path()), "channels": problem.panel.channels}
    return config.model_copy(
        update={
            "data": data.model_copy(update=update),
            "model": model.model_copy(update={"horizon": horizon, "dt0": model.dt0 or horizon / 100}),
        }
    )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
