"""A step of training as one compiled program."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array, PRNGKeyArray, PyTree

from nde.train.checks import checks_as_nan
from nde.train.devices import AXIS, Sharing
from nde.train.state import StepReport, TrainState, tree_where

Apply = Callable[[TrainState, PyTree, PRNGKeyArray], tuple[TrainState, StepReport]]
CompiledStep = Callable[[TrainState, PyTree, Any, PRNGKeyArray], tuple[TrainState, StepReport]]


def compiled_step(apply: Apply, sharing: Sharing | None = None) -> CompiledStep:
    """`(state, data, indices, key) -> (state, report)`, compiled once for each shape.

    `data` is a pytree of arrays whose first axis counts examples, and `indices` picks the batch. Of arrays of NumPy,
    and whatever else is indexed like them, the batch alone goes to the device; those of JAX stay where they are. `key`
    is folded with the step, so that a run is a function of its seed. An update whose loss or gradient is not finite is
    not made: the state comes back unchanged.

    The step is compiled without the calls back to Python that raise errors (`nde.train.checks_as_nan`); where its loss
    or gradient is not finite it is made once more, with them.

    **Raises:** `equinox.EquinoxRuntimeError` for a check that fails while it runs, such as that of a solve which takes
    too many steps.
    """
    step, checked = _program(apply, sharing), _program(apply, None)

    def call(state, data, indices, key):
        arrays, static = _apart(state)
        if sharing is None:
            with checks_as_nan():
                new, report = step(arrays, static, *_picked(data, indices), key)
        else:
            # Numbers of NumPy are in every process; an array would be on one device of this one.
            numbers = np.asarray(jax.random.key_data(key)), jax.random.key_impl(key)
            with checks_as_nan():
                part = sharing.part(data, np.asarray(indices))
                new, report = step(sharing.everywhere(arrays), static, part, None, numbers)
            new, report = sharing.here(new, report)
            if report.batch.per_example.shape[0] > len(indices):  # without the rows that filled it up
                report = eqx.tree_at(lambda r: r.batch.per_example, report, report.batch.per_example[: len(indices)])
        if not report.is_finite:
            whole = _picked(data, indices) if sharing is None else (sharing.whole(data, np.asarray(indices)), None)
            checked(arrays, static, *whole, key)
        return static.join(new), report

    return call


def _picked(data: PyTree, indices: Any) -> tuple[PyTree, Any]:
    """Rows of what is on the host, and `None`; or of data on the device all of them, and where in them the rows are."""
    on_device = [isinstance(x, jax.Array) for x in jax.tree.leaves(data)]
    if all(on_device):  # numpy's indices: jit moves them itself
        return data, indices if eqx.is_array(indices) else np.asarray(indices)
    places = np.asarray(indices)
    return jax.tree.map(lambda x: x[places], data), None


def _program(apply: Apply, sharing: Sharing | None) -> Callable[..., tuple[list[Array], StepReport]]:
    # The state goes in and out as a list of its arrays: to take a tree of modules apart took half of a small step.
    @eqx.filter_jit
    def step(arrays: list[Array], static: "_Static", batch: PyTree, indices: Any, key: Any):
        def one(arrays: list[Array], batch: PyTree, key: Any):
            state = static.join(arrays)
            key = jax.random.wrap_key_data(key[0], impl=key[1]) if isinstance(key, tuple) else key
            batch = batch if indices is None else jax.tree.map(lambda x: x[indices], batch)
            new, report = apply(state, batch, jax.random.fold_in(key, state.step))
            if _apart(new)[1] != static:
                raise ValueError("An update must leave the state's structure as it was, and what is no array in it.")
            return _apart(tree_where(report.is_finite, new, state))[0], report

        if sharing is None or sharing.mesh is None:
            return one(arrays, batch, key)
        # Replicated results are not checked to be so: a loop's state would have to be declared varying throughout.
        numbers, impl = key
        everywhere = PartitionSpec()
        shared = jax.shard_map(
            lambda arrays, batch, numbers: one(arrays, batch, (numbers, impl)),
            mesh=sharing.mesh, in_specs=(everywhere, PartitionSpec(AXIS), everywhere), out_specs=everywhere,
            check_vma=False,
        )  # fmt: skip
        return shared(arrays, batch, numbers)

    return step


@dataclass(frozen=True)
class _Static:
    """A tree without its arrays: its structure, and its leaves with `None` for each array."""

    structure: Any
    leaves: tuple[Any, ...]

    def join(self, arrays: Sequence[Array]) -> Any:
        """The tree with these arrays."""
        left = iter(arrays)
        return jax.tree.unflatten(self.structure, [next(left) if x is None else x for x in self.leaves])


def _apart(tree: Any) -> tuple[list[Array], _Static]:
    leaves, structure = jax.tree.flatten(tree)
    arrays = [x for x in leaves if eqx.is_array(x)]
    return arrays, _Static(structure, tuple(None if eqx.is_array(x) else x for x in leaves))
