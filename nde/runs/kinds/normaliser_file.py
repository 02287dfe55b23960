"""What a run's series were standardised with, kept beside its config."""

import dataclasses
import json
from pathlib import Path

import numpy as np

from nde.data import Normaliser


def write_normaliser(path: Path, normaliser: Normaliser) -> None:
    """Keep a normaliser as JSON."""
    fields = dataclasses.asdict(normaliser)
    plain = {name: value.tolist() if isinstance(value, np.ndarray) else list(value) for name, value in fields.items()}
    path.write_text(json.dumps(plain, indent=1) + "\n")


def read_normaliser(path: Path) -> Normaliser:
    """What `write_normaliser` kept."""
    saved = json.loads(path.read_text())
    arrays = (np.array(saved[name]) for name in ("log", "mean", "std"))
    return Normaliser(tuple(saved["channels"]), *arrays)
