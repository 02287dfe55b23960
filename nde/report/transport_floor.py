"""A distance between two samples, beside what it is between two samples of one law."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import ArrayLike

from nde.report.points import two_samples
from nde.report.transport import DISTANCES


@dataclass(frozen=True)
class FlooredDistance:
    """A distance between two samples, and what it is between samples that are of one law.

    - `value`: between the samples and the reference, with `value_sd` over the draws of the points compared; that is
      zero where all of them are compared once.
    - `floor`: the mean between two independent samples of the reference's law, of the same numbers of points, with
      `floor_sd` from one pair to another.
    """

    value: float
    value_sd: float
    floor: float
    floor_sd: float

    @property
    def excess(self) -> float:
        """How many standard deviations the value lies above its floor: within two, the laws are not told apart."""
        return (self.value - self.floor) / self.floor_sd


def transport_distance(
    samples: ArrayLike,
    reference: ArrayLike,
    distance: str = "wasserstein",
    *,
    sampler: Callable[[int, int], ArrayLike] | None = None,
    repeats: int = 8,
    seed: int = 0,
) -> FlooredDistance:
    """A distance between samples and points of the law that they should have, beside its sampling floor.

    No distance of finite samples is zero: two of 1000 points each from one law in the plane lie some 0.15 apart in
    $W_2$, and no model can do better but by chance.

    **Arguments:**

    - `samples`: `(points, size)`.
    - `reference`: `(points, size)`, points of the true law, such as held-out data.
    - `distance`: one of `nde.report.DISTANCES`.
    - `sampler`: the true law, a function of a count and a whole number as seed to `(count, size)` points. The floor is
      then that of fresh pairs of samples, and the value is of all points. Without one the reference is split at random
      into two halves: the floor is the distance between these, and the value the mean of that between a half and as
      many of the samples.
    - `repeats`: how many pairs; `seed`: of the draws.

    **Raises:** `ValueError` for samples as of `wasserstein`, a distance that there is not, fewer than two repeats, and
    without a sampler, for a reference of less than four points or fewer samples than half of the reference.
    """
    if distance not in DISTANCES:
        raise ValueError(f"the distances are {', '.join(DISTANCES)}, but got {distance!r}.")
    if repeats < 2:
        raise ValueError(f"transport_distance needs two repeats or more to show the floor's spread, but got {repeats}.")
    x, y = two_samples("transport_distance", samples, reference)
    measure, random = DISTANCES[distance], np.random.default_rng(seed)
    if sampler is not None:
        seeds = [[int(s) for s in random.integers(2**31, size=2)] for _ in range(repeats)]
        floors = [measure(sampler(len(x), first), sampler(len(y), second)) for first, second in seeds]
        return FlooredDistance(measure(x, y), 0.0, *_mean_and_sd(floors))
    half = len(y) // 2
    if half < 2 or len(x) < half:
        raise ValueError(
            "transport_distance without a sampler compares halves of the reference with as many samples, and needs "
            f"four points of the reference and half as many samples, but got {len(y)} and {len(x)}."
        )
    values, floors = [], []
    for _ in range(repeats):
        one, other = np.split(y[random.permutation(len(y))[: 2 * half]], 2)
        floors.append(measure(one, other))
        values.append(measure(x[random.permutation(len(x))[:half]], one))
    return FlooredDistance(*_mean_and_sd(values), *_mean_and_sd(floors))


def _mean_and_sd(values: list[float]) -> tuple[float, float]:
    return float(np.mean(values)), float(np.std(values, ddof=1))
