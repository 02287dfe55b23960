"""What an adjoint may ask of a loop."""

from collections.abc import Callable
from typing import Any, Protocol

import jax

from nde.loop.batching import FlatBatch
from nde.loop.checkpoints import CheckpointStore
from nde.loop.closure_convert import ClosedFunction
from nde.loop.problem import TracedProblem
from nde.loop.saving import Saving
from nde.loop.state import Checkpoints, LoopInputs, LoopOutcome, LoopState, StepOutcome

Backward = Callable[[LoopInputs, LoopOutcome, Checkpoints | None, LoopOutcome], LoopInputs]
"""A backward pass: from the inputs, the outcome, the record and the outcome's cotangents to those of the inputs."""


class Loop(Protocol):
    """The loop of a solve over its whole batch, as an adjoint is handed it.

    - `problem`: the functions of one example that it is made of; `batch`: the batch that they are mapped over.
    - `saving`: what it saves; `store`: its record of accepted states, `None` where it keeps none.
    """

    problem: TracedProblem
    batch: FlatBatch
    saving: Saving
    store: CheckpointStore | None

    def with_vjp(self, inputs: LoopInputs, backward: Backward) -> LoopOutcome:
        """The solve, whose backward pass is the one given."""
        ...

    def without_checkpoints(self) -> "Loop":
        """The same loop, which keeps no record."""
        ...

    def vmapped(self, function: ClosedFunction) -> Callable[..., Any]:
        """A function of one example, traced with the problem, as one of the batch: `function(consts, *arguments)`."""
        ...

    def step(self, *arguments: Any) -> Any:
        """`problem.step` over the batch."""
        ...

    def advance(self, inputs: LoopInputs, state: LoopState) -> StepOutcome:
        """One turn of the loop, for every example that still runs."""
        ...

    def running(self, inputs: LoopInputs, state: LoopState) -> jax.Array:
        """Which examples go on, steps permitting."""
        ...
