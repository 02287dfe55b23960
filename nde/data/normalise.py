"""Bring channels to one scale, and back."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from nde.data.layout import TableError
from nde.data.panel import Panel


@dataclass(frozen=True)
class Normaliser:
    r"""Standardise each channel: $x \mapsto (g(x) - m_c) / s_c$ with $g = \log$ for the channels on a log scale.

    - `channels`: their names.
    - `log`: `(channels,)`, true where the logarithm is taken first.
    - `mean`, `std`: `(channels,)`, of the observed values that it was fitted on, after the logarithm. The `std` of a
      channel that never varies is one.
    """

    channels: tuple[str, ...]
    log: Bool[np.ndarray, " channels"]
    mean: Float[np.ndarray, " channels"]
    std: Float[np.ndarray, " channels"]

    @classmethod
    def fit(cls, panel: Panel, log: tuple[str, ...] = ()) -> "Normaliser":
        """Statistics of a panel's observed values; give it the training series only.

        **Raises:** `TableError` if `log` names a channel that does not exist, a channel has no value, or a channel on
        a log scale has a value that is not positive.
        """
        unknown = [name for name in log if name not in panel.channels]
        if unknown:
            raise TableError(f"log names the channel '{unknown[0]}'; the channels are {', '.join(panel.channels)}.")
        flags = np.array([name in log for name in panel.channels])
        values = _take_log(panel, flags)
        mean, std = [], []
        for c, name in enumerate(panel.channels):
            observed = values[..., c][panel.mask[..., c]]
            if observed.size == 0:
                raise TableError(f"channel '{name}' has no value among the training series; leave it out.")
            mean.append(observed.mean())
            std.append(observed.std() if np.ptp(observed) > 0 else 1.0)
        return cls(panel.channels, flags, np.array(mean), np.array(std))

    def apply(self, panel: Panel) -> Float[np.ndarray, "series rows channels"]:
        """The panel's values standardised, zero where nothing was observed.

        **Raises:** `TableError` for a value that is not positive in a channel on a log scale.
        """
        if panel.channels != self.channels:
            raise TableError(f"the channels are {', '.join(panel.channels)}, but must be {', '.join(self.channels)}.")
        values = np.where(panel.mask, (_take_log(panel, self.log) - self.mean) / self.std, 0.0)
        _refuse(panel, np.abs(values) > LARGEST, f"lies more than {LARGEST:g} standard deviations from the mean")
        return values

    def undo(self, values: Float[np.ndarray, "*shape channels"]) -> Float[np.ndarray, "*shape channels"]:
        """Standardised values in their own units again."""
        raw = np.asarray(values, np.float64) * self.std + self.mean
        with np.errstate(over="ignore"):
            return np.where(self.log, np.exp(np.where(self.log, raw, 0.0)), raw)


def _take_log(panel: Panel, log: np.ndarray) -> np.ndarray:
    bad = panel.mask & log & (panel.values <= 0)
    _refuse(panel, bad, "is not positive, as a log scale needs it")
    return np.where(log, np.log(np.where(panel.mask & log, panel.values, 1.0)), panel.values)


# Beyond this the squares of single precision overflow.
LARGEST = 1e15


def _refuse(panel: Panel, bad: np.ndarray, why: str) -> None:
    """Name the first bad value of a panel, if there is one."""
    if bad.any():
        series, row, channel = (int(i[0]) for i in np.nonzero(bad))
        raise TableError(
            f"series {panel.ids[series]}, time {panel.time_name(series, row)}: channel "
            f"'{panel.channels[channel]}' is {panel.values[series, row, channel]:g}, which {why}; correct it, or leave "
            "the channel out."
        )
