"""What a classifier makes of many series: logits, of one that draws noise those of its mean probabilities."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree, UInt32

from nde.objectives import check_ids, series_codes
from nde.train import blame


class AbstractLogits(ABC):
    """The logits of many series by a compiled program alone: `nde.report.class_logits` takes one for a model."""

    @abstractmethod
    def logits(self, rows: np.ndarray, arrays: Sequence[np.ndarray], key: PRNGKeyArray) -> np.ndarray:
        """Logits `(len(rows), classes)` of some series: `arrays` holds times, values, mask and codes of all."""


def class_logits(
    model: PyTree | AbstractLogits,
    times: Float[np.ndarray, "series rows"],
    values: Float[np.ndarray, "series rows channels"],
    mask: Bool[np.ndarray, "series rows channels"],
    *,
    series: Sequence[object],
    samples: int,
    key: PRNGKeyArray,
) -> Float[np.ndarray, "series classes"]:
    r"""The logits of series. A model that says `draws_noise = True` is asked `samples` times, each time with a new key.

    Its logits are then $\log \frac1S \sum_s \mathrm{softmax}(\ell_s)$: probabilities are averaged, not logits. Any
    other model is called once, without a key.

    **Arguments:** `model`: called as `model(times, values, mask)`, or with `key=` too; `times`, `values`, `mask`: of
    all series; `series`: their ids, by the text of which the keys are made: a series' logits are the same up to
    rounding whichever other series there are, in whatever order; `samples`: at least one; `key`: of all of them.

    **Returns:** `(series, classes)`, in double precision.

    **Raises:** `ValueError` if there is not one id for each series; `nde.train.FailedExamples`, by the ids, for series
    that can not be solved.
    """
    check_ids(series, len(times))
    every = np.arange(len(times))
    if isinstance(model, AbstractLogits):
        arrays = (times, values, mask, series_codes(series))
        return np.asarray(blame(lambda rows: model.logits(rows, arrays, key), every, series), np.float64)
    data = [jnp.asarray(x) for x in (times, values, mask)]
    if getattr(model, "draws_noise", False):
        data.append(jnp.asarray(series_codes(series)))
        logits = _sampled
        more = (jax.random.split(key, samples),)
    else:
        logits, more = _batch, ()
    return np.asarray(blame(lambda rows: logits(model, *(x[rows] for x in data), *more), every, series), np.float64)


def logits_block(
    model: PyTree, samples: int, times: Array, values: Array, mask: Array, codes: Array, key: PRNGKeyArray
) -> Array:
    """What `nde.report.class_logits` returns of series by their codes, within compiled code."""
    if getattr(model, "draws_noise", False):
        return _sampled(model, times, values, mask, codes, jax.random.split(key, samples))
    return _batch(model, times, values, mask)


@eqx.filter_jit
def _batch(model: PyTree, times: Array, values: Array, mask: Array) -> Array:
    return jax.vmap(model)(times, values, mask)


@eqx.filter_jit
def _sampled(
    model: PyTree, times: Array, values: Array, mask: Array, codes: UInt32[Array, " series"], keys: PRNGKeyArray
) -> Array:
    def sample(key: PRNGKeyArray) -> Array:
        by_series = jax.vmap(jax.random.fold_in, (None, 0))(key, codes)
        return jax.nn.log_softmax(jax.vmap(lambda *x, key: model(*x, key=key))(times, values, mask, key=by_series))

    # one sample of all series after another: the noise of one is room enough
    return jax.nn.logsumexp(jax.lax.map(sample, keys), axis=0) - jnp.log(float(len(keys)))
