r"""The marginal likelihood of the linear mixed model of one channel, in time and memory linear in the values.

The covariance of a series' values is $V = Z D Z^\top + W$: random lines of covariance $D$, and what is left, $W$, an
Ornstein-Uhlenbeck process and noise. The process is Markov, so a Kalman filter whitens $Z$ and $y$ by $W$ row by row.
All else is algebra with the moments $B^\top W^{-1} B$ of the three columns $B = (Z, y)$, by Woodbury's identity.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from nde.report.baselines.panel import Times


class Observed(NamedTuple):
    """The observed values of one channel, without gaps, of series sorted by how many they have, the most first.

    - `columns`: 1, time and value; zero past a series' end.
    - `waits`: the time since the value before.
    - `alive`: for each row, how many series have as many values.
    - `products`: of the columns, over the rows.
    """

    columns: Float[ndarray, "rows 3 series"]
    waits: Float[ndarray, "rows series"]
    alive: Int[ndarray, " rows"]
    products: Float[ndarray, "series 3 3"]

    @property
    def size(self) -> int:
        """The number of values."""
        return int(self.alive.sum())


def observed(t: Times, y: Times, m: Bool[ndarray, "series rows"]) -> Observed:
    """What is observed of a channel."""
    counts = m.sum(1)
    order = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
    first = np.argsort(~m[order], axis=1, kind="stable")[:, : counts.max(initial=0)]
    inside = np.arange(first.shape[1]) < counts[order, None]
    at, value = (np.where(inside, np.take_along_axis(x[order], first, axis=1), 0.0).T for x in (t, y))
    waits = np.where(inside.T, np.diff(at, axis=0, prepend=at[:1]), 0.0)
    columns = np.stack([inside.T, at, value], axis=1)
    return Observed(columns, waits, inside.sum(0), _products(columns, columns))


def _products(one: Float[ndarray, "rows 3 series"], other: Float[ndarray, "rows 3 series"]) -> ndarray:
    return np.einsum("jas,jbs->sab", one, other)


class Moments(NamedTuple):
    r"""The moments $B^\top W^{-1} B$ of each series, the sum of the $\log\det W$, and their derivatives.

    The derivatives are those with respect to the log standard deviation of the noise and, with a process, to the log of
    its standard deviation and of its length.
    """

    values: Float[ndarray, "series 3 3"]
    log_determinant: float
    by_values: Float[ndarray, "parameters series 3 3"]
    by_log_determinant: Float[ndarray, " parameters"]


def moments(theta: ndarray, data: Observed) -> Moments:
    """The moments at given parameters: `theta[3]` of the noise, and `theta[4:6]` of the process if there is one."""
    precision, count = np.exp(-2 * theta[3]), data.size
    if theta.size == NOISE_ONLY:
        values = precision * data.products
        return Moments(values, 2 * count * theta[3], -2 * values[None], np.array([2.0 * count]))
    values, log_determinant, by_values, by_log = _filtered(data, np.exp(2 * (theta[4] - theta[3])), np.exp(theta[5]))
    values, (by_ratio, by_length) = precision * values, precision * by_values
    return Moments(
        values,
        log_determinant + 2 * count * theta[3],
        np.stack([-2 * values - 2 * by_ratio, 2 * by_ratio, by_length]),
        np.array([2 * count - 2 * by_log[0], 2 * by_log[0], by_log[1]]),
    )


NOISE_ONLY = 4


def _filtered(data: Observed, ratio: float, length: float) -> tuple[ndarray, float, ndarray, ndarray]:
    r"""Moments and log determinant for $W = \rho R + I$, with $R$ the correlations of a process of given length.

    Also their derivatives by $\log \rho$ and $\log l$, carried forward beside them: `d_` is $(2, \dots)$. With $P$ the
    variance of the process given the values before and $S = P + 1$, the variance of the process given the value as well
    is the gain $k = P / S$.
    """
    rows, _, series = data.columns.shape
    white, d_white = np.zeros(data.columns.shape), np.zeros((2, *data.columns.shape))
    log_determinant, d_log_determinant = np.zeros(()), np.zeros(2)
    mean, d_mean = np.zeros((3, series)), np.zeros((2, 3, series))
    gain, d_gain = np.full(series, ratio), np.stack([np.full(series, ratio), np.zeros(series)])  # before any value
    decay = np.exp(-data.waits / length)
    d_decay = decay * data.waits / length  # by the log of the length
    for j in range(rows):
        n = data.alive[j]
        phi, d_phi = decay[j, :n], d_decay[j, :n]
        kept, d_kept = phi**2, 2 * phi * d_phi
        d_p = kept * d_gain[:, :n] + np.stack([ratio * (1 - kept), d_kept * (gain[:n] - ratio)])
        p = kept * gain[:n] + ratio * (1 - kept)
        d_mean = phi * d_mean[..., :n]
        d_mean[1] += d_phi * mean[:, :n]
        mean = phi * mean[:, :n]
        s = p + 1.0
        gain, d_gain = p / s, d_p / s**2
        error = data.columns[j, :, :n] - mean
        white[j, :, :n] = error / np.sqrt(s)
        d_white[:, j, :, :n] = -(d_mean + 0.5 * error * (d_p / s)[:, None]) / np.sqrt(s)
        d_mean = (1 - gain) * d_mean + d_gain[:, None] * error
        mean = mean + gain * error
        log_determinant = log_determinant + np.log(s).sum()
        d_log_determinant += (d_p / s).sum(1)
    half = np.stack([_products(d_white[0], white), _products(d_white[1], white)])
    return _products(white, white), float(log_determinant), half + half.mT, d_log_determinant


def root_of(theta: ndarray) -> Float[ndarray, "2 2"]:
    """Cholesky factor of the random effects' covariance."""
    return np.array([[np.exp(theta[0]), 0.0], [theta[1], np.exp(theta[2])]])


