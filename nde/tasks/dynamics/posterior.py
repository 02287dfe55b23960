"""The log density of what an observed ODE does not know: its parameters, starts, and scales of noise."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from nde.config import DynamicsConfig
from nde.fields import named_parameters, Parameter
from nde.models import forward_mode, ObservedODE, Population
from nde.report import Curve, LogDensity, Posterior
from nde.tasks.base import RunError
from nde.tasks.dynamics.noise import noise_numbers
from nde.tasks.dynamics.problem import DynamicsProblem
from nde.tasks.dynamics.training import fitted

MOST_WEIGHTS = 300
MOST_UNKNOWNS = 2000


@dataclass(frozen=True)
class _Leaf:
    """An array of the model's that is an unknown of all series: where among its leaves, what it is, its names, and
    its value in its own units."""

    place: int
    kind: str
    names: tuple[str, ...]
    value: Callable[[ObservedODE], Array]


def posterior(config: DynamicsConfig, problem: DynamicsProblem, model: ObservedODE) -> Posterior:
    """The density at its maximum. Up to 300 weights of a network are marginalised, more are held.

    **Raises:** `RunError` for more unknowns than a matrix is made of: 2000, such as the starts of as many series.
    """
    weights = network_size(model) <= MOST_WEIGHTS
    size = len(problem.series) * len(config.observe.states or ()) * (model.starts is not None)
    if size > MOST_UNKNOWNS:
        raise RunError(f"intervals of more than {MOST_UNKNOWNS} unknowns are not made, but there are {size} starts.")
    return Posterior(partial(log_density, config, problem, model, weights=weights))


def network_size(model: ObservedODE | Population) -> int:
    """How many weights the model's field has beside its named parameters."""
    named = [parameter.raw for parameter in named_parameters(model.ode.field).values()]
    every, some = (jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array)) for tree in (model.ode.field, named))
    return sum(x.size for x in every) - sum(x.size for x in some)


def log_density(
    config: DynamicsConfig, problem: DynamicsProblem, model: ObservedODE, *, weights: bool = False
) -> LogDensity:
    r"""The log density of the unknowns of a fitted model, given the values that it was fitted to.

    Unknowns are the parameters of the known field (`nde.fields.Parameter`), the scales of noise, and the learned start
    of each series, whose solution is one trajectory. A network's weights are held as they were fitted; with `weights`
    they are unknowns too, normal around their fitted values with variance one.

    Without a prior, an unknown is uniform in its coordinate without bounds.
    """
    parts = _Parts.of(config, problem, model, weights)
    index = jnp.asarray(parts.index())

    def curve(vector: Array) -> Curve:
        loss, gradient, bends = jax.vmap(parts.bend)(vector[index], parts.arrays)
        prior, prior_slope, prior_bend = parts.prior_bend(vector)
        whole = jnp.sum(loss) + prior
        slope = prior_slope.at[index].add(gradient)
        total = prior_bend.at[index[:, :, None], index[:, None, :]].add(bends)
        return Curve(jnp.where(jnp.isfinite(whole), whole, jnp.inf), slope, total, prior_bend, prior)

    def function(vector: Array) -> Array:
        losses = jax.vmap(parts.loss)(vector[index], parts.arrays)
        whole = -jnp.sum(losses) - parts.prior(vector)
        return jnp.where(jnp.isfinite(whole), whole, -jnp.inf)

    return LogDensity(
        names=parts.names,
        parameters=parts.names_of("parameter"),
        weights=parts.names_of("weight"),
        initial_vector=parts.initial,
        function=function,
        transform=parts.transform,
        curve=curve,
        count=int((np.asarray(parts.arrays[2]) > 0).sum()),
    )


def model_at(config: DynamicsConfig, problem: DynamicsProblem, model: ObservedODE, position: Array) -> ObservedODE:
    """The model with the unknowns of `log_density`, weights held, at a position of it."""
    parts = _Parts.of(config, problem, model, weights=False)
    found = parts.rebuilt(position[: parts.shared])
    if found.starts is not None:
        own = position[parts.shared :].reshape(len(parts.arrays[0]), -1)
        found = eqx.tree_at(lambda m: m.starts, found, found.starts.at[parts.arrays[3], 0].set(own))
    return eqx.tree_at(lambda m: m.ode.numerics, found, model.ode.numerics)


