"""Samples of points: what is one, and its moments and the masses of its modes, with their errors."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import ArrayLike, Float
from scipy.spatial.distance import cdist

Points = Float[np.ndarray, "points size"]


@dataclass(frozen=True)
class Moments:
    """The mean and covariance of a sample, each beside its standard error, of the same shape."""

    mean: Float[np.ndarray, " size"]
    mean_error: Float[np.ndarray, " size"]
    covariance: Float[np.ndarray, "size size"]
    covariance_error: Float[np.ndarray, "size size"]


def moments(points: ArrayLike) -> Moments:
    """The mean and covariance of a sample of independent points, with standard errors that assume no law.

    **Raises:** `ValueError` for what is no sample of two points or more.
    """
    x = one_sample("moments", points)
    if len(x) < 2:
        raise ValueError("moments needs a sample of two points or more, but got one.")
    apart, count = x - x.mean(0), len(x)
    covariance = apart.T @ apart / (count - 1)
    # The variance of the products of two coordinates, of which the covariance is the mean.
    spread = np.maximum((apart**2).T @ apart**2 / count - covariance**2, 0.0)
    return Moments(x.mean(0), np.sqrt(np.diag(covariance) / count), covariance, np.sqrt(spread / count))


def mode_masses(
    points: ArrayLike, centres: ArrayLike
) -> tuple[Float[np.ndarray, " centres"], Float[np.ndarray, " centres"]]:
    """The share of the points that lie closest to each centre, and its standard error.

    **Arguments:** `points`: `(points, size)`; `centres`: `(centres, size)`.

    **Raises:** `ValueError` as `sliced_wasserstein`.
    """
    x, to = two_samples("mode_masses", points, centres)
    shares = np.bincount(cdist(x, to).argmin(1), minlength=len(to)) / len(x)
    return shares, np.sqrt(shares * (1 - shares) / len(x))


def one_sample(name: str, points: ArrayLike) -> Points:
    """A sample in double precision, or a `ValueError` that says what is wrong with it."""
    x = np.asarray(points, np.float64)
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(f"{name} needs samples of shape (points, size), none of them zero, but got {x.shape}.")
    if not np.isfinite(x).all():
        count = int((~np.isfinite(x)).any(1).sum())
        raise ValueError(f"{name}: {count} of {len(x)} points are not finite; leave them out and say how many.")
    return x


def two_samples(name: str, x: ArrayLike, y: ArrayLike) -> tuple[Points, Points]:
    """Two samples of points of one size."""
    one, other = one_sample(name, x), one_sample(name, y)
    if one.shape[1] != other.shape[1]:
        raise ValueError(f"{name} needs points of one size, but got sizes {one.shape[1]} and {other.shape[1]}.")
    return one, other
