"""A primitive that sees the batch: it collects the levels of `vmap` around a solve, and runs the whole of them at once.

Why: under `grad(vmap(solve))` a `custom_vjp` would sum one parameter gradient *per example* in its loop, an array of
batch × parameters a step. Here `vmap` does not look inside. It only notes a level, and a computation that knows the
whole batch runs below, so that a weight's gradient is one matrix product. A derivative rule fires after the levels of
`grad(vmap(…))` are known and before those of `vmap(grad(…))`, so each order gives the gradient that it stands for.

What does not do: `jax.custom_batching.custom_vmap` around the loop (no plain `grad`); a gradient summed in a batched
backward rule (silently wrong for `vmap` of `grad`); `jax.custom_derivatives.linear_call` (no batching rule).
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from nde.loop.derivative_guards import backward_once, only_backward
from nde.types import State


class VmapLevel(NamedTuple):
    """One `vmap`: its size, which of the flat inputs have its axis (in front), and its axis names."""

    size: int
    mask: tuple[bool, ...]
    axis_name: Any
    spmd_axis_name: Any


VmapLevels = tuple[VmapLevel, ...]
"""Outermost first."""


class BatchedComputation(Protocol):
    """A computation that sees its whole batch, from a tree of arrays to a tree of arrays.

    Its outputs have one leading axis a level in front of the shapes of one example.
    """

    def run(self, levels: VmapLevels, inputs: Any) -> Any:
        """The outputs, where nothing is differentiated."""
        ...

    def run_differentiable(self, levels: VmapLevels, inputs: Any, perturbed: Any) -> Any:
        """The same outputs, differentiable in the inputs where `perturbed`, of the same structure, is true."""
        ...


def bind_batched(computation: BatchedComputation, inputs: Any) -> Any:
    """Run a computation on the inputs of one example; under `vmap` it is run once, on all levels together.

    Its effects (prints, callbacks, in order or not) are declared as those of the whole.
    """
    flat, structure = jax.tree.flatten(inputs)
    closed, shape = jax.make_jaxpr(functools.partial(computation.run, ()), return_shape=True)(inputs)
    avals = tuple(ShapedArray(x.shape, x.dtype) for x in closed.out_avals)
    # An effect that is not declared is dropped, or has no token to be ordered by. That of an axis's name goes with its
    # level, that of a reference with its input: neither is the computation's own.
    effects = frozenset(e for e in closed.effects if not (hasattr(e, "name") or hasattr(e, "input_index")))
    outputs = _batched_p.bind(
        *flat, computation=computation, structure=structure, levels=(), avals=avals, declared=effects
    )
    return jax.tree.structure(shape).unflatten(outputs)


_batched_p = Primitive("nde_batched")
_batched_p.multiple_results = True


def _run(*inputs, computation, structure, levels, avals, declared):
    del avals, declared
    inputs = structure.unflatten([jnp.asarray(x) for x in inputs])  # a constant may come as a Python number
    return jax.tree.leaves(computation.run(levels, inputs))


def _run_jitted(*inputs, **params):
    return jax.jit(functools.partial(_run, **params))(*inputs)


def _abstract(*inputs, computation, structure, levels, avals, declared):
    del inputs, computation, structure
    lead = tuple(level.size for level in levels)
    return [ShapedArray(lead + a.shape, a.dtype) for a in avals], set(declared)


def _batch(
    axis_data: Any, inputs: Sequence[jax.Array], dims: Sequence[int | None], *, levels: VmapLevels, **params: Any
):
    inputs = [x if d is None else jnp.moveaxis(x, d, 0) for x, d in zip(inputs, dims, strict=True)]
    mask = tuple(d is not None for d in dims)
    level = VmapLevel(axis_data.size, mask, axis_data.name, axis_data.spmd_name)
    outputs = _batched_p.bind(*inputs, levels=(level, *levels), **params)
    return outputs, [0] * len(outputs)


def _jvp(primals, tangents, *, computation, structure, levels, avals, declared):
    del avals, declared
    float0 = jax.dtypes.float0
    perturbed = tuple(i for i, t in enumerate(tangents) if type(t) is not ad.Zero and t.dtype != float0)

    def differentiable(*some):
        inputs = [jnp.asarray(x) for x in primals]
        for i, x in zip(perturbed, some, strict=True):
            inputs[i] = x
        wanted = structure.unflatten([i in perturbed for i in range(len(inputs))])
        return jax.tree.leaves(computation.run_differentiable(levels, structure.unflatten(inputs), wanted))

    backward = only_backward([tangents[i] for i in perturbed], primals)
    # The `custom_vjp` of the whole batch is differentiated in place, when all levels inside this derivative are known.
    outputs, moved = jax.jvp(differentiable, [primals[i] for i in perturbed], backward)
    outputs = [backward_once(x) if jnp.issubdtype(x.dtype, jnp.inexact) else x for x in outputs]
    moved = [
        ad.Zero(jax.typeof(o).to_tangent_aval()) if t.dtype == float0 else t
        for o, t in zip(outputs, moved, strict=True)
    ]
    return outputs, moved


_batched_p.def_impl(_run_jitted)
_batched_p.def_effectful_abstract_eval(_abstract)
batching.fancy_primitive_batchers[_batched_p] = _batch
ad.primitive_jvps[_batched_p] = _jvp
mlir.register_lowering(_batched_p, mlir.lower_fun(_run, multiple_results=True))


class FlatBatch:
    """The flat batch that some levels make: one axis of their product, or no axis where there is no level."""

    def __init__(self, levels: VmapLevels):
        self.levels = levels
        self.sizes = tuple(level.size for level in levels)
        self.shape: tuple[int, ...] = (math.prod(self.sizes),) if levels else ()

    def broadcast_input(self, number: int, x: jax.Array) -> jax.Array:
        """Input `number`, which has the axes of its own levels of `vmap`, over the whole flat batch."""
        have = [level.mask[number] for level in self.levels]
        rest = x.shape[sum(have) :]
        own = iter(x.shape)
        x = x.reshape(tuple(next(own) if h else 1 for h in have) + rest)
        return jnp.broadcast_to(x, self.sizes + rest).reshape(self.shape + rest)

    def unflatten(self, x: jax.Array) -> jax.Array:
        """A flat batch as one axis a level."""
        return x.reshape(self.sizes + x.shape[len(self.shape) :])

    def vmapped(self, function: Callable[..., Any], const_ids: Sequence[int]) -> Callable[..., Any]:
        """A function `(consts, *trees)` of one example as one of the flat batch.

        `consts` is a list of inputs, whose numbers are `const_ids`, each with the axes of its own levels; every leaf of
        the trees has the flat batch axis, in the arguments as in the result.
        """
        if not self.levels:
            return function
        for level in reversed(self.levels):
            function = _mapped(function, level, [0 if level.mask[i] else None for i in const_ids])

        def lifted(consts: Sequence[jax.Array], *trees):
            out = function(list(consts), *jax.tree.map(self.unflatten, trees))
            return jax.tree.map(lambda x: x.reshape(self.shape + x.shape[len(self.sizes) :]), out)

        return lifted

    def put(self, rows: jax.Array, index: jax.Array, row: jax.Array, *, rows_first: bool) -> jax.Array:
        """Write one row an example; an index past the end writes nothing.

        `rows` is `(rows, batch, …)` if `rows_first`, else `(batch, rows, …)`; `index` is `(batch,)`.
        """
        if not self.levels:
            # One example: a slice updated in place. `scatter` is a loop of its own in XLA on a CPU.
            last = jnp.minimum(index, rows.shape[0] - 1)
            old = jax.lax.dynamic_index_in_dim(rows, last, keepdims=False)
            return jax.lax.dynamic_update_index_in_dim(rows, jnp.where(index < rows.shape[0], row, old), last, 0)
        # Unique indices: every example has rows of its own, and the scatter need not be serial.
        number = jnp.arange(self.shape[0], dtype=index.dtype)
        where = (index, number) if rows_first else (number, index)
        return rows.at[where].set(row, mode="drop", unique_indices=True)

    def put_block(self, rows: jax.Array, start: jax.Array, block: jax.Array) -> jax.Array:
        """Write neighbouring rows, `(batch, chunk, …)`, into `(batch, rows, …)`, from a row of each example's on."""
        put = functools.partial(jax.lax.dynamic_update_slice_in_dim, axis=0)
        return jax.vmap(put)(rows, block, start) if self.levels else put(rows, block, start)

    def following(self, first: jax.Array, count: int) -> jax.Array:
        """The numbers from each example's `first` on: `(batch, count)`."""
        return first[..., None] + jnp.arange(count, dtype=first.dtype).reshape(*(1,) * len(self.shape), count)

    def get(self, rows: jax.Array, index: jax.Array) -> jax.Array:
        """Read rows of `(batch, rows, …)`: one an example, or several where `index` is `(batch, chunk)`."""
        if not self.levels:
            return rows[index]
        number = jnp.arange(self.shape[0], dtype=index.dtype)
        return rows[number.reshape(-1, *(1,) * (index.ndim - 1)), index]

    def add(self, rows: jax.Array, index: jax.Array, more: jax.Array) -> jax.Array:
        """Add to a few rows an example of `(batch, rows, …)`."""
        if not self.levels:
            return rows.at[index].add(more)
        number = jnp.arange(self.shape[0], dtype=index.dtype)
        return rows.at[number[:, None], index].add(more)

    def any(self, x: jax.Array) -> jax.Array:
        """Whether any is true, over every `vmap` outside too: so a loop's body stays free of selects."""
        return _any(x)

    def max(self, x: jax.Array) -> jax.Array:
        """The largest of non-negative integers, over every `vmap` outside too; 0 of none."""
        return _max(x)

    def where(self, condition: jax.Array, a: Any, b: Any) -> Any:
        """`jnp.where` an example, over trees."""

        def choose(x: jax.Array, y: State):
            return jnp.where(condition.reshape(condition.shape + (1,) * (x.ndim - condition.ndim)), x, y)

        return jax.tree.map(choose, a, b)


def _mapped(function: Callable[..., Any], level: VmapLevel, in_axes: list[int | None]) -> Callable:
    def mapped(consts: Sequence[jax.Array], *trees):
        return jax.vmap(
            function,
            in_axes=(in_axes,) + (0,) * len(trees),
            axis_size=level.size,
            axis_name=level.axis_name,
            spmd_axis_name=level.spmd_axis_name,
        )(consts, *trees)

    return mapped


@jax.custom_batching.custom_vmap
def _any(x: jax.Array) -> jax.Array:
    return jnp.any(x)


@_any.def_vmap
def _any_vmap(axis_size, in_batched, x: jax.Array):
    del axis_size, in_batched
    return _any(x), False


@jax.custom_batching.custom_vmap
def _max(x: jax.Array) -> jax.Array:
    return jnp.max(x, initial=0)


@_max.def_vmap
def _max_vmap(axis_size, in_batched, x: jax.Array):
    del axis_size, in_batched
    return _max(x), False
