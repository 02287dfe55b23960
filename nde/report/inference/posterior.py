"""A log density at its maximum, and what can be asked of it there."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from nde.report.inference.bounds import edges
from nde.report.inference.density import LogDensity
from nde.report.inference.information import Identifiability, identifiability
from nde.report.inference.laplace import (
    covariance,
    Criteria,
    effective_number,
    Interval,
    laplace_draws,
    laplace_intervals,
)
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
        """Unknowns that are best at a bound of theirs: see `nde.report.inference.bounds`."""
        return [name for name, at in zip(self.density.names, self._edges[1], strict=True) if at]

    def identifiability(self) -> Identifiability:
        """Which combinations of the parameters the data determine, apart from what priors say: see
        `nde.report.identifiability`."""
        with jax.enable_x64(True):
            density, position, curve = self.density, self.optimum.position, self.optimum.curve
            values, slopes = jax.jvp(density.transform, (position,), (jnp.ones_like(position),))
            bound = self.at_bound()
            asked = [name for name in density.parameters if name not in bound]
            free = self._moves[:, None] & self._moves  # weights are nothing without their prior
            data = curve.curvature - jnp.where(free, curve.prior, 0.0)
            return identifiability(density.names, values, slopes, data, parameters=asked)

    def profile(self, name: str, *, level: float = 0.9) -> Profile:
        """The profile likelihood of one unknown: see `nde.report.profile`. A network's weights are held."""
        with jax.enable_x64(True):
            moves = jnp.asarray(self._moves)
            inside, _ = self._edges
            return profile(
                self.density, self.optimum, name, lambda x, free: self._refit(x, free & moves), level=level,
                inside=inside,
            )  # fmt: skip

    def criteria(self) -> Criteria:
        """AIC and BIC; with weights among the unknowns, of the effective number of what is fitted."""
        with jax.enable_x64(True):
            curve, density = self.optimum.curve, self.density
            free = effective_number(curve.curvature, curve.prior) if density.weights else float(len(density.names))
            return Criteria(float(curve.prior_loss) - float(curve.loss), free, density.count)

    def draws(self, count: int, *, key: PRNGKeyArray) -> Float[np.ndarray, "count size"]:
        """Draws of Laplace's approximation, in the coordinates without bounds; an unknown at its bound stays there."""
        with jax.enable_x64(True):
            curvature, held = np.array(self.optimum.curve.curvature), self._edges[1]
            curvature[held], curvature[:, held] = 0.0, 0.0
            curvature[held, held] = HELD
            return np.asarray(laplace_draws(self.optimum.position, curvature, count, key=key))

    @property
    def gained(self) -> float:
        """By how many nats the maximum is above where the training ended."""
        return float(self.optimum.start_loss) - float(self.optimum.curve.loss)

    @cached_property
    def _moves(self) -> np.ndarray:
        return np.array([name not in self.density.weights for name in self.density.names])

    @cached_property
    def _edges(self) -> tuple[Array, np.ndarray]:
        with jax.enable_x64(True):
            loss = jax.jit(lambda x: -self.density(x))
            deviations = np.sqrt(np.diagonal(covariance(self.optimum.curve.curvature)))
            deviations = np.where(self._moves, deviations, 0.0)
            return edges(self.density, loss, self.optimum.position, deviations)

    @cached_property
    def _refit(self) -> Callable[[Array, Array], Optimum]:
        return jax.jit(lambda start, free: maximise(self.density.curve, start, free))


HELD = 1e12
"""The curvature of what is not drawn."""


def intervals_text(intervals: Sequence[Interval]) -> str:
    """The intervals in one line."""
    return ", ".join(interval.text() for interval in intervals)
