"""The log density of what a population does not know: typical parameters, spreads of effects, scales of noise."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nde.config import PopulationConfig
from nde.fields import named_parameters
from nde.models import Population
from nde.report import Curve, LogDensity, Posterior
from nde.tasks.dynamics import DynamicsProblem, log_prior_of_coordinate, noise_numbers
from nde.tasks.population.training import individuals, objective

STEP = 1e-4
"""Of the differences of gradients that make a curvature, in coordinates without bounds."""


def posterior(config: PopulationConfig, problem: DynamicsProblem, model: Population) -> Posterior:
    """The density at its maximum; a network's weights are held as they were trained."""
    return Posterior(partial(log_density, config, problem, model))


def log_density(config: PopulationConfig, problem: DynamicsProblem, model: Population) -> LogDensity:
    """The log marginal likelihood of all individuals that are trained on, and the prior, as a function of all but a
    network's weights."""
    dtype = jnp.result_type(float)
    model = jax.tree.map(lambda x: jnp.asarray(x, dtype) if eqx.is_inexact_array(x) else x, model)
    channels = config.observe.facts().channels
    every = individuals(config, problem, problem.fit)
    data = jax.tree.map(lambda x: jnp.asarray(x[problem.series]), every)
    marginal = objective(config, problem)
    names, places = _unknowns(model, channels)
    flat, structure = jax.tree.flatten(model)
    sizes = np.cumsum([flat[place].size for place in places])[:-1]

    def rebuilt(vector: Array) -> Population:
        leaves = list(flat)
        for place, part in zip(places, jnp.split(vector, sizes), strict=True):
            leaves[place] = part.reshape(flat[place].shape)
        return jax.tree.unflatten(structure, leaves)

    def likelihood(vector: Array) -> Array:
        here = rebuilt(vector)
        return jnp.sum(jax.vmap(lambda *one: marginal.log_marginal(here, one))(*data))

    def prior(vector: Array) -> Array:
        priors = map(log_prior_of_coordinate, named_parameters(rebuilt(vector).ode.field).values())
        return sum(priors, jnp.zeros((), dtype))

    def curve(vector: Array) -> Curve:
        slope = jax.value_and_grad(lambda x: -likelihood(x))
        moves = STEP * jnp.eye(len(vector), dtype=vector.dtype)
        tried = jnp.concatenate([vector[None], vector[None] + moves, vector[None] - moves])
        losses, gradients = jax.lax.map(slope, tried)
        up, down = jnp.split(gradients[1:], 2)
        bend = (up - down) / (2 * STEP)
        values, axes = jnp.linalg.eigh(jnp.where(jnp.isfinite(bend), bend + bend.T, 0.0) / 2)
        # The Hessian itself, in which away from the maximum a direction may bend down.
        bend = (axes * jnp.abs(values)[None, :]) @ axes.T
        believed, pull = jax.value_and_grad(lambda x: -prior(x))(vector)
        bent = jax.hessian(lambda x: -prior(x))(vector)
        loss = jnp.where(jnp.isfinite(losses[0]), losses[0] + believed, jnp.inf)
        return Curve(loss, gradients[0] + pull, bend + bent, bent, believed)

    def transform(vector: Array) -> Float[Array, " size"]:
        return jnp.concatenate([jnp.ravel(x) for x in _in_own_units(rebuilt(vector), channels)])

    return LogDensity(
        names=tuple(names),
        parameters=tuple(name for name in names if name in named_parameters(model.ode.field)),
        weights=(),
        initial_vector=jnp.concatenate([jnp.ravel(flat[place]) for place in places]),
        function=lambda vector: likelihood(vector) + prior(vector),
        transform=transform,
        curve=curve,
        count=int(problem.fit[problem.series].sum()),
    )


def _unknowns(model: Population, channels: tuple[str, ...]) -> tuple[list[str], list[int]]:
    """The names of all numbers, and where their arrays stand among the leaves of the model."""
    named = {name: each for name, each in named_parameters(model.ode.field).items() if each.raw is not None}
    arrays = [each.raw for each in named.values()]
    names = list(named)
    arrays.append(model.raw_spread)
    names += [f"spread of {name}" for name in model.effects]
    if model.raw_correlation is not None:
        arrays.append(model.raw_correlation)
        rows, columns = np.tril_indices(len(model.effects), -1)
        pairs = zip(rows, columns, strict=True)
        # Of three effects or more a correlation depends on several coordinates, of which intervals know nothing.
        what = "correlation" if len(model.effects) == 2 else "Cholesky factor's coordinate"
        names += [f"{what} of {model.effects[i]} and {model.effects[j]}" for i, j in pairs]
    for found in noise_numbers(model.likelihood, channels):
        arrays.append(found.raw)
        names += found.names
    where = {id(leaf): place for place, leaf in enumerate(jax.tree.leaves(model))}
    return names, [where[id(x)] for x in arrays]


def _in_own_units(model: Population, channels: tuple[str, ...]) -> list[Array]:
    named = named_parameters(model.ode.field)
    found = [each.value for each in named.values() if each.raw is not None]
    found.append(jnp.exp(model.raw_spread))
    if model.raw_correlation is not None:
        raw = model.raw_correlation
        found.append(raw / jnp.sqrt(1 + raw**2) if len(model.effects) == 2 else raw)
    return [*found, *(each.value for each in noise_numbers(model.likelihood, channels))]
