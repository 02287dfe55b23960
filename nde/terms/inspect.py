"""What terms, solvers and what is saved consist of, under what wraps them."""

import dataclasses
from collections.abc import Callable
from typing import Any

import diffrax
import jax

from nde.diffrax_internals import is_turned, time_direction, turn
from nde.terms.jaxpr_dependence import dependence


def brownian_terms(terms: Any) -> list[tuple[Any, diffrax.AbstractBrownianPath]]:
    """Each term that Brownian motion drives, and its path, those of nested `MultiTerm`s one by one.

    A wrapped term is returned as it is, with its wrapping. A path that the field of an `ODETerm` or a `ControlTerm`
    reads drives nothing, and does not count.
    """
    return [(term, path) for term in single_terms(terms) for path in _paths(term)]


def is_noise(term: Any) -> bool:
    """Whether a term is Brownian motion times a diffusion and no more: it has no drift of its own."""
    return all(isinstance(_control(each), diffrax.AbstractBrownianPath) for each in single_terms(term))


def single_terms(terms: Any) -> list[Any]:
    """The terms of nested `MultiTerm`s and other trees of terms, one by one, each in the wrapping of the whole."""
    each = []
    for term in jax.tree.leaves(terms, is_leaf=_is_term):
        inner = getattr(term, "term", None)
        if isinstance(term, diffrax.MultiTerm):
            each += single_terms(term.terms)
        elif isinstance(inner, diffrax.AbstractTerm):
            wrapping: Any = term
            parts = single_terms(inner)
            each += [term if part is inner else dataclasses.replace(wrapping, term=part) for part in parts]
        else:
            each.append(term)
    return each


def reads_state(term: Any, t: Any, y: Any, args: Any) -> bool:
    """Whether the field of a term depends on the state by any of its operations: values do not matter."""

    def field(y):
        return [x for x in jax.tree.leaves(term.vf(t, y, args)) if isinstance(x, jax.Array)]

    return any(each.leaf is not None for each in dependence(field, y))


def _is_term(x: Any) -> bool:
    return isinstance(x, diffrax.AbstractTerm)


def _control(term: Any) -> Any:
    """What drives a term, under what wraps it; `None` if that is time or not a path."""
    while not hasattr(term, "control") and isinstance(getattr(term, "term", None), diffrax.AbstractTerm):
        term = term.term
    return getattr(term, "control", None)


def _paths(term: Any) -> list[Any]:
    """The Brownian paths that drive a single term."""
    inner = getattr(term, "term", None)
    if isinstance(inner, diffrax.AbstractTerm):
        return [path for _, path in brownian_terms(inner)]
    if isinstance(term, diffrax.ODETerm):
        return []
    control = _control(term)
    return [x for x in jax.tree.leaves(term if control is None else control, is_leaf=_is_brownian) if _is_brownian(x)]


def _is_brownian(x: Any) -> bool:
    return isinstance(x, diffrax.AbstractBrownianPath)


def unwrap_solver(solver: Any) -> tuple[Any, int]:
    """What a solver wraps, itself if nothing, and into how many parts it divides a step."""
    parts = 1
    while isinstance(solver, diffrax.AbstractWrappedSolver) and hasattr(solver, "solver"):
        parts *= 2 if isinstance(solver, diffrax.HalfSolver) else 1
        solver = solver.solver
    return solver, parts


def unwrap_time_direction(terms: Any) -> tuple[Any, Any]:
    """The terms as their caller gave them, and the sign by which diffrax turns time, 1 where it does not."""
    directions = [time_direction(x) for x in jax.tree.leaves(terms, is_leaf=is_turned) if is_turned(x)]
    given = jax.tree.map(lambda x: x.term if is_turned(x) else x, terms, is_leaf=is_turned)
    return given, directions[0] if directions else 1


def turned(term: Any, direction: Any) -> Any:
    """A term in the time that is its own times a sign, as diffrax turns it."""
    return turn(term, direction)


def in_given_time(function: Callable[[Any], Any], term: Any) -> Any:
    """The term that a function makes of one as its caller gave it; turned in time if diffrax has turned that."""
    if is_turned(term):
        return dataclasses.replace(term, term=function(term.term))
    return function(term)


def is_sub(x: Any) -> bool:
    """Whether this says what one set of saved values holds: a leaf of `SaveAt.subs`."""
    return isinstance(x, diffrax.SubSaveAt)
