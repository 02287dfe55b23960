"""What a forecast is given, and what it is judged on."""

from abc import abstractmethod

import equinox as eqx
import numpy as np
from jaxtyping import Bool, Float

Times = Float[np.ndarray, "series rows"]
Entries = Bool[np.ndarray, "series rows channels"]


class Cut(eqx.Module):
    """A panel's entries divided in time.

    - `context`: `(series, rows, channels)`; what a forecast may use.
    - `targets`: of the same shape; what it is scored on.
    - `cutoff`: `(series,)`; the last time that may be used.
    """

    context: Entries
    targets: Entries
    cutoff: Float[np.ndarray, " series"]


class AbstractCut(eqx.Module):
    """Divides the observed entries of each series into a context and targets."""

    @abstractmethod
    def cut(self, times: Times, mask: Entries) -> Cut:
        """Divide entries observed at `times`, shape `(series, rows)`, by `mask`, shape `(series, rows, channels)`."""


class SecondHalf(AbstractCut):
    """Forecast the second half of each series: targets lie after the middle between its first and last observation.

    The cut-off tells how long the series will be; a method must not use it. A series of one observation has no target.
    """

    def cut(self, times: Times, mask: Entries) -> Cut:
        observed = mask.any(-1)
        some = observed.any(-1)
        first = np.where(some, np.where(observed, times, np.inf).min(-1), 0.0)
        last = np.where(some, np.where(observed, times, -np.inf).max(-1), 0.0)
        return _cut_at(times, mask, (first + last) / 2, np.inf)


class Landmark(AbstractCut):
    """Forecast from one time for all: given what was observed up to `at`, targets lie after it and up to `until`.

    Here the cut-off says nothing of a series' length. Both count from each series' first row.
    """

    at: float
    until: float

    def __check_init__(self):
        if not 0 <= self.at < self.until:
            raise ValueError(f"Landmark needs 0 <= at < until, but got at={self.at} and until={self.until}.")

    def cut(self, times: Times, mask: Entries) -> Cut:
        return _cut_at(times, mask, times[:, 0] + self.at, times[:, :1] + self.until)


def _cut_at(times: Times, mask: Entries, cutoff: np.ndarray, until: np.ndarray | float) -> Cut:
    context = mask & (times <= cutoff[:, None])[..., None]
    targets = mask & ~context & (times <= until)[..., None]
    return Cut(context, targets, cutoff)
