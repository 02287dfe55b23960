"""A barrier to fusion on CPUs, where XLA would fuse the stages of a step into something slower.

XLA's fusion on a CPU may compute a cheap value again in each of its readers. In a chain of stages, each of which reads
all that came before, every piece of the backward pass would so walk the whole chain again: for a field without matrix
products (Lotka-Volterra, a batch of 1000) that made a gradient four times slower than it need be. Between the two sides
of a branch nothing is fused (`jax.lax.optimization_barrier` does not do here: XLA's CPU pipeline drops it before it
fuses); so each stage stands in a branch that is always taken, by a predicate of which the compiler does not know it.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, jaxprs_in_params, Literal, Primitive
from jax.interpreters import ad, batching, mlir

from nde.types import State

_NEVER_RECOMPUTED = (
    "dot_general",
    "ragged_dot_general",
    "conv_general_dilated",
    "custom_linear_solve",
    "while",
    "scan",
    "cond",
)
"""Primitives that fusion never computes again for a reader."""

_MOVES = ("concatenate", "slice", "dynamic_slice", "gather", "scatter", "pad", "rev", "transpose")
_COSTS = {
    **dict.fromkeys(("convert_element_type", "broadcast_in_dim", "reshape", "squeeze", "expand_dims", "copy"), 0),
    **dict.fromkeys(("exp", "exp2", "expm1", "log", "log1p", "logistic", "tanh", "sqrt", "rsqrt", "div"), 4),
    **dict.fromkeys(("sin", "cos", "tan", "pow", "atan2", "erf_inv", "lgamma", "digamma", "igamma"), 30),
}
"""Of an elementwise primitive beside an addition, roughly: no arithmetic; vectorised; a call an entry."""

COSTLY = frozenset(name for name, cost in _COSTS.items() if cost > 1)
"""The names of elementwise primitives that take longer than an addition."""

WORTHWHILE = {"forward": 8000, "differentiated": 800}
"""How many operations a stage must have, over the whole batch, for barriers to pay.

A branch takes a CPU about a microsecond, and more where other work shares the cores, while what fusion computes again
is little if the stages are small. Gradient of 64 steps of Tsit5, a state of one number, in microseconds with and
without barriers: y' = p y (one operation) 77 and 14 alone, 264 and 144 in a batch of 128, 429 and 330 in one of 512;
the logistic equation (3) 93 and 17, 290 and 248, 469 and 689; y' = p sin y (31) 84 and 26 alone, 362 and 558 in a batch
of 32. One trajectory gains most: XLA makes one function of a loop whose body reads and writes less than 1 KB, and
branches take the body past that. A forward solve reads its stages but once or twice: the logistic equation in a batch
of 1024 takes it 166 and 88, y' = p sin y 1080 and 1320. Where a field moves entries about (Lotka-Volterra, stacked)
each reader of an entry walks the chain anew, and barriers pay for one trajectory: 93 and 123.
"""


def count_operations(function: Callable[..., Any], *examples: Any) -> float | None:
    """The elementwise operations of a function, infinitely many where it moves entries from place to place.

    `None` if it has any that XLA never computes again for a reader, and needs no barrier for. What does not depend on
    the arguments, say a parameter taken from an array of them, is computed once, and does not count.
    """
    jaxpr = jax.make_jaxpr(function)(*examples).jaxpr
    return _count(jaxpr, [True] * len(jaxpr.invars))


def _count(jaxpr: Jaxpr, depends: list[bool]) -> float | None:
    """The operations of a function; `depends`: which of its inputs depend on the arguments of the whole."""
    reached = {x for x, yes in zip(jaxpr.invars, depends, strict=True) if yes}
    total = 0.0
    for eqn in jaxpr.eqns:
        name, inputs = eqn.primitive.name, [not isinstance(x, Literal) and x in reached for x in eqn.invars]
        if name in _NEVER_RECOMPUTED:
            return None
        if not any(inputs):
            continue
        reached.update(eqn.outvars)
        inner = [
            _count(each, inputs if len(each.invars) == len(inputs) else [True] * len(each.invars))
            for each in jaxprs_in_params(eqn.params)
        ]
        if None in inner:
            return None
        size = max((math.prod(getattr(x.aval, "shape", ())) for x in eqn.outvars), default=0)
        own = math.inf if name in _MOVES else size * _COSTS.get(name, 1)
        total += sum(each for each in inner if each is not None) if inner else own
    return total


def fusion_barrier(opaque_true: jax.Array | None, function: Callable[..., Any], *operands: Any) -> Any:
    """`function(*operands)` behind a `lax.cond` on `opaque_true`, an `opaque` truth; without a barrier if that is
    `None`.

    Not so inside of `jax.shard_map`, where both sides of a branch would have to vary alike over the mesh.
    """
    if opaque_true is None or jax.sharding.get_abstract_mesh().manual_axes:
        return function(*operands)
    shapes = jax.eval_shape(function, *operands)

    def never(*_: Any) -> Any:
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    return jax.lax.cond(opaque_true, function, never, *operands)


def opaque(true: jax.Array) -> jax.Array:
    """A predicate that is true, but that XLA can not fold on a CPU; other compilers are told that it is."""
    return jax.lax.platform_dependent(true, cpu=lambda x: x, default=jnp.ones_like)


def opaque_where_large(opaque_true: jax.Array, y: State, operations: float) -> jax.Array:
    """An `opaque` truth where barriers pay over the whole batch; where they do not, one that every compiler folds.

    `y`: the state of one example. How large the batch is one knows only when every `vmap` is done with: so this is a
    primitive, and is decided when it is lowered. `operations`: those of a stage of one example.

    That a solve is differentiated it sees by the tangent of `y`, which every solve has whose derivative is taken.
    """
    if jax.sharding.get_abstract_mesh().manual_axes:  # where there are no barriers
        return opaque_true
    leaves = jax.tree.leaves(y)
    size = sum(x.size for x in leaves)
    return _opaque_where_large_p.bind(opaque_true, *leaves, size=size, operations=operations, use="forward")


_opaque_where_large_p = Primitive("nde_opaque_where_large")


def _truth(opaque_true, *leaves, size, operations, use):
    batch = sum(x.size for x in leaves) / max(size, 1)
    return opaque_true if batch * operations > WORTHWHILE[use] else jnp.ones_like(opaque_true)


def _batch(inputs, dims, **params):
    return _opaque_where_large_p.bind(*inputs, **params), dims[0]


def _jvp(primals, tangents, **params):
    del tangents
    out = _opaque_where_large_p.bind(*primals, **{**params, "use": "differentiated"})
    return out, ad.Zero(jax.typeof(out).to_tangent_aval())


_opaque_where_large_p.def_impl(_truth)
_opaque_where_large_p.def_abstract_eval(lambda opaque_true, *leaves, **params: opaque_true)
batching.primitive_batchers[_opaque_where_large_p] = _batch
ad.primitive_jvps[_opaque_where_large_p] = _jvp
mlir.register_lowering(_opaque_where_large_p, mlir.lower_fun(_truth, multiple_results=False))
