"""What the steps of a grid compute from their times alone: for all steps at once, before the scan.

A path's increments, a spline's slopes at the knots, the noise of an SDE depend on the step's times and not on the
state. Inside the scan each of them is a chain of small kernels a step (and in a solve that guards against failures it
is computed twice); before it they are a few kernels over all steps, which XLA vectorises and spreads over the cores.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, jaxpr_as_fun, JaxprEqn, jaxprs_in_params, Literal, Var
from jaxtyping import PyTree

Body = Callable[[Any, Any], tuple[Any, Any]]

BYTES = 36_000
"""Of one example, that may be computed beforehand: as much as the record of an adaptive solve holds by default."""

TIMES_ITS_SOURCE = 4
"""And where it is made of arrays, as the derivatives of a path are of its coefficients, so many times their size: a
long series may have long controls."""

CHEAP = 16
"""Operations an entry that are not worth an array over all steps: the time of a stage, the length of a step."""

PRODUCTS = ("dot_general", "conv_general_dilated", "gather")
"""Primitives whose results stand in memory wherever they are read."""

SEARCHES = ("gather", "dynamic_slice", "while", "scan")
"""Primitives that are worth it whatever they give: in the body of a scan each is a kernel of its own."""


def ahead_of_scan(body: Body, carry: PyTree[jax.Array], xs: PyTree[jax.Array]) -> tuple[Body, PyTree[jax.Array]]:
    """A body for `jax.lax.scan` and its `xs`, which compute what `body` does, but what hangs on `xs` alone beforehand.

    Only what is worth it (no arithmetic of a few operations), and only as long as it is small.
    """
    steps = len(jax.tree.leaves(xs)[0])
    first = jax.tree.map(lambda x: x[0], xs)
    flat, inputs = jax.tree.flatten((carry, first))
    closed, shape = jax.make_jaxpr(lambda *x: body(*inputs.unflatten(x)), return_shape=True)(*flat)
    jaxpr, consts, result = closed.jaxpr, closed.consts, jax.tree.structure(shape)
    of_xs = jaxpr.invars[len(jax.tree.leaves(carry)) :]
    early = _early(jaxpr, of_xs)
    wanted = _wanted(jaxpr, early, of_xs, steps)
    before = _part(jaxpr, early, [*jaxpr.constvars, *of_xs], wanted)
    late = [eqn for eqn in jaxpr.eqns if not set(eqn.outvars) & set(wanted)]
    after = _part(jaxpr, late, [*jaxpr.constvars, *jaxpr.invars, *wanted], jaxpr.outvars)
    known = jax.vmap(lambda x: _run(before, [*consts, *jax.tree.leaves(x)]))(xs)

    def rest(carry, xs):
        xs, known = xs
        return result.unflatten(_run(after, [*consts, *jax.tree.leaves((carry, xs)), *known]))

    return rest, (xs, known)


def _run(jaxpr: Jaxpr, inputs: Sequence[Any]) -> list[jax.Array]:
    return [jnp.asarray(x) for x in jaxpr_as_fun(ClosedJaxpr(jaxpr, []))(*inputs)]  # a constant comes as a number


def _early(jaxpr: Jaxpr, xs: Sequence[Var]) -> list[JaxprEqn]:
    """The equations that read nothing but these inputs, constants, and one another; without effects."""
    known = {*jaxpr.constvars, *xs}
    early = []
    for eqn in jaxpr.eqns:
        if not eqn.effects and all(isinstance(x, Literal) or x in known for x in eqn.invars):
            early.append(eqn)
            known.update(eqn.outvars)
    return early


def _wanted(jaxpr: Jaxpr, early: Sequence[JaxprEqn], xs: Sequence[Var], steps: int) -> list[Var]:
    """Of what the early equations give the others, what took more than a few operations, as long as it is small."""
    changing = _reached(early, xs)  # what depends on constants alone stays, and is not repeated for every step
    inside = {id(eqn) for eqn in early}
    late = [x for eqn in jaxpr.eqns if id(eqn) not in inside for x in eqn.invars]
    read = {x for x in [*late, *jaxpr.outvars] if not isinstance(x, Literal)}
    wanted = []
    for eqn in early:  # all that is read of an equation, or nothing
        outputs = [x for x in eqn.outvars if x in read and x in changing]
        if outputs and _is_worthwhile(_needed(outputs, early), outputs):
            wanted += outputs
    needed = _needed(wanted, early)
    large = [x for eqn in needed if eqn.primitive.name in PRODUCTS for x in eqn.outvars]
    sources = {x for eqn in needed for x in eqn.invars if not isinstance(x, Literal)}.intersection(jaxpr.constvars)
    most = max(BYTES, TIMES_ITS_SOURCE * sum(map(_bytes, sources)))
    return wanted if steps * sum(map(_bytes, {*wanted, *large})) <= most else []


def _is_worthwhile(needed: Sequence[JaxprEqn], outputs: Sequence[Var]) -> bool:
    searches = any(eqn.primitive.name in SEARCHES for eqn in needed)
    return searches or sum(map(_cost, needed)) > CHEAP * sum(map(_size, outputs))


def _reached(eqns: Sequence[JaxprEqn], xs: Sequence[Var]) -> set[Var]:
    """All that depends on some inputs."""
    reached = set(xs)
    for eqn in eqns:
        if any(not isinstance(x, Literal) and x in reached for x in eqn.invars):
            reached.update(eqn.outvars)
    return reached


def _needed(outputs: Sequence[Any], eqns: Sequence[JaxprEqn]) -> list[JaxprEqn]:
    """Of some equations in order, those on which outputs depend, and those with effects."""
    wanted, needed = {x for x in outputs if not isinstance(x, Literal)}, []
    for eqn in reversed(eqns):
        if eqn.effects or wanted.intersection(eqn.outvars):
            needed.append(eqn)
            wanted.update(x for x in eqn.invars if not isinstance(x, Literal))
    return needed[::-1]


def _part(jaxpr: Jaxpr, eqns: Sequence[JaxprEqn], inputs: Sequence[Var], outputs: Sequence[Any]) -> Jaxpr:
    needed = _needed(outputs, eqns)
    effects = frozenset().union(*(eqn.effects for eqn in needed))
    return jaxpr.replace(constvars=[], invars=list(inputs), outvars=list(outputs), eqns=needed, effects=effects)


def _cost(eqn: JaxprEqn) -> int:
    """Operations of an equation, roughly."""
    inner = [sum(map(_cost, each.eqns)) for each in jaxprs_in_params(eqn.params)]
    return sum(inner) if inner else max(map(_size, eqn.outvars), default=0)


def _size(x: Any) -> int:
    return math.prod(getattr(x.aval, "shape", ()))  # a token has none


def _bytes(x: Any) -> int:
    return _size(x) * x.aval.dtype.itemsize
