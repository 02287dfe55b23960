"""What a field says of itself beside its rates: names of states, values of parameters, what a network adds.

A field is any callable `f(t, y, args)`, and need say nothing. One that has something to say does so by these members,
and a field that wraps another forwards them, in its own coordinates; `nde.fields.KnownField`, `nde.fields.Hybrid`,
`nde.fields.LogField`, `nde.fields.AffineField`, `nde.fields.StandardField` and `nde.fields.AugmentedField` do.

| member | says | of a field without it |
|---|---|---|
| `state_names` | the names of the entries of `y`, or `None` | `None` |
| `parameter_values()` | the current value of each named parameter, in its own units | `{}` |
| `parameter_units()` | the units of the parameters that have one | `{}` |
| `residual_rates(t, y, args)` | the part of the rates that a network adds to a known field | zeros |
| `learned_term()` | what is learned of the field, and how another is put in its place | all of it |

The functions here ask any callable.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from nde.fields.parameter import Parameter


def state_names(field: Callable[..., Any]) -> tuple[str, ...] | None:
    """The names of the entries of a field's state, or `None`."""
    return getattr(field, "state_names", None)


def parameter_values(field: Callable[..., Any]) -> dict[str, Array]:
    """The current value of each named parameter of a known field, in its own units, however it is wrapped."""
    says = getattr(field, "parameter_values", None)
    return {} if says is None else says()


def parameter_units(field: Callable[..., Any]) -> dict[str, str]:
    """The unit of each named parameter that has one, however the field is wrapped."""
    says = getattr(field, "parameter_units", None)
    return {} if says is None else says()


def named_parameters(field: PyTree) -> dict[str, Parameter]:
    """The named parameters of a known field as they stand in it, however it is wrapped: those of `parameter_values`.

    Each is the `nde.fields.Parameter` itself, whose `raw` is a leaf of the field, and so is what an optimiser moves.
    """
    found = jax.tree_util.tree_leaves_with_path(field, is_leaf=lambda x: isinstance(x, Parameter))
    named = [(path[-1], leaf) for path, leaf in found if isinstance(leaf, Parameter)]
    return {str(last.key): leaf for last, leaf in named if isinstance(last, jax.tree_util.DictKey)}


def residual_rates(field: Callable[..., Any], t: Any, y: PyTree[Array], args: Any = None) -> PyTree[Array]:
    """The part of a field's rates at a state that a network adds to a known field, of the structure of `y`."""
    says = getattr(field, "residual_rates", None)
    return jax.tree.map(jnp.zeros_like, y) if says is None else says(t, y, args)


class LearnedTerm(NamedTuple):
    """What is learned of a field, and how to put another term in its place.

    - `rates`: the term as a field `(t, y, args)` of the whole state; returns a rate for each of `states`.
    - `states`, `inputs`: the states that it acts on, and those that it sees, indices; all if `None`.
    - `given`: what it sees after them: names of values in `args`, each with the location and the scale by which the
      term is shown it standardised.
    - `put`: another term `f(t, x, args)`, of what this one sees, to the field with it in this one's place.
    """

    rates: Callable[..., Any]
    states: tuple[int, ...] | None
    inputs: tuple[int, ...] | None
    given: tuple[tuple[str, float, float], ...]
    put: Callable[[Callable[..., Any]], Callable[..., Any]]


def learned_term(field: Callable[..., Any]) -> LearnedTerm:
    """What is learned of a field: the network of a `nde.fields.Hybrid`, the whole of a field that says nothing."""
    says = getattr(field, "learned_term", None)
    return LearnedTerm(field, None, None, (), lambda term: term) if says is None else says()
