"""A log density at its maximum, and what can be asked of it there."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from nde.report.inference.density import LogDensity
from nde.report.inference.information import Identifiability, identifiability
from nde.report.inference.laplace import Criteria, effective_number, Interval, laplace_draws, laplace_intervals
from nde.report.inference.maximum import maximise, Optimum
from nde.report.inference.profiles import Profile, profile


@dataclass(frozen=True, eq=False)
class Posterior:
    """A `nde.report.LogDensity` and its maximum, from where it was built on; all in double precision.

    **Arguments of the constructor:** `make`: makes the density; called where double precision is on.

    The maximum is that over all unknowns but a network's weights, which stay as they were trained. In the curvature,
    and so in intervals and identifiability, they are marginalised where `make` has them among the unknowns: the
    information of the others is a Schur complement, $S = H_{pp} - H_{pw} H_{ww}^{-1} H_{wp}$, with what
    their prior adds to $H_{ww}$.
    """

    make: Callable[[], LogDensity]

    @cached_property
    def density(self) -> LogDensity:
        """The log density, of arrays in double precision: call it within `jax.enable_x64(True)`."""
        with jax.enable_x64(True):
            return self.make()

    @cached_property
    def optimum(self) -> Optimum:
        """The maximum, by `nde.report.maximise`."""
        with jax.enable_x64(True):
            density = self.density
            return self._refit(density.initial_vector, jnp.asarray(self._moves))

    def values(self) -> dict[str, float]:
        """The unknowns at the maximum, in their own units, by name."""
        with jax.enable_x64(True):
            return {name: float(x) for name, x in self.density.constrain(self.optimum.position).items()}

    def intervals(
        self, *, level: float = 0.9, curvature: Literal["expected", "observed"] = "expected"
    ) -> list[Interval]:
        """Central intervals of each unknown but weights: see `nde.report.laplace_intervals`.

        **Arguments:** `curvature`: `"expected"`, the generalised Gauss-Newton matrix, or `"observed"`, the Hessian of
        the negative log density itself, forward over reverse, which takes several times as long to compile.

        **Raises:** `ValueError` for another curvature, or a level that does not lie between 0 and 1.
        """
        if curvature not in ("expected", "observed"):
            raise ValueError(f"the curvature is 'expected' or 'observed', but is {curvature!r}.")
        with jax.enable_x64(True):
            position, matrix = self.optimum.position, self.optimum.curve.curvature
            if curvature == "observed":
                matrix = jax.jit(jax.hessian(lambda x: -self.density(x)))(position)
            found = laplace_intervals(self.density, position, matrix, level=level)
        bound = self.at_bound()
        return [
            replace(each, low=each.value, high=each.value, open_below=False, open_above=False, at_bound=True)
            if each.name in bound else each
            for each in found if each.name not in self.density.weights
        ]  # fmt: skip

    def at_bound(self) -> list[str]:
        """Unknowns that have gone to a bound of theirs: in their own units their coordinate moves them no more."""
        with jax.enable_x64(True):
            transform, position = self.density.transform, self.optimum.position
            here, start = (np.asarray(transform(x)) for x in (position, self.density.initial_vector))
            moved = np.asarray(transform(position + 1.0)) - np.asarray(transform(position - 1.0))
            stuck = np.abs(moved) < 1e-6 * np.maximum(np.abs(here), np.abs(start))
            return [name for name, at in zip(self.density.names, stuck, strict=True) if at]

    def identifiability(self) -> Identifiability:
        """Which combinations of the parameters the data determine: see `nde.report.identifiability`."""
        with jax.enable_x64(True):
            density, position, curve = self.density, self.optimum.position, self.optimum.curve
            values, slopes = jax.jvp(density.transform, (position,), (jnp.ones_like(position),))
            bound = self.at_bound()
            asked = [name for name in density.parameters if name not in bound]
            return identifiability(density.names, values, slopes, curve.curvature, parameters=asked)

    def profile(self, name: str, *, level: float = 0.9) -> Profile:
        """The profile likelihood of one unknown: see `nde.report.profile`. A network's weights are held."""
        with jax.enable_x64(True):
            bound = np.array([each in self.at_bound() for each in self.density.names])
            moves = jnp.asarray(self._moves)

            def refit(start: Array, free: Array) -> Optimum:
                found = self._refit(start, free & moves)
                if not (bound & np.asarray(free)).any():
                    return found
                # From its bound an unknown has no gradient to come back by: once more, from where the fit had it.
                inside = jnp.where(jnp.asarray(bound) & free, self.density.initial_vector, start)
                other = self._refit(inside, free & moves)
                return min(found, other, key=lambda each: float(jnp.nan_to_num(each.curve.loss, nan=jnp.inf)))

            return profile(self.density, self.optimum, name, refit, level=level, still=bound)

    def criteria(self) -> Criteria:
        """AIC and BIC; with weights among the unknowns, of the effective number of what is fitted."""
        with jax.enable_x64(True):
            curve, density = self.optimum.curve, self.density
            free = effective_number(curve.curvature, curve.prior) if density.weights else float(len(density.names))
            return Criteria(-float(curve.loss), free, density.count)

    def draws(self, count: int, *, key: PRNGKeyArray) -> Float[np.ndarray, "count size"]:
        """Draws of Laplace's approximation, in the coordinates without bounds."""
        with jax.enable_x64(True):
            return np.asarray(laplace_draws(self.optimum.position, self.optimum.curve.curvature, count, key=key))

    @property
    def gained(self) -> float:
        """By how many nats the maximum is above where the training ended."""
        return float(self.optimum.start_loss) - float(self.optimum.curve.loss)

    @cached_property
    def _moves(self) -> np.ndarray:
        return np.array([name not in self.density.weights for name in self.density.names])

    @cached_property
    def _refit(self) -> Callable[[Array, Array], Optimum]:
        return jax.jit(lambda start, free: maximise(self.density.curve, start, free))


def intervals_text(intervals: Sequence[Interval]) -> str:
    """The intervals in one line."""
    return ", ".join(interval.text() for interval in intervals)
