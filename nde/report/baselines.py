r"""Baselines for forecasting irregular, masked panels: the figures that a learned model has to beat.

A panel is three numpy arrays: `times (series, rows)`, sorted within a series and padded with its last time;
`values (series, rows, channels)`, standardised; `mask (series, rows, channels)`, true where a value was
observed. What `values` holds elsewhere is never used, and may be NaN. Every baseline takes its channels one
by one and has

- `fit(times, values, mask)`, by maximum likelihood;
- `predict(times, values, context)`, with `context (series, rows, channels)` true at the values that may be
  used: mean and standard deviation of the Gaussian law of an *observed* value, measurement noise included, at
  every row. At a row of the context that is the law of a second measurement at the same time.

`BASELINES` maps a name to its `fit`. Results are float64, whatever JAX is set to. `ValueError` is raised for
arrays whose shapes do not go together, a mask that is not boolean, times that decrease, values that are not
finite where the mask is true, and a channel without observed values.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray
from numpy.typing import ArrayLike
from scipy.optimize import minimize

Times = Float[ndarray, "series rows"]
Values = Float[ndarray, "series rows channels"]
Mask = Bool[ndarray, "series rows channels"]


@dataclass(frozen=True)
class Population:
    r"""The law of a channel at a time since the start, for anyone: $x \sim \mathcal N(\mu(t), e^{\eta(t)})$.

    $\mu$ and $\eta$ are natural cubic splines with the same knots, at quantiles of the observed times, and
    constant beyond the outer ones. Both are fitted together. The number of knots, 1 to 6 as the data allow,
    is the one with the least BIC. Hastie, Tibshirani and Friedman (2009), equations 5.4 and 5.5.
    """

    curves: tuple["_Curve", ...]

    @classmethod
    def fit(cls, times: ArrayLike, values: ArrayLike, mask: ArrayLike) -> "Population":
        """Fits one pair of splines a channel."""
        t, x, m = _training_panel(times, values, mask)
        return cls(tuple(_fit_curve(t[m[..., c]], x[..., c][m[..., c]]) for c in range(x.shape[-1])))

    def predict(self, times: ArrayLike, values: ArrayLike, context: ArrayLike) -> tuple[Values, Values]:
        """Mean and standard deviation at every row, shape `(series, rows, channels)` each."""
        t, _, _ = _panel(times, values, context, len(self.curves))
        mean, std = np.stack([curve(t) for curve in self.curves], -1)
        return mean, std


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
        """Fits three numbers a channel, with memory for `series * rows**2 / 2` pairs.

        Also raises `ValueError` for a channel of which no series has two observed values.
        """
        t, x, m = _training_panel(times, values, mask)
        fits = [_fit_pairs(*_pairs(t, x[..., c], m[..., c], c)) for c in range(x.shape[-1])]
        return cls(*np.array(fits).T, population=Population.fit(t, x, m))

    def predict(self, times: ArrayLike, values: ArrayLike, context: ArrayLike) -> tuple[Values, Values]:
        """Mean and standard deviation at every row, shape `(series, rows, channels)` each."""
        t, x, known = _panel(times, values, context, len(self.drift))
        last = np.maximum.accumulate(np.where(known, np.arange(t.shape[1])[:, None], -1), axis=1)
        start = np.maximum(last, 0)
        horizon = t[..., None] - np.take_along_axis(t[..., None], start, axis=1)
        mean = np.take_along_axis(x, start, axis=1) + self.drift * horizon
        std = np.sqrt(self.jump**2 + self.diffusion**2 * horizon)
        other_mean, other_std = self.population.predict(t, x, known)
        return np.where(last < 0, other_mean, mean), np.where(last < 0, other_std, std)


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
        t, x, m = _training_panel(times, values, mask)
        fits = [_fit_mixed(t, x[..., c], m[..., c], ou) for c in range(x.shape[-1])]
        return cls(*(np.array(column) for column in zip(*fits, strict=True)))

    def predict(self, times: ArrayLike, values: ArrayLike, context: ArrayLike) -> tuple[Values, Values]:
        """Mean and standard deviation at every row, shape `(series, rows, channels)` each."""
        t, x, known = _panel(times, values, context, len(self.noise))
        lines, gaps = _lines(t), _gaps(t)
        mean = np.moveaxis(lines @ self.fixed.T, -1, 0)
        variance = np.empty_like(mean)
        for c, random in enumerate(self.random):
            process = self.ou_variance[c] * np.exp(-gaps / self.ou_length[c])
            prior = lines @ random @ lines.mT + process
            shift, variance[c] = _condition(prior, x[..., c] - mean[c], known[..., c], self.noise[c] ** 2)
            mean[c] += shift
        return np.moveaxis(mean, 0, -1), np.moveaxis(np.sqrt(variance), 0, -1)


Baseline = Population | LastValue | MixedModel
BASELINES: Mapping[str, Callable[[ArrayLike, ArrayLike, ArrayLike], Baseline]] = MappingProxyType(
    {
        "population": Population.fit,
        "last value": LastValue.fit,
        "mixed model": MixedModel.fit,
        "mixed model + OU": partial(MixedModel.fit, ou=True),
    }
)


# --- input and search ---

# Searches run in units of a channel's standard deviation. With a floor to the spread, a channel that never
# changes has a finite likelihood.
MIN_STD = 1e-3
LOG_STD = (np.log(MIN_STD), np.log(20.0))


def _panel(
    times: ArrayLike, values: ArrayLike, mask: ArrayLike, channels: int | None = None
) -> tuple[Times, Values, Mask]:
    """The checked panel in float64, with zero for every value outside the mask."""
    t, x, m = np.asarray(times, np.float64), np.asarray(values, np.float64), np.asarray(mask)
    if x.ndim != 3 or t.shape != x.shape[:2] or m.shape != x.shape:
        raise ValueError(
            "a panel is times (series, rows) with values and mask (series, rows, channels); "
            f"got times {t.shape}, values {x.shape}, mask {m.shape}"
        )
    if m.dtype != np.bool_:
        raise ValueError(f"a mask is boolean, got {m.dtype}; convert it with `mask.astype(bool)`")
    if channels is not None and x.shape[-1] != channels:
        raise ValueError(f"the baseline was fitted to {channels} channels, got values with {x.shape[-1]}")
    if not (np.diff(t, axis=1) >= 0).all():
        raise ValueError("times must not decrease within a series; sort its rows, pad with its last time")
    x = np.where(m, x, 0.0)
    if not np.isfinite(x).all():
        raise ValueError("the mask is true at a value that is not finite; make it false there")
    return t, x, m


def _training_panel(times: ArrayLike, values: ArrayLike, mask: ArrayLike) -> tuple[Times, Values, Mask]:
    t, x, m = _panel(times, values, mask)
    empty = np.flatnonzero(~m.any((0, 1)))
    if empty.size:
        raise ValueError(f"channel {empty[0]} of 0 to {x.shape[-1] - 1} has no observed value; leave it out")
    return t, x, m


def _least(loss: Callable, starts: list[ndarray], bounds: list) -> tuple[ndarray, float]:
    """Where `loss(theta) -> (value, gradient)` is least among L-BFGS's ends, and its value."""
    options = {"ftol": 1e-12, "gtol": 1e-5, "maxiter": 500}
    runs = [minimize(loss, x0, jac=True, method="L-BFGS-B", bounds=bounds, options=options) for x0 in starts]
    best = min(runs, key=lambda run: run.fun)
    return best.x, best.fun


