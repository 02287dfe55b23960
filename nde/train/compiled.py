"""A step of training as one compiled program."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array, PRNGKeyArray, PyTree

from nde.train.checks import checks_as_nan
from nde.train.devices import AXIS, Sharing
from nde.train.state import CHANGED, StepReport, TrainState, tree_where

Apply = Callable[[TrainState, PyTree, PRNGKeyArray], tuple[TrainState, StepReport]]
CompiledStep = Callable[[TrainState, PyTree, Any, PRNGKeyArray], tuple[TrainState, StepReport]]


def compiled_step(apply: Apply, sharing: Sharing | None = None, *, donate: bool) -> CompiledStep:
    """`(state, data, indices, key) -> (state, report)`, compiled once for each shape.

    `data` is a pytree of arrays whose first axis counts examples, and `indices` picks the batch. Of arrays of NumPy,
    and whatever else is indexed like them, the batch alone goes to the device; those of JAX stay where they are. `key`
    is folded with the step, so that a run is a function of its seed. An update whose loss or gradient is not finite is
    not made: the state comes back unchanged.

    The step is compiled without the calls back to Python that raise errors (`nde.train.checks_as_nan`): what they say
    `checked_step` tells.

    **Arguments:** `donate`: whether the new state is written over the old one, which can not be used again then.
    """
    options: dict[str, Any] = {"static_argnames": ("static", "impl")} | ({"donate_argnums": 0} if donate else {})
    step = jax.jit(partial(_step, apply, sharing), **options)

    def call(state: TrainState, data: PyTree, indices: Any, key: PRNGKeyArray) -> tuple[TrainState, StepReport]:
        arrays, static = _apart(state)
        started = time.perf_counter()
        if sharing is None:
            batch, picked = _picked(data, indices), time.perf_counter()
            with checks_as_nan():
                moved, report = step(*static.divided(arrays), *batch, key, static=static, impl=None)
            return static.join(static.together(moved, arrays)), _timed(report, started, picked)
        # Numbers of NumPy are in every process; an array would be on one device of this one.
        numbers, impl = np.asarray(jax.random.key_data(key)), jax.random.key_impl(key)
        part, picked = sharing.part(data, np.asarray(indices)), time.perf_counter()
        with checks_as_nan():
            divided = static.divided(sharing.everywhere(arrays))
            moved, report = step(*divided, part, None, numbers, static=static, impl=impl)
        moved, report = sharing.here(moved, report)
        if report.batch.per_example.shape[0] > len(indices):  # without the rows that filled it up
            report = eqx.tree_at(lambda r: r.batch.per_example, report, report.batch.per_example[: len(indices)])
        return static.join(static.together(moved, arrays)), _timed(report, started, picked)

    return call


def checked_step(apply: Apply, sharing: Sharing | None = None) -> CompiledStep:
    """The same step, with the checks that `compiled_step` leaves out, and on one device.

    **Raises:** `equinox.EquinoxRuntimeError` for a check that fails while it runs, such as that of a solve which takes
    too many steps.
    """
    step = eqx.filter_jit(partial(_step, apply, None))

    def call(state: TrainState, data: PyTree, indices: Any, key: PRNGKeyArray) -> tuple[TrainState, StepReport]:
        arrays, static = _apart(state)
        whole = _picked(data, indices) if sharing is None else (sharing.whole(data, np.asarray(indices)), None)
        moved, report = step(*static.divided(arrays), *whole, key, static=static, impl=None)
        return static.join(static.together(moved, arrays)), report

    return call


def _picked(data: PyTree, indices: Any) -> tuple[PyTree, Any]:
    """Rows of what is on the host, and `None`; or of data on the device all of them, and where in them the rows are."""
    on_device = [isinstance(x, jax.Array) for x in jax.tree.leaves(data)]
    if all(on_device):  # numpy's indices: jit moves them itself
        return data, indices if eqx.is_array(indices) else np.asarray(indices)
    places = np.asarray(indices)
    return jax.tree.map(lambda x: x[places], data), None


def _timed(report: StepReport, started: float, picked: float) -> StepReport:
    """The report, with the time that went by until its numbers were there."""
    jax.block_until_ready(report.is_finite)
    return replace(report, seconds={"data": picked - started, "step": time.perf_counter() - picked})


def _step(
    apply: Apply,
    sharing: Sharing | None,
    moved: list[Array],
    kept: list[Array],
    batch: PyTree,
    indices: Any,
    key: Any,
    *,
    static: "_Static",
    impl: Any,
) -> tuple[list[Array], StepReport]:
    # The state goes in and out as lists of its arrays: to take a tree of modules apart took half of a small step.
    def one(moved: list[Array], kept: list[Array], batch: PyTree, key: Any):
        state = static.join(static.merged(moved, kept))
        key = key if impl is None else jax.random.wrap_key_data(key, impl=impl)
        batch = batch if indices is None else jax.tree.map(lambda x: x[indices], batch)
        new, report = apply(state, batch, jax.random.fold_in(key, state.step))
        if _apart(new)[1] != static:
            raise ValueError("An update must leave the state's structure as it was, and what is no array in it.")
        return static.divided(_apart(tree_where(report.is_finite, new, state))[0])[0], report

    if sharing is None or sharing.mesh is None:
        return one(moved, kept, batch, key)
    # Replicated results are not checked to be so: a loop's state would have to be declared varying throughout.
    everywhere = PartitionSpec()
    shared = jax.shard_map(
        one, mesh=sharing.mesh, in_specs=(everywhere, everywhere, PartitionSpec(AXIS), everywhere),
        out_specs=everywhere, check_vma=False,
    )  # fmt: skip
    return shared(moved, kept, batch, key)


@dataclass(frozen=True)
class _Static:
    """A state without its arrays: its structure, its leaves with `None` for each array, and of each array whether a
    step changes it."""

    structure: Any
    leaves: tuple[Any, ...]
    changed: tuple[bool, ...]

    def join(self, arrays: Sequence[Array]) -> Any:
        """The state with these arrays."""
        left = iter(arrays)
        return jax.tree.unflatten(self.structure, [next(left) if x is None else x for x in self.leaves])

    def divided(self, arrays: Sequence[Array]) -> tuple[list[Array], list[Array]]:
        """Those that a step changes, and those that it leaves."""
        pairs = list(zip(arrays, self.changed, strict=True))
        return [x for x, changed in pairs if changed], [x for x, changed in pairs if not changed]

    def merged(self, moved: Sequence[Array], kept: Sequence[Array]) -> list[Array]:
        """Both again in their order."""
        ones, others = iter(moved), iter(kept)
        return [next(ones) if changed else next(others) for changed in self.changed]

    def together(self, moved: Sequence[Array], arrays: Sequence[Array]) -> list[Array]:
        """All arrays, with those that a step has changed."""
        return self.merged(moved, self.divided(arrays)[1])


def _apart(state: TrainState) -> tuple[list[Array], _Static]:
    leaves, structure = jax.tree.flatten(state)
    arrays = [x for x in leaves if eqx.is_array(x)]
    counts = {
        name: sum(map(eqx.is_array, jax.tree.leaves(getattr(state, name)))) for name in state.__dataclass_fields__
    }
    changed = tuple(name in CHANGED for name, count in counts.items() for _ in range(count))
    return arrays, _Static(structure, tuple(None if eqx.is_array(x) else x for x in leaves), changed)
