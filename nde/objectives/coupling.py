"""Couplings: which point of the source belongs to which of the target."""

import numpy as np
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment

Points = Float[np.ndarray, "points size"]


def optimal_assignment(x0: Points, x1: Points) -> np.ndarray:
    r"""The permutation $p$ that minimises $\sum_i |x_{0, i} - x_{1, p(i)}|^2$, exactly.

    **Arguments:** `x0`, `x1`: as many points each, `(points, size)`.

    **Returns:** `(points,)`, $p$.

    **Raises:** `ValueError` for arrays of different shapes.

    **Limits:** time grows with the cube of the points: 5 ms for 256 of them, on one core.
    """
    if x0.shape != x1.shape or x0.ndim != 2:
        raise ValueError(
            f"optimal_assignment needs as many points of one size on either side, but got {x0.shape}, {x1.shape}."
        )
    # The squares of the points do not depend on who is whose, so that the product is all that there is to the cost.
    return linear_sum_assignment(-np.asarray(x0, np.float64) @ np.asarray(x1, np.float64).T)[1]


def transport_pairs(
    x0: Points,
    x1: Points,
    *,
    batch: int = 256,
    labels: np.ndarray | None = None,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    r"""Which rows of the source and of the target are pairs, by optimal transport within random batches.

    Both are cut into batches of `batch` rows at random, and each batch is coupled by `optimal_assignment`. A pair then
    has the law of mini-batch optimal transport, and a training on such pairs, made once before it, costs what one on
    independent pairs costs: at a batch of 256 the assignment takes longer than the training step of a small network, so
    that doing it anew in each step would make training several times slower. Repeat the rows, in `x0` and `x1`, to
    couple them in more than one way.

    With `labels` a batch holds targets of one class, and its sources are as random as any: a model that is given the
    class must see each class's whole source, for that is what it will be sampled from. Coupled across classes, a class
    would be trained on the part of the source near it alone, and asked for the rest.

    **Arguments:** `x0`, `x1`: `(points, size)` each; `batch`: how many are coupled at once, the last of them fewer;
    `labels`: the class of each target, `(points,)`; `seed`: of the batches.

    **Returns:** `rows0, rows1`, each `(points,)`: pair `i` is `x0[rows0[i]], x1[rows1[i]]`. Every row occurs once.

    **Raises:** `ValueError` for arrays of different shapes or a batch below one.

    **Source:** Tong et al., *Improving and generalizing flow-based generative models with minibatch optimal transport*,
    2023, arXiv 2302.00482; Pooladian et al. 2023, arXiv 2304.14772. Why conditions are kept apart: Cheng & Schwing,
    *The curse of conditions*, 2025, arXiv 2503.10636.
    """
    if x0.shape != x1.shape or (labels is not None and np.shape(labels) != x1.shape[:1]):
        raise ValueError(
            "transport_pairs needs as many points of one size on either side, and a label for each target, but got "
            f"{x0.shape}, {x1.shape}" + ("." if labels is None else f" and labels {np.shape(labels)}.")
        )
    if batch < 1:
        raise ValueError(f"transport_pairs needs batch >= 1, but got {batch}.")
    generator = np.random.default_rng(seed)
    rows0, rows1 = generator.permutation(len(x0)), generator.permutation(len(x1))
    if labels is not None:  # the targets class by class, in random order within each; the sources stay at random
        rows1 = rows1[np.argsort(np.asarray(labels)[rows1], kind="stable")]
    ends = _ends(len(x0) if labels is None else np.bincount(np.unique(labels, return_inverse=True)[1]), batch)
    for start, end in zip(ends[:-1], ends[1:], strict=True):
        here = slice(start, end)
        rows1[here] = rows1[here][optimal_assignment(x0[rows0[here]], x1[rows1[here]])]
    order = generator.permutation(len(x0))  # so that neighbours in it are no pairs of one batch
    return rows0[order], rows1[order]


def _ends(counts: int | np.ndarray, batch: int) -> np.ndarray:
    """Where batches end, none of which crosses the border of two classes."""
    borders = np.concatenate([[0], np.cumsum(counts)])
    inner = [np.arange(a, b, batch) for a, b in zip(borders[:-1], borders[1:], strict=True)]
    return np.concatenate([*inner, borders[-1:]])


def independent_pairs(count0: int, count1: int, pairs: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of a source and a target that know nothing of each other: rows of either, `(pairs,)` each.

    **Arguments:** `count0`, `count1`: how many points there are; `pairs`: how many are made. Every row occurs as often
    as any other, within one.

    **Raises:** `ValueError` for counts below one.
    """
    if min(count0, count1, pairs) < 1:
        raise ValueError(f"independent_pairs needs points and pairs, but got {count0=}, {count1=} and {pairs=}.")
    generator = np.random.default_rng(seed)
    rows = [
        np.concatenate([generator.permutation(count) for _ in range(-(-pairs // count))])[:pairs]
        for count in (count0, count1)
    ]
    return rows[0], rows[1]
