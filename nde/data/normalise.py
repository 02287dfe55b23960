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
    def fit(cls, panel: Panel, log: tuple[str, ...] = (), *, series: np.ndarray | None = None) -> "Normaliser":
        """Statistics of a panel's observed values, of some of its series if not of all; give it the training series.

        **Raises:** `TableError` if `log` names a channel that does not exist, a channel has no value, or a channel on
        a log scale has a value that is not positive.
        """
        unknown = [name for name in log if name not in panel.channels]
        if unknown:
            raise TableError(f"log names the channel '{unknown[0]}'; the channels are {', '.join(panel.channels)}.")
        flags = np.array([name in log for name in panel.channels])
        mean, std = [], []
        for c, name in enumerate(panel.channels):  # one at a time: of many series a copy of all is much
            mask = panel.mask[..., c] if series is None else panel.mask[series, :, c]
            observed = (panel.values[..., c] if series is None else panel.values[series, :, c])[mask]
            observed = observed.astype(np.float64, copy=False)
            if flags[c]:
                if (observed <= 0).any():
                    _refuse_log(panel if series is None else panel[series], flags)
                observed = np.log(observed)
            if observed.size == 0:
                raise TableError(f"channel '{name}' has no value among the training series; leave it out.")
            mean.append(observed.mean())
            std.append(observed.std() if np.ptp(observed) > 0 else 1.0)
        return cls(panel.channels, flags, np.array(mean), np.array(std))

    def apply(self, panel: Panel) -> Float[np.ndarray, "series rows channels"]:
        """The panel's values standardised, in their own precision, zero where nothing was observed.

        **Raises:** `TableError` for a value that is not positive in a channel on a log scale.
        """
        if panel.channels != self.channels:
            raise TableError(f"the channels are {', '.join(panel.channels)}, but must be {', '.join(self.channels)}.")
        values = np.zeros(panel.values.shape, np.result_type(panel.values, np.float32))  # of integers double
        for c in range(len(self.channels)):
            mask = panel.mask[..., c]
            observed = panel.values[..., c][mask].astype(np.float64, copy=False)
            if self.log[c]:
                if (observed <= 0).any():
                    _refuse_log(panel, self.log)
                observed = np.log(observed)
            observed = (observed - self.mean[c]) / self.std[c]
            if (np.abs(observed) > LARGEST).any():
                bad = np.zeros(panel.mask.shape, bool)
                bad[..., c][mask] = np.abs(observed) > LARGEST
                _refuse(panel, bad, f"lies more than {LARGEST:g} standard deviations from the mean")
            values[..., c][mask] = observed
        return values

    def undo(self, values: Float[np.ndarray, "*shape channels"]) -> Float[np.ndarray, "*shape channels"]:
        """Standardised values in their own units again."""
        raw = np.asarray(values, np.float64) * self.std + self.mean
        with np.errstate(over="ignore"):
            for c in np.flatnonzero(self.log):
                raw[..., c] = np.exp(raw[..., c])
        return raw


def _refuse_log(panel: Panel, log: np.ndarray) -> None:
    _refuse(panel, panel.mask & log & (panel.values <= 0), "is not positive, as a log scale needs it")


# Beyond this the squares of single precision overflow.
LARGEST = 1e15


def _refuse(panel: Panel, bad: np.ndarray, why: str) -> None:
    """Name the first bad value of a panel, if there is one."""
    if bad.any():
        series, row, channel = (int(i) for i in np.unravel_index(int(bad.argmax()), bad.shape))
        raise TableError(
            f"series {panel.ids[series]}, time {panel.time_name(series, row)}: channel "
            f"'{panel.channels[channel]}' is {panel.values[series, row, channel]:g}, which {why}; correct it, or leave "
            "the channel out."
        )
