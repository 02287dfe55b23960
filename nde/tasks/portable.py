"""What a task needs to predict without its run: plain facts, and functions of arrays of a few fixed shapes.

Loops and saves of a solve are laid out for numbers of rows that are known when they are traced, so a function is
lowered for a ladder of them, powers of two. Series are padded up to the next rung: a row without values past a series'
end changes nothing of it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import equinox as eqx
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from nde.report import AbstractLogits, AbstractPaths, SERIES, with_rows

SHORTEST = 16
"""Rows of the lowest rung: fewer hardly cost less."""

BEYOND = 1.5
"""How much further than the longest series of a run is predicted by what is exported of it, if nothing is asked."""


@dataclass(frozen=True)
class ArrayFunction:
    """A function of arrays, to be lowered.

    - `call`: `(model, *arrays) -> array or tuple of arrays`.
    - `members`: the models, which differ in their arrays alone.
    - `arguments`: shapes and types of the arrays, for series of so many rows.
    - `model`: the label of their `[[model]]`; `None` where it is called as the function is.
    """

    call: Callable[..., Any]
    members: Sequence[Any]
    arguments: Callable[[int], tuple[jax.ShapeDtypeStruct, ...]]
    model: str | None = None


@dataclass(frozen=True)
class Words:
    """What a model card says of a task's export, beside its models and their scores.

    - `use`: what it is for, in a sentence or two.
    - `data`: what it was trained on, and how a table is laid out, a line each.
    - `limits`: what it can not do, a line each.
    - `command`: what `nde predict FILE` is given, as an example.
    """

    use: str
    data: Sequence[str]
    limits: Sequence[str]
    command: str


@dataclass(frozen=True)
class Portable:
    """What predicts a table without its run.

    - `facts`: whatever the task needs beside, as JSON holds it, and `notes`, which `nde predict` says;
      `normaliser`: its channels and their units, likewise.
    - `functions`: by the label of each `[[model]]`, or by names of their own where a model needs several.
    - `rungs`: the numbers of rows that they are lowered for, see `ladder`; of points, how many at a time.
    - `until`: how far after its first row a series may be asked for, in the table's unit; `None` where nothing has a
      time.
    - `words`: for the model card.
    """

    facts: Mapping[str, Any]
    normaliser: Mapping[str, Any]
    functions: Mapping[str, ArrayFunction]
    rungs: Sequence[int]
    until: float | None
    words: Words


def ladder(rows: int) -> tuple[int, ...]:
    """Powers of two, from `SHORTEST` up to the first that is not below `rows`."""
    found = [SHORTEST]
    while found[-1] < rows:
        found.append(2 * found[-1])
    return tuple(found)


@dataclass(frozen=True)
class Rung:
    """A lowered function for one number of rows, read from its bytes when it is first called."""

    code: bytes

    @cached_property
    def exported(self) -> jax.export.Exported:
        """Read by flatbuffers: nothing is unpickled, and no code of Python's runs."""
        return jax.export.deserialize(bytearray(self.code))

    @cached_property
    def call(self) -> Callable[..., Any]:
        """The function, compiled when it is first called."""
        return jax.jit(self.exported.call)


@dataclass(frozen=True)
class LoweredFunction:
    """A function of one member's arrays, for a ladder of rows.

    - `name`: what messages call it.
    - `weights`: the member's arrays.
    - `rungs`: by the number of their rows.
    """

    name: str
    weights: Sequence[np.ndarray]
    rungs: Mapping[int, Rung]

    def rows(self, count: int, what: str = "rows, those to be forecast included,") -> int:
        """The rows of the lowest rung for series of so many; `what`: has so many.

        **Raises:** `ValueError` for series longer than the highest.
        """
        fit = [rows for rows in self.rungs if rows >= count]
        if not fit:
            raise ValueError(
                f"{self.name}: a series has {count} {what} and it was exported for at most {max(self.rungs)}; export "
                f"the run again with --rows {count}."
            )
        return min(fit)

    def __call__(self, rows: int, *arrays: Any) -> Any:
        """The function at one of its rungs.

        **Raises:** `equinox.EquinoxRuntimeError` where a check within failed, which it answers by NaN.
        """
        found = self.unchecked(rows, *arrays)
        refuse_nan(found)
        return found

    def unchecked(self, rows: int, *arrays: Any) -> Any:
        """The same, with NaN where a check within failed.

        **Raises:** `TypeError` for a function of other arrays, which no export has.
        """
        rung = self.rungs[rows]
        kinds, count = rung.exported.in_avals, len(self.weights)
        own, kinds = kinds[:count], kinds[count:]
        if len(kinds) != len(arrays) or any(x.shape != kind.shape for x, kind in zip(self.weights, own, strict=True)):
            raise TypeError("a function takes other arrays than those that it is given")
        given = [jnp.asarray(x, kind.dtype) for x, kind in zip(arrays, kinds, strict=True)]
        return rung.call(list(self.weights), *given)


