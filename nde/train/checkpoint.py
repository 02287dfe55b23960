"""Checkpoints on disk, written by orbax."""

import gc
import logging
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import disk_usage
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jaxtyping import PyTree

from nde.train.processes import is_first_process, is_one_of_several
from nde.train.state import StepReport, TrainState

CHECKSUM = "checksum"
REMEMBERED, GOOD = (".rate", ".setbacks"), ".setbacks.good_"
SPARE_BYTES = 2**20  # for what orbax writes beside the leaves


class CheckpointError(ValueError):
    """A checkpoint that can not be read, or is of another model: one line naming it."""


class CheckpointNotWritten(RuntimeError):
    """A checkpoint that could not be written, mostly for want of space; the one before it is still there."""


class Checkpoints:
    """The last and the best state of a run, under `directory/last/<step>` and `directory/best/<step>`.

    Each leaf is saved under its path in the `nde.train.TrainState`, such as `.model.field.weight`, so that a leaf
    is only ever restored to the place that it came from. A new checkpoint is complete on disk before the one that it
    replaces is removed. One that can not be read, or whose checksum is wrong, is passed over for the other, and a line
    in `notes` says so. A run that ended between the two has its best state as the last one alone: it is taken for both.
    It is a callback of `nde.train.fit`.

    **Arguments:** `directory`: where; made if absent.

    **Raises:** `nde.train.CheckpointNotWritten` while it is called.
    """

    def __init__(self, directory: Path):
        self.directory = Path(directory).absolute()
        self.notes: list[str] = []
        options = ocp.CheckpointManagerOptions(max_to_keep=1, create=True)
        self._last = ocp.CheckpointManager(self.directory / "last", options=options)
        self._best = ocp.CheckpointManager(self.directory / "best", options=options)

    @property
    def step(self) -> int | None:
        """The step of the last state on disk, `None` if there is none."""
        return self._last.latest_step()

    def on_step(self, step: int, report: StepReport) -> None:
        """Nothing: checkpoints are written at validations and at the end."""

    def on_validation(self, state: TrainState, score: float) -> None:
        """Write the state, and again as the best if it is that."""
        self.on_end(state)
        self._keep_best(state)

    def on_end(self, state: TrainState) -> None:
        """Write the state if it is newer than what is on disk."""
        if int(state.step) > 0:
            self.keep(state)

    def keep(self, state: TrainState) -> None:
        """Write the state, of whatever step, as the last."""
        self._save(self._last, state)

    def _keep_best(self, state: TrainState) -> None:
        if int(state.best_step) == int(state.step) and jnp.isfinite(state.best_score):
            self._save(self._best, state)

    def on_failure(self, state: TrainState) -> None:
        """Nothing: what led to a step that could not be made is better not resumed from; the last validation is."""

    def restore(self, like: TrainState) -> TrainState | None:
        """The last state, or `None` if nothing was saved; `like` gives its structure.

        Where the last can not be read it is the best, from which training goes through the same steps once more.

        **Raises:** `nde.train.CheckpointError` if none can be read, or the state is of another structure;
        `nde.train.CheckpointNotWritten` if it is the best too, which could not be written as that.
        """
        found = self._read((self._last, self._best))
        if found is None:
            return None
        state = self._rebuilt(*found, like)
        self._set_aside(found[0])
        self._keep_best(state)
        return state

    def restore_best(self, like: PyTree) -> PyTree | None:
        """The best model, or `None` if nothing was validated; `like` gives its structure.

        **Raises:** `nde.train.CheckpointError` if no state can be read, or the model is of another structure.
        """
        found = self._newer_best() or self._read((self._best, self._last))
        if found is None or not np.isfinite(found[1].get(".best_score", np.inf)) and not _is_positional(found[1]):
            return None
        step, saved = found
        model = {name: saved[name] for name in saved if _is_positional(saved) or name.startswith(".best_model")}
        return self._rebuilt(step, model, _Best(like)).best_model

    def close(self) -> None:
        """Wait for what is being written and let go of the folder."""
        self._last.close()
        self._best.close()

    def _save(self, manager: ocp.CheckpointManager, state: TrainState) -> None:
        step = int(state.step)
        if manager.latest_step() == step:
            return
        kept = self.step
        leaves = _named(state)
        leaves[CHECKSUM] = _checksum(leaves)
        if is_one_of_several():  # all have the same copies: as NumPy's, orbax writes those of the first alone
            leaves = {name: np.asarray(leaf) for name, leaf in leaves.items()}
        # On a full disk it is not even tried: orbax would leave a part of a checkpoint behind.
        needed, free = sum(leaf.nbytes for leaf in leaves.values()) + SPARE_BYTES, disk_usage(self.directory).free
        if free < needed:
            raise self._not_written(step, f"{free / 1e6:.1f} MB are free, {needed / 1e6:.1f} MB are needed", kept)
        why = _write(manager, step, leaves)
        if why is not None:
            raise self._not_written(step, why, kept)

    def _not_written(self, step: int, why: str, kept: int | None) -> CheckpointNotWritten:
        which = "none is there" if kept is None else f"that of step {kept} is kept"
        return CheckpointNotWritten(
            f"{self.directory}: the checkpoint of step {step} could not be written ({why}); {which}."
        )

    def _newer_best(self) -> tuple[int, dict[str, np.ndarray]] | None:
        """The last state, if it is the best too and was not written as that."""
        last, best = self.step, self._best.latest_step()
        if last is None or best is None or last <= best:
            return None
        with suppress(Exception):  # orbax has no common class of errors; that it can not be read is told elsewhere
            saved = _restored(self._last, last)
            if saved.get(".best_step") == last:
                return last, saved
        return None

    def _read(self, managers: tuple[ocp.CheckpointManager, ...]) -> tuple[int, dict[str, np.ndarray]] | None:
        """The first of the checkpoints that can be read: its step and its leaves by name."""
        broken = []
        for manager in managers:
            step = manager.latest_step()
            if step is None:
                continue
            place = Path(manager.directory) / str(step)
            try:
                saved = _restored(manager, step)
            except Exception as error:  # orbax has no common class of errors
                broken.append(f"{place} can not be read ({_short(error)})")
                continue
            self.notes += [f"{line}; taking {place}" for line in broken]
            return step, saved
        if broken:
            raise CheckpointError(f"{'; '.join(broken)}; remove {self.directory} to train this model anew.")
        return None

    def _set_aside(self, step: int) -> None:
        """Move a last state that could not be read out of the way: orbax would keep it as the newer one."""
        if self.step is not None and self.step > step:
            if is_first_process():
                place = self.directory / "last" / str(self.step)
                place.rename(self.directory / f"unreadable-{self.step}")
            if is_one_of_several():
                multihost_utils.sync_global_devices("an unreadable checkpoint is set aside")
            self._last.reload()

    def _rebuilt(self, step: int, saved: dict[str, np.ndarray], like: Any) -> Any:
        wanted = _named(like)
        # What a training remembers of failures it has or has not by `train.failed`, which may change.
        saved = {name: leaf for name, leaf in saved.items() if name in wanted or not name.startswith(REMEMBERED)}
        # Where nothing is remembered yet the state to go back to is this one.
        known = {GOOD + name.removeprefix("."): leaf for name, leaf in saved.items()}
        absent = {name: known.get(name, leaf) for name, leaf in wanted.items() if name.startswith(REMEMBERED)}
        saved = {name: np.asarray(leaf) for name, leaf in absent.items()} | saved
        differ = _differences(saved, wanted)
        if differ:
            what = "is of another model, or was trained in another way"
            raise CheckpointError(f"{self.directory}: the checkpoint of step {step} {what}: {differ}.")
        arrays, rest = eqx.partition(like, eqx.is_array)
        leaves = [jnp.asarray(saved[name]) for name in wanted]
        return eqx.combine(jax.tree.unflatten(jax.tree.structure(arrays), leaves), rest)


