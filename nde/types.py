"""The types of the solver layer, by the names that the equations give them: `t`, `y`, `args`, `terms`."""

from typing import Any, TypeAlias

import diffrax
import jax
import numpy as np
from jaxtyping import PyTree

Time: TypeAlias = jax.Array
"""A time: a scalar, or one an example of a flat batch."""

ScalarLike: TypeAlias = bool | int | float | jax.Array | np.ndarray
"""A scalar as a user, or diffrax, gives it."""

State: TypeAlias = PyTree[jax.Array]
"""The state `y` of an equation, and whatever is shaped like it: an increment, an error, a cotangent."""

Args: TypeAlias = PyTree[Any]
"""What a field takes beside time and state, as its caller gave it."""

Terms: TypeAlias = PyTree[diffrax.AbstractTerm]
"""A term, or the tree of terms that a solver asks for."""

SolverState: TypeAlias = PyTree[Any]
"""What a solver, or a stepper, carries from step to step beside `y`."""

Dense: TypeAlias = dict[str, PyTree[jax.Array]]
"""A step's dense output: what the solver's interpolation takes beside the step's ends."""
