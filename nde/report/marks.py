"""Say where forecasts stand on nothing: beyond the times, or far from the values, that a model was trained on."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

FAR = 5.0
"""Standard deviations of the training values, on the channel's own scale, past which a value is far off."""

UNIT = 3.0
"""Standard deviations past which the median of a channel's values is taken for a sign of another unit."""

BEYOND, VALUE, FORECAST = "beyond the training span", "value far from training", "forecast far from training"
CHANNEL = "channel far from training, another unit?"


def forecast_marks(
    times: Float[np.ndarray, "series rows"],
    values: Float[np.ndarray, "series rows channels"],
    mask: Bool[np.ndarray, "series rows channels"],
    centre: Float[np.ndarray, "series rows channels"],
    *,
    span: float,
    off: Bool[np.ndarray, " channels"] | None = None,
) -> np.ndarray:
    """What to say of each forecast, `(series, rows, channels)` strings, empty where there is nothing to say.

    **Arguments:** `times`: since each series' first row; `values`: given, standardised by the training values' mean and
    standard deviation, of which `mask` were observed; `centre`: the forecast's mean or median, standardised; `span`:
    the last time of the training series; `off`: `nde.report.far_channels` of the whole table, where these are a part.

    A time is beyond the span by more than rounding. A value or a forecast is far off past `FAR` standard deviations; a
    channel is where the median of its values lies past `UNIT` and it holds more than one.
    """
    shape = values.shape
    seen = np.where(mask, values, np.nan)
    off = far_channels(values, mask) if off is None else off
    found = {
        BEYOND: np.broadcast_to((times > span * (1 + 1e-6))[..., None], shape),
        VALUE: np.nan_to_num(np.abs(seen)) > FAR,
        FORECAST: np.abs(centre) > FAR,
        CHANNEL: np.broadcast_to(off, shape),
    }
    marks = np.full(shape, "", object)
    for text, where in found.items():
        marks[where] = [f"{old}; {text}" if old else text for old in marks[where]]
    return marks


def far_channels(
    values: Float[np.ndarray, "series rows channels"], mask: Bool[np.ndarray, "series rows channels"]
) -> Bool[np.ndarray, " channels"]:
    """Which channels of a table lie so far from training that they may be in another unit."""
    given = [values[..., c][mask[..., c]] for c in range(values.shape[-1])]
    return np.array([each.size > 1 and abs(np.median(each)) > UNIT for each in given], bool)


def warning_of(marks: Sequence[str | None]) -> str | None:
    """One line that counts the marks of a table of forecasts, or `None` where there are none."""
    said = [mark for mark in marks if mark]
    if not said:
        return None
    counts = {text: sum(text in mark for mark in said) for text in (BEYOND, VALUE, FORECAST, CHANNEL)}
    parts = ", ".join(f"{count} {text}" for text, count in counts.items() if count)
    return f"{len(said)} of {len(marks)} forecasts stand on little ({parts}); the column 'mark' says which."
