"""Forecasts of a latent path model, or of an ensemble of them, by samples."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from nde.objectives.elbo import LatentPathModel
from nde.report.scores import SampleForecast


class Forecast(eqx.Module):
    """What [`nde.report.sample_forecast`][] returns.

    - `law`: the predictive law of each value asked for.
    - `kl_path`: `(series,)`; mean KL divergence of each series' latent path from the prior given its context, in nats.
    """

    law: SampleForecast
    kl_path: Float[np.ndarray, " series"]


def sample_forecast(
    models: Sequence[LatentPathModel],
    times: np.ndarray,
    values: np.ndarray,
    context: np.ndarray,
    ts: np.ndarray,
    *,
    samples: int,
    key: PRNGKeyArray,
    chunk: int = 32,
) -> Forecast:
    """Sample the values at times `ts` given the entries in `context`, the samples shared out among the models.

    **Arguments:**

    - `models`: one, or an ensemble, whose predictive laws are averaged.
    - `times`: `(series, rows)`; `values`, `context`: `(series, rows, channels)`; what `context` hides is never read.
    - `ts`: `(series, asked)`, sorted; not before a series' first row.
    - `samples`: in all, at least two.
    - `key`: of the samples; each series has its own, by its place.
    - `chunk`: series solved at once; bounds the memory.

    **Returns:** a [`nde.report.Forecast`][] for values of shape `(series, asked, channels)`.
    """
    if samples < max(2, len(models)):
        raise ValueError(f"samples must be at least {max(2, len(models))} for {len(models)} models, but is {samples}.")
    shares = [len(part) for part in np.array_split(np.arange(samples), len(models))]
    members, draws, divergences = [], [], []
    arrays = [jnp.asarray(x, jnp.result_type(float)) for x in (times, values)]
    for number, (model, share) in enumerate(zip(models, shares, strict=True)):
        locations, drawn, kl = _sample(
            model, *arrays, jnp.asarray(context), jnp.asarray(ts, arrays[0].dtype), share, chunk,
            jax.random.fold_in(key, number),
        )  # fmt: skip
        members.append((model.likelihood, np.asarray(locations)))
        draws.append(np.asarray(drawn))
        divergences.append(np.asarray(kl))
    return Forecast(SampleForecast(tuple(members), np.concatenate(draws)), np.mean(divergences, axis=0))


@eqx.filter_jit
def _sample(model, times, values, context, ts, samples: int, chunk: int, key) -> tuple[Array, Array, Array]:
    def series(inputs):
        number, times, values, context, ts = inputs

        def path(key):
            path_key, value_key = jax.random.split(key)
            sample = model.posterior(times, values, context, ts, key=path_key)
            location = model.decode(sample.zs)
            return location, model.likelihood.sample(location, key=value_key), sample.kl_path

        return jax.vmap(path)(jax.random.split(jax.random.fold_in(key, number), samples))

    inputs = (jnp.arange(len(times)), times, values, context, ts)
    locations, drawn, kl = jax.lax.map(series, inputs, batch_size=min(chunk, max(len(times), 1)))
    return jnp.moveaxis(locations, 1, 0), jnp.moveaxis(drawn, 1, 0), jnp.mean(kl, 1)
