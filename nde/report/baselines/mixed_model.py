"""The linear mixed model, with or without serial correlation."""

from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray
from numpy.typing import ArrayLike

from nde.report.baselines.mixed_likelihood import fixed_effects, mixed_loss, observed, root_of
from nde.report.baselines.mixed_smoother import conditioned, Line
from nde.report.baselines.panel import checked_panel, least, LOG_STD, Times, training_panel, Values


@dataclass(frozen=True)
class MixedModel:
    r"""A line for each series, and noise; with `ou=True` a stationary Ornstein-Uhlenbeck process $w$ besides.

    $$y_{ij} = b_0 + b_1 t_{ij} + u_{0i} + u_{1i} t_{ij} + w_i(t_{ij}) + e_{ij},\qquad
      u_i \sim \mathcal N(0, D),\; e_{ij} \sim \mathcal N(0, s^2),\;
      \mathrm{cov}(w_i(t), w_i(t')) = v\, e^{-|t - t'| / l}$$

    `fit` maximises the marginal likelihood (not the restricted one) by L-BFGS from several starts. `predict`
    conditions on the context: the best linear unbiased prediction and its variance, plus $s^2$, at the fitted
    parameters. Both take time and memory in proportion to the values. Laird and Ware (1982); Diggle (1988) for the
    serial correlation.
    """

    fixed: Float[ndarray, "channels 2"]  # b
    random: Float[ndarray, "channels 2 2"]  # D
    noise: Float[ndarray, " channels"]  # s
    ou_variance: Float[ndarray, " channels"]  # v; zero without the process
    ou_length: Float[ndarray, " channels"]  # l, a time; one without the process
    log_likelihood: Float[ndarray, " channels"]  # of the training values

    @classmethod
    def fit(cls, times: ArrayLike, values: ArrayLike, mask: ArrayLike, *, ou: bool = False) -> "MixedModel":
        """Fits 6 numbers a channel, or 8 with `ou=True`; an evaluation of the likelihood costs `series * rows`."""
        t, x, m = training_panel(times, values, mask)
        fits = [_fit_mixed(t, x[..., c], m[..., c], ou) for c in range(x.shape[-1])]
        return cls(*(np.array(column) for column in zip(*fits, strict=True)))

    def predict(self, times: ArrayLike, values: ArrayLike, context: ArrayLike) -> tuple[Values, Values]:
        """Mean and standard deviation at every row, shape `(series, rows, channels)` each."""
        t, x, known = checked_panel(times, values, context, len(self.noise))
        mean = np.moveaxis(np.stack([np.ones_like(t), t], -1) @ self.fixed.T, -1, 0)
        variance = np.empty_like(mean)
        for c, random in enumerate(self.random):
            line = Line(random, self.ou_variance[c], self.ou_length[c], self.noise[c] ** 2)
            shift, variance[c] = conditioned(line, t, x[..., c] - mean[c], known[..., c])
            mean[c] += shift
        return np.moveaxis(mean, 0, -1), np.moveaxis(np.sqrt(variance), 0, -1)


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
    data = observed((t - centre) / span, (x - level) / scale, m)
    loss = partial(mixed_loss, data)
    theta, value = least(loss, LINE_STARTS, LINE_BOUNDS)
    if ou:
        # Half of the noise becomes the process, short or long.
        shared = theta[3] - 0.5 * np.log(2.0)
        starts = [np.concatenate([theta[:3], [shared, shared, np.log(length)]]) for length in OU_LENGTHS]
        theta, value = least(loss, starts, OU_BOUNDS)
    back = scale * np.array([[1.0, -centre / span], [0.0, 1.0 / span]])
    fixed = back @ fixed_effects(data, theta)
    fixed[0] += level
    root = back @ root_of(theta)
    process = (scale**2 * np.exp(2 * theta[4]), span * np.exp(theta[5])) if ou else (0.0, 1.0)
    return fixed, root @ root.T, scale * np.exp(theta[3]), *process, -value - m.sum() * np.log(scale)
