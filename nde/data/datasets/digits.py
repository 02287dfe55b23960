"""Handwritten digits of 8 x 8 pixels, which come with scikit-learn."""

import importlib

import numpy as np

from nde.data.datasets.base import Dataset
from nde.data.layout import TableError
from nde.data.points import PointSet

LEVELS = 17
"""Grey levels, from 0 to 16."""


def load_digits(seed: int = 0, size: int | None = None) -> PointSet:
    r"""The 1797 digits of scikit-learn in random order, 64 pixels each, in $[-1, 1]$.

    A grey level $n$ of 17 becomes $2 (n + u) / 17 - 1$ with $u$ uniform on [0, 1): so that a density's integral over a
    cell of width 2 / 17 is the probability of the level, and its logarithm at a point a bound on that.

    **Arguments:** `seed`: of the order and of $u$; `size`: how many, all if `None`.

    **Returns:** a `nde.data.PointSet`, its classes the digits.

    **Raises:** `TableError` that says what to install if scikit-learn is absent, and for more digits than there are.

    **Source:** Alpaydin & Kaynak, *Optical recognition of handwritten digits*, UCI, 1998 (its test part); the spreading
    after Theis, van den Oord, Bethge 2016, arXiv 1511.01844, section 3.1.
    """
    try:
        load = importlib.import_module("sklearn.datasets").load_digits
    except ImportError:
        raise TableError(
            "digits comes with the package scikit-learn; install it by `pip install 'scikit-learn>=1.5'`."
        ) from None
    data = load()
    count = len(data.target)
    if size is not None and not 1 <= size <= count:
        raise TableError(
            f"digits has {count} images, but {size} are asked for; lower data.points, data.validation_points or "
            "data.test_points."
        )
    generator = np.random.default_rng(seed)
    chosen = generator.permutation(count)[:size]
    levels = np.asarray(data.data, np.float64)[chosen]
    points = 2 * (levels + generator.uniform(size=levels.shape)) / LEVELS - 1
    labels = np.asarray(data.target, np.int32)[chosen]
    return PointSet(points, labels, tuple(str(n) for n in range(10)), cell=2 / LEVELS, image=(8, 8))


DIGITS = Dataset(
    load_digits, "points", made=True, defaults={"points": 1297, "validation_points": 200, "test_points": 300}
)
