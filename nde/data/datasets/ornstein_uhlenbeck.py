"""Ornstein–Uhlenbeck paths at irregular times."""

import numpy as np

from nde.data.datasets.base import Dataset
from nde.data.panel import Panel

RATE, SPREAD, NOISE, SPAN, ROWS = 0.5, 1.0, 0.1, 10.0, 25


def make_ornstein_uhlenbeck(*, series: int = 100, seed: int = 0) -> Panel:
    r"""Stationary paths of $dx = -\tfrac12 x\,dt + dW$ (standard deviation 1), seen at irregular times with noise.

    The values given times are exact: $x(t + h)$ is normal with mean $e^{-h/2} x(t)$ and variance $1 - e^{-h}$.

    **Returns:** a panel of `series` series with the channel `x`: 25 times, uniform in [0, 10], the first at 0; the
    observations' noise has a standard deviation of 0.1.
    """
    generator = np.random.default_rng(seed)
    times = np.sort(generator.uniform(0, SPAN, (series, ROWS)), axis=1)
    times[:, 0] = 0.0
    x = np.empty((series, ROWS))
    x[:, 0] = SPREAD * generator.standard_normal(series)
    for row in range(1, ROWS):
        decay = np.exp(-RATE * (times[:, row] - times[:, row - 1]))
        x[:, row] = decay * x[:, row - 1] + SPREAD * np.sqrt(1 - decay**2) * generator.standard_normal(series)
    values = (x + NOISE * generator.standard_normal(x.shape))[..., None]
    return Panel(
        ids=tuple(str(i) for i in range(series)),
        channels=("x",),
        times=times,
        values=values,
        mask=np.ones(values.shape, bool),
        lengths=np.full(series, ROWS),
        origin=np.zeros(series),
    )


ORNSTEIN_UHLENBECK = Dataset(
    lambda seed=0, size=None: make_ornstein_uhlenbeck(series=100 if size is None else size, seed=seed),
    "series",
    made=True,
)
