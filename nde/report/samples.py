"""Scores and quantiles of samples, in blocks: of 200 samples of a long table one copy more in double precision is much.

Samples lie along the first axis. A block is turned so that the samples of a value lie side by side, and sorted there in
its own precision.
"""

from collections.abc import Iterator, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nde.objectives import AbstractLikelihood

NUMBERS = 2**19
"""Numbers in a block, about as many as a processor's cache holds: a fifth of the time that one block of all takes."""


def crps_of_samples(draws: np.ndarray, values: np.ndarray) -> np.ndarray:
    r"""The unbiased estimate of the CRPS from draws along the first axis, by sorting.

    $\tfrac1S \sum_s |x_s - x| - \tfrac{1}{2 S (S-1)} \sum_{s, r} |x_s - x_r|$ (the "fair" CRPS of Ferro 2014).

    **Arguments:** `draws`: `(samples, *shape)`, at least two; `values`: `shape`.

    **Returns:** the score of each value, in double precision.
    """
    count = len(draws)
    if count < 2:
        raise ValueError(f"The CRPS of samples needs at least two samples, but got {count}.")
    weights = (2.0 * np.arange(1, count + 1) - count - 1) / (count * (count - 1))
    truth = np.broadcast_to(values, draws.shape[1:]).ravel()
    scores = np.empty(truth.shape)
    for part, ordered in _sorted_blocks(draws):
        ordered = ordered.astype(np.float64)
        scores[part] = np.abs(ordered - truth[part, None]).mean(1) - ordered @ weights
    return scores.reshape(draws.shape[1:])


def quantiles_of_samples(draws: np.ndarray, levels: Sequence[float]) -> np.ndarray:
    """Quantiles of draws along the first axis, interpolated linearly between neighbours as by `numpy.quantile`.

    **Arguments:** `draws`: `(samples, *shape)`, at least one; `levels`: between 0 and 1.

    **Returns:** `(levels, *shape)`; `nan` where a draw is.
    """
    place = np.asarray(levels, np.float64) * (len(draws) - 1)
    if not len(draws) or not ((place >= 0) & (place <= len(draws) - 1)).all():
        raise ValueError(f"Quantiles need levels from 0 to 1 and a sample, but got {levels} and {len(draws)} samples.")
    draws = draws if np.issubdtype(draws.dtype, np.floating) else draws.astype(np.float64)
    below, above = np.floor(place).astype(int), np.ceil(place).astype(int)
    share = (place - below).astype(draws.dtype)
    quantiles = np.empty((len(place), draws[0].size), draws.dtype)
    for part, ordered in _sorted_blocks(draws):
        low, high = ordered[:, below], ordered[:, above]
        with np.errstate(invalid="ignore"):  # between infinite neighbours
            between = np.where(low == high, low, low + share * (high - low))
        between[np.isnan(ordered[:, -1])] = np.nan  # which is sorted to the end
        quantiles[:, part] = between.T
    return quantiles.reshape(len(place), *draws.shape[1:])


def _sorted_blocks(draws: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Which values, of all in a row, and their draws in ascending order, shape `(values, samples)`."""
    flat = draws.reshape(len(draws), -1)
    for part in _blocks(flat.shape[1], len(draws)):
        ordered = np.array(flat[:, part].T, order="C")
        ordered.sort(axis=1)
        yield part, ordered


def mixture_log_density(
    likelihood: AbstractLikelihood, locations: np.ndarray, values: np.ndarray
) -> Float[np.ndarray, "series rows channels"]:
    r"""$\log \tfrac1S \sum_s p(x \mid z_s)$ of each value.

    **Arguments:** `locations`: $z$, `(samples, series, rows, channels)`; `values`: $x$, `(series, rows, channels)`.

    Blocks are of equal size, the last overlapping the one before it, so that one is compiled.
    """
    samples, series = locations.shape[:2]
    found = np.empty(locations.shape[1:])
    for part in _blocks(series, samples * locations[0, :1].size, equal=True):
        block = jnp.asarray(values[part], jnp.result_type(float)), jnp.asarray(locations[:, part])
        found[part] = np.asarray(_log_sum(likelihood, *block))
    return found - np.log(samples)


@eqx.filter_jit
def _log_sum(likelihood: AbstractLikelihood, values: Array, locations: Array) -> Array:
    return jax.nn.logsumexp(likelihood.log_prob(jnp.broadcast_to(values, locations.shape), locations), axis=0)


def _blocks(count: int, size: int, *, equal: bool = False) -> Iterator[slice]:
    """Slices of `count` things, each of `size` numbers; if `equal`, of one length by overlap."""
    length = max(1, min(count, NUMBERS // max(size, 1)))
    for first in range(0, count, length):
        first = min(first, count - length) if equal else first
        yield slice(first, first + length)
