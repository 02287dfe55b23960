"""Steps taken back: from a step's end to its start, with the cotangents pulled through the same evaluations."""

import abc
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol


class Piece(NamedTuple):
    """A function of one example that a step is made of, `function(t, t, *arguments)`, and arguments to trace it on."""

    function: Callable
    examples: tuple[Any, ...]


class Call(Protocol):
    """Evaluates a piece, of one example or of a whole batch.

    `call(name, t, t, *arguments)` gives its value and `pull`, which takes the value's cotangent to those of the
    two times and the arguments, in one tuple; those of what the piece closes over are gathered by the way.
    """

    def __call__(
        self, name: str, t0: Any, t1: Any, *arguments: Any
    ) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]: ...


class BackStep(NamedTuple):
    """A step taken back.

    - `y1`: the state at its end; `dense`: its dense output.
    - `tail`: what is known of its start.
    - `pull`: from the cotangents of `y1`, of the solver's state there and of `dense` (or `None`) to those of
      `t0`, `t1`, of the state and of the solver's state at `t0`.
    - `start`: the state and the solver's state at its start.
    """

    y1: Any
    dense: Any
    tail: Any
    pull: Callable[[Any, Any, Any], tuple[Any, Any, Any, Any]]
    start: tuple[Any, Any]


class AbstractWayBack(abc.ABC):
    """How a reversible method goes back. It carries a *tail* from step to step: what it knows of where it stands."""

    needs_no_jump: bool = False
    """Whether a jump of the field between two steps, after which a method begins anew, can not be undone."""

    @abc.abstractmethod
    def pieces(self, t0: Any, t1: Any, y: Any, solver_state: Any) -> dict[str, Piece]:
        """The functions that the way back evaluates, by name."""

    @abc.abstractmethod
    def end(self, call: Call, t0: Any, t1: Any, y: Any, solver_state: Any) -> Any:
        """The tail at the end of a solve; `t0` and `t1` may be any times."""

    @abc.abstractmethod
    def back(self, call: Call, t0: Any, t1: Any, tail: Any, inside: bool) -> BackStep:
        """The step from `t0` to `t1` from the tail at `t1`; `inside`: whether its dense output is wanted."""
