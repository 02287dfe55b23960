"""The law of a value at a time, for anyone."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from numpy.typing import ArrayLike

from nde.report.baselines.panel import checked_panel, least, MIN_STD, training_panel, Values


@dataclass(frozen=True)
class Population:
    r"""The law of a channel at a time since the start, for anyone: $x \sim \mathcal N(\mu(t), e^{\eta(t)})$.

    $\mu$ and $\eta$ are natural cubic splines with the same knots, at quantiles of the observed times, and
    constant beyond the outer ones. Both are fitted together. The number of knots, 1 to 6 as the data allow,
    is the one with the least BIC. Hastie, Tibshirani and Friedman (2009), equations 5.4 and 5.5.
    """

    curves: tuple["Curve", ...]

    @classmethod
    def fit(cls, times: ArrayLike, values: ArrayLike, mask: ArrayLike) -> "Population":
        """Fits one pair of splines a channel."""
        t, x, m = training_panel(times, values, mask)
        return cls(tuple(_fit_curve(t[m[..., c]], x[..., c][m[..., c]]) for c in range(x.shape[-1])))

    def predict(self, times: ArrayLike, values: ArrayLike, context: ArrayLike) -> tuple[Values, Values]:
        """Mean and standard deviation at every row, shape `(series, rows, channels)` each."""
        t, _, _ = checked_panel(times, values, context, len(self.curves))
        mean, std = np.stack([curve(t) for curve in self.curves], -1)
        return mean, std


@dataclass(frozen=True)
class Curve:
    """Natural cubic splines of the mean, first column of weights, and of the log variance, second column."""

    knots: Float[ndarray, " knots"]
    weights: Float[ndarray, "knots 2"]

    def __call__(self, t: Float[ndarray, "*any"]) -> tuple[Float[ndarray, "*any"], Float[ndarray, "*any"]]:
        """Mean and standard deviation at `t`."""
        mean, log_variance = np.moveaxis(_splines(t, self.knots) @ self.weights, -1, 0)
        return mean, np.exp(0.5 * log_variance)


def _splines(t: Float[ndarray, "*any"], knots: Float[ndarray, " knots"]) -> Float[ndarray, "*any knots"]:
    """Basis of the natural cubic splines on the unit interval between the outer knots; the first is 1."""
    if len(knots) == 1:
        return np.ones((*t.shape, 1))
    k = (knots - knots[0]) / np.ptp(knots)
    u = np.clip((t - knots[0]) / np.ptp(knots), 0.0, 1.0)[..., None]
    cubes = np.maximum(u - k, 0.0) ** 3
    d = (cubes[..., :-1] - cubes[..., -1:]) / (1.0 - k[:-1])
    return np.concatenate([np.ones_like(u), u, d[..., :-1] - d[..., -1:]], axis=-1)


def _fit_curve(t: Float[ndarray, " values"], x: Float[ndarray, " values"]) -> Curve:
    fits = [_fit_splines(t, x, count) for count in range(1, min(6, 1 + t.size // 20) + 1)]
    return min(fits, key=lambda fit: 2 * fit[1] + fit[0].weights.size * np.log(t.size))[0]


def _fit_splines(t: ndarray, x: ndarray, count: int) -> tuple[Curve, float]:
    """A curve with `count` knots, fewer where times coincide, and its negative log-likelihood."""
    knots = np.unique(np.quantile(t, np.linspace(0.0, 1.0, count), method="inverted_cdf"))
    # In an orthonormal basis the search is well conditioned.
    basis, triangle = np.linalg.qr(_splines(t, knots))
    centre, scale = float(np.mean(x)), float(np.std(x)) or 1.0
    y = (x - centre) / scale

    def loss(theta: ndarray) -> tuple[float, ndarray]:
        mean, log_variance = (basis @ theta.reshape(-1, 2)).T
        w = np.exp(np.minimum(-log_variance, 30.0))
        squares = (y - mean) ** 2 + MIN_STD**2
        gradient = basis.T @ np.stack([w * (mean - y), 0.5 * (1.0 - w * squares)], -1)
        return 0.5 * float(np.sum(log_variance + w * squares)), gradient.ravel()

    start = np.stack([basis.T @ y, np.zeros(len(knots))], -1).ravel()
    theta, value = least(loss, [start], [(None, None)] * start.size)
    weights = np.linalg.solve(triangle, theta.reshape(-1, 2)) * [scale, 1.0]
    weights[0] += [centre, 2 * np.log(scale)]
    return Curve(knots, weights), value + t.size * np.log(scale)
