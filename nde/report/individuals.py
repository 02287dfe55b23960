"""What is expected of individuals of a population, given some of their values or none."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from nde.models import Population
from nde.objectives import AbstractLikelihood, effects_posterior, series_codes
from nde.report.population import Individuals, replaced, simulating
from nde.report.scores import SampleForecast
from nde.train import blame


class IndividualForecast(NamedTuple):
    """What `nde.report.individual_forecast` returns.

    - `law`: of each value.
    - `failed`: the share of each individual's draws that could not be solved, in whose place others of its draws stand.
    - `decrement`: how far from its maximum the search for its effects ended, see `nde.objectives.posterior_mode`.
    """

    law: SampleForecast
    failed: Float[np.ndarray, " individuals"]
    decrement: Float[np.ndarray, " individuals"]

    def marks(self) -> list[str]:
        """What there is to say of each individual's draws and search; an empty text where all went well."""
        found = []
        for share, decrement in zip(self.failed, self.decrement, strict=True):
            draws = [f"{100 * share:.1g} % of the draws could not be solved"] if share else []
            search = [] if decrement < FAR else ["the search for its effects did not end at a maximum"]
            found.append(" and ".join([*draws, *search]))
        return found


class AbstractIndividuals(ABC):
    """Many individuals of a population as what `nde.report.individual_forecast` needs of it.

    A `nde.models.Population` is wrapped into one; a population that is a compiled program alone is one.
    """

    likelihood: AbstractLikelihood

    @abstractmethod
    def effects(self, individuals: Individuals) -> tuple[Array, Array, Array]:
        """What `nde.objectives.effects_posterior` returns, of each individual."""

    @abstractmethod
    def locations(self, ts: Float[Array, "individuals rows"], inputs: Any, effects: Float[Array, "*shape"]) -> Array:
        """Where values lie for drawn effects, `(individuals, draws, effects)`: `(individuals, draws, rows, channels)`.

        The first of the times `ts` of each is where it starts; what can not be solved is not finite.
        """


@dataclass(frozen=True)
class _ModelIndividuals(AbstractIndividuals):
    model: Population

    @property
    def likelihood(self) -> AbstractLikelihood:
        return self.model.likelihood

    def effects(self, individuals):
        return _effects(self.model, *individuals)

    def locations(self, ts, inputs, effects):
        return _locations(self.model, ts, inputs, effects)


def individual_forecast(
    models: Sequence[Population | AbstractIndividuals],
    data: Individuals,
    ts: Float[np.ndarray, "individuals asked"],
    *,
    series: Sequence[object],
    samples: int,
    key: PRNGKeyArray,
) -> IndividualForecast:
    r"""The law of values at `ts` of individuals, given those that the mask of `data` shows.

    Effects are drawn from Laplace's approximation of their law given these values,
    $\eta \mid x_i \approx \mathcal N(\hat\eta_i, H_i^{-1})$, which without any is the population's,
    $\mathcal N(0, \Omega)$; then values around each solution.

    **Arguments:**

    - `models`: one, or an ensemble, whose laws are averaged; or a `nde.report.AbstractIndividuals` for each.
    - `data`: times, values, mask and inputs of the individuals; the first of their times is where they start.
    - `ts`: `(individuals, asked)`, not before that.
    - `series`: the id of each, by which its random numbers are keyed: a forecast does not depend on who else is asked
      for.
    - `samples`: in all, shared out among the models.

    **Raises:** `nde.train.FailedExamples`, by the ids, where no draw of an individual could be solved.
    """
    codes = jnp.asarray(series_codes(series))
    times, values, mask, inputs = (jax.tree.map(jnp.asarray, x) for x in data)
    asked = jnp.concatenate([times[:, :1], jnp.asarray(ts, times.dtype)], axis=1)
    shares = [max(1, len(part)) for part in np.array_split(np.arange(samples), len(models))]
    members, draws, failed, far = [], [], np.zeros(len(times)), np.zeros(len(times))
    for number, (model, share) in enumerate(zip(models, shares, strict=True)):
        effects_key, values_key = jax.random.split(jax.random.fold_in(key, number))
        every = model if isinstance(model, AbstractIndividuals) else _ModelIndividuals(model)

        def solve(rows: np.ndarray, every=every, share=share, effects_key=effects_key) -> tuple[Array, Array]:
            some = jax.tree.map(lambda x: x[rows], (times, values, mask, inputs))
            mode, factor, decrement = every.effects(some)
            effects = _drawn(jnp.asarray(mode), jnp.asarray(factor), codes[rows], share, effects_key)
            found = every.locations(asked[rows], some[3], effects)[:, :, 1:]
            good = jnp.any(jnp.all(jnp.isfinite(found[:, :, -1]), axis=2), axis=1)
            return eqx.error_if(found, ~jnp.all(good), "every solve of an individual failed"), decrement

        found, decrement = blame(solve, np.arange(len(times)), [str(name) for name in series])
        located, far = np.asarray(found).swapaxes(0, 1), np.fmax(far, np.asarray(decrement))
        # What fails stays infinite to its end; a value alone, such as a logarithm at the start, may be so too.
        solved = np.asarray(np.isfinite(located[:, :, -1]).all(2))
        failed += (~solved).sum(0) / samples
        members.append((every.likelihood, replaced(located, solved)))
        draws.append(every.likelihood.sample(members[-1][1], series=series, key=values_key))
    return IndividualForecast(SampleForecast(tuple(members), np.concatenate(draws)), failed, far)


FAR = 0.1
"""A decrement, in standard deviations, from which on a search is said not to have ended at a maximum."""


@partial(jax.jit, static_argnames="count")
def _drawn(mode: Array, factor: Array, codes: Array, count: int, key: PRNGKeyArray) -> Array:
    """Effects `(individuals, count, effects)`, those of each by its own key."""

    def one(mode, factor, code):
        standard = jax.random.normal(jax.random.fold_in(key, code), (count, len(mode)), mode.dtype)
        return jax.vmap(lambda standard: mode + factor @ standard)(standard)

    return jax.vmap(one)(mode, factor, codes)


def effects_block(model: Population, ts: Array, values: Array, mask: Array, inputs: Any) -> tuple[Array, Array, Array]:
    """What `nde.report.AbstractIndividuals.effects` returns, of a model, within compiled code."""
    return jax.vmap(lambda *one: effects_posterior(model, one))(ts, values, mask, inputs)


def locations_block(model: Population, ts: Array, inputs: Any, effects: Array) -> Array:
    """What `nde.report.AbstractIndividuals.locations` returns, likewise."""

    def one(ts, inputs, effects):
        solving = simulating(model, inputs)
        return jax.lax.map(lambda eta: solving.locations(ts, inputs, eta), effects)  # one draw of all after another

    return jax.vmap(one)(ts, inputs, effects)


_effects, _locations = eqx.filter_jit(effects_block), eqx.filter_jit(locations_block)
