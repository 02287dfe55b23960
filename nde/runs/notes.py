"""What there is to say of how a run's members were trained, beside their scores."""

from pathlib import Path

import numpy as np

from nde import config as configs
from nde.train import read_metrics, starts_tried, times_left_out

MOST_LISTED = 8


def training_notes(config: configs.RunConfig, metrics: Path) -> list[str]:
    """For each member which of several starts was kept and which failed, and the examples that were left out.

    **Arguments:** `metrics`: the run's metrics file, which need not be there.
    """
    rows, notes = read_metrics(metrics) if metrics.is_file() else [], []
    for member in config.members():
        tried = starts_tried(rows, member.index)
        if tried:
            best = int(np.argmin([each.score for each in tried])) + 1
            failed = [f"{i + 1} ({each.failure})" for i, each in enumerate(tried) if each.failure is not None]
            lost = f"; {len(failed)} failed: {_listed(failed)}" if failed else ""
            notes.append(f"{member.title}: start {best} of {len(tried)} validated best{lost}")
        found = times_left_out(rows, member.index)
        if found:
            named = _listed([f"{name} at {count}" for name, count in found.items()])
            notes.append(f"{member.title}: left out of the training, of {config.train.all_steps} steps: {named}")
    return notes


def _listed(parts: list[str]) -> str:
    more = f", and {len(parts) - MOST_LISTED} more" if len(parts) > MOST_LISTED else ""
    return ", ".join(parts[:MOST_LISTED]) + more
