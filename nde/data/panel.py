"""A panel: many irregular series of the same channels, padded to one shape."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float


@dataclass(frozen=True)
class Panel:
    """Series of the same channels at irregular times, padded to one number of rows.

    - `ids`: the name of each series, as in the table.
    - `channels`: the name of each channel.
    - `times`: `(series, rows)`, since the series' first row, in `time_unit`, sorted. Rows past a series' end repeat its
      last time.
    - `values`: `(series, rows, channels)`; zero where nothing was observed.
    - `mask`: `(series, rows, channels)`, true where a value was observed. Rows past a series' end have none; a row of
      the table without any value has none either, and is kept: it may ask for a forecast.
    - `lengths`: `(series,)`, the number of rows that the table had.
    - `origin`: `(series,)`, the time of the series' first row in the table, in the table's own unit.
    - `time_scale`: units of the table's time column in one unit of `times`.
    - `time_unit`: what one unit of `times` is called in figures.
    - `notes`: what reading left out, a sentence each.

    A panel is indexed by series: `panel[[3, 1]]` holds two of them.
    """

    ids: tuple[str, ...]
    channels: tuple[str, ...]
    times: Float[np.ndarray, "series rows"]
    values: Float[np.ndarray, "series rows channels"]
    mask: Bool[np.ndarray, "series rows channels"]
    lengths: np.ndarray
    origin: Float[np.ndarray, " series"]
    time_scale: float = 1.0
    time_unit: str = "time"
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, series: Sequence[int] | np.ndarray) -> "Panel":
        chosen = np.asarray(series, dtype=int)
        return replace(
            self,
            ids=tuple(self.ids[i] for i in chosen),
            times=self.times[chosen],
            values=self.values[chosen],
            mask=self.mask[chosen],
            lengths=self.lengths[chosen],
            origin=self.origin[chosen],
        )

    @property
    def last_times(self) -> Float[np.ndarray, " series"]:
        """The time of each series' last observation, shape `(series,)`; zero for one without observations."""
        return np.where(self.mask.any(-1), self.times, 0.0).max(-1)

    def table_times(self) -> Float[np.ndarray, "series rows"]:
        """`times` in the unit and with the origin of the table, shape `(series, rows)`."""
        # Twelve digits: the table's own decimals come back, not what scaling them there and back made of them.
        times = self.origin[:, None] + self.times * self.time_scale
        digits = 12 - np.ceil(np.log10(np.maximum(np.abs(times).max(initial=1.0), 1.0)))
        return np.round(times, int(digits))
