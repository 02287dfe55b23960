"""The linear mixed model, with or without serial correlation."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray
from numpy.typing import ArrayLike

from nde.report.baselines.panel import checked_panel, least, LOG_STD, Times, training_panel, Values


@dataclass(frozen=True)
class MixedModel:
    r"""A line for each series, and noise; with `ou=True` a stationary Ornstein-Uhlenbeck process $w$ besides.

    $$y_{ij} = b_0 + b_1 t_{ij} + u_{0i} + u_{1i} t_{ij} + w_i(t_{ij}) + e_{ij},\qquad
      u_i \sim \mathcal N(0, D),\; e_{ij} \sim \mathcal N(0, s^2),\;
      \mathrm{cov}(w_i(t), w_i(t')) = v\, e^{-|t - t'| / l}$$

    `fit` maximises the marginal likelihood (not the restricted one) by L-BFGS from several starts. `predict`
    conditions on the context: the best linear unbiased prediction and its variance, plus $s^2$, at the fitted
    parameters. Laird and Ware (1982); Diggle (1988) for the serial correlation.
    """

    fixed: Float[ndarray, "channels 2"]  # b
    random: Float[ndarray, "channels 2 2"]  # D
    noise: Float[ndarray, " channels"]  # s
    ou_variance: Float[ndarray, " channels"]  # v; zero without the process
    ou_length: Float[ndarray, " channels"]  # l, a time; one without the process
    log_likelihood: Float[ndarray, " channels"]  # of the training values

    @classmethod
    def fit(cls, times: ArrayLike, values: ArrayLike, mask: ArrayLike, *, ou: bool = False) -> "MixedModel":
        """Fits 6 numbers a channel, or 8 with `ou=True`; an evaluation costs `series * rows**3`."""
        t, x, m = training_panel(times, values, mask)
        fits = [_fit_mixed(t, x[..., c], m[..., c], ou) for c in range(x.shape[-1])]
        return cls(*(np.array(column) for column in zip(*fits, strict=True)))

    def predict(self, times: ArrayLike, values: ArrayLike, context: ArrayLike) -> tuple[Values, Values]:
        """Mean and standard deviation at every row, shape `(series, rows, channels)` each."""
        t, x, known = checked_panel(times, values, context, len(self.noise))
        lines, gaps = _lines(t), _gaps(t)
        mean = np.moveaxis(lines @ self.fixed.T, -1, 0)
        variance = np.empty_like(mean)
        for c, random in enumerate(self.random):
            process = self.ou_variance[c] * np.exp(-gaps / self.ou_length[c])
            prior = lines @ random @ lines.mT + process
            shift, variance[c] = _condition(prior, x[..., c] - mean[c], known[..., c], self.noise[c] ** 2)
            mean[c] += shift
        return np.moveaxis(mean, 0, -1), np.moveaxis(np.sqrt(variance), 0, -1)


def _lines(t: Times) -> Float[ndarray, "series rows 2"]:
    return np.stack([np.ones_like(t), t], -1)


def _gaps(t: Times) -> Float[ndarray, "series rows rows"]:
    return np.abs(t[:, :, None] - t[:, None, :])


def _condition(prior: ndarray, y: ndarray, known: ndarray, noise_variance: float) -> tuple[ndarray, ndarray]:
    r"""Mean and variance of $f + e'$ at all rows given $f + e$ at the known ones; $f \sim \mathcal N(0, K)$.

    `prior` is $K$, shape `(series, rows, rows)`; `y`, `known` and the results have shape `(series, rows)`.
    """
    # The identity at the other rows, and zeros in what is solved for, keep them out of it.
    both = known[:, :, None] & known[:, None, :]
    covariance = prior * both + np.where(known, noise_variance, 1.0)[:, :, None] * np.eye(y.shape[1])
    seen = np.concatenate([prior, y[..., None]], -1) * known[..., None]
    white = np.linalg.solve(np.linalg.cholesky(covariance), seen)
    explained = np.sum(white[..., :-1] ** 2, 1)
    variance = np.maximum(np.diagonal(prior, axis1=1, axis2=2) - explained, 0.0) + noise_variance
    return np.sum(white[..., :-1] * white[..., -1:], 1), variance


class _Block(NamedTuple):
    """The observed values of those series that have the same number of them."""

    lines: Float[ndarray, "series n 2"]
    gaps: Float[ndarray, "series n n"]
    y: Float[ndarray, "series n"]


def _blocks(t: ndarray, y: ndarray, m: ndarray) -> list[_Block]:
    """One channel without its padding, which would take most of the time."""
    counts = m.sum(1)
    some = [(counts == n, n) for n in np.unique(counts[counts > 0])]
    ragged = [(t[s][m[s]].reshape(-1, n), y[s][m[s]].reshape(-1, n)) for s, n in some]
    return [_Block(_lines(at), _gaps(at), values) for at, values in ragged]


# The search's variables: log standard deviation of the intercept, the covariance term, log standard deviation
# of the slope over the whole span, that of the noise; then log standard deviation and length of the process.
LINE_BOUNDS = [LOG_STD, (-20.0, 20.0), LOG_STD, LOG_STD]
LINE_STARTS = [np.array([-0.4, 0.0, -0.4, -0.7]), np.array([-1.5, 0.0, 0.7, -0.2])]
OU_BOUNDS = [*LINE_BOUNDS, LOG_STD, (np.log(1e-3), np.log(10.0))]
OU_LENGTHS = (0.05, 0.5)


def _fit_mixed(t: Times, x: Times, m: Bool[ndarray, "series rows"], ou: bool) -> tuple:
    """The fields of `MixedModel` for one channel."""
    # About the mean time, intercept and slope are nearly independent; `back` leads to the caller's units.
    centre, span = float(np.mean(t[m])), float(np.ptp(t[m])) or 1.0
    level, scale = float(np.mean(x[m])), float(np.std(x[m])) or 1.0
    blocks = _blocks((t - centre) / span, (x - level) / scale, m)
    loss = partial(_mixed_loss, blocks)
    theta, value = least(loss, LINE_STARTS, LINE_BOUNDS)
    if ou:
        # Half of the noise becomes the process, short or long.
        shared = theta[3] - 0.5 * np.log(2.0)
        starts = [np.concatenate([theta[:3], [shared, shared, np.log(length)]]) for length in OU_LENGTHS]
        theta, value = least(loss, starts, OU_BOUNDS)
    back = scale * np.array([[1.0, -centre / span], [0.0, 1.0 / span]])
    fixed = back @ _regress(blocks, [_precision(theta, block)[0] for block in blocks])
    fixed[0] += level
    root = back @ _root(theta)
    process = (scale**2 * np.exp(2 * theta[4]), span * np.exp(theta[5])) if ou else (0.0, 1.0)
    return fixed, root @ root.T, scale * np.exp(theta[3]), *process, -value - m.sum() * np.log(scale)


def _root(theta: ndarray) -> Float[ndarray, "2 2"]:
    """Cholesky factor of the random effects' covariance."""
    return np.array([[np.exp(theta[0]), 0.0], [theta[1], np.exp(theta[2])]])


def _process(theta: ndarray, block: _Block) -> Float[ndarray, "series n n"]:
    if theta.size == len(LINE_BOUNDS):
        return np.zeros_like(block.gaps)
    return np.exp(2 * theta[4] - block.gaps * np.exp(-theta[5]))


def _precision(theta: ndarray, block: _Block) -> tuple[ndarray, float]:
    """Inverse of the covariance of the values of each series, and the sum of the log determinants."""
    lines = block.lines @ _root(theta)
    noise = np.exp(2 * theta[3]) * np.eye(block.y.shape[1])
    covariance = lines @ lines.mT + _process(theta, block) + noise
    return np.linalg.inv(covariance), float(np.linalg.slogdet(covariance)[1].sum())


def _regress(blocks: list[_Block], precisions: Sequence[ndarray]) -> Float[ndarray, " 2"]:
    """Generalised least squares: the fixed effects with the greatest likelihood."""
    weighted = [b.lines.mT @ precision for b, precision in zip(blocks, precisions, strict=True)]
    normal = sum((w @ b.lines).sum(0) for w, b in zip(weighted, blocks, strict=True))
    moment = sum((w @ b.y[..., None]).sum((0, 2)) for w, b in zip(weighted, blocks, strict=True))
    return np.linalg.lstsq(normal, moment)[0]


def _mixed_loss(blocks: list[_Block], theta: ndarray) -> tuple[float, ndarray]:
    r"""Negative log-likelihood at the best fixed effects, and its gradient.

    With $V$ a covariance, $r$ the residuals and $\alpha = V^{-1} r$, the derivative with respect to $V$ is
    $G = (V^{-1} - \alpha \alpha^\top) / 2$. The fixed effects need no derivative: they are at their optimum.
    """
    precisions, log_determinants = zip(*(_precision(theta, block) for block in blocks), strict=True)
    fixed = _regress(blocks, precisions)
    value, gradient = 0.5 * sum(log_determinants), np.zeros_like(theta)
    for block, precision in zip(blocks, precisions, strict=True):
        residual = block.y - block.lines @ fixed
        alpha = (precision @ residual[..., None])[..., 0]
        value += 0.5 * (np.sum(residual * alpha) + residual.size * np.log(2 * np.pi))
        gradient += _pull_back(theta, block, 0.5 * (precision - alpha[:, :, None] * alpha[:, None, :]))
    return float(value), gradient


def _pull_back(theta: ndarray, block: _Block, g: ndarray) -> ndarray:
    """The gradient with respect to `theta`, given `g`, that with respect to the covariances."""
    root, process = _root(theta), g * _process(theta, block)
    by_root = 2 * (block.lines.mT @ g @ block.lines).sum(0) @ root
    by_noise = 2 * np.exp(2 * theta[3]) * np.trace(g, axis1=1, axis2=2).sum()
    by_process = [2 * process.sum(), np.sum(process * block.gaps) * np.exp(-theta[-1])]
    line = [by_root[0, 0] * root[0, 0], by_root[1, 0], by_root[1, 1] * root[1, 1], by_noise]
    return np.array(line + by_process)[: theta.size]
