"""What an adjoint of nde is."""

import abc
from typing import Any, ClassVar

import diffrax


class AbstractAdjoint(diffrax.AbstractAdjoint):
    """How a solve of `nde.diffeqsolve` is differentiated.

    The engine hands it the loop as a value, a *march*, so that no adjoint needs to know the engine.
    """

    scans: ClassVar[bool] = False
    """Whether a solve on a grid that is known beforehand shall be a plain `scan`, for JAX to differentiate."""

    def prepare(self, problem: Any, place: Any) -> None:
        """Refuse a problem that it can not differentiate, and say what else of it shall be traced."""
        del problem, place

    def recorded(self, place: Any) -> Any:
        """What of a place the march's record shall hold."""
        return place

    @abc.abstractmethod
    def rows(self, row_bytes: int, max_steps: int | None, most: int = 512) -> int | None:
        """How many places the march's record shall hold, for places of so many bytes; `None` for no record.

        `most`: of them, where the user asks for no number: a place costs time even where none is written to it.
        """

    @abc.abstractmethod
    def march(self, march: Any, inputs: Any, perturbed: Any) -> Any:
        """The march's outcome, differentiable in `inputs` where `perturbed`, of the same structure, is true."""

    def loop(self, **kwargs: Any) -> Any:
        """Refuse `diffrax.diffeqsolve`, whose loop knows nothing of this adjoint."""
        raise ValueError(
            f"{type(self).__name__} belongs to nde.diffeqsolve, but was given to diffrax.diffeqsolve; "
            "call nde.diffeqsolve, or give one of diffrax's adjoints."
        )
