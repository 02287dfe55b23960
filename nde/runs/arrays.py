"""What the loop trains on: arrays on the host, and which of them make up which batch."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from nde import config as configs
from nde.data import AbstractBatches, BatchesByLength, index_batches, row_counts, RowsByLength
from nde.tasks import Examples, RunError

MANY_BATCHES = 100


def training_data(config: configs.TrainConfig, examples: Examples, seed: int) -> tuple[PyTree, AbstractBatches]:
    """The examples' arrays on the host, and which of them make up which batch.

    **Raises:** `RunError` for `train.by_length` where examples have no lengths.
    """
    count = len(examples.names)
    size = min(config.batch_size, count)
    arrays, lengths = jax.tree.map(_in_default_type, examples.arrays), examples.lengths
    if config.by_length and lengths is None:
        raise RunError("train.by_length is for tasks of many series: forecast, classify; leave it out.")
    wanted = count >= MANY_BATCHES * size if config.by_length is None else config.by_length
    if lengths is None or not wanted:
        return arrays, index_batches(count, size, config.all_steps, seed=seed)
    counts = row_counts(lengths)
    pairs = zip(arrays, examples.in_rows, strict=True)
    data = tuple(RowsByLength(x, lengths, counts) if in_rows else x for x, in_rows in pairs)
    return data, BatchesByLength(np.searchsorted(counts, lengths), size, config.all_steps, seed)


def _in_default_type(x: np.ndarray) -> np.ndarray:
    """In JAX's default type, still on the host: a step takes its batch from there."""
    return np.asarray(x, {"f": jnp.result_type(float), "i": jnp.result_type(int)}.get(x.dtype.kind, x.dtype))