def refuse_nan(found: Any) -> None:
    """An error for what a function answers whose check failed, arrays of which one holds NaN.

    **Raises:** `equinox.EquinoxRuntimeError`.
    """
    if any(bool(jnp.isnan(x).any()) for x in jax.tree.leaves(found)):
        raise eqx.EquinoxRuntimeError("a check of the exported model failed, such as that of its solver's steps")


def in_blocks(function: Callable[..., Any], arrays: Sequence[Any]) -> Any:
    """What a function of `SERIES` series makes of more or fewer: arrays, or tuples of them, along the first axis.

    **Arguments:** `arrays`: of the series, each along its first axis; the last block repeats some of its series.
    """
    count, parts = len(arrays[0]), []
    for first in range(0, count, SERIES):
        here = np.arange(first, min(first + SERIES, count))
        found = function(*(x[np.resize(here, SERIES)] for x in arrays))
        parts.append(jax.tree.map(lambda x, some=here: np.asarray(x)[: some.size], found))
    return jax.tree.map(lambda *xs: np.concatenate(xs), *parts)


@dataclass(frozen=True)
class Ported:
    """A `Portable` that was read: `functions` holds each member's."""

    source: str
    facts: Mapping[str, Any]
    normaliser: Mapping[str, Any]
    functions: Mapping[str, Sequence[LoweredFunction]]
    until: float | None

    def check_until(self, until: float, scale: float, since: str = "first row") -> None:
        """Refuse times, in the model's unit, beyond what was exported; `scale`: of it in the table's.

        **Arguments:** `since`: of a series, what it begins with.

        **Raises:** `ValueError`.
        """
        assert self.until is not None
        if until * scale > self.until * (1 + 1e-6):
            raise ValueError(
                f"{self.source} was exported for times up to {self.until:g} after a series' {since}, but "
                f"{until * scale:g} is asked for; export the run again with --until {until * scale:g}."
            )


@dataclass(frozen=True)
class PortedPaths(AbstractPaths):
    """The sampled paths of a lowered model."""

    likelihood: Any
    function: LoweredFunction

    def rows(self, count: int) -> int:
        return self.function.rows(count)

    def sample(self, data, ts, codes, start, key):
        return self.function(ts.shape[1], *data, ts, codes, start, jax.random.key_data(key))


@dataclass(frozen=True)
class PortedLogits(AbstractLogits):
    """The logits of a lowered classifier, `SERIES` series at a time."""

    function: LoweredFunction

    def logits(self, rows: np.ndarray, arrays: Sequence[np.ndarray], key: PRNGKeyArray) -> np.ndarray:
        *data, codes = arrays
        length, words = self.function.rows(data[0].shape[1]), jax.random.key_data(key)
        chosen = [x[rows] for x in (*with_rows(data, length), codes)]
        return in_blocks(lambda *some: self.function(length, *some, words), chosen)


def series_arguments(rows: int, channels: int) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Times, values and mask of `SERIES` series."""
    shape, dtype = (SERIES, rows), jnp.result_type(float)
    return (
        jax.ShapeDtypeStruct(shape, dtype),
        jax.ShapeDtypeStruct((*shape, channels), dtype),
        jax.ShapeDtypeStruct((*shape, channels), bool),
    )


def key_arguments() -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """Codes of `SERIES` series, and the words of a key."""
    words = jax.random.key_data(jax.random.key(0))
    return jax.ShapeDtypeStruct((SERIES,), jnp.uint32), jax.ShapeDtypeStruct(words.shape, words.dtype)
