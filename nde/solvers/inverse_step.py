"""Steps taken back: from a step's end to its start, with the cotangents pulled through the same evaluations."""

import abc
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from nde.types import ScalarLike, SolverState, State


class SubFunction(NamedTuple):
    """A function of one example that a step is made of, `function(t, t, *arguments)`, and arguments to trace it on."""

    function: Callable[..., Any]
    examples: tuple[Any, ...]


class EvaluateWithVJP(Protocol):
    """Evaluates a function by its name, of one example or of a whole batch.

    `call(name, t, t, *arguments)` gives its value and `pull`, which takes the value's cotangent to those of the
    two times and the arguments, in one tuple; those of what it closes over are gathered by the way.
    """

    def __call__(
        self, name: str, t0: ScalarLike, t1: ScalarLike, *arguments: Any
    ) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]: ...


class InverseStepResult(NamedTuple):
    """A step taken back.

    - `y1`: the state at its end; `dense`: its dense output.
    - `reverse_state`: what is known of its start.
    - `pull`: from the cotangents of `y1`, of the solver's state there and of `dense` (or `None`) to those of
      `t0`, `t1`, of the state and of the solver's state at `t0`.
    - `start`: the state and the solver's state at its start.
    """

    y1: Any
    dense: Any
    reverse_state: Any
    pull: Callable[[Any, Any, Any], tuple[Any, Any, Any, Any]]
    start: tuple[Any, Any]


class AbstractInverseStep(abc.ABC):
    """How a reversible method's steps are taken back.

    Its loop state, the *reverse state*, holds what is known at the end of the step to be taken back next.
    """

    needs_no_jump: bool = False
    """Whether a jump of the field between two steps, after which a method begins anew, can not be undone."""

    @abc.abstractmethod
    def sub_functions(
        self, t0: ScalarLike, t1: ScalarLike, y: State, solver_state: SolverState
    ) -> dict[str, SubFunction]:
        """The functions that a step back evaluates, by name."""

    @abc.abstractmethod
    def init_reverse(
        self, call: EvaluateWithVJP, t0: ScalarLike, t1: ScalarLike, y: State, solver_state: SolverState
    ) -> Any:
        """The reverse state at the end of a solve; `t0` and `t1` may be any times."""

    @abc.abstractmethod
    def step_back(
        self, call: EvaluateWithVJP, t0: ScalarLike, t1: ScalarLike, reverse_state: Any, inside: bool
    ) -> InverseStepResult:
        """The step from `t0` to `t1` from the reverse state at `t1`; `inside`: whether its dense output is wanted."""