# --- population ---


@dataclass(frozen=True)
class _Curve:
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


def _fit_curve(t: Float[ndarray, " values"], x: Float[ndarray, " values"]) -> _Curve:
    fits = [_fit_splines(t, x, count) for count in range(1, min(6, 1 + t.size // 20) + 1)]
    return min(fits, key=lambda fit: 2 * fit[1] + fit[0].weights.size * np.log(t.size))[0]


def _fit_splines(t: ndarray, x: ndarray, count: int) -> tuple[_Curve, float]:
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
    theta, value = _least(loss, [start], [(None, None)] * start.size)
    weights = np.linalg.solve(triangle, theta.reshape(-1, 2)) * [scale, 1.0]
    weights[0] += [centre, 2 * np.log(scale)]
    return _Curve(knots, weights), value + t.size * np.log(scale)


# --- last value ---


def _pairs(t: Times, x: Times, m: Bool[ndarray, "series rows"], channel: int) -> tuple[ndarray, ndarray]:
    """Differences of time and value of all pairs of one channel, shape `(pairs,)` each."""
    i, j = np.triu_indices(t.shape[1], 1)
    both = m[:, i] & m[:, j]
    if not both.any():
        raise ValueError(f"channel {channel}: no series has two observed values; LastValue needs pairs")
    return (t[:, j] - t[:, i])[both], (x[:, j] - x[:, i])[both]


def _fit_pairs(h: Float[ndarray, " pairs"], dx: Float[ndarray, " pairs"]) -> Float[ndarray, " 3"]:
    """Drift, jump and diffusion; at given variances the drift is its weighted least squares."""
    scale, unit = float(np.sqrt(np.mean(dx**2))) or 1.0, float(np.mean(h)) or 1.0
    y, u = dx / scale, h / unit

    def drift(variance: ndarray) -> float:
        return np.sum(u * y / variance) / max(np.sum(u * u / variance), MIN_STD)

    def parts(theta: ndarray) -> ndarray:
        return np.exp(2 * theta)[:, None] * np.stack([np.ones_like(u), u])

    def loss(theta: ndarray) -> tuple[float, ndarray]:
        variance = parts(theta).sum(0)
        squares = (y - drift(variance) * u) ** 2
        gradient = parts(theta) @ ((1.0 - squares / variance) / variance)
        return 0.5 * float(np.sum(np.log(variance) + squares / variance)), gradient

    theta, _ = _least(loss, [np.log([0.7, 0.7])], [LOG_STD] * 2)
    jump, diffusion = scale * np.exp(theta)
    return np.array([drift(parts(theta).sum(0)) * scale / unit, jump, diffusion / np.sqrt(unit)])


# --- mixed model ---


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
    theta, value = _least(loss, LINE_STARTS, LINE_BOUNDS)
    if ou:
        # Half of the noise becomes the process, short or long.
        shared = theta[3] - 0.5 * np.log(2.0)
        starts = [np.concatenate([theta[:3], [shared, shared, np.log(length)]]) for length in OU_LENGTHS]
        theta, value = _least(loss, starts, OU_BOUNDS)
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