class _Regression(NamedTuple):
    r"""Generalised least squares of the fixed effects, and what it went by.

    - `fixed`: those with the greatest likelihood.
    - `shrinkage`: $C = (D^{-1} + Z^\top W^{-1} Z)^{-1}$, the covariance of the random effects given the values.
    - `precision`: $Z^\top V^{-1} Z$.
    - `log_determinant`: the sum of $\log\det V - \log\det W$.
    """

    fixed: Float[ndarray, " 2"]
    shrinkage: Float[ndarray, "series 2 2"]
    precision: Float[ndarray, "series 2 2"]
    log_determinant: float


def _regress(root: ndarray, values: Float[ndarray, "series 3 3"]) -> _Regression:
    lines, products = values[:, :2, :2], values[:, :2, 2:]
    inner = root.T @ lines @ root + np.eye(2)
    shrinkage = root @ np.linalg.inv(inner) @ root.T
    left = lines @ shrinkage
    precision, moment = lines - left @ lines, products - left @ products
    fixed = np.linalg.lstsq(precision.sum(0), moment.sum((0, 2)))[0]
    return _Regression(fixed, shrinkage, precision, float(np.linalg.slogdet(inner)[1].sum()))


def fixed_effects(data: Observed, theta: ndarray) -> Float[ndarray, " 2"]:
    """The fixed effects with the greatest likelihood at given parameters."""
    return _regress(root_of(theta), moments(theta, data).values).fixed


def mixed_loss(data: Observed, theta: ndarray) -> tuple[float, ndarray]:
    r"""Negative log-likelihood at the best fixed effects, and its gradient.

    `theta` is the log standard deviation of the intercept, the covariance term, the log standard deviations of the
    slope and of the noise, and of a process, if there is one, those of its standard deviation and of its length.

    With $b$ the fixed effects and $u$ the random effects given the values, $c = (-(b + u), 1)$ makes residuals of the
    three columns. The derivative with respect to the moments is then $(c c^\top + C) / 2$, with $C$ bordered by zeros;
    that with respect to $D$ is $(Z^\top V^{-1} Z - a a^\top) / 2$, $a = Z^\top V^{-1} (y - Z b)$. The fixed effects
    need no derivative: they are at their optimum.
    """
    found, root = moments(theta, data), root_of(theta)
    solved = _regress(root, found.values)
    along = found.values @ np.append(-solved.fixed, 1.0)  # of the three columns with the residuals y - Z b
    random = (solved.shrinkage @ along[:, :2, None])[..., 0]
    sizes = along @ np.append(-solved.fixed, 1.0)
    explained = np.sum(random * along[:, :2], axis=1)
    value = 0.5 * (
        found.log_determinant + solved.log_determinant + np.sum(sizes - explained) + data.size * np.log(2 * np.pi)
    )
    residual = np.concatenate([-(solved.fixed + random), np.ones((len(random), 1))], axis=1)
    by_moments = residual[:, :, None] * residual[:, None, :]
    by_moments[:, :2, :2] += solved.shrinkage
    by_serial = 0.5 * (np.einsum("sab,psab->p", by_moments, found.by_values) + found.by_log_determinant)
    scores = along[:, :2] - (found.values[:, :2, :2] @ random[..., None])[..., 0]
    by_root = (solved.precision.sum(0) - scores.T @ scores) @ root
    line = [by_root[0, 0] * root[0, 0], by_root[1, 0], by_root[1, 1] * root[1, 1]]
    return float(value), np.concatenate([line, by_serial])
