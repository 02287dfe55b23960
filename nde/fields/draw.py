"""Other values to start a fit of parameters from."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from nde.fields.parameter import Parameter

TRIES = 64


def draw_parameters(tree: PyTree[Any], *, key: PRNGKeyArray) -> PyTree[Any]:
    r"""The tree with every `nde.fields.Parameter` at a random value, what is fixed and all else as it is.

    A value is drawn

    - from its prior, where it has one, within the bounds;
    - else uniformly between its bounds, with `log` uniformly in the logarithm;
    - else, with fewer than two bounds, about its start: $s\,e^{\xi}$ with `log`, $l + (s - l)\,e^{\xi}$ and
      $u - (u - s)\,e^{\xi}$ from the one bound, $s + |s|\,\xi$ without any, where $\xi \sim \mathcal N(0, 1)$.

    **Arguments:** `tree`: a field or a whole model, concrete; `key`: each parameter has one of its own by its place.

    **Limits:** a start of zero without bounds stays zero: give it a prior or bounds. Of a prior that has hardly any
    mass within the bounds, none of whose 64 draws lies there, the value is drawn from the bounds.
    """
    leaves, structure = jax.tree.flatten(tree, is_leaf=lambda x: isinstance(x, Parameter))
    drawn = [
        _drawn(leaf, jax.random.fold_in(key, place)) if isinstance(leaf, Parameter) and not leaf.fixed else leaf
        for place, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(structure, drawn)


def _drawn(parameter: Parameter, key: PRNGKeyArray) -> Parameter:
    start = parameter.value
    value = _from_bounds(parameter, start, key)
    if parameter.prior is not None:
        draws = parameter.prior.draw((TRIES, *start.shape), key=key).astype(start.dtype)
        low = -jnp.inf if parameter.lower is None else parameter.lower
        low = jnp.maximum(low, 0.0) if parameter.log else low
        inside = (draws > low) & (draws < (jnp.inf if parameter.upper is None else parameter.upper))
        first = jnp.take_along_axis(draws, jnp.argmax(inside, axis=0)[None], axis=0)[0]
        value = jnp.where(jnp.any(inside, axis=0), first, value)
    made = Parameter(np.asarray(value), lower=parameter.lower, upper=parameter.upper, log=parameter.log)
    assert made.raw is not None
    return eqx.tree_at(lambda p: p.raw, parameter, made.raw.astype(start.dtype))


def _from_bounds(parameter: Parameter, start: Float[Array, "..."], key: PRNGKeyArray) -> Float[Array, "..."]:
    lower, upper = parameter.lower, parameter.upper
    change = jax.random.normal(key, start.shape, start.dtype)
    # Not the bounds themselves, on which no parameter can start.
    share = jax.random.uniform(key, start.shape, start.dtype, 1e-3, 1 - 1e-3)
    if parameter.log:
        if lower is None or upper is None:
            drawn = start * jnp.exp(change)
            return _within(drawn, start, lower, upper)
        return jnp.exp(np.log(lower) + share * (np.log(upper) - np.log(lower)))
    if lower is not None and upper is not None:
        return lower + share * (upper - lower)
    if lower is not None:
        return lower + (start - lower) * jnp.exp(change)
    return start + jnp.abs(start) * change if upper is None else upper - (upper - start) * jnp.exp(change)


def _within(drawn: Array, start: Array, lower: float | None, upper: float | None) -> Array:
    """The draw, or halfway between start and the one bound in logarithms where it lies past it."""
    bound = lower if lower is not None else upper
    if bound is None:
        return drawn
    past = drawn <= bound if lower is not None else drawn >= bound
    return jnp.where(past, jnp.sqrt(start * bound), drawn)
