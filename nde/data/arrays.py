"""A panel of series that are arrays already."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from nde.data.layout import TableError
from nde.data.panel import Panel


def panel_of_arrays(
    times: Sequence[Any],
    values: Sequence[Any],
    mask: Sequence[Any] | None = None,
    *,
    ids: Sequence[str] | None = None,
    channels: Sequence[str] | None = None,
    time_unit: str = "time",
) -> Panel:
    """Series of one or of unequal lengths as a `nde.data.Panel`, each padded to the longest.

    ```python
    >>> from nde.data import panel_of_arrays
    >>> panel = panel_of_arrays([[10, 11, 14], [3, 5]], [[[1.0], [float("nan")], [2.0]], [[7.0], [8.0]]])
    >>> panel.times.tolist(), panel.origin.tolist()
    ([[0.0, 1.0, 4.0], [0.0, 2.0, 2.0]], [10.0, 3.0])
    >>> panel.mask[..., 0].tolist()
    [[True, False, True], [True, True, False]]

    ```

    **Arguments:**

    - `times`: for each series the times of its rows, `(rows,)`, which increase; a sequence of arrays or `(series,
      rows)`.
    - `values`: for each series `(rows, channels)`.
    - `mask`: for each series `(rows, channels)`, true where a value was observed. Where not given, what is not NaN.
    - `ids`: the name of each series; `"0"`, `"1"`, … where not given.
    - `channels`: their names; `"x0"`, `"x1"`, … where not given.
    - `time_unit`: what the unit of the times is called in figures.

    **Returns:** a panel whose times begin at zero in each series; its `origin` is where they began.

    **Raises:** `TableError` where the series' arrays do not fit each other, times do not increase, or a value that is
    marked as observed is not finite: one line that names the series, the row and the channel.
    """
    count = len(times)
    names = tuple(str(i) for i in range(count)) if ids is None else tuple(ids)
    masks = [None] * count if mask is None else mask
    parts = {"values": len(values), "mask": len(masks), "ids": len(names)}
    unlike = [f"{found} of {what}" for what, found in parts.items() if found != count]
    if unlike or not count:
        raise TableError(f"times are those of {count} series, but there are {', '.join(unlike) or 'none to read'}.")
    if len(set(names)) < count:
        raise TableError(f"two series are called '{max(names, key=names.count)}'; give each a name of its own.")
    series = [_series(*each) for each in zip(names, times, values, masks, strict=True)]
    sizes = {x.shape[1] for _, x, _ in series}
    if len(sizes) > 1:
        other = next(i for i, (_, x, _) in enumerate(series) if x.shape[1] != series[0][1].shape[1])
        raise TableError(
            f"series '{names[other]}' has {series[other][1].shape[1]} channels, but series '{names[0]}' "
            f"{series[0][1].shape[1]}; all need the same ones, NaN where one was not measured."
        )
    lengths = np.array([len(t) for t, _, _ in series])
    rows, size = int(lengths.max()), sizes.pop()
    panel = {
        "times": np.zeros((count, rows)),
        "values": np.zeros((count, rows, size)),
        "mask": np.zeros((count, rows, size), bool),
    }
    for i, (t, x, seen) in enumerate(series):
        panel["times"][i] = t[-1] - t[0]
        panel["times"][i, : len(t)] = t - t[0]
        panel["values"][i, : len(t)], panel["mask"][i, : len(t)] = np.where(seen, x, 0.0), seen
    return Panel(
        ids=names,
        channels=tuple(f"x{c}" for c in range(size)) if channels is None else tuple(channels),
        lengths=lengths,
        origin=np.array([t[0] for t, _, _ in series]),
        time_unit=time_unit,
        **panel,
    )


def _series(name: str, times: Any, values: Any, mask: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One series as arrays of doubles that fit each other."""
    try:
        t, x = np.asarray(times, np.float64), np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise TableError(f"series '{name}': times and values must be arrays of numbers ({error}).") from None
    seen = ~np.isnan(x) if mask is None else np.asarray(mask).astype(bool)
    if t.ndim != 1 or x.ndim != 2 or len(x) != len(t) or seen.shape != x.shape or not len(t):
        raise TableError(
            f"series '{name}': times must have shape (rows,) with at least one row, values and mask (rows, channels), "
            f"but their shapes are {t.shape}, {x.shape} and {seen.shape}."
        )
    return t, x, seen
