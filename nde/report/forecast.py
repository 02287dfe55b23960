"""Forecasts: of a latent path model, or of an ensemble of them, by samples; of a baseline."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from nde.objectives import AbstractLikelihood, check_ids, LatentPathModel, series_codes
from nde.report.baselines import Baseline
from nde.report.scores import NormalForecast, SampleForecast
from nde.train import blame


class Forecast(eqx.Module):
    """What `nde.report.sample_forecast` returns.

    - `law`: the predictive law of each value asked for.
    - `kl_path`: `(series,)`; mean KL divergence of each series' latent path from the prior given its context, up to the
      last time asked for, in nats.
    """

    law: SampleForecast
    kl_path: Float[np.ndarray, " series"]


class AbstractPaths(ABC):
    """Sampled paths of a model in blocks of one shape: what `nde.report.sample_forecast` needs of it.

    A `nde.objectives.LatentPathModel` is wrapped into one; a model that is a compiled program alone is one.
    """

    likelihood: AbstractLikelihood

    @abstractmethod
    def rows(self, count: int) -> int:
        """How many rows a block has for series of so many: as many or more."""

    @abstractmethod
    def sample(
        self, data: Sequence[Array], ts: Array, codes: Array, start: Array, key: PRNGKeyArray
    ) -> tuple[Array, Array]:
        """Locations `(PATHS, SERIES, rows, channels)` and path KL `(PATHS, SERIES)`.

        **Arguments:** `data`: times, values and mask of `SERIES` series; `ts`: `(SERIES, rows)`, where locations are
        wanted; `codes`: of the series, `start`: the number of the first sample; both are folded into the key.
        """


@dataclass(frozen=True)
class _ModelPaths(AbstractPaths):
    model: LatentPathModel

    @property
    def likelihood(self) -> AbstractLikelihood:
        return self.model.likelihood

    def rows(self, count: int) -> int:
        return count

    def sample(self, data, ts, codes, start, key):
        return _block(self.model, data, ts, codes, start, key)


def sample_forecast(
    models: Sequence[LatentPathModel | AbstractPaths],
    times: np.ndarray,
    values: np.ndarray,
    context: np.ndarray,
    ts: np.ndarray,
    *,
    series: Sequence[object],
    samples: int,
    key: PRNGKeyArray,
) -> Forecast:
    """Sample the values at times `ts` given the entries in `context`, the samples shared out among the models.

    The work goes through one compiled block of `SERIES` series, `PATHS` samples and as many times as the series have
    rows, whatever is asked for: what one call compiled serves the next.

    **Arguments:**

    - `models`: one, or an ensemble, whose predictive laws are averaged.
    - `times`: `(series, rows)`; `values`, `context`: `(series, rows, channels)`; what `context` hides is never read.
    - `ts`: `(series, asked)`, sorted; not before a series' first row.
    - `series`: the id of each series, by the text of which its random numbers are keyed: a series' forecast is the
      same up to rounding whichever other series there are, in whatever order, and whatever follows the times asked for.
      A time put in between leaves the paths as they are; the values drawn around them are by row.
    - `samples`: in all, at least two.
    - `key`: of the samples.

    **Returns:** a `nde.report.Forecast` for values of shape `(series, asked, channels)`.

    **Raises:** `ValueError` if there are fewer samples than models, or fewer than two, or not one id for each series;
    `nde.train.FailedExamples`, by the ids, if paths can not be solved.
    """
    check_ids(series, len(times))
    if samples < max(2, len(models)):
        raise ValueError(f"samples must be at least {max(2, len(models))} for {len(models)} models, but is {samples}.")
    shares = [len(part) for part in np.array_split(np.arange(samples), len(models))]
    members, divergences, first = [], [], 0
    draws = np.empty((samples, *ts.shape, values.shape[-1]), jnp.result_type(float))
    for number, (model, share) in enumerate(zip(models, shares, strict=True)):
        path_key, value_key = jax.random.split(jax.random.fold_in(key, number))
        paths = model if isinstance(model, AbstractPaths) else _ModelPaths(model)
        locations, kl = _sample(paths, (times, values, context), ts, series, share, path_key)
        members.append((model.likelihood, locations))
        draws[first : first + share] = model.likelihood.sample(locations, series=series, key=value_key)
        divergences.append(kl)
        first += share
    return Forecast(SampleForecast(tuple(members), draws), np.mean(divergences, axis=0))


SERIES, PATHS = 32, 50


def _sample(
    paths: AbstractPaths, data, ts: np.ndarray, series: Sequence[object], samples: int, key
) -> tuple[np.ndarray, np.ndarray]:
    """Locations `(samples, series, asked, channels)` and mean path KL `(series,)`, block by block.

    The samples of a series depend on its own key and on nothing else, so the blocks may cut as they like: the same
    path comes back for the next block of times.
    """
    count, rows = len(data[0]), paths.rows(data[0].shape[1])
    data = with_rows(data, rows)
    asked = ts.shape[1]
    times = np.pad(ts, ((0, 0), (0, -asked % rows)), mode="edge")
    codes, dtype = series_codes(series), jnp.result_type(float)
    locations = np.zeros((samples, count, times.shape[1], data[1].shape[-1]), dtype)
    kl = np.zeros((samples, count))

    def solve(chosen: np.ndarray, start: int, part: slice) -> tuple[np.ndarray, np.ndarray]:
        block = [jnp.asarray(x[chosen], None if x.dtype == bool else dtype) for x in data]
        asked_here = jnp.asarray(times[chosen, part], dtype)
        found, cost = paths.sample(block, asked_here, jnp.asarray(codes[chosen]), jnp.asarray(start), key)
        return np.asarray(found), np.asarray(cost)

    for first in range(0, count, SERIES):
        here = np.arange(first, min(first + SERIES, count))
        where = slice(first, first + SERIES)
        for start in range(0, samples, PATHS):
            used = min(PATHS, samples - start)
            for row in range(0, times.shape[1], rows):
                part = slice(row, row + rows)
                found, cost = blame(partial(solve, start=start, part=part), np.resize(here, SERIES), series)
                locations[start : start + PATHS, where, part] = found[:used, : len(here)]
                kl[start : start + PATHS, where] = cost[:used, : len(here)]
    return locations[:, :, :asked], kl.mean(0)


def with_rows(data: Sequence[np.ndarray], rows: int) -> list[np.ndarray]:
    """Times, values and mask of series with so many rows: more repeat the last time, and nothing is observed there."""
    times, values, mask = data
    more = ((0, 0), (0, rows - times.shape[1]))
    return [np.pad(times, more, mode="edge"), *(np.pad(x, (*more, (0, 0))) for x in (values, mask))]


def path_block(
    model: LatentPathModel, data: Sequence[Array], ts: Array, codes: Array, start: Array, key: PRNGKeyArray
) -> tuple[Array, Array]:
    """What `nde.report.AbstractPaths.sample` returns, of a model."""

    def path(data, ts, code, sample):
        times, values, mask = data
        own_key = jax.random.fold_in(jax.random.fold_in(key, code), sample)
        found = model.posterior(times, values, mask, ts, key=own_key)
        return model.decode(found.zs), found.kl_path

    over_series = jax.vmap(path, in_axes=(0, 0, 0, None))
    over_samples = jax.vmap(over_series, in_axes=(None, None, None, 0))
    return over_samples(data, ts, codes, start + jnp.arange(PATHS))


_block = eqx.filter_jit(path_block)


BASELINE_SERIES = 500


def baseline_forecast(
    baseline: Baseline, times: np.ndarray, values: np.ndarray, context: np.ndarray, ts: np.ndarray
) -> NormalForecast:
    """A baseline's law of the values at times `ts` given the entries in `context`.

    The arguments are those of `nde.report.sample_forecast`, and so is the shape of the law: `(series, asked,
    channels)`. The work goes in blocks of series, as a cache holds them.
    """
    same = np.array_equal(times, ts)
    means, stds = [], []
    for first in range(0, len(times), BASELINE_SERIES):
        t, x, known, asked = (a[first : first + BASELINE_SERIES] for a in (times, values, context, ts))
        mean, std = baseline.predict(t, x, known) if same else _predict_at(baseline, t, x, known, asked)
        means.append(mean)
        stds.append(std)
    return NormalForecast(np.concatenate(means), np.concatenate(stds))


def _predict_at(baseline: Baseline, times, values, context, ts) -> tuple[np.ndarray, np.ndarray]:
    """Predictions at `ts`, by rows without values set among those of the panel, after the ones of the same time."""
    rows = times.shape[1]
    joined = np.concatenate([times, ts], axis=1)
    order = np.argsort(joined, axis=1, kind="stable")
    asked = np.argsort(order, axis=1)[:, rows:, None]
    blank = np.zeros((*ts.shape, values.shape[-1]), bool)
    parts = (np.concatenate([values, blank], axis=1), np.concatenate([context, blank], axis=1))
    sorted_parts = (np.take_along_axis(part, order[..., None], axis=1) for part in parts)
    mean, std = baseline.predict(np.take_along_axis(joined, order, axis=1), *sorted_parts)
    return np.take_along_axis(mean, asked, axis=1), np.take_along_axis(std, asked, axis=1)
