"""Series whose starts a run has learned: which they are, and which of them those of a table are."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nde.data import Panel
from nde.tasks.base import Prediction, RunError

SHOWN = 5


@dataclass(frozen=True)
class LearnedSeries:
    """The series of a run that has learned where each starts.

    - `ids`: of each; `begins`: the time of its first row, in the table's unit, dates since 1970, and `shown`: as a
      message shows it; `since`: how long that is after its start, which is the first of its rows and doses.
    """

    ids: Sequence[str]
    begins: Sequence[float]
    shown: Sequence[str]
    since: Sequence[float]

    def places(self, panel: Panel, asked: Prediction) -> np.ndarray:
        """The place among these of each series of a table.

        **Raises:** `RunError` for a series that is none of these, or that begins at another time.
        """
        numbers = {name: i for i, name in enumerate(self.ids)}
        unknown = [name for name in panel.ids if name not in numbers]
        if unknown:
            raise RunError(
                f"{asked.source}: the start of series {unknown[0]} was not learned; those of the run are "
                f"{', '.join(self.ids[:SHOWN])}{' and more' if len(self.ids) > SHOWN else ''}."
            )
        order, here = np.array([numbers[name] for name in panel.ids]), learned_series(panel)
        moved = ~np.isclose(here.since, np.asarray(self.since)[order])
        late = np.flatnonzero((np.asarray(here.begins) != np.asarray(self.begins)[order]) | moved)
        if len(late):
            at = int(late[0])
            raise RunError(
                f"{asked.source}: series {panel.ids[at]} begins at {here.shown[at]}, but the run learned where it "
                f"starts at {self.shown[order[at]]}; give its rows from there on."
            )
        return order


def learned_series(panel: Panel) -> LearnedSeries:
    """All series of a panel."""
    table = panel.table
    begins = panel.origin if table is None else table.times.numbers()[table.index[:, 0]]
    shown = [panel.time_name(series, 0) for series in range(len(panel))]
    return LearnedSeries([str(name) for name in panel.ids], begins.tolist(), shown, panel.times[:, 0].tolist())
