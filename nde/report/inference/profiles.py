"""The profile likelihood of one unknown: how well the data can be fitted with it held elsewhere."""

from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from matplotlib.figure import Figure
from scipy import stats

from nde.report.figures import BLUE, GREY
from nde.report.inference.bounds import OPEN
from nde.report.inference.density import LogDensity
from nde.report.inference.laplace import covariance, Interval
from nde.report.inference.maximum import Optimum


@dataclass(frozen=True)
class Profile:
    r"""The deviance $2\,(\ell(\theta_j) - \ell(\hat\theta))$ with all unknowns but one fitted anew.

    - `values`, `deviances`: the unknown in its own units, rising, and the deviance there.
    - `threshold`: the quantile of $\chi^2_1$ that the interval's ends reach.
    - `interval`: a `nde.report.Interval`; an end that the deviance does not reach is open.
    """

    values: Float[np.ndarray, " points"]
    deviances: Float[np.ndarray, " points"]
    threshold: float
    interval: Interval


Refit = Callable[[Float[Array, " size"], Array], Optimum]
"""`(start, free) -> optimum`, with the coordinates that are not free as in the start."""

MOST_STEPS = 24


def profile(
    density: LogDensity,
    optimum: Optimum,
    name: str,
    refit: Refit,
    *,
    level: float = 0.9,
    step: float = 0.4,
    inside: Float[Array, " size"] | None = None,
) -> Profile:
    r"""The profile of a named unknown, out from the maximum to where the deviance exceeds $\chi^2_1$'s quantile.

    Each point starts from the last, moved along the line on which a normal density would have the others; the ends are
    interpolated in the root of the deviance, which is straight for a normal density.

    **Arguments:** `optimum`: the maximum; `refit`: a maximisation with some coordinates held, mostly a compiled
    `nde.report.maximise`; `level`: of the interval; `step`: of the grid, in standard deviations of Laplace's
    approximation, and growing by a quarter each time; `inside`: the maximum with unknowns that are at a bound at their
    edges (`nde.report.inference.bounds`), which no line moves; the maximum itself if `None`.

    **Raises:** `ValueError` for a name that does not exist, or a level that does not lie between 0 and 1.

    **Limits:** an end is called open after 24 steps, which reach some 340 standard deviations, or where the deviance
    has stopped growing; where the information vanishes the standard deviation is taken to be one, of the coordinate.

    **Source:** Raue et al., *Structural and practical identifiability analysis of partially observed dynamical models
    by exploiting the profile likelihood*, Bioinformatics 2009.
    """
    if not 0 < level < 1:
        raise ValueError(f"a level of intervals lies between 0 and 1, but is {level}.")
    place, threshold = density.index(name), float(stats.chi2.ppf(level, 1))
    spread = covariance(optimum.curve.curvature)
    deviation = np.sqrt(spread[place, place])
    known = deviation < OPEN
    along = spread[:, place] / spread[place, place] if known else np.eye(len(spread))[place]
    inside = optimum.position if inside is None else inside
    outward = np.sign(np.asarray(optimum.position - inside))
    along = np.where((outward != 0) & (np.arange(len(along)) != place), 0.0, along)
    first = step * (deviation if known else 1.0)

    def side(sign: int) -> _Side:
        if sign == outward[place]:  # the bound itself
            return _Side([], float(optimum.position[place]), False)
        return _walk(optimum, refit, place, sign * first, along, threshold, inside)

    sides = [side(sign) for sign in (-1, 1)]
    points = [*reversed(sides[0].points), (optimum.position, 0.0), *sides[1].points]
    values = np.array([float(density.transform(position)[place]) for position, _ in points])
    ends = [float(density.transform(optimum.position.at[place].set(side.end))[place]) for side in sides]
    opened = [side.open for side in sides]
    middle = float(density.transform(optimum.position)[place])
    if values[-1] < values[0]:  # a transform that falls
        ends, opened, points, values = ends[::-1], opened[::-1], points[::-1], values[::-1]
    interval = Interval(name, middle, ends[0], ends[1], opened[0], opened[1])
    return Profile(values, np.array([deviance for _, deviance in points]), threshold, interval)


@dataclass(frozen=True)
class _Side:
    """One side of a profile: its points from within outwards, where it ends, and whether it is open."""

    points: list[tuple[Array, float]]
    end: float
    open: bool


def _walk(
    optimum: Optimum, refit: Refit, place: int, first: float, along: np.ndarray, threshold: float, origin: Array
) -> _Side:
    free = jnp.ones(len(along), bool).at[place].set(False)
    direction = jnp.asarray(along, optimum.position.dtype)
    at, base, move = origin, float(optimum.curve.loss), first
    points: list[tuple[Array, float]] = [(at, 0.0)]
    for _ in range(MOST_STEPS):
        found = refit(at + move * direction, free)
        deviance = 2 * (float(found.curve.loss) - base)
        if not np.isfinite(deviance):  # too far for the equations: half as far
            move /= 2
            continue
        # a point below the maximum is one that the maximisation had not found to the last digit
        at = found.position
        points.append((at, max(deviance, 0.0)))
        if deviance > threshold:
            return _crossing(points, refit, free, place, base, threshold)
        move *= 1.25
    return _Side(points[1:], float(points[-1][0][place]), True)


def _crossing(
    points: list[tuple[Array, float]], refit: Refit, free: Array, place: int, base: float, threshold: float
) -> _Side:
    """Where the deviance crosses the threshold between the last two points: straight in its root, and tried."""
    for _ in range(MOST_TRIALS):
        (inner, low), (outer, high) = points[-2:]
        share = (np.sqrt(threshold) - np.sqrt(low)) / (np.sqrt(high) - np.sqrt(low))
        tried = refit(inner + min(max(share, 0.1), 0.9) * (outer - inner), free)
        deviance = max(2 * (float(tried.curve.loss) - base), 0.0)
        if not np.isfinite(deviance):
            break
        points.insert(-1, (tried.position, deviance))
        if deviance > threshold:
            points.pop()
        if abs(deviance - threshold) < CLOSE * threshold:
            break
    (inner, low), (outer, high) = points[-2:]
    share = (np.sqrt(threshold) - np.sqrt(low)) / (np.sqrt(high) - np.sqrt(low))
    return _Side(points[1:], float(inner[place] + share * (outer[place] - inner[place])), False)


MOST_TRIALS = 4
CLOSE = 0.02


def plot_profile(found: Profile, *, level: float | None = None) -> Figure:
    """The deviance along the unknown, its threshold, and the interval."""
    figure = Figure(figsize=(4.6, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(found.values, found.deviances, "-o", color=BLUE, ms=3, lw=1.3)
    axes.axhline(found.threshold, color=GREY, ls="--", lw=1)
    interval = found.interval
    for end, is_open in ((interval.low, interval.open_below), (interval.high, interval.open_above)):
        if not is_open:
            axes.axvline(end, color=GREY, lw=1)
    said = "" if level is None else f" ({100 * level:g} %)"
    axes.set(xlabel=interval.text() + said, ylabel="deviance", ylim=(0, 2.5 * found.threshold))
    axes.spines[["top", "right"]].set_visible(False)
    return figure
