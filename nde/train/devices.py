"""The devices that share each batch of a training, in one process or in several."""

from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

from nde.train.gradient import Part
from nde.train.state import StepReport

AXIS = "examples"


@dataclass(frozen=True, eq=False)
class Sharing:
    """How a batch is divided: among devices, each of which holds a copy of the state, and on each into turns.

    - `mesh`: the devices, those of all processes; `None` for one device.
    - `turns`: in how many pieces a device goes through its part of the batch: the activations of one piece are held at
      a time, and the update is that of the whole batch.

    A batch that the devices and turns do not divide is filled up by rows that do not count.
    """

    mesh: Mesh | None = None
    turns: int = 1
    _copies: dict[int, tuple[Array, Array]] = field(default_factory=dict, repr=False)

    @classmethod
    def among(cls, devices: int | Literal["all"], *, turns: int = 1) -> "Sharing":
        """So many devices, or all that there are, those of all processes.

        **Raises:** `ValueError` for more than there are, fewer than one, or, of several processes, not all.
        """
        every = jax.devices()
        count = len(every) if devices == "all" else devices
        if not 1 <= count <= len(every):
            hint = " (XLA_FLAGS=--xla_force_host_platform_device_count=N makes N of one CPU)"
            cpu = every[0].platform == "cpu"
            raise ValueError(f"devices = {devices}, but there are 1 … {len(every)} of them{hint if cpu else ''}.")
        if jax.process_count() > 1 and count < len(every):
            raise ValueError(
                f"devices = {devices}, but {jax.process_count()} processes share all of theirs: set 'all'."
            )
        return cls(Mesh(np.array(every[:count]), (AXIS,)) if count > 1 else None, turns)

    @property
    def count(self) -> int:
        """How many devices there are."""
        return 1 if self.mesh is None else self.mesh.size

    def part(self, data: PyTree, indices: np.ndarray) -> Part:
        """The batch of these examples, its rows on the devices that they are for; of this process, those of its own.

        **Arguments:** `data`: arrays whose first axis counts examples, on the host, the same in every process.
        """
        size, each = len(indices), self.count * self.turns
        padded = -(-size // each) * each
        places = np.arange(padded)
        mine = places
        if self.mesh is not None:
            here = [i for i, device in enumerate(self.mesh.devices.flat) if device.process_index == jax.process_index()]
            mine = places.reshape(self.count, -1)[here].reshape(-1)
        # The whole batch is taken first: how many rows its series are cut to may depend on all of them.
        rows = np.resize(indices, padded)
        arrays = jax.tree.map(lambda x: self._split(np.asarray(x[rows])[mine]), data)
        axis = None if self.mesh is None else AXIS
        return Part(arrays, self._split(mine), self._split(mine < size), padded, self.turns, axis)

    def whole(self, data: PyTree, indices: np.ndarray) -> Part:
        """The batch on one device, that of this process."""
        return Sharing(turns=self.turns).part(data, indices)

    def everywhere(self, arrays: list[Array]) -> list[Array]:
        """Arrays of this process as the copies on all devices."""
        if self.mesh is None:
            return arrays
        known = {id(x): (x, self._copied(x)) for x in arrays}
        self._copies.clear()
        self._copies.update(known)
        return [known[id(x)][1] for x in arrays]

    def here(self, arrays: list[Array], report: StepReport) -> tuple[list[Array], StepReport]:
        """The copies of this process: arrays like any other, whatever the other processes do."""
        if self.mesh is None:
            return arrays, report
        found, report = jax.tree.map(lambda x: x.addressable_data(0), (arrays, report))
        # The next step asks for the copies of the same arrays.
        self._copies.update({id(x): (x, copies) for x, copies in zip(found, arrays, strict=True)})
        return found, report

    def _copied(self, x: Any) -> Array:
        known = self._copies.get(id(x))
        if known is not None:
            return known[1]
        assert self.mesh is not None
        sharding = NamedSharding(self.mesh, PartitionSpec())
        pieces = [jax.device_put(x, device) for device in self.mesh.local_devices]
        return jax.make_array_from_single_device_arrays(np.shape(x), sharding, pieces)

    def _split(self, x: np.ndarray) -> Any:
        if self.mesh is None:
            return x
        return jax.make_array_from_process_local_data(NamedSharding(self.mesh, PartitionSpec(AXIS)), x)