@dataclass(frozen=True, eq=False)
class _Parts:
    """A model taken apart into its unknowns: those that all series share, then each series' start."""

    model: ObservedODE
    leaves: tuple[_Leaf, ...]
    names: tuple[str, ...]
    initial: Array
    precision: np.ndarray
    arrays: Any
    shared: int

    @classmethod
    def of(cls, config: DynamicsConfig, problem: DynamicsProblem, model: ObservedODE, weights: bool) -> "_Parts":
        examples = fitted(config, problem, problem.fit.astype(float))
        arrays, ids = examples.arrays, examples.names
        dtype, channels = jnp.result_type(float), config.observe.facts().channels
        # what fails to be solved is a bad point of the density, no error
        model = _with_numerics(model, throw=False)
        cast = jax.tree.map(lambda x: jnp.asarray(x, dtype) if eqx.is_inexact_array(x) else x, model)
        arrays = jax.tree.map(lambda x: jnp.asarray(x, dtype if x.dtype.kind == "f" else None), arrays)
        leaves = tuple(leaf for leaf in _leaves(cast, channels) if weights or leaf.kind != "weight")
        flat = jax.tree.leaves(cast)
        shared = [jnp.ravel(flat[leaf.place]) for leaf in leaves]
        names = [name for leaf in leaves for name in leaf.names]
        precision = np.concatenate([np.full(len(leaf.names), float(leaf.kind == "weight")) for leaf in leaves])
        if cast.starts is not None:
            starts = cast.starts[arrays[3], 0]
            shared.append(jnp.ravel(starts))
            states = config.observe.states or ()
            of = [""] if len(ids) == 1 else [f" of {name}" for name in ids]
            names += [f"start of {state}{which}" for which in of for state in states]
            precision = np.concatenate([precision, np.zeros(starts.size)])
        count = sum(len(leaf.names) for leaf in leaves)
        return cls(cast, leaves, tuple(names), jnp.concatenate(shared), precision, arrays, count)

    def names_of(self, kind: str) -> tuple[str, ...]:
        """The names of the unknowns of one kind."""
        return tuple(name for leaf in self.leaves if leaf.kind == kind for name in leaf.names)

    def index(self) -> np.ndarray:
        """The coordinates that each series' values depend on, `(series, local)`."""
        series = len(self.arrays[0])
        own = np.arange(self.shared, len(self.names)).reshape(series, -1)
        return np.concatenate([np.broadcast_to(np.arange(self.shared), (series, self.shared)), own], axis=1)

    def rebuilt(self, shared: Array) -> ObservedODE:
        """The model of the coordinates that all series share."""
        leaves, structure = jax.tree.flatten(self.model)
        at = 0
        for leaf in self.leaves:
            like = leaves[leaf.place]
            leaves[leaf.place] = shared[at : at + like.size].reshape(like.shape)
            at += like.size
        return jax.tree.unflatten(structure, leaves)

    def located(self, local: Array, arrays: Any) -> Array:
        """Where the values of a series are centred."""
        times, first, inputs = arrays[0], arrays[4], arrays[6:]
        model = self.rebuilt(local[: self.shared])
        start = local[self.shared :] if self.model.starts is not None else first
        return model.locations(model.ode(times, start, *inputs), times, *inputs)

    def density(self, local: Array, centres: Array, arrays: Any) -> Array:
        """The negative log density of a series' values around given centres."""
        values, weights = arrays[1], arrays[2]
        law = self.rebuilt(local[: self.shared]).likelihood
        seen = weights > 0
        return -jnp.sum(jnp.where(seen, law.log_prob(jnp.where(seen, values, 0.0), centres), 0.0))

    def loss(self, local: Array, arrays: Any) -> Array:
        """The negative log likelihood of a series; infinite, and without a gradient, where it could not be solved."""
        centres = self.located(local, arrays)
        good = jnp.all(jnp.isfinite(centres))
        return jnp.where(good, self.density(local, jnp.where(good, centres, 0.0), arrays), jnp.inf)

    def prior(self, vector: Array) -> Array:
        """The negative log density of the priors, in the coordinates without bounds."""
        normal = 0.5 * jnp.sum(jnp.asarray(self.precision, vector.dtype) * (vector - self.initial) ** 2)
        found = named_parameters(self.rebuilt(vector[: self.shared]).ode.field).values()
        return normal - sum((log_prior_of_coordinate(parameter) for parameter in found), jnp.zeros((), vector.dtype))

    def prior_bend(self, vector: Array) -> tuple[Array, Array, Array]:
        """The same, its gradient, and its curvature: of the coordinates that series share, for the others have none."""
        loss, slope = jax.value_and_grad(self.prior)(vector)
        rest = vector[self.shared :]
        bend = jax.hessian(lambda shared: self.prior(jnp.concatenate([shared, rest])))(vector[: self.shared])
        whole = jnp.zeros((len(vector), len(vector)), vector.dtype)
        return loss, slope, whole.at[: self.shared, : self.shared].set(bend)

    def bend(self, local: Array, arrays: Any) -> tuple[Array, Array, Array]:
        """Loss, gradient and generalised Gauss-Newton matrix of a series, of one solve and its tangents."""

        # Tangents of few numbers through many values: forward, which diffrax's own loop allows and this engine's not.
        forward = replace(self, model=forward_mode(self.model))

        def twice(x: Array) -> tuple[Array, Array]:
            centres = forward.located(x, arrays)
            return centres, centres

        slopes, centres = jax.jacfwd(twice, has_aux=True)(local)

        def straight(moved: Array, law: Array) -> Array:
            return self.density(local + law, centres + slopes @ moved, arrays)

        origin = jnp.zeros_like(local)
        loss, gradients = jax.value_and_grad(straight, argnums=(0, 1))(origin, origin)
        # Without the terms of places with scales: their expectation is zero under a law that is symmetric, and away
        # from the maximum they could make the matrix indefinite.
        bends = jax.hessian(straight, 0)(origin, origin) + jax.hessian(straight, 1)(origin, origin)
        return loss, gradients[0] + gradients[1], bends

    def transform(self, vector: Array) -> Array:
        """The unknowns in their own units."""
        model = self.rebuilt(vector[: self.shared])
        shown = [jnp.ravel(leaf.value(model)) for leaf in self.leaves]
        if model.starts is not None:
            starts = vector[self.shared :].reshape(len(self.arrays[0]), -1)
            shown.append(jnp.ravel(model.own_units(starts)))
        return jnp.concatenate(shown)


