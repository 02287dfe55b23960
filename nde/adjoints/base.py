"""What an adjoint of nde is."""

import abc
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import diffrax

from nde.loop import Convert, Loop, LoopInputs, LoopOutcome, LoopState, Problem


class RecordSize(NamedTuple):
    """What the number of recorded states may follow from.

    - `state_bytes`: of one state of one example; `max_steps`: of the solve, `None` for no bound.
    - `default_max`: the most states, where the user asks for no number: each costs time in the loop even where none is
      written to it.
    - `batch_size`: how many examples have such a record each, where that is known.
    - `known_grid`: whether the steps are known beforehand, so that the record has a row for each, or only some between
      which all are taken again.
    - `cheap_steps`: whether a step has no matrix products, so that to take one again costs little.
    """

    state_bytes: int
    max_steps: int | None
    default_max: int = 512
    batch_size: int | None = None
    cheap_steps: bool = False
    known_grid: bool = False


class AbstractAdjoint(diffrax.AbstractAdjoint):
    """How a solve of `nde.diffeqsolve` is differentiated.

    The engine calls, in this order: `prepare`, with what is solved; `num_checkpoints`; and, if the solve is
    differentiated, `run_loop`, with the loop over the whole batch. To write one: `run_loop` returns
    `loop.with_vjp(inputs, backward)`, whose backward pass gives the cotangents of `inputs`; `nde.loop.ReverseSweep` is
    that of every adjoint that goes back step by step, which then says only where a step began and how cotangents are
    pulled through it.
    """

    scans: ClassVar[bool] = False
    """Whether a solve on a grid that is known beforehand shall be a plain `scan`, for JAX to differentiate."""

    def prepare(self, problem: Problem, state: LoopState) -> Callable[[Convert], Any] | None:
        """Refuse a problem that it can not differentiate; and say what else of it shall be traced.

        **Returns:** a function that is called with `closure_convert`, traces what it needs by it, and returns that: it
        is then `loop.problem.adjoint_functions`.
        """
        del problem, state

    def recorded(self, state: LoopState) -> Any:
        """What of an accepted state the loop's record shall hold."""
        return state

    @abc.abstractmethod
    def num_checkpoints(self, size: RecordSize) -> int | None:
        """How many states the loop's record shall hold; `None` for no record."""

    @abc.abstractmethod
    def run_loop(self, loop: Loop, inputs: LoopInputs, perturbed: LoopInputs) -> LoopOutcome:
        """The outcome of a loop, differentiable in `inputs` where `perturbed`, of the same structure, is true."""

    def loop(self, **kwargs: Any) -> Any:
        """Refuse `diffrax.diffeqsolve`, whose loop knows nothing of this adjoint."""
        raise ValueError(
            f"{type(self).__name__} belongs to nde.diffeqsolve, but was given to diffrax.diffeqsolve; "
            "call nde.diffeqsolve, or give one of diffrax's adjoints."
        )
