"""Functions of one example with all that they close over drawn out as inputs.

A field may close over anything: parameters, tracers of an enclosing `grad` or `vmap`, a path. A rule of differentiation
or batching sees only inputs, so every array that a traced function reads is made one.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun


class Hoisted:
    """A traced function: `hoisted(shared, *arguments)`, where `shared` are the inputs whose `numbers` it has."""

    def __init__(self, jaxpr, numbers: tuple[int, ...], arguments, result):
        self.numbers = numbers
        self._jaxpr, self._arguments, self._result = jaxpr, arguments, result

    def __call__(self, shared: Sequence[jax.Array], *arguments: Any) -> Any:
        flat = self._arguments.flatten_up_to(arguments)
        out = jaxpr_as_fun(ClosedJaxpr(self._jaxpr, list(shared)))(*flat)
        return self._result.unflatten([jnp.asarray(x) for x in out])  # a constant comes as a Python number

    def pick(self, inputs: Sequence[jax.Array]) -> list[jax.Array]:
        """Of all inputs, this function's."""
        return [inputs[i] for i in self.numbers]


class Hoister:
    """Traces functions, and gathers what they close over into one list of `inputs`, each array once."""

    def __init__(self):
        self.inputs: list[jax.Array] = []
        self._numbers: dict[int, int] = {}
        self._kept: list[Any] = []

    def hoist(self, function: Callable, *examples: Any) -> Hoisted:
        """Trace a function on arguments like `examples`."""
        flat, arguments = jax.tree.flatten(examples)
        closed, shape = jax.make_jaxpr(lambda *x: function(*arguments.unflatten(x)), return_shape=True)(*flat)
        numbers = tuple(self._number(c) for c in closed.consts)
        return Hoisted(closed.jaxpr, numbers, arguments, jax.tree.structure(shape))

    def number(self, const: Any) -> int | None:
        """The number of what a traced function closes over, `None` if none does."""
        return self._numbers.get(id(const))

    def _number(self, const: Any) -> int:
        if id(const) not in self._numbers:
            array = jnp.asarray(const)
            self._kept.append(const)  # an id is only one's own while its object lives
            self._numbers[id(const)] = self._numbers[id(array)] = len(self.inputs)
            self.inputs.append(array)
        return self._numbers[id(const)]
