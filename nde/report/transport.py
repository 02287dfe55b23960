"""How far apart two laws are that are known by samples, and how far two samples of one law are."""

from collections.abc import Callable

import numpy as np
from jaxtyping import ArrayLike
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from nde.report.points import Points, two_samples


def wasserstein(x: ArrayLike, y: ArrayLike) -> float:
    r"""$W_2$ between two samples of equally many points, $\min_\pi (\tfrac1n \sum_i |x_i - y_{\pi(i)}|^2)^{1/2}$.

    **Arguments:** `x`, `y`: `(points, size)` each.

    **Raises:** `ValueError` for samples that are no such arrays, empty, not finite, of two sizes, or not equally many.

    **Limits:** the best assignment is exact; it takes a matrix of `points ** 2` numbers, and time that grows with their
    cube: seconds for 2000. As an estimate of the distance of the two laws it is biased upward, by
    $O(n^{-1 / \text{size}})$: see `transport_distance`.
    """
    x, y = two_samples("wasserstein", x, y)
    if len(x) != len(y):
        raise ValueError(f"wasserstein assigns points one to one, but got {len(x)} and {len(y)}: take equally many.")
    squares = cdist(x, y, "sqeuclidean")
    return float(np.sqrt(squares[linear_sum_assignment(squares)].mean()))


def sliced_wasserstein(x: ArrayLike, y: ArrayLike, *, directions: int = 256, seed: int = 0) -> float:
    r"""The root mean square of $W_2$ between the projections of two samples on random directions.

    **Arguments:** `x`, `y`: `(points, size)`, not necessarily equally many; `directions`: how many; `seed`: of them.

    **Raises:** `ValueError` as `wasserstein`, and for less than one direction.

    **Limits:** laws apart by $v$ are $|v| / \sqrt{\text{size}}$ apart here.

    **Source:** Rabin, Peyré, Delon, Bernot, *Wasserstein barycenter and its application to texture mixing*, 2011.
    """
    x, y = two_samples("sliced_wasserstein", x, y)
    if directions < 1:
        raise ValueError(f"sliced_wasserstein needs at least one direction, but got {directions}.")
    normal = np.random.default_rng(seed).standard_normal((x.shape[1], directions))
    normal /= np.linalg.norm(normal, axis=0)
    # Both quantile functions are steps: between two neighbouring levels of either they are constant.
    levels = np.unique(np.concatenate([np.arange(1, len(z) + 1) / len(z) for z in (x, y)]))
    width, middle = np.diff(levels, prepend=0.0), levels - np.diff(levels, prepend=0.0) / 2
    ordered = [np.sort(z @ normal, axis=0)[(middle * len(z)).astype(int)] for z in (x, y)]
    return float(np.sqrt((width @ (ordered[0] - ordered[1]) ** 2).mean()))


def bures_wasserstein(mean_x: ArrayLike, covariance_x: ArrayLike, mean_y: ArrayLike, covariance_y: ArrayLike) -> float:
    r"""$W_2$ between two Gaussians, $\{|m - m'|^2 + \operatorname{tr}(A + B - 2 (A^{1/2} B A^{1/2})^{1/2})\}^{1/2}$.

    The trace is found as $\min_O \lVert A^{1/2} - B^{1/2} O \rVert^2$ over orthogonal $O$, which is no small
    difference of large numbers where the two are close.

    **Arguments:** means `(size,)`, covariances `(size, size)`: symmetric, positive semidefinite.

    **Raises:** `ValueError` for shapes that do not fit together, values that are not finite, and a covariance that is
    not symmetric or has a negative eigenvalue.

    **Source:** Dowson & Landau, *The Fréchet distance between multivariate normal distributions*, 1982.
    """
    means = [np.asarray(mean, np.float64) for mean in (mean_x, mean_y)]
    roots = [_square_root(np.asarray(c, np.float64)) for c in (covariance_x, covariance_y)]
    shapes = [m.shape for m in means], [root.shape for root in roots]
    size = len(roots[0])
    if shapes != ([(size,)] * 2, [(size, size)] * 2):
        raise ValueError(
            f"bures_wasserstein needs means (size,) and covariances (size, size), but got {shapes[0]} and {shapes[1]}."
        )
    if not all(np.isfinite(mean).all() for mean in means):
        raise ValueError("bures_wasserstein: means must be finite, but one is not.")
    left, _, right = np.linalg.svd(roots[1] @ roots[0])
    apart = ((roots[0] - roots[1] @ left @ right) ** 2).sum()
    return float(np.sqrt(((means[0] - means[1]) ** 2).sum() + apart))


