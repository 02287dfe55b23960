r"""Conditioning of the linear mixed model on a part of a series, in time and memory linear in the rows.

Random intercept, random slope and the Ornstein-Uhlenbeck process are a Markov state $(u_0, u_1, w)$, of which a row
sees $h = (1, t, 1)$ with noise. A Kalman filter goes forward over the rows and the smoother of Bryson and Frazier back;
it needs no inverse of a covariance, which is singular where the slope does not vary or there is no process.

**Source:** Bierman, *Fixed interval smoothing with discrete measurements*, 1973.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from nde.report.baselines.panel import Times


class Line(NamedTuple):
    """The parameters of one channel without its fixed effects.

    - `random`: covariance of the random intercept and slope.
    - `variance`, `length`: of the process.
    - `noise`: variance of the noise.
    """

    random: Float[ndarray, "2 2"]
    variance: float
    length: float
    noise: float


class _Filtered(NamedTuple):
    """What each row shows given the rows before it; `series` is the last axis.

    - `mean`, `spread`: of $h x$, `(rows, series)`.
    - `lever`: $P h$, `(rows, 3, series)`, with the state's covariance $P$.
    - `surprise`: the difference of the value from its mean over its variance, and `weight`: one over that variance,
      `(rows, series)`; zero at a row that is not known.
    """

    mean: ndarray
    spread: ndarray
    lever: ndarray
    surprise: ndarray
    weight: ndarray


def conditioned(line: Line, t: Times, y: Times, known: Bool[ndarray, "series rows"]) -> tuple[ndarray, ndarray]:
    """Mean and variance of the value at every row, noise included, given the known ones: `(series, rows)` each.

    `y` are values less the fixed effects; what it holds where it is not `known` is of no effect.
    """
    decay = np.exp(-np.diff(t, axis=1, prepend=t[:, :1]) / line.length).T
    centre, span = (np.mean(t), np.ptp(t) or 1.0) if t.size else (0.0, 1.0)  # about which the lines vary least
    root = np.array([[1.0, centre], [0.0, span]])
    line, at = line._replace(random=root @ line.random @ root.T), ((t - centre) / span).T
    past = _filter(line, at, decay, np.where(known, y, 0.0).T, known.T)
    mean, variance = _smooth(past, at, decay)
    return mean.T, np.maximum(variance, 0.0).T + line.noise


def _seen(state: ndarray, t: ndarray) -> ndarray:
    """$h$ times a state, or times each column of a matrix."""
    return state[0] + t * state[1] + state[2]


def _filter(line: Line, at: ndarray, decay: ndarray, y: ndarray, known: ndarray) -> _Filtered:
    rows, series = at.shape
    x, p = np.zeros((3, series)), np.zeros((3, 3, series))
    p[:2, :2] = line.random[..., None]
    p[2, 2] = line.variance
    found = _Filtered(
        *(np.empty(shape) for shape in ((rows, series), (rows, series), (rows, 3, series)) + 2 * ((rows, series),))
    )
    for j in range(rows):
        x[2] *= decay[j]
        p[2] *= decay[j]
        p[:, 2] *= decay[j]
        p[2, 2] += line.variance * (1 - decay[j] ** 2)
        lever = _seen(p, at[j])
        mean, spread = _seen(x, at[j]), _seen(lever, at[j])
        weight = known[j] / (spread + line.noise)
        surprise = weight * (y[j] - mean)
        for whole, row in zip(found, (mean, spread, lever, surprise, weight), strict=True):
            whole[j] = row
        x = x + lever * surprise
        p = p - (weight * lever)[:, None] * lever
    return found


def _smooth(past: _Filtered, at: ndarray, decay: ndarray) -> tuple[ndarray, ndarray]:
    r"""Mean and variance of $h x$ given all known rows, `(rows, series)`: those of the filter less what comes after.

    $\lambda$ and $\Lambda$ carry the rows after: $x - P \lambda$ and $P - P \Lambda P$ are the state's mean and
    covariance given them too.
    """
    mean, variance = np.empty(at.shape), np.empty(at.shape)
    by_mean, by_variance = np.zeros(past.lever.shape[1:]), np.zeros((3, *past.lever.shape[1:]))
    for j in reversed(range(len(at))):
        lever, weight = past.lever[j], past.weight[j]
        h = np.stack([np.ones_like(at[j]), at[j], np.ones_like(at[j])])
        gain = weight * lever
        turned = np.sum(by_variance * gain, axis=1)
        by_mean = by_mean - h * (np.sum(gain * by_mean, axis=0) + past.surprise[j])
        cross = h[:, None] * turned
        by_variance = (
            by_variance - cross - np.swapaxes(cross, 0, 1) + h[:, None] * h * (np.sum(gain * turned, 0) + weight)
        )
        mean[j] = past.mean[j] - np.sum(lever * by_mean, axis=0)
        variance[j] = past.spread[j] - np.sum(lever[:, None] * by_variance * lever, axis=(0, 1))
        by_mean[2] *= decay[j]
        by_variance[2] *= decay[j]
        by_variance[:, 2] *= decay[j]
    return mean, variance
