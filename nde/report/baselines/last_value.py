"""The last value carried forward, with a drift and a spread."""

from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray
from numpy.typing import ArrayLike

from nde.report.baselines.panel import checked_panel, least, LOG_STD, MIN_STD, Times, training_panel, Values
from nde.report.baselines.population import Population


@dataclass(frozen=True)
class LastValue:
    r"""The last value, with a drift and a spread that grow with the time $h$ since it was measured.

    $x(t + h) \mid x(t) \sim \mathcal N(x(t) + d h,\; s_0^2 + s_1^2 h)$. The fit maximises the likelihood of
    all pairs of values of the same series as if they were independent. A row with no context value of its
    channel at or before it gets the law of `Population`.
    """

    drift: Float[ndarray, " channels"]  # d
    jump: Float[ndarray, " channels"]  # s_0
    diffusion: Float[ndarray, " channels"]  # s_1
    population: Population

    @classmethod
    def fit(cls, times: ArrayLike, values: ArrayLike, mask: ArrayLike) -> "LastValue":
        """Fits three numbers a channel, on all pairs or, where those are more than `PAIRS`, on a random part of them.

        Also raises `ValueError` for a channel of which no series has two observed values.
        """
        t, x, m = training_panel(times, values, mask)
        fits = [_fit_pairs(*_pairs(t, x[..., c], m[..., c], c)) for c in range(x.shape[-1])]
        return cls(*np.array(fits).T, population=Population.fit(t, x, m))

    def predict(self, times: ArrayLike, values: ArrayLike, context: ArrayLike) -> tuple[Values, Values]:
        """Mean and standard deviation at every row, shape `(series, rows, channels)` each."""
        t, x, known = checked_panel(times, values, context, len(self.drift))
        last = np.maximum.accumulate(np.where(known, np.arange(t.shape[1])[:, None], -1), axis=1)
        start = np.maximum(last, 0)
        horizon = t[..., None] - np.take_along_axis(t[..., None], start, axis=1)
        mean = np.take_along_axis(x, start, axis=1) + self.drift * horizon
        std = np.sqrt(self.jump**2 + self.diffusion**2 * horizon)
        other_mean, other_std = self.population.predict(t, x, known)
        return np.where(last < 0, other_mean, mean), np.where(last < 0, other_std, std)


PAIRS = 2**22
"""Pairs of values, at most, that a channel is fitted on; there are as many as series times rows squared."""


def _pairs(t: Times, x: Times, m: Bool[ndarray, "series rows"], channel: int) -> tuple[ndarray, ndarray]:
    """Differences of time and value of pairs of one channel, shape `(pairs,)` each.

    The pairs are counted series by series: number $j (j - 1) / 2 + i$ of a series is that of its values $i < j$.
    """
    counts = m.sum(1)
    pairs = counts * (counts - 1) // 2
    ends = np.cumsum(pairs)
    total = ends[-1]
    if total == 0:
        raise ValueError(f"channel {channel}: no series has two observed values; LastValue needs pairs")
    chosen = np.arange(total) if total <= PAIRS else np.random.default_rng(0).integers(total, size=PAIRS)
    series = np.searchsorted(ends, chosen, side="right")
    number = chosen - (ends - pairs)[series]
    second = ((1 + np.sqrt(1 + 8 * number)) // 2).astype(int)
    first = number - second * (second - 1) // 2
    start = (np.cumsum(counts) - counts)[series]
    i, j = start + first, start + second
    return t[m][j] - t[m][i], x[m][j] - x[m][i]


def _fit_pairs(h: Float[ndarray, " pairs"], dx: Float[ndarray, " pairs"]) -> Float[ndarray, " 3"]:
    """Drift, jump and diffusion; at given variances the drift is its weighted least squares."""
    scale, unit = float(np.sqrt(np.mean(dx**2))) or 1.0, float(np.mean(h)) or 1.0
    y, u = dx / scale, h / unit

    # There are as many pairs as series times rows squared, so passes over them are what counts. A dot product by BLAS
    # would be shared among threads, which on a busy machine wait for each other longer than they work.
    dot = partial(np.einsum, "i,i->")

    def drift(precision: ndarray) -> float:
        weighted = u * precision
        return dot(weighted, y) / max(dot(weighted, u), MIN_STD)

    def variance_at(theta: ndarray) -> ndarray:
        first, second = np.exp(2 * theta)
        return first + second * u

    def loss(theta: ndarray) -> tuple[float, ndarray]:
        variance = variance_at(theta)
        precision = 1.0 / variance
        squares = (y - drift(precision) * u) ** 2 * precision
        slope = (1.0 - squares) * precision
        gradient = np.exp(2 * theta) * [slope.sum(), dot(slope, u)]
        return 0.5 * float(np.log(variance).sum() + squares.sum()), gradient

    theta, _ = least(loss, [np.log([0.7, 0.7])], [LOG_STD] * 2)
    jump, diffusion = scale * np.exp(theta)
    return np.array([drift(1.0 / variance_at(theta)) * scale / unit, jump, diffusion / np.sqrt(unit)])
