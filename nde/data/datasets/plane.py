"""Densities in the plane, to draw points from: the usual tests of a flow, and what is the truth about them."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float
from scipy.special import logsumexp

from nde.data.datasets.base import Dataset

Points = Float[np.ndarray, "points 2"]


@dataclass(frozen=True)
class Density:
    """A law of points in the plane.

    - `sample`: `(generator, count) -> (count, 2)` points, all drawn from the NumPy generator.
    - `log_prob`: `(points, 2) -> (points,)` log-densities in nats, or `None` where it has no closed form here.
    """

    sample: Callable[[np.random.Generator, int], Points]
    log_prob: Callable[[Points], Float[np.ndarray, " points"]] | None = None


# Two moons: half circles of radius 2, each blurred by a Gaussian; centred.
MOON_RADIUS, MOON_NOISE = 2.0, 0.2
MOON_CENTRES = np.array([[-1.0, -0.5], [1.0, 0.5]])


def _moon_curve(angle: np.ndarray, lower: np.ndarray) -> Points:
    arc = MOON_RADIUS * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    return MOON_CENTRES[lower] + np.where(lower[..., None] == 1, -arc, arc)


def _sample_moons(generator: np.random.Generator, count: int) -> Points:
    lower = generator.integers(2, size=count)
    points = _moon_curve(generator.uniform(0, math.pi, count), lower)
    return points + MOON_NOISE * generator.standard_normal((count, 2))


def _moons_log_prob(points: Points) -> np.ndarray:
    # The integral over the angle by midpoints, whose distance along the curve is far below the blur.
    angles = (np.arange(256) + 0.5) * math.pi / 256
    both = np.concatenate([_moon_curve(angles, np.full(256, moon)) for moon in (0, 1)])
    return _mixture_log_prob(points, both, MOON_NOISE)


# Eight Gaussians on a circle.
RING_RADIUS, RING_NOISE = 2.0 * math.sqrt(2.0), 0.35
RING_CENTRES = RING_RADIUS * np.stack([np.cos(np.arange(8) * math.pi / 4), np.sin(np.arange(8) * math.pi / 4)], axis=-1)


def _sample_ring(generator: np.random.Generator, count: int) -> Points:
    return RING_CENTRES[generator.integers(8, size=count)] + RING_NOISE * generator.standard_normal((count, 2))


# Checkerboard: uniform on those eight of sixteen squares of side 2 whose indices have an even sum.
def _sample_board(generator: np.random.Generator, count: int) -> Points:
    column, pair = generator.integers(4, size=count), generator.integers(2, size=count)
    corner = np.stack([column, 2 * pair + column % 2], axis=-1)
    return 2.0 * (corner + generator.uniform(size=(count, 2))) - 4.0


def _board_log_prob(points: Points) -> np.ndarray:
    square = np.floor(points / 2.0 + 2.0)
    inside = ((square >= 0) & (square < 4)).all(-1) & (square.sum(-1) % 2 == 0)
    return np.where(inside, -math.log(8 * 4.0), -np.inf)


# Pinwheel: five arms, Gaussian about a ray, twisted the more the farther out.
ARMS, ARM_LENGTH, ARM_WIDTH, TWIST = 5, 0.3, 0.1, 0.25


def _sample_pinwheel(generator: np.random.Generator, count: int) -> Points:
    along = 1.0 + ARM_LENGTH * generator.standard_normal(count)
    across = ARM_WIDTH * generator.standard_normal(count)
    angle = 2 * math.pi * generator.integers(ARMS, size=count) / ARMS + TWIST * np.exp(along)
    cos, sin = np.cos(angle), np.sin(angle)
    return 2.0 * np.stack([cos * along - sin * across, sin * along + cos * across], axis=-1)


def _mixture_log_prob(points: Points, centres: Points, noise: float) -> np.ndarray:
    squares = ((points[:, None] - centres) ** 2).sum(-1) / noise**2
    return logsumexp(-0.5 * squares, axis=1) - math.log(2 * math.pi * noise**2 * len(centres))


DENSITIES: dict[str, Density] = {
    "two_moons": Density(_sample_moons, _moons_log_prob),
    "eight_gaussians": Density(_sample_ring, lambda points: _mixture_log_prob(points, RING_CENTRES, RING_NOISE)),
    "checkerboard": Density(_sample_board, _board_log_prob),
    "pinwheel": Density(_sample_pinwheel),
}
"""By name: two half moons, eight Gaussians on a circle, a checkerboard, a pinwheel; coordinates of order one to four.

**Source:** the toy densities of Grathwohl et al., *FFJORD*, ICLR 2019, arXiv 1810.01367, figures 2 and 5; the pinwheel
after Johnson et al. 2016, arXiv 1603.06277. Sizes and blurs are ours, so log-likelihoods compare within nde only.
"""


def sample_density(name: str, count: int, *, seed: int) -> Points:
    """Points from one of `nde.data.DENSITIES`, `(count, 2)`, the same for the same name, count and seed.

    **Raises:** `ValueError` for a name that is unknown or a count below one.
    """
    if name not in DENSITIES:
        raise ValueError(f"the densities are {', '.join(DENSITIES)}, but the name is '{name}'.")
    if count < 1:
        raise ValueError(f"the number of points must be at least one, but is {count}.")
    return DENSITIES[name].sample(np.random.default_rng(seed), count)


POINTS = 1000


def _points(name: str, seed: int = 0, size: int | None = None) -> Points:
    return sample_density(name, POINTS if size is None else size, seed=seed)


PLANE = {
    name: Dataset(
        partial(_points, name),
        "points",
        made=True,
        truth={} if law.log_prob is None else {"log_prob": law.log_prob},
    )
    for name, law in DENSITIES.items()
}
