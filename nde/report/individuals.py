"""What is expected of individuals of a population, given some of their values or none."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from nde.models import Population
from nde.objectives import effects_posterior, series_codes
from nde.report.population import Individuals
from nde.report.scores import SampleForecast
from nde.train import blame


def individual_forecast(
    models: Sequence[Population],
    data: Individuals,
    ts: Float[np.ndarray, "individuals asked"],
    *,
    series: Sequence[object],
    samples: int,
    key: PRNGKeyArray,
) -> SampleForecast:
    r"""The law of values at `ts` of individuals, given those that the mask of `data` shows.

    Effects are drawn from Laplace's approximation of their law given these values,
    $\eta \mid x_i \approx \mathcal N(\hat\eta_i, H_i^{-1})$, which without any is the population's,
    $\mathcal N(0, \Omega)$; then values around each solution.

    **Arguments:**

    - `models`: one, or an ensemble, whose laws are averaged.
    - `data`: times, values, mask and inputs of the individuals; the first of their times is where they start.
    - `ts`: `(individuals, asked)`, not before that.
    - `series`: the id of each, by which its random numbers are keyed: a forecast does not depend on who else is asked
      for.
    - `samples`: in all, shared out among the models.

    **Raises:** `nde.train.FailedExamples`, by the ids, where a typical individual could not be solved.
    """
    codes = jnp.asarray(series_codes(series))
    times, values, mask, inputs = (jax.tree.map(jnp.asarray, x) for x in data)
    asked = jnp.concatenate([times[:, :1], jnp.asarray(ts, times.dtype)], axis=1)
    shares = [max(1, len(part)) for part in np.array_split(np.arange(samples), len(models))]
    members, draws = [], []
    for number, (model, share) in enumerate(zip(models, shares, strict=True)):
        effects_key, values_key = jax.random.split(jax.random.fold_in(key, number))

        def solve(rows: np.ndarray, model=model, share=share, effects_key=effects_key) -> Array:
            one = jax.tree.map(lambda x: x[rows], (times, values, mask, inputs, asked, codes))
            found = _drawn(model, one, share, effects_key)
            return eqx.error_if(found, ~jnp.all(jnp.isfinite(found)), "a solve of an individual failed")

        located = np.asarray(blame(solve, np.arange(len(times)), [str(name) for name in series]))
        members.append((model.likelihood, located.swapaxes(0, 1)))
        draws.append(model.likelihood.sample(members[-1][1], series=series, key=values_key))
    return SampleForecast(tuple(members), np.concatenate(draws))


@eqx.filter_jit
def _drawn(
    model: Population, individuals: tuple[Any, ...], count: int, key: PRNGKeyArray
) -> Float[Array, "individuals count asked channels"]:
    """Locations `(individuals, count, asked, channels)`."""

    def one(ts, values, mask, inputs, asked, code):
        mode, factor = effects_posterior(model, (ts, values, mask, inputs))
        standard = jax.random.normal(jax.random.fold_in(key, code), (count, len(mode)), mode.dtype)

        def draw(standard: Array) -> Array:
            return model.locations(asked, inputs, mode + factor @ standard)[1:]

        return jax.lax.map(draw, standard)

    return jax.vmap(one)(*individuals)
