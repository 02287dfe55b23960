"""A semilinear equation in the variables in which its linear part is gone, as solvers meet it."""

from collections.abc import Callable
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from nde.terms import SemilinearTerm, unwrap_time_direction
from nde.types import Args, Dense, ScalarLike, State, Terms


class NewVariables:
    """The variables $y = (x - c) / m$ and $s$ of a term, `term`, the equation in them, and the ways there and back.

    A solve backward in time turns the sign of time, and says so by the `direction` of what it wraps the term in: all
    methods take the solve's own time.

    **Raises:** `ValueError` for another term.
    """

    def __init__(self, terms: Terms, name: str = "an exponential method"):
        given, self.direction = unwrap_time_direction(terms)
        if not isinstance(given, SemilinearTerm):
            raise ValueError(
                f"{name} solves an nde.terms.SemilinearTerm, as nde.diffusion_model_term makes it, but got "
                f"{type(given).__name__}: state the linear part, or use nde.Reversible or another solver."
            )
        self.given, self.variables, self.term = given, given.variables, given.transformed()

    def clock(self, t: ScalarLike):
        """$s(t)$."""
        return self.variables.clock(t * self.direction)

    def scale(self, t: ScalarLike):
        """$m(t)$."""
        return self.variables.scale(t * self.direction)

    def time(self, s: ScalarLike):
        """The solve's time at which the clock shows `s`."""
        return self.variables.time(s) * self.direction

    def into(self, t: ScalarLike, x: State):
        """$y$ of a state."""
        return self.given.into(t * self.direction, x)

    def out_of(self, t: ScalarLike, y: State):
        """The state of a $y$."""
        return self.given.out_of(t * self.direction, y)

    def lengthened(self, t: ScalarLike, change: State):
        """A difference of two $y$ as one of two states."""
        return self.given.stretch(t * self.direction, change)

    def field(self, t: ScalarLike, x: State, args: Args):
        """$f(t, x)$."""
        return self.given.field(t * self.direction, x, args)

    def noise(self, t0: ScalarLike, t1: ScalarLike):
        """What the Brownian motion adds to $y$ between two times; `None` of an ODE."""
        if self.given.path is None:
            return None
        return self.given.increment(
            self.given.path_time(t0 * self.direction), self.given.path_time(t1 * self.direction)
        )


PLACES = (1 - np.cos(np.pi * np.arange(6) / 5)) / 2  # Chebyshev's extrema


def points_at(at: Callable, t0: ScalarLike, t1: ScalarLike) -> Dense:
    """The dense output of a step from the state at any time of it, `at(t)`."""
    return {"points": jax.vmap(at)(t0 + jnp.asarray(PLACES, jnp.result_type(t0)) * (t1 - t0))}


def points_of(new: NewVariables, solver: Any, t0: ScalarLike, t1: ScalarLike, dense: Dense) -> Any:
    """A step's points, stacked, from the dense output of a solver of the equation in the new variables."""
    inner = solver.interpolation_cls(t0=new.clock(t0), t1=new.clock(t1), **dense)
    return points_at(lambda t: new.out_of(t, inner.evaluate(new.clock(t))), t0, t1)["points"]


class PointsInterpolation(diffrax.AbstractLocalInterpolation):
    """The polynomial through `points`, stacked, at the fractions `PLACES` of a step."""

    t0: Any
    t1: Any
    points: Any

    def evaluate(self, t0: ScalarLike, t1: ScalarLike | None = None, left=True):
        """The state at `t0`, or the increment from `t0` to `t1`."""
        del left
        if t1 is not None:
            return jax.tree.map(jnp.subtract, self.evaluate(t1), self.evaluate(t0))
        span = self.t1 - self.t0
        place = jnp.where(span == 0, 0, t0 - self.t0) / jnp.where(span == 0, 1, span)
        places = PLACES.astype(place.dtype)
        others = [(p, np.delete(places, i)) for i, p in enumerate(places)]
        weights = jnp.stack([jnp.prod((place - rest) / (p - rest)) for p, rest in others])
        return jax.tree.map(lambda x: jnp.tensordot(weights.astype(x.dtype), x, 1), self.points)