class _Best(eqx.Module):
    """A best model under the path that it has in a state."""

    best_model: PyTree


def _restored(manager: ocp.CheckpointManager, step: int) -> dict[str, np.ndarray]:
    """The leaves of a checkpoint by name, of which the checksum is right."""
    # Restored arrays are committed to a device, fresh ones are not; the step would compile once for each.
    with _quiet():
        restored = manager.restore(step, args=_AS_SAVED)
    saved = {name: np.asarray(x) for name, x in restored.items()}
    if not _is_positional(saved) and not np.array_equal(saved.pop(CHECKSUM), _checksum(saved)):
        raise ValueError("its checksum is wrong")
    return saved


@contextmanager
def _quiet() -> Iterator[None]:
    """Without orbax's own log on the terminal: it prints the stacks of errors that are caught and told here."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def _write(manager: ocp.CheckpointManager, step: int, leaves: dict[str, Any]) -> str | None:
    """Write a checkpoint; why it could not be written, in a few words, or `None` if it was."""
    why, hook = None, sys.unraisablehook
    sys.unraisablehook = _without_closed_loops(hook)
    with _quiet():
        try:
            manager.save(step, args=ocp.args.StandardSave(leaves), force=True)
            manager.wait_until_finished()
        except Exception as error:  # tensorstore and orbax have no common class of errors
            why = _short(error)
        if why is not None:
            # The other leaves' writes failed too. asyncio logs each as it is freed, so that must be while all is quiet,
            # and with the error gone that refers to them. Some of tensorstore's threads report still later, and find
            # the event loop closed: the hook stays.
            gc.collect()
            manager.reload()  # or it takes the part of a checkpoint for its latest
            return why
    sys.unraisablehook = hook
    return None


def _without_closed_loops(hook: Callable[[Any], Any]) -> Callable[[Any], None]:
    """A hook for exceptions that no one can catch, but for those of threads whose event loop is closed."""

    def only_others(unraisable: Any) -> None:
        if not (isinstance(unraisable.exc_value, RuntimeError) and "loop is closed" in str(unraisable.exc_value)):
            hook(unraisable)

    return only_others


_AS_SAVED = ocp.args.StandardRestore()


def _named(tree: PyTree) -> dict[str, Any]:
    """The arrays of a tree by their paths, in the order of its leaves."""
    leaves = jax.tree_util.tree_leaves_with_path(eqx.filter(tree, eqx.is_array))
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def _checksum(leaves: dict[str, Any]) -> np.ndarray:
    """Of names, types, shapes and values: zarr's chunks carry none, and a flipped bit would be restored as a weight."""
    total = 0
    for name in sorted(leaves):
        array = np.asarray(leaves[name])
        total = zlib.crc32(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes(), total)
    return np.asarray(total, np.uint32)


