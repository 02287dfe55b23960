"""Proper scores of forecasts, value by value, and how to compare two methods by them."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Bool, Float, PRNGKeyArray
from scipy import stats
from scipy.special import logsumexp

from nde.objectives import AbstractLikelihood, draw_by_series
from nde.report.samples import crps_of_samples, mixture_log_density, quantiles_of_samples

Rows = Float[np.ndarray, "series rows channels"]


class AbstractForecast(eqx.Module):
    """A predictive law for each value of a panel, shape `(series, rows, channels)`, in standardised units."""

    @abstractmethod
    def log_density(self, values: Rows) -> Rows:
        """Log of the predictive density at each value."""

    @abstractmethod
    def crps(self, values: Rows) -> Rows:
        r"""Continuous ranked probability score $\mathbb E|X - x| - \tfrac12 \mathbb E|X - X'|$ at each value; small is
        good (Gneiting and Raftery 2007, equation 21)."""

    @abstractmethod
    def quantiles(self, levels: Sequence[float]) -> Float[np.ndarray, "levels series rows channels"]:
        """Quantiles of each value's law at the given levels."""

    @abstractmethod
    def sample(
        self, count: int, *, series: Sequence[object], key: PRNGKeyArray
    ) -> Float[np.ndarray, "count series rows channels"]:
        """So many draws of each value; those of a series depend on its id in `series`, not on the other series."""


class NormalForecast(AbstractForecast):
    """Normal laws with the given means and standard deviations."""

    mean: Rows
    std: Rows

    def log_density(self, values: Rows) -> Rows:
        return stats.norm.logpdf(values, self.mean, self.std)

    def crps(self, values: Rows) -> Rows:
        z = (values - self.mean) / self.std  # the closed form: Gneiting and Raftery 2007, section 4.2
        density = stats.norm.pdf(z)
        return self.std * (z * (2 * stats.norm.cdf(z) - 1) + 2 * density - 1 / np.sqrt(np.pi))

    def quantiles(self, levels: Sequence[float]) -> np.ndarray:
        return np.stack([stats.norm.ppf(level, self.mean, self.std) for level in levels])

    def sample(self, count: int, *, series: Sequence[object], key: PRNGKeyArray) -> np.ndarray:
        """Draws that are independent from value to value, as `nde.objectives.draw_by_series` makes them."""
        draws = draw_by_series(_standard_normal, (count, *self.mean.shape), np.dtype(float), series=series, key=key)
        draws *= self.std
        draws += self.mean
        return draws


def _standard_normal(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return generator.standard_normal(shape)


class SampleForecast(AbstractForecast):
    r"""Mixtures over model samples: density $\tfrac1S \sum_s p(x \mid z_s)$.

    - `members`: for each model of an ensemble its likelihood, and the locations of its samples, shape
      `(samples, series, rows, channels)`.
    - `draws`: one value drawn for each sample of each member, shape `(all samples, series, rows, channels)`.
    """

    members: tuple[tuple[AbstractLikelihood, np.ndarray], ...]
    draws: np.ndarray

    def redrawn(self, draws: int, *, series: Sequence[object], key: PRNGKeyArray) -> "SampleForecast":
        """The same law with so many values drawn for each sample, for quantiles that are smooth to the eye.

        The draws of a series depend on its id in `series`, not on the other series.
        """
        keys = jax.random.split(key, len(self.members))
        values = [
            likelihood.sample(np.repeat(locations, draws, axis=0), series=series, key=own)
            for (likelihood, locations), own in zip(self.members, keys, strict=True)
        ]
        return SampleForecast(self.members, np.concatenate(values))

    def log_density(self, values: Rows) -> Rows:
        counts = np.array([len(locations) for _, locations in self.members])
        densities = [mixture_log_density(likelihood, locations, values) for likelihood, locations in self.members]
        shares = (counts / counts.sum()).reshape(-1, 1, 1, 1)
        return np.asarray(logsumexp(densities, axis=0, b=shares))

    def crps(self, values: Rows) -> Rows:
        return crps_of_samples(self.draws, values)

    def quantiles(self, levels: Sequence[float]) -> np.ndarray:
        return quantiles_of_samples(self.draws, levels)

    def sample(self, count: int, *, series: Sequence[object], key: PRNGKeyArray) -> np.ndarray:
        """Of the draws that the law holds, as many from each stretch of them, so that each member has its share; above
        their number they repeat."""
        del series, key
        return self.draws[np.arange(count) * len(self.draws) // count]


@dataclass(frozen=True)
class Scores:
    """Scores of one method on the target values of a panel.

    - `nll`, `crps`: sums over each series' target values, shape `(series,)`.
    - `count`: number of target values of each series, shape `(series,)`; series without any do not count.
    """

    nll: Float[np.ndarray, " series"]
    crps: Float[np.ndarray, " series"]
    count: Float[np.ndarray, " series"]

    def mean(self, name: str) -> float:
        """The score per target value."""
        return float(getattr(self, name).sum() / self.count.sum())

    @staticmethod
    def concatenate(parts: Sequence["Scores"]) -> "Scores":
        """Scores of several panels, such as folds, as of one."""
        return Scores(*(np.concatenate([getattr(p, f) for p in parts]) for f in ("nll", "crps", "count")))


def score(forecast: AbstractForecast, values: Rows, targets: Bool[np.ndarray, "series rows channels"]) -> Scores:
    """Score a forecast on the target values; lower is better for both scores."""
    if not targets.any():
        raise ValueError("There is no value to score: no series has an observation after its cut-off.")
    nll = np.where(targets, -forecast.log_density(values), 0.0).sum((1, 2))
    crps = np.where(targets, forecast.crps(values), 0.0).sum((1, 2))
    return Scores(nll, crps, targets.sum((1, 2)).astype(float))


def paired_difference(one: Scores, other: Scores, name: str) -> tuple[float, float]:
    r"""The difference `one - other` of a score per value, and its standard error over series.

    With per-series sums $d_i$ of differences and counts $n_i$: $D = \sum d_i / \sum n_i$, and its standard error
    $\sqrt{\tfrac{N}{N-1} \sum (d_i - D n_i)^2} / \sum n_i$, that of a ratio of sums over $N$ series that were drawn
    independently (Cochran 1977, section 2.11). With a single series the error is `nan`.

    **Raises:** `ValueError` if the two did not score the same number of values of each series.
    """
    if not np.array_equal(one.count, other.count):
        raise ValueError("The two methods were scored on different values; score both on the same targets.")
    scored = one.count > 0
    d = (getattr(one, name) - getattr(other, name))[scored]
    n = one.count[scored]
    difference = d.sum() / n.sum()
    size = len(d)
    if size < 2:
        return float(difference), float("nan")
    error = np.sqrt(size / (size - 1) * np.sum((d - difference * n) ** 2)) / n.sum()
    return float(difference), float(error)


def coverage(
    forecast: AbstractForecast, values: Rows, targets: np.ndarray, levels: Sequence[float]
) -> Float[np.ndarray, "levels channels"]:
    """The share of target values inside of each central interval, by channel; `nan` for a channel without targets."""
    ends = [(1 + side * level) / 2 for side in (-1, 1) for level in levels]
    lower, upper = np.split(forecast.quantiles(ends), 2)
    inside = (lower <= values) & (values <= upper) & targets
    counts = targets.sum((0, 1)).astype(float)
    return inside.sum((1, 2)) / np.where(counts > 0, counts, np.nan)
