"""A log density of named unknowns, in coordinates without bounds."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float


class Curve(eqx.Module):
    r"""A loss $\ell = -\log p$ at one position, and how it bends there.

    - `loss`: $\ell$, in nats; infinite where it could not be computed.
    - `gradient`: $\partial\ell/\partial\theta$, exact.
    - `curvature`: a positive semi-definite $H \approx \partial^2\ell/\partial\theta^2$: the generalised Gauss-Newton
      matrix, which is the Fisher information where the law of the values is normal around what is solved.
    - `prior`: what of the curvature is a prior's; `prior_loss`: what of the loss is.
    """

    loss: Float[Array, ""]
    gradient: Float[Array, " size"]
    curvature: Float[Array, "size size"]
    prior: Float[Array, "size size"]
    prior_loss: Float[Array, ""] | float = 0.0


@dataclass(frozen=True, eq=False)
class LogDensity:
    r"""$\log p(\theta \mid x)$, up to a constant, of named unknowns in coordinates without bounds.

    `jax.jit`, `jax.grad` and `jax.hessian` take it, and so do samplers such as those of blackjax:

    ```python
    density = run.log_density()
    kernel = blackjax.nuts(density, step_size, inverse_mass_matrix)
    state = kernel.init(density.initial)
    density.constrain(state.position)       # {"birth": 0.48, ...} in their own units
    ```

    **Attributes:**

    - `names`: of each coordinate.
    - `parameters`: those names that are parameters of the equations; the others are starts and scales of noise.
    - `weights`: those that are weights of a network, of which nobody asks for an interval.
    - `initial_vector`: a position to start from, `(size,)`, such as where a fit ended.
    - `function`: `position -> log density`.
    - `transform`: `position -> values` in their own units, `(size,)`; each grows, or falls, with its own coordinate.
    - `curve`: `position -> nde.report.Curve` of the negative log density; all but its loss is made forward.
    - `count`: how many values the data are.

    **Call:** `density(position)`: a dictionary by name or a vector in the order of `names`; returns a scalar,
    $-\infty$ where the equations could not be solved.
    """

    names: tuple[str, ...]
    parameters: tuple[str, ...]
    weights: tuple[str, ...]
    initial_vector: Float[Array, " size"]
    function: Callable[[Float[Array, " size"]], Float[Array, ""]]
    transform: Callable[[Float[Array, " size"]], Float[Array, " size"]]
    curve: Callable[[Float[Array, " size"]], Curve]
    count: int

    def __call__(self, position: Mapping[str, ArrayLike] | ArrayLike) -> Float[Array, ""]:
        return self.function(self.vector(position))

    @property
    def initial(self) -> dict[str, Float[Array, ""]]:
        """The position to start from, by name."""
        return self.by_name(self.initial_vector)

    def constrain(self, position: Mapping[str, ArrayLike] | ArrayLike) -> dict[str, Float[Array, ""]]:
        """The unknowns of a position in their own units, within their bounds, by name."""
        return self.by_name(self.transform(self.vector(position)))

    def by_name(self, vector: Float[Array, " size"]) -> dict[str, Float[Array, ""]]:
        """The entries of a vector, by name."""
        return {name: vector[i] for i, name in enumerate(self.names)}

    def vector(self, position: Mapping[str, ArrayLike] | ArrayLike) -> Float[Array, " size"]:
        """A position as one vector, in the order of `names`.

        **Raises:** `ValueError` for names that are not those of the unknowns, or a vector of another length.
        """
        dtype = self.initial_vector.dtype
        if isinstance(position, Mapping):
            if set(position) != set(self.names):
                raise ValueError(
                    f"a position has a number for each of {', '.join(self.names)}, but this one has "
                    f"{', '.join(map(str, position)) or 'none'}."
                )
            return jnp.stack([jnp.asarray(position[name], dtype) for name in self.names])
        vector = jnp.asarray(position, dtype)
        if vector.shape != self.initial_vector.shape:
            raise ValueError(
                f"a position has {len(self.names)} coordinates, but this one has the shape {vector.shape}."
            )
        return vector

    def index(self, name: str) -> int:
        """Which coordinate a name is of.

        **Raises:** `ValueError` for a name that does not exist, naming those that do.
        """
        if name not in self.names:
            raise ValueError(f"there is no unknown '{name}'; the unknowns are {', '.join(self.names)}.")
        return self.names.index(name)
