"""The stochastic Lorenz attractor: three coordinates with noise in proportion to each."""

import numpy as np

from nde.data.datasets.base import Dataset
from nde.data.panel import Panel

PRANDTL, RAYLEIGH, GEOMETRY = 10.0, 28.0, 8 / 3
SPREAD, NOISE, SPAN, ROWS = 0.15, 0.01, 1.0, 41
STEPS = 100
"""Euler–Maruyama steps from one row to the next."""


def make_stochastic_lorenz(
    *, series: int = 1024, seed: int = 0, span: float = SPAN, rows: int = ROWS, noise: float = NOISE
) -> Panel:
    r"""Paths of the stochastic Lorenz attractor, seen in all coordinates with noise.

    $$dx = 10\,(y - x)\,dt + 0.15\,x\,dW_1, \quad dy = (28 x - y - x z)\,dt + 0.15\,y\,dW_2, \quad
    dz = (x y - \tfrac83 z)\,dt + 0.15\,z\,dW_3$$

    (Itô), from standard normal starts, by 100 Euler–Maruyama steps a row. The coordinates are standardised by the mean
    and the standard deviation over the series and rows up to `SPAN`, then noise is added.

    **Arguments:** `series`, `seed`; `rows` at equal distances from time 0 to `span`, of the same rows a unit of time as
    by default where a longer path of the same law is wanted: the scale is that of the first unit of time; `noise`:
    standard deviation of the observations' noise.

    **Returns:** a panel with the channels `x`, `y` and `z`.

    **Source:** Li et al. 2020, arXiv 2001.01328, section 7.2 (there with factors 0.1, 0.28 and 0.3 of the noise); the
    sizes and the factor 0.15 are those of the public notebook of Bartosh et al. 2025, arXiv 2502.02472.
    """
    generator = np.random.default_rng(seed)
    step = span / (rows - 1) / STEPS
    state = generator.standard_normal((series, 3))
    paths = np.empty((series, rows, 3))
    paths[:, 0] = state
    for row in range(1, rows):
        for _ in range(STEPS):
            noises = np.sqrt(step) * generator.standard_normal((series, 3))
            state = state + step * lorenz_drift(state) + SPREAD * state * noises
        paths[:, row] = state
    times = np.linspace(0.0, span, rows)
    first = paths[:, times <= SPAN * (1 + 1e-9)]
    values = (paths - first.mean((0, 1))) / first.std((0, 1))
    values += noise * generator.standard_normal(values.shape)
    return Panel(
        ids=tuple(str(i) for i in range(series)),
        channels=("x", "y", "z"),
        times=np.tile(times, (series, 1)),
        values=values,
        mask=np.ones(values.shape, bool),
        lengths=np.full(series, rows),
        origin=np.zeros(series),
    )


def lorenz_drift(state: np.ndarray) -> np.ndarray:
    """The Lorenz system's rate of change, `(…, 3)` to `(…, 3)`."""
    x, y, z = np.moveaxis(state, -1, 0)
    return np.stack([PRANDTL * (y - x), x * (RAYLEIGH - z) - y, x * y - GEOMETRY * z], -1)


STOCHASTIC_LORENZ = Dataset(
    lambda seed=0, size=None: make_stochastic_lorenz(series=1024 if size is None else size, seed=seed),
    "series",
    made=True,
)
