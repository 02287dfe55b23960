"""Noisy turns in the plane, one way or the other, in series of unequal lengths."""

import numpy as np

from nde.data.arrays import panel_of_arrays
from nde.data.datasets.base import Dataset
from nde.data.labelled import LabelledPanel

PULL, TURN, DIFFUSION, SPAN = 0.25, 1.5, 0.3, 6.0
STEPS = 600
"""Of Euler–Maruyama over the whole time; the times of observations lie on their grid."""


def make_labelled_spirals(
    *, series: int = 200, fewest: int = 8, most: int = 20, noise: float = 0.1, seed: int = 0
) -> LabelledPanel:
    r"""Noisy spirals onto the unit circle, anticlockwise or clockwise, seen at irregular times in [0, 6].

    $dy = \bigl(\tfrac14 (1 - |y|^2)\,y \pm \tfrac32 J y\bigr)\,dt + 0.3\,dW$ with $J$ the turn by a right angle, from
    starts at radius 0.3 to 2. Which way a series turns is told by both coordinates together: either alone is the same
    for both.

    **Arguments:** `series`: how many, half of each class or one more; `fewest`, `most`: rows of a series, each number
    as likely; `noise`: standard deviation of each coordinate's observation; `seed`.

    **Returns:** a `nde.data.LabelledPanel` with the channels `x` and `y` and the classes `anticlockwise` and
    `clockwise`, without a published test part; time begins with a series' first row.

    **Raises:** `ValueError` for fewer than two series, or rows that are not 1 … 600.
    """
    if series < 2 or not 1 <= fewest <= most <= STEPS:
        raise ValueError(
            f"labelled spirals are two series or more of fewest ≤ most rows in 1 … {STEPS}, but series={series}, "
            f"fewest={fewest} and most={most}."
        )
    generator = np.random.default_rng(seed)
    labels = np.arange(series, dtype=np.int32) % 2
    way = np.where(labels == 0, 1.0, -1.0)[:, None]
    angle, radius = generator.uniform(0, 2 * np.pi, series), generator.uniform(0.3, 2.0, series)
    y, h = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1), SPAN / STEPS
    path = [y]
    for _ in range(STEPS - 1):
        drift = PULL * (1 - (y**2).sum(1, keepdims=True)) * y + way * TURN * np.stack([-y[:, 1], y[:, 0]], axis=1)
        y = y + h * drift + DIFFUSION * np.sqrt(h) * generator.standard_normal(y.shape)
        path.append(y)
    seen = np.stack(path, axis=1) + noise * generator.standard_normal((series, STEPS, 2))
    counts = generator.integers(fewest, most, series, endpoint=True)
    rows = [np.sort(generator.choice(STEPS, count, replace=False)) for count in counts]
    panel = panel_of_arrays(
        [h * kept for kept in rows], [each[kept] for each, kept in zip(seen, rows, strict=True)], channels=("x", "y")
    )
    return LabelledPanel(panel, labels, ("anticlockwise", "clockwise"), np.zeros(series, bool))


LABELLED_SPIRALS = Dataset(
    lambda seed=0, size=None: make_labelled_spirals(series=200 if size is None else size, seed=seed),
    "labelled",
    made=True,
)