def _with_numerics(model: ObservedODE, **changes: Any) -> ObservedODE:
    return eqx.tree_at(lambda m: m.ode.numerics, model, replace(model.ode.numerics, **changes))


def log_prior_of_coordinate(parameter: Parameter) -> Array:
    r"""$\log p(v) + \log |\partial v / \partial r|$ of a parameter with a prior on its value $v$; zero without."""
    prior = parameter.prior
    if prior is None or parameter.raw is None:
        return jnp.zeros(())

    def value(raw: Array) -> Array:
        return eqx.tree_at(lambda p: p.raw, parameter, raw).value

    at, slope = jax.jvp(value, (parameter.raw,), (jnp.ones_like(parameter.raw),))
    return jnp.sum(prior.log_prob(at) + jnp.log(jnp.abs(slope)))


def _leaves(model: ObservedODE, channels: Sequence[str]) -> list[_Leaf]:
    """The unknowns that all series share: parameters, scales of noise, weights of networks, in this order."""
    named = named_parameters(model.ode.field)
    parameters = {id(parameter.raw): name for name, parameter in named.items() if parameter.raw is not None}
    numbers = noise_numbers(model.likelihood, channels)
    noise = {id(found.raw): which for which, found in enumerate(numbers)}
    skipped = {id(x) for x in jax.tree.leaves((model.starts, model.ode.numerics, list(named.values())))}
    skipped -= set(parameters)  # a prior's own numbers are no unknowns
    found = []
    for place, (path, leaf) in enumerate(jax.tree_util.tree_leaves_with_path(model)):
        if not eqx.is_inexact_array(leaf) or id(leaf) in skipped:
            continue
        if id(leaf) in parameters:
            name = parameters[id(leaf)]
            found.append(_Leaf(place, "parameter", _numbered(name, leaf.shape), partial(_parameter, name)))
        elif id(leaf) in noise:
            which = noise[id(leaf)]
            found.append(_Leaf(place, "noise", numbers[which].names, partial(_noise, channels, which)))
        else:
            names = _numbered(jax.tree_util.keystr(path), leaf.shape)
            found.append(_Leaf(place, "weight", names, partial(_weight, place)))
    return sorted(found, key=lambda leaf: KINDS.index(leaf.kind))


KINDS = ("parameter", "noise", "weight")


def _numbered(name: str, shape: tuple[int, ...]) -> tuple[str, ...]:
    """A name for each entry of an array: of a number the name itself."""
    if shape == ():
        return (name,)
    return tuple(f"{name}[{', '.join(map(str, place))}]" for place in np.ndindex(shape))


def _parameter(name: str, model: ObservedODE) -> Array:
    return named_parameters(model.ode.field)[name].value


def _noise(channels: Sequence[str], which: int, model: ObservedODE) -> Array:
    return noise_numbers(model.likelihood, channels)[which].value


def _weight(place: int, model: ObservedODE) -> Array:
    return jax.tree.leaves(model)[place]