def _is_positional(saved: dict[str, Any]) -> bool:
    """Whether it is of the time when leaves were saved under their numbers."""
    return "0" in saved


def _differences(saved: dict[str, Any], wanted: dict[str, Any]) -> str:
    """Which leaves differ, the first few of each sort; empty if none does."""
    if _is_positional(saved):
        return "an older nde numbered its leaves, which does not say what they are; train it again"
    found = {
        "it lacks": [name for name in wanted if name not in saved],
        "it has besides": [name for name in saved if name not in wanted],
        "it has in another shape or type": [
            f"{name} {saved[name].dtype}{list(saved[name].shape)} for {wanted[name].dtype}{list(wanted[name].shape)}"
            for name in wanted
            if name in saved and (saved[name].shape, saved[name].dtype) != (wanted[name].shape, wanted[name].dtype)
        ],
    }
    return "; ".join(f"{what} {', '.join(_few(names))}" for what, names in found.items() if names)


def _few(names: list[str]) -> list[str]:
    return names if len(names) <= 4 else [*names[:4], f"{len(names) - 4} more"]


def _short(error: Exception) -> str:
    """An error's first line, or its class; tensorstore's of a full disk names chunks and threads."""
    if any(sign in str(error) for sign in ("No space left", "RESOURCE_EXHAUSTED")):
        return "no space is left on the disk"
    lines = str(error).strip().splitlines()
    return lines[0][:120] if lines else type(error).__name__
