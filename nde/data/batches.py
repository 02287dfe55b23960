"""Which series make up which batch, as a function of seed and step."""

import grain
import numpy as np


class _ShuffledEpochs(grain.sources.RandomAccessDataSource[np.ndarray]):
    """Element `i` is batch `i` of an endless run through shuffled epochs, made from the seed and `i` alone."""

    def __init__(self, num_series: int, batch_size: int, num_steps: int, seed: int):
        self.num_series, self.batch_size, self.num_steps, self.seed = num_series, batch_size, num_steps, seed

    def __len__(self) -> int:
        return self.num_steps

    def __getitem__(self, step: int) -> np.ndarray:
        epoch, place = divmod(int(step), self.num_series // self.batch_size)
        order = np.random.default_rng([self.seed, epoch]).permutation(self.num_series)
        return order[place * self.batch_size : (place + 1) * self.batch_size]


def index_batches(num_series: int, batch_size: int, num_steps: int, *, seed: int) -> grain.MapDataset[np.ndarray]:
    """Batches of series indices: element `step` is an integer array of shape `(batch_size,)`.

    The values stay on the device; only these indices travel. Each epoch is a fresh permutation, and what is left over
    at its end is left out of it. An element depends on the seed and its own number only, so a run that is resumed at
    any step sees the batches that it would have seen.

    **Raises:** `ValueError` if a batch would hold more series than there are.
    """
    if not 1 <= batch_size <= num_series:
        raise ValueError(f"batch_size must be in 1 … {num_series}, the number of series, but is {batch_size}.")
    return grain.MapDataset.source(_ShuffledEpochs(num_series, batch_size, num_steps, seed))