def gaussian_wasserstein(x: ArrayLike, y: ArrayLike) -> float:
    """`bures_wasserstein` between the Gaussians with the means and covariances of two samples.

    **Raises:** `ValueError` as `sliced_wasserstein`, and for a sample of one point.

    **Limits:** it sees the first two moments only.
    """
    both = two_samples("gaussian_wasserstein", x, y)
    if min(map(len, both)) < 2:
        raise ValueError("gaussian_wasserstein needs samples of two points or more, but one has a single point.")
    (mean_x, covariance_x), (mean_y, covariance_y) = ((z.mean(0), np.atleast_2d(np.cov(z.T))) for z in both)
    return bures_wasserstein(mean_x, covariance_x, mean_y, covariance_y)


def energy_distance(x: ArrayLike, y: ArrayLike) -> float:
    r"""$\bigl(2\,\mathbb E|X - Y| - \mathbb E|X - X'| - \mathbb E|Y - Y'|\bigr)^{1/2}$ of the two empirical laws.

    Unlike $W_2$ it has a floor that falls with the points at a rate free of the size, $n^{-1/2}$.

    **Arguments:** `x`, `y`: `(points, size)`, not necessarily equally many.

    **Raises:** `ValueError` as `sliced_wasserstein`.

    **Source:** Székely & Rizzo, *Energy statistics: a class of statistics based on distances*, 2013; of one dimension
    `scipy.stats.energy_distance` is the same.
    """
    x, y = two_samples("energy_distance", x, y)
    square = 2 * _mean_distance(x, y) - _mean_distance(x, x) - _mean_distance(y, y)
    return float(np.sqrt(max(square, 0.0)))  # below zero by rounding only


DISTANCES: dict[str, Callable[[ArrayLike, ArrayLike], float]] = {
    "wasserstein": wasserstein,
    "sliced_wasserstein": sliced_wasserstein,
    "gaussian_wasserstein": gaussian_wasserstein,
    "energy": energy_distance,
}
"""By name: functions of two samples."""


def _square_root(covariance: np.ndarray) -> np.ndarray:
    if covariance.ndim != 2 or covariance.shape[0] != covariance.shape[1]:
        raise ValueError(
            f"bures_wasserstein: a covariance must be a matrix (size, size), but one is {covariance.shape}."
        )
    if not np.isfinite(covariance).all():
        raise ValueError("bures_wasserstein: covariances must be finite, but one is not.")
    values, vectors = np.linalg.eigh(covariance)
    rounding = 1e-10 * max(np.abs(covariance).max(), np.finfo(np.float64).tiny)
    if values.min() < -rounding or np.abs(covariance - covariance.T).max() > rounding:
        raise ValueError("bures_wasserstein: covariances must be symmetric and positive semidefinite, but one is not.")
    return vectors * np.sqrt(np.maximum(values, 0.0)) @ vectors.T


def _mean_distance(x: Points, y: Points) -> float:
    """In blocks of rows, so that memory does not grow with the product of the two."""
    rows = max(1, 2**22 // len(y))
    return sum(cdist(x[i : i + rows], y).sum() for i in range(0, len(x), rows)) / (len(x) * len(y))
