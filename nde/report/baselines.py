r"""Baselines for forecasting irregular, masked panels: the figures that a learned model has to beat.

A panel is three numpy arrays: `times (series, rows)`, sorted within a series and padded with its last time;
`values (series, rows, channels)`, standardised; `mask (series, rows, channels)`, true where a value was observed. What
`values` holds elsewhere is never used, and may be NaN. Every baseline treats its channels separately and has

- `fit(times, values, mask)`, by maximum likelihood;
- `predict(times, values, context)`, where `context (series, rows, channels)` is true at the values that may be used:
  mean and standard deviation of the Gaussian law of an *observed* value, measurement noise included, at every row. At
  a row of the context it is the law of a second measurement at that time.

`BASELINES` maps a name to a `fit`. Everything is float64, whatever JAX is set to. All values are taken to be near unit
scale: no standard deviation is fitted below about a thousandth of a channel's own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Self

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray
from numpy.typing import ArrayLike
from scipy.optimize import minimize

Panel = tuple[Float[ndarray, "series rows"], Float[ndarray, "series rows channels"], Bool[ndarray, "series rows channels"]]
Law = tuple[Float[ndarray, "series rows channels"], Float[ndarray, "series rows channels"]]


@dataclass(frozen=True)
class Population:
    r"""The law of a channel at a time since the start, whoever it is: $x \sim \mathcal N(\mu(t), e^{\eta(t)})$.

    $\mu$ and $\eta$ are natural cubic splines with the same knots, at quantiles of the observed times. Both are fitted
    together by maximum likelihood, and the number of knots, 2 to 6, is the one with the least BIC. Beyond the training
    times they stay constant. Hastie, Tibshirani and Friedman (2009), equations 5.4 and 5.5.
    """

    curves: tuple["_Curve", ...]

    @classmethod
    def fit(cls, times: ArrayLike, values: ArrayLike, mask: ArrayLike) -> Self:
        """Fits one pair of splines a channel. Raises `ValueError` for a channel that has no observed value."""
        t, x, m = _training_panel(times, values, mask)
        return cls(tuple(_fit_curve(t[m[..., c]], x[..., c][m[..., c]]) for c in range(x.shape[-1])))

    def predict(self, times: ArrayLike, values: ArrayLike, context: ArrayLike) -> Law:
        """Mean and standard deviation at every row, shape `(series, rows, channels)` each; the context is not used."""
        t, _, _ = _panel(times, values, context, len(self.curves))
        laws = [curve(t) for curve in self.curves]
        return np.stack([mean for mean, _ in laws], -1), np.stack([std for _, std in laws], -1)


@dataclass(frozen=True)
class LastValue:
    r"""The last value, with a drift and a spread that grow with the horizon $h$ since it was measured.

    $x(t + h) \mid x(t) \sim \mathcal N(x(t) + d h,\; s_0^2 + s_1^2 h)$. The fit maximises the likelihood of all pairs of
    values of the same series as if they were independent. A row with no context value of its channel at or before it
    gets the law of `Population`.
    """

    drift: Float[ndarray, " channels"]
    jump: Float[ndarray, " channels"]  # s_0, twice the measurement's variance and what moves at once
    diffusion: Float[ndarray, " channels"]  # s_1, per square root of time
    population: Population

    @classmethod
    def fit(cls, times: ArrayLike, values: ArrayLike, mask: ArrayLike) -> Self:
        """Fits three numbers a channel, with memory for `series * rows**2 / 2` pairs.

        Raises `ValueError` for a channel that no series has two observed values of.
        """
        t, x, m = _training_panel(times, values, mask)
        fitted = np.array([_fit_increments(*_increments(t, x[..., c], m[..., c], c)) for c in range(x.shape[-1])])
        return cls(*fitted.T, population=Population.fit(t, x, m))

    def predict(self, times: ArrayLike, values: ArrayLike, context: ArrayLike) -> Law:
        """Mean and standard deviation at every row, shape `(series, rows, channels)` each."""
        t, x, known = _panel(times, values, context, len(self.drift))
        rows = np.arange(t.shape[1])[:, None]
        last = np.maximum.accumulate(np.where(known, rows, -1), axis=1)
        at = np.maximum(last, 0)
        horizon = t[..., None] - np.take_along_axis(np.broadcast_to(t[..., None], x.shape), at, axis=1)
        mean = np.take_along_axis(x, at, axis=1) + self.drift * horizon
        std = np.sqrt(self.jump**2 + self.diffusion**2 * horizon)
        else_mean, else_std = self.population.predict(t, x, known)
        return np.where(last < 0, else_mean, mean), np.where(last < 0, else_std, std)


@dataclass(frozen=True)
class MixedModel:
    r"""A line for each series, and noise; with `ou=True` a stationary Ornstein-Uhlenbeck process besides.

    $$y_{ij} = b_0 + b_1 t_{ij} + u_{0i} + u_{1i} t_{ij} + w_i(t_{ij}) + e_{ij},\qquad
      u_i \sim \mathcal N(0, D),\; e_{ij} \sim \mathcal N(0, s^2),\;
      \mathrm{cov}(w_i(t), w_i(t')) = v\, e^{-|t - t'| / l}$$

    `fit` maximises the marginal likelihood (not the restricted one); `predict` conditions on the context: the best
    linear unbiased prediction and its variance, plus $s^2$, at the fitted parameters. Laird and Ware (1982), and Diggle
    (1988) for the serial correlation.
    """

    fixed: Float[ndarray, "channels 2"]  # b
    random: Float[ndarray, "channels 2 2"]  # D
    noise: Float[ndarray, " channels"]  # s
    ou_variance: Float[ndarray, " channels"]  # v, zero without the process
    ou_length: Float[ndarray, " channels"]  # l, in units of time; one without the process
    log_likelihood: Float[ndarray, " channels"]

    @classmethod
    def fit(cls, times: ArrayLike, values: ArrayLike, mask: ArrayLike, *, ou: bool = False) -> Self:
        """Fits 6 numbers a channel, or 8 with `ou=True`; each step costs `series * rows**3`.

        Raises `ValueError` for a channel that has no observed value.
        """
        t, x, m = _training_panel(times, values, mask)
        fitted = [_fit_mixed(t, x[..., c], m[..., c], ou) for c in range(x.shape[-1])]
        return cls(*(np.stack(column) for column in zip(*fitted, strict=True)))

    def predict(self, times: ArrayLike, values: ArrayLike, context: ArrayLike) -> Law:
        """Mean and standard deviation at every row, shape `(series, rows, channels)` each."""
        t, x, known = _panel(times, values, context, len(self.noise))
        lines, gaps = _lines(t), _gaps(t)
        law = np.empty((2, *x.shape))
        for c, (fixed, random) in enumerate(zip(self.fixed, self.random, strict=True)):
            prior = lines @ random @ lines.mT + self.ou_variance[c] * np.exp(-gaps / self.ou_length[c])
            residual = np.where(known[..., c], x[..., c] - lines @ fixed, 0.0)
            mean, variance = _condition(prior, residual, known[..., c], self.noise[c] ** 2)
            law[0, ..., c], law[1, ..., c] = lines @ fixed + mean, np.sqrt(variance + self.noise[c] ** 2)
        return law[0], law[1]


BASELINES: Mapping[str, Callable[[ArrayLike, ArrayLike, ArrayLike], Population | LastValue | MixedModel]] = MappingProxyType(
    {
        "population": Population.fit,
        "last value": LastValue.fit,
        "mixed model": MixedModel.fit,
        "mixed model + OU": partial(MixedModel.fit, ou=True),
    }
)


# --- input ---


def _panel(times: ArrayLike, values: ArrayLike, mask: ArrayLike, channels: int | None = None) -> Panel:
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
        raise ValueError("times must not decrease within a series; pad with its last time")
    x = np.where(m, x, 0.0)
    if not np.isfinite(x).all():
        raise ValueError("the mask is true at a value that is not finite; set the mask to false there")
    return t, x, m


def _training_panel(times: ArrayLike, values: ArrayLike, mask: ArrayLike) -> Panel:
    t, x, m = _panel(times, values, mask)
    empty = np.flatnonzero(~m.any((0, 1)))
    if empty.size:
        raise ValueError(f"channel {empty[0]} of {x.shape[-1]} has no observed value; fit without it or on more series")
    return t, x, m


# Fits are in units of a channel's standard deviation. With a floor, a channel that never changes has a finite likelihood.
MIN_STD = 1e-3
LOG_STD = (np.log(MIN_STD), np.log(20.0))


def _least(loss: Callable, starts: list[ndarray], bounds: list) -> tuple[ndarray, float]:
    """The least value of `loss(theta) -> (value, gradient)` that L-BFGS reaches from any start, and its `theta`."""
    options = {"ftol": 1e-12, "gtol": 1e-5, "maxiter": 500}
    runs = [minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options) for start in starts]
    best = min(runs, key=lambda run: run.fun)
    return best.x, best.fun


# --- population ---


@dataclass(frozen=True)
class _Curve:
    """Natural cubic splines of the mean, first column, and of the log variance, second column."""

    knots: Float[ndarray, " knots"]
    weights: Float[ndarray, "knots 2"]

    def __call__(self, t: ndarray) -> tuple[ndarray, ndarray]:
        mean, log_variance = np.moveaxis(_spline_basis(t, self.knots) @ self.weights, -1, 0)
        return mean, np.exp(0.5 * log_variance)


def _spline_basis(t: ndarray, knots: ndarray) -> ndarray:
    """Natural cubic splines, shape `(*t.shape, knots)`, constant beyond the outer knots."""
    if len(knots) < 2:
        return np.ones((*t.shape, 1))
    span = knots[-1] - knots[0]
    u, k = np.clip((t - knots[0]) / span, 0.0, 1.0)[..., None], (knots - knots[0]) / span
    cubes = np.maximum(u - k, 0.0) ** 3
    d = (cubes[..., :-1] - cubes[..., -1:]) / (1.0 - k[:-1])
    return np.concatenate([np.ones_like(u), u, d[..., :-1] - d[..., -1:]], axis=-1)


def _fit_curve(t: Float[ndarray, " values"], x: Float[ndarray, " values"]) -> _Curve:
    """The curve with the least BIC, at 2 weights a knot and 20 values a knot or more."""
    fits = [_fit_splines(t, x, count) for count in range(1, min(6, 1 + t.size // 20) + 1)]
    return min(fits, key=lambda fit: 2 * fit[1] + fit[0].weights.size * np.log(t.size))[0]


def _fit_splines(t: ndarray, x: ndarray, count: int) -> tuple[_Curve, float]:
    """A curve with `count` knots, fewer where times coincide, and its negative log-likelihood up to a constant."""
    knots = np.unique(np.quantile(t, np.linspace(0.0, 1.0, count), method="inverted_cdf"))
    # In an orthonormal basis the search is well conditioned.
    basis, triangle = np.linalg.qr(_spline_basis(t, knots))
    centre, scale = np.mean(x), np.std(x) or 1.0
    y = (x - centre) / scale

    def loss(theta: ndarray) -> tuple[float, ndarray]:
        mean, log_variance = basis @ theta[: len(knots)], basis @ theta[len(knots) :]
        w = np.exp(np.minimum(-log_variance, 30.0))
        squares = (y - mean) ** 2 + MIN_STD**2
        gradient = np.concatenate([-basis.T @ (w * (y - mean)), 0.5 * basis.T @ (1.0 - w * squares)])
        return 0.5 * float(np.sum(log_variance + w * squares)), gradient

    start = np.concatenate([basis.T @ y, np.zeros(len(knots))])
    theta, value = _least(loss, [start], [(None, None)] * start.size)
    weights = np.linalg.solve(triangle, theta.reshape(2, -1).T * [scale, 1.0])
    weights[0] += [centre, 2 * np.log(scale)]
    return _Curve(knots, weights), value + t.size * np.log(scale)


# --- last value ---


def _increments(t: ndarray, x: ndarray, m: ndarray, channel: int) -> tuple[ndarray, ndarray]:
    """Time and value differences of all pairs of observed values of a series, for one channel, `(pairs,)` each."""
    first, second = np.triu_indices(t.shape[1], 1)
    both = m[:, first] & m[:, second]
    if not both.any():
        raise ValueError(f"channel {channel}: no series has two observed values, and `LastValue` is fitted to pairs")
    return (t[:, second] - t[:, first])[both], (x[:, second] - x[:, first])[both]


def _fit_increments(h: Float[ndarray, " pairs"], dx: Float[ndarray, " pairs"]) -> tuple[float, float, float]:
    """Drift, jump and diffusion; the drift of a given variance is its weighted least squares."""
    scale, unit = np.sqrt(np.mean(dx**2)) or 1.0, np.mean(h) or 1.0
    y, u = dx / scale, h / unit

    def drift(theta: ndarray) -> float:
        w = 1.0 / (np.exp(2 * theta[0]) + np.exp(2 * theta[1]) * u)
        return np.sum(w * u * y) / max(np.sum(w * u * u), np.finfo(float).tiny)

    def loss(theta: ndarray) -> tuple[float, ndarray]:
        parts = np.exp(2 * theta)[:, None] * np.stack([np.ones_like(u), u])
        variance = parts.sum(0)
        squares = (y - drift(theta) * u) ** 2
        gradient = parts @ ((1.0 - squares / variance) / variance)
        return 0.5 * float(np.sum(np.log(variance) + squares / variance)), gradient

    theta, _ = _least(loss, [np.log([0.7, 0.7])], [LOG_STD] * 2)
    return drift(theta) * scale / unit, scale * np.exp(theta[0]), scale * np.exp(theta[1]) / np.sqrt(unit)


# --- mixed model ---


def _lines(t: Float[ndarray, "series rows"]) -> Float[ndarray, "series rows 2"]:
    return np.stack([np.ones_like(t), t], -1)


def _gaps(t: Float[ndarray, "series rows"]) -> Float[ndarray, "series rows rows"]:
    return np.abs(t[:, :, None] - t[:, None, :])


def _condition(prior: ndarray, y: ndarray, known: ndarray, noise_variance: float) -> tuple[ndarray, ndarray]:
    r"""Mean and variance of $f \mid y$ at every row, for $f \sim \mathcal N(0, K)$ and $y = f + e$ at the known rows.

    `prior` is $K$, shape `(series, rows, rows)`; `y`, `known` and the results have shape `(series, rows)`.
    """
    seen = prior * known[:, :, None]
    factor = np.linalg.cholesky(_marginal(prior, known, noise_variance))
    white = np.linalg.solve(factor, np.concatenate([seen, (y * known)[..., None]], -1))
    mean = np.sum(white[..., :-1] * white[..., -1:], 1)
    variance = np.diagonal(prior, axis1=1, axis2=2) - np.sum(white[..., :-1] ** 2, 1)
    return mean, np.maximum(variance, 0.0)


def _marginal(prior: ndarray, known: ndarray, noise_variance: float) -> ndarray:
    """Covariance of the known values, with the identity at the other rows, which then add nothing to a likelihood."""
    diagonal = np.where(known, noise_variance, 1.0)
    return prior * (known[:, :, None] & known[:, None, :]) + diagonal[:, :, None] * np.eye(known.shape[1])


def _fit_mixed(t: ndarray, x: ndarray, m: ndarray, ou: bool) -> tuple:
    """The fields of `MixedModel` for one channel; `t, x, m` have shape `(series, rows)`."""
    # Centred times make intercept and slope nearly independent; the last lines go back to the caller's units.
    centre, span = np.mean(t[m]), np.ptp(t[m]) or 1.0
    shift, scale = np.mean(x[m]), np.std(x[m]) or 1.0
    problem = _MixedProblem((t - centre) / span, np.where(m, (x - shift) / scale, 0.0), m)
    theta, value = _least(problem.loss, LINE_STARTS, [LOG_STD, (-20.0, 20.0), LOG_STD, LOG_STD])
    if ou:
        starts = [np.concatenate([theta + [0, 0, 0, -0.35], [theta[3] - 0.35, np.log(length)]]) for length in (0.05, 0.5)]
        starts.append(OU_START)
        theta, value = _least(problem.loss, starts, [LOG_STD, (-20.0, 20.0), LOG_STD, LOG_STD, LOG_STD, LOG_LENGTH])
    back = np.array([[1.0, -centre / span], [0.0, 1.0 / span]])
    root = scale * back @ _root(theta)
    fixed = scale * back @ problem.fixed(theta) + [shift, 0.0]
    process = (scale**2 * np.exp(2 * theta[4]), span * np.exp(theta[5])) if ou else (0.0, 1.0)
    return fixed, root @ root.T, scale * np.exp(theta[3]), *process, -value - m.sum() * np.log(scale)


# Log standard deviation of the intercept, covariance term, log standard deviations of the slope over the whole span and
# of the noise, log standard deviation and log length of the process.
LINE_STARTS = [np.array([-0.4, 0.0, -0.4, -0.7]), np.array([-1.5, 0.0, 0.7, -0.2])]
OU_START = np.array([-0.7, 0.0, -1.0, -1.2, -0.5, -1.5])
LOG_LENGTH = (np.log(1e-3), np.log(10.0))


def _root(theta: ndarray) -> Float[ndarray, "2 2"]:
    """Cholesky factor of the random effects' covariance."""
    return np.array([[np.exp(theta[0]), 0.0], [theta[1], np.exp(theta[2])]])


@dataclass(frozen=True)
class _MixedProblem:
    """Marginal likelihood of one channel as a function of the variance parameters, `(4,)`, or `(6,)` with the process."""

    t: Float[ndarray, "series rows"]
    y: Float[ndarray, "series rows"]
    m: Bool[ndarray, "series rows"]

    def covariance(self, theta: ndarray) -> tuple[ndarray, ndarray]:
        """Covariance of the observed values of each series, and the process's part of it."""
        lines = _lines(self.t) @ _root(theta)
        process = np.zeros((*self.t.shape, self.t.shape[1]))
        if theta.size > 4:
            process = np.exp(2 * theta[4] - _gaps(self.t) / np.exp(theta[5]))
        return _marginal(lines @ lines.mT + process, self.m, np.exp(2 * theta[3])), process

    def regress(self, precision: ndarray) -> ndarray:
        """Generalised least squares: the fixed effects with the greatest likelihood at a given precision."""
        design = _lines(self.t) * self.m[..., None]
        weighted = precision @ design
        normal = np.einsum("sri,srj->ij", design, weighted)
        return np.linalg.lstsq(normal, np.einsum("sri,sr->i", weighted, self.y))[0]

    def fixed(self, theta: ndarray) -> Float[ndarray, " 2"]:
        """Fixed effects at the variance parameters."""
        return self.regress(np.linalg.inv(self.covariance(theta)[0]))

    def loss(self, theta: ndarray) -> tuple[float, ndarray]:
        r"""Negative log-likelihood at the best fixed effects, and its gradient.

        With $V$ the covariance, $r$ the residuals and $\alpha = V^{-1} r$, the derivative with respect to $V$ is
        $G = (V^{-1} - \alpha \alpha^\top) / 2$. The fixed effects need no derivative: they are at their optimum.
        """
        covariance, process = self.covariance(theta)
        precision = np.linalg.inv(covariance)
        residual = (self.y - _lines(self.t) @ self.regress(precision)) * self.m
        alpha = np.einsum("srq,sq->sr", precision, residual)
        log_det = np.sum(np.linalg.slogdet(covariance)[1])
        value = 0.5 * (log_det + np.sum(residual * alpha) + self.m.sum() * np.log(2 * np.pi))
        g = 0.5 * (precision - alpha[:, :, None] * alpha[:, None, :]) * (self.m[:, :, None] & self.m[:, None, :])
        return float(value), self.pull_back(theta, g, process)

    def pull_back(self, theta: ndarray, g: ndarray, process: ndarray) -> ndarray:
        """The gradient with respect to `theta`, given that with respect to the covariance."""
        lines, root = _lines(self.t), _root(theta)
        by_root = 2 * np.einsum("sri,srj->ij", lines, g @ lines) @ root
        by_noise = 2 * np.exp(2 * theta[3]) * np.einsum("srr->", g)
        gradient = [by_root[0, 0] * root[0, 0], by_root[1, 0], by_root[1, 1] * root[1, 1], by_noise]
        if theta.size > 4:
            by_process = g * process
            gradient += [2 * by_process.sum(), np.sum(by_process * _gaps(self.t)) / np.exp(theta[5])]
        return np.array(gradient)
