"""Checkpoints on disk, written by orbax."""

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from nde.train.step import StepReport, TrainState


class Checkpoints:
    """The last and the best state of a run, under `directory/last/<step>` and `directory/best/<step>`.

    A new checkpoint is complete on disk before the one that it replaces is removed. It is an observer of
    [`nde.train.fit`][].

    **Arguments:** `directory`: where; made if absent.
    """

    def __init__(self, directory: Path):
        self.directory = Path(directory).absolute()
        options = ocp.CheckpointManagerOptions(max_to_keep=1, create=True)
        self._last = ocp.CheckpointManager(self.directory / "last", options=options)
        self._best = ocp.CheckpointManager(self.directory / "best", options=options)

    def stepped(self, step: int, report: StepReport) -> None:
        """Nothing: checkpoints are written at validations and at the end."""

    def validated(self, state: TrainState, score: float) -> None:
        """Write the state, and the best model if it is a new one."""
        self.ended(state)

    def ended(self, state: TrainState) -> None:
        """Write the state, and the best model, where they are newer than what is on disk."""
        self._save(self._last, int(state.step), state)
        if jnp.isfinite(state.best_score):
            self._save(self._best, int(state.best_step), state.best_model)

    def restore(self, like: TrainState) -> TrainState | None:
        """The last state, or `None` if nothing was saved; `like` gives its structure."""
        return self._load(self._last, like)

    def restore_best(self, like: PyTree) -> PyTree | None:
        """The best model, or `None` if nothing was saved; `like` gives its structure."""
        return self._load(self._best, like)

    def close(self) -> None:
        """Wait for what is being written and let go of the folder."""
        self._last.close()
        self._best.close()

    @staticmethod
    def _save(manager: ocp.CheckpointManager, step: int, tree: PyTree) -> None:
        if manager.latest_step() == step:
            return
        leaves = jax.tree.leaves(eqx.filter(tree, eqx.is_array))
        manager.save(step, args=ocp.args.StandardSave({str(i): leaf for i, leaf in enumerate(leaves)}))
        manager.wait_until_finished()

    @staticmethod
    def _load(manager: ocp.CheckpointManager, like: PyTree) -> PyTree | None:
        step = manager.latest_step()
        if step is None:
            return None
        arrays, rest = eqx.partition(like, eqx.is_array)
        leaves, structure = jax.tree.flatten(arrays)
        shapes = {str(i): jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for i, leaf in enumerate(leaves)}
        saved = manager.restore(step, args=ocp.args.StandardRestore(shapes))
        # Restored arrays are committed to a device and fresh ones are not; the step would compile once for each.
        fresh = [jnp.asarray(np.asarray(saved[str(i)])) for i in range(len(leaves))]
        return eqx.combine(jax.tree.unflatten(structure, fresh), rest)
