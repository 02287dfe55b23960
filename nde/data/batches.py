"""Which series make up which batch, as a function of seed and step; and batches of like lengths."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int


class AbstractBatches(Sequence[np.ndarray]):
    """Element `step` holds the indices of a batch, made from the seed and the step alone.

    So a run that is resumed at any step sees the batches that it would have seen.
    """

    num_steps: int
    seed: int

    @abstractmethod
    def epoch(self, generator: np.random.Generator) -> list[np.ndarray]:
        """The batches of an epoch; of each epoch there are as many."""

    def __len__(self) -> int:
        return self.num_steps

    @cached_property
    def _per_epoch(self) -> int:
        return len(self._batches(0))

    def _batches(self, number: int) -> list[np.ndarray]:
        known = self.__dict__.get("_last")
        if known is None or known[0] != number:  # steps mostly come in order: an epoch is shuffled once
            known = number, self.epoch(np.random.default_rng([self.seed, number]))
            self.__dict__["_last"] = known
        return known[1]

    def __getitem__(self, step: int) -> np.ndarray:  # pyright: ignore[reportIncompatibleMethodOverride]
        if not 0 <= int(step) < self.num_steps:
            raise IndexError(f"step {step} of {self.num_steps}")
        epoch, place = divmod(int(step), self._per_epoch)
        return self._batches(epoch)[place]


@dataclass(frozen=True)
class IndexBatches(AbstractBatches):
    """Shuffled epochs of batches of one size; what is left over at the end of an epoch is left out of it."""

    num_series: int
    batch_size: int
    num_steps: int
    seed: int

    def epoch(self, generator: np.random.Generator) -> list[np.ndarray]:
        order = generator.permutation(self.num_series)
        whole = self.num_series // self.batch_size
        return list(order[: whole * self.batch_size].reshape(whole, self.batch_size))


@dataclass(frozen=True)
class BatchesByLength(AbstractBatches):
    """Shuffled epochs in which each series is once, in batches of series of like lengths.

    Within a group of lengths a batch is random, and so is the order of the batches. What is left over of a group goes
    to that of the next longer series, and the last batch of all may be smaller.

    - `groups`: `(series,)`, the group of each series, from zero, the longer the higher.
    """

    groups: Int[np.ndarray, " series"]
    batch_size: int
    num_steps: int
    seed: int

    def epoch(self, generator: np.random.Generator) -> list[np.ndarray]:
        order = generator.permutation(len(self.groups))
        batches, left = [], order[:0]
        for group in range(int(self.groups.max()) + 1):
            waiting = np.concatenate([left, order[self.groups[order] == group]])
            whole = len(waiting) // self.batch_size * self.batch_size
            batches += list(waiting[:whole].reshape(-1, self.batch_size))
            left = waiting[whole:]
        batches += [left] if len(left) else []
        return [batches[place] for place in generator.permutation(len(batches))]


def index_batches(num_series: int, batch_size: int, num_steps: int, *, seed: int) -> IndexBatches:
    """Batches of series indices: element `step` is an integer array of shape `(batch_size,)`.

    Each epoch is a fresh permutation, and what is left over at its end is left out of it. An element depends on the
    seed and its own number only, so a run that is resumed at any step sees the batches that it would have seen.

    **Raises:** `ValueError` if a batch would hold more series than there are.
    """
    if not 1 <= batch_size <= num_series:
        raise ValueError(f"batch_size must be in 1 … {num_series}, the number of series, but is {batch_size}.")
    return IndexBatches(num_series, batch_size, num_steps, seed)


MOST_PADDING = 1.2
MOST_CANDIDATES = 200


def row_counts(lengths: Int[np.ndarray, " series"], *, most: float = MOST_PADDING) -> Int[np.ndarray, " counts"]:
    """The fewest numbers of rows to pad series to, so that all take at most `most` times the rows that they have.

    Each number is a shape for which a training step is compiled. They are the best of their number: of all ways to cut
    the sorted lengths into so many groups, each padded to its longest, that of the fewest rows, by dynamic programming;
    of more than 200 different lengths over quantiles of the series and of their rows, which may leave more padding.

    **Arguments:** `lengths`: of each series, at least one; `most`: above one.

    **Returns:** the numbers in ascending order, the last of them the longest length.

    **Raises:** `ValueError` if `most` is not above one.
    """
    if not most > 1:
        raise ValueError(f"row_counts needs most > 1, but got {most}.")
    ends, counts = np.unique(np.maximum(lengths, 1), return_counts=True)
    if len(ends) > MOST_CANDIDATES:  # quantiles of the series, and of their rows: one long series has many of these
        shares = np.linspace(0, 1, MOST_CANDIDATES // 2)
        sums = np.cumsum(counts), np.cumsum(counts * ends)
        kept = np.unique([np.searchsorted(upto, shares * upto[-1]) for upto in sums])
        counts, ends = np.diff(sums[0][kept], prepend=0), ends[kept]
    real, upto = np.maximum(lengths, 1).sum(), np.cumsum(counts)
    series = upto[None, :] - np.concatenate([[0], upto[:-1]])[:, None]
    # rows[j]: the fewest of all series up to the candidate j, in so many groups; firsts[k][j]: where the last begins.
    rows, firsts = ends * upto, []
    while rows[-1] > most * real and len(firsts) < len(ends) - 1:
        before = np.concatenate([[0], rows[:-1]])
        tried = np.where(series > 0, before[:, None] + series * ends[None, :], np.iinfo(np.int64).max)
        firsts.append(tried.argmin(0))
        rows = tried.min(0)
    found, last = [ends[-1]], len(ends) - 1
    for first in reversed(firsts):
        last = first[last] - 1
        if last < 0:
            break
        found.append(ends[last])
    return np.array(found[::-1])


@dataclass(frozen=True, eq=False)
class RowsByLength:
    """An array `(series, rows, …)` of padded series of which a batch takes no more rows than its series need.

    It is indexed by series, as the array is. The rows of a batch are the fewest of `counts` that hold its longest.

    - `array`: on the host; `lengths`: `(series,)`; `counts`: from `nde.data.row_counts`.
    """

    array: np.ndarray
    lengths: Int[np.ndarray, " series"]
    counts: Int[np.ndarray, " counts"]

    def __getitem__(self, series: np.ndarray) -> np.ndarray:
        longest = self.lengths[series].max()
        return self.array[series, : self.counts[np.searchsorted(self.counts, longest)]]
