"""Closure conversion: functions of one example with all that they close over made explicit inputs.

A field may close over anything: parameters, tracers of an enclosing `grad` or `vmap`, a path. A rule of differentiation
or batching sees only inputs, so every array that a traced function reads is made one. (`jax.closure_convert` hoists
only the floats that are being differentiated, and each function's alone; here several functions share one list.)
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, jaxpr_as_fun, jaxprs_in_params

from nde.loop.vectors_first import vectors_first


class ClosedFunction:
    """A traced function: `closed(consts, *arguments)`, where `consts` are the arrays that it closed over.

    `const_ids`: the places of these in the converter's list.
    """

    def __init__(self, jaxpr: Jaxpr, const_ids: tuple[int, ...], arguments: Any, result: Any):
        self.const_ids = const_ids
        self._jaxpr, self._arguments, self._result = jaxpr, arguments, result

    def __call__(self, consts: Sequence[jax.Array], *arguments: Any) -> Any:
        flat = self._arguments.flatten_up_to(arguments)
        # Evaluated anew at each call, and so traced into whatever calls it: it is a function of its consts, and closes
        # over nothing that a `vmap` or a `grad` could miss.
        out = jaxpr_as_fun(ClosedJaxpr(self._jaxpr, list(consts)))(*flat)
        return self._result.unflatten([jnp.asarray(x) for x in out])  # a constant comes as a Python number

    @property
    def calls_host(self) -> bool:
        """Whether it has effects or callbacks, which not every transformation may repeat or reorder."""
        return bool(self._jaxpr.effects) or _has_callback(self._jaxpr)

    def consts_of(self, consts: Sequence[jax.Array]) -> list[jax.Array]:
        """Of all that a converter has found, what this function closes over."""
        return [consts[i] for i in self.const_ids]


def _has_callback(jaxpr: Jaxpr) -> bool:
    return any(
        "callback" in eqn.primitive.name or any(map(_has_callback, jaxprs_in_params(eqn.params))) for eqn in jaxpr.eqns
    )


class ClosureConverter:
    """Traces functions, and gathers what they close over into one list of `consts`, each array once."""

    def __init__(self):
        self.consts: list[jax.Array] = []
        self._ids: dict[int, int] = {}
        self._kept: list[Any] = []

    def closure_convert(self, function: Callable[..., Any], *examples: Any) -> ClosedFunction:
        """Trace a function on arguments like `examples`."""
        flat, arguments = jax.tree.flatten(examples)
        closed, shape = jax.make_jaxpr(lambda *x: function(*arguments.unflatten(x)), return_shape=True)(*flat)
        const_ids = tuple(self._id(c) for c in closed.consts)
        return ClosedFunction(vectors_first(closed.jaxpr), const_ids, arguments, jax.tree.structure(shape))

    def id_of(self, const: Any) -> int | None:
        """The place of what a traced function closes over in `consts`, `None` if none does."""
        return self._ids.get(id(const))

    def _id(self, const: Any) -> int:
        if id(const) not in self._ids:
            array = jnp.asarray(const)
            # By identity: two fields that share a weight share its cotangent's sum, too.
            self._kept.append(const)  # an id is only one's own while its object lives
            self._ids[id(const)] = self._ids[id(array)] = len(self.consts)
            self.consts.append(array)
        return self._ids[id(const)]


class Consts:
    """The arrays that a solve's functions close over, and which of them are differentiated.

    A parameter gradient is summed over the steps in a dictionary by id, one sum for the whole batch.
    """

    def __init__(self, values: Sequence[jax.Array], perturbed: Sequence[bool]):
        self.values = list(values)
        self._active = [i for i, is_perturbed in enumerate(perturbed) if is_perturbed]

    def __bool__(self) -> bool:
        return bool(self._active)

    def active_in(self, closed: ClosedFunction) -> tuple[list[int], list[jax.Array]]:
        """The differentiated ones that a function closes over: their ids and values."""
        ids = [i for i in closed.const_ids if i in self._active]
        return ids, [self.values[i] for i in ids]

    def replaced(self, closed: ClosedFunction, ids: Sequence[int], values: Sequence[jax.Array]) -> list[jax.Array]:
        """All that a function closes over, with some replaced."""
        consts = list(self.values)
        for i, x in zip(ids, values, strict=True):
            consts[i] = x
        return closed.consts_of(consts)

    def with_value(self, number: int, value: jax.Array) -> "Consts":
        """The same, with another value for one of them."""
        new = Consts(self.values, [])
        new.values[number], new._active = value, self._active
        return new

    def zeros(self) -> dict[int, jax.Array]:
        """Sums of cotangents, nothing in them yet."""
        return {i: jnp.zeros_like(self.values[i]) for i in self._active}

    def cotangents(self, sums: dict[int, jax.Array]) -> list[jax.Array | None]:
        """The sums as cotangents of all consts."""
        return [sums.get(i) for i in range(len(self.values))]


def add_by_id(sums: dict[int, jax.Array], ids: Sequence[int], more: Sequence[jax.Array]) -> dict[int, jax.Array]:
    """The sums of cotangents of consts with more added to some."""
    sums = dict(sums)
    for i, x in zip(ids, more, strict=True):
        sums[i] = sums[i] + x if i in sums else x
    return sums
