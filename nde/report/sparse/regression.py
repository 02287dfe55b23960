"""Sparse linear regression: the supports along a path of thresholds, and the choice between them."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

Matrix = Float[np.ndarray, "samples candidates"]
Column = Float[np.ndarray, " samples"]
Support = Bool[np.ndarray, " candidates"]

THRESHOLDS = tuple(float(x) for x in np.geomspace(0.02, 0.5, 16))
"""Shares of the rate's root mean square; a term that contributes less is left out."""


class Fitted(NamedTuple):
    """A least squares fit of some candidates.

    - `coefficients`, `errors`: `(candidates,)`; zero for those left out.
    - `squares`: the sum of the squared residuals.
    """

    coefficients: Float[np.ndarray, " candidates"]
    errors: Float[np.ndarray, " candidates"]
    squares: float


def least_squares(matrix: Matrix, rates: Column, support: Support, *, independent: float | None = None) -> Fitted:
    r"""Coefficients $\xi = (\Theta^\top\Theta)^{-1}\Theta^\top r$ of the chosen candidates, and their standard errors.

    The errors are the square roots of the diagonal of $\hat\sigma^2 (\Theta^\top\Theta)^{-1}$, with
    $\hat\sigma^2 = |r - \Theta\xi|^2 / (n - k)$, times $n / n_0$ where the $n$ samples stand for `independent` $= n_0$
    values only.
    """
    samples, count = len(rates), int(support.sum())
    coefficients, errors = np.zeros(len(support)), np.zeros(len(support))
    if count:
        unit = np.linalg.norm(matrix[:, support], axis=0)
        unit = np.where(unit > 0, unit, 1.0)
        scaled = matrix[:, support] / unit
        # the pseudo-inverse: of candidates that cannot be told apart it takes the shortest coefficients
        inverse = np.linalg.pinv(scaled)
        coefficients[support] = inverse @ rates / unit
        rest = rates - matrix @ coefficients
        freedom = max(samples - count, 1)
        share = samples / (independent or samples)
        variance = share * float(rest @ rest) / freedom
        errors[support] = np.sqrt(variance * (inverse**2).sum(1)) / unit
    rest = rates - matrix @ coefficients
    return Fitted(coefficients, errors, float(rest @ rest))


def threshold_support(matrix: Matrix, rates: Column, threshold: float) -> Support:
    r"""Sequentially thresholded least squares: fit, leave out every term that contributes less, repeat until none does.

    A term's contribution is $|\xi_j|\,\mathrm{rms}(\theta_j) / \mathrm{rms}(r)$, so that the threshold is a number
    without unit. (The paper compares $|\xi_j|$ itself, and scales by hand.)

    **Source:** Brunton, Proctor, Kutz, *Discovering governing equations from data by sparse identification of nonlinear
    dynamical systems*, PNAS 2016.
    """
    size = np.linalg.norm(rates)
    support = np.ones(matrix.shape[1], bool)
    while support.any():
        fitted = least_squares(matrix, rates, support)
        share = np.abs(fitted.coefficients) * np.linalg.norm(matrix, axis=0)
        kept = support & (share >= threshold * size)
        if (kept == support).all():
            break
        support = kept
    return support


def stepwise_supports(matrix: Matrix, rates: Column) -> list[Support]:
    """All candidates, then one less at a time: each time that without which the fit is worse by the least.

    Where candidates nearly agree along a trajectory, as the powers of a state do, large coefficients cancel, and no
    threshold on their size can tell which is not needed; this can.
    """
    support = np.ones(matrix.shape[1], bool)
    found = [support]
    while support.any():
        places = np.flatnonzero(support)
        fewer = [support & (np.arange(len(support)) != place) for place in places]
        support = min(fewer, key=lambda one: least_squares(matrix, rates, one).squares)
        found.append(support)
    return found


def sparse_supports(
    matrix: Matrix, rates: Column, thresholds: Sequence[float] = THRESHOLDS, *, stepwise: bool = True
) -> list[Support]:
    """The distinct supports along the thresholds and, with `stepwise`, those of the stepwise elimination.

    Of the latter too, only those whose terms all contribute the smallest threshold: with many samples a criterion takes
    in terms that are there for certain and matter to nobody, as of what noise does to the candidates.
    """
    found = [threshold_support(matrix, rates, threshold) for threshold in thresholds]
    if stepwise:
        size = min(thresholds) * np.linalg.norm(rates)
        found += [one for one in stepwise_supports(matrix, rates) if _least_contribution(matrix, rates, one) >= size]
    return [np.array(one) for one in dict.fromkeys(tuple(bool(x) for x in support) for support in found)]


def _least_contribution(matrix: Matrix, rates: Column, support: Support) -> float:
    share = np.abs(least_squares(matrix, rates, support).coefficients) * np.linalg.norm(matrix, axis=0)
    return float(share[support].min(initial=np.inf))


def aicc(mean_square: float, values: float, count: int) -> float:
    r"""$n \log \hat\sigma^2 + 2k + 2k(k + 1)/(n - k - 1)$, with $k$ one more than the terms, for the variance."""
    k = count + 1
    if values - k - 1 <= 0:
        return math.inf
    return values * math.log(mean_square) + 2 * k + 2 * k * (k + 1) / (values - k - 1)


def bic(mean_square: float, values: float, count: int) -> float:
    r"""$n \log \hat\sigma^2 + k \log n$, with $k$ one more than the terms, for the variance."""
    return values * math.log(mean_square) + (count + 1) * math.log(max(values, 2.0))


CRITERIA = {"aicc": aicc, "bic": bic}
SMALLEST = 1e-12
"""A fit that leaves less than this share of the squares is exact; what is left is rounding, and earns no more terms."""


def information(matrix: Matrix, rates: Column, support: Support, criterion: str, independent: float) -> float:
    """The criterion of a support; lower is better."""
    whole = float(rates @ rates)
    left = max(least_squares(matrix, rates, support).squares, SMALLEST * whole, np.finfo(float).tiny)
    return CRITERIA[criterion](left / len(rates), independent, int(support.sum()))


def held_out_error(matrix: Matrix, rates: Column, support: Support, groups: np.ndarray) -> float:
    """The mean squared error of trajectories that were left out of the fit, one at a time, over that of zero."""
    wrong = 0.0
    for group in np.unique(groups):
        inside = groups == group
        fitted = least_squares(matrix[~inside], rates[~inside], support)
        wrong += float(((rates[inside] - matrix[inside] @ fitted.coefficients) ** 2).sum())
    whole = max(float(rates @ rates), np.finfo(float).tiny)
    # a term that earns less than a thousandth of the squares is not held to be there
    return max(wrong / whole, SMALLEST) * (1 + 1e-3 * int(support.sum()))
