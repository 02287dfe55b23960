"""A field that is linear in its parameters: coefficients times candidate functions."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from numpy.typing import ArrayLike

from nde.fields.candidates import Library


class LibraryField(eqx.Module):
    r"""A sum of candidate functions with learnable coefficients: $f_i(x) = \sum_j \xi_{ji}\, \theta_j(x)$.

    As the residual of a `nde.fields.Hybrid` it takes the place of the network, and its coefficients are refitted
    through the solve like any other parameters.

    ```python
    >>> import jax.numpy as jnp, nde
    >>> library = nde.fields.library(["prey", "predator"], degree=2)
    >>> coefficients = [[0.0], [0.0], [0.0], [0.0], [0.5], [0.0]]      # of each candidate, in each rate
    >>> field = nde.fields.LibraryField(library, coefficients)
    >>> field(0.0, jnp.array([2.0, 3.0])).tolist()
    [3.0]

    ```

    **Arguments of the constructor:**

    - `library`: a `nde.fields.Library` of `x`.
    - `coefficients`: `(candidates, rates)`; $\xi$ to start from, in the units of the data.
    - `active`: of that shape; which of them there are. The others are zero and get no gradient. Those that do not start
      at zero, if `None`.
    - `unit`: of that shape, positive; what an optimiser counts each coefficient in, so that its steps mean the same for
      all. The coefficient's own size, if `None`, or 1 for one that starts at zero.

    **Call:** `field(t, x, args)` with `x` of shape `(inputs,)`; returns `(rates,)`. `t` and `args` are not used.

    **Raises:** `ValueError` for coefficients of another shape than `(candidates, rates)`, or units that are not
    positive.
    """

    raw: Float[Array, "candidates rates"]
    active: Bool[Array, "candidates rates"]
    library: Library = eqx.field(static=True)
    unit: tuple[tuple[float, ...], ...] = eqx.field(static=True)

    def __init__(
        self,
        library: Library,
        coefficients: ArrayLike,
        *,
        active: ArrayLike | None = None,
        unit: ArrayLike | None = None,
    ):
        start = np.asarray(coefficients, np.float64)
        if start.ndim != 2 or len(start) != len(library.candidates):
            raise ValueError(
                f"LibraryField needs coefficients of shape (candidates, rates), with {len(library.candidates)} "
                f"candidates, but got the shape {start.shape}."
            )
        chosen = start != 0 if active is None else np.broadcast_to(np.asarray(active, bool), start.shape)
        size = np.where(start != 0, np.abs(start), 1.0) if unit is None else np.asarray(unit, np.float64)
        if size.shape != start.shape or not (size > 0).all():
            raise ValueError(f"LibraryField needs a positive unit for each coefficient, but got unit={unit}.")
        self.library = library
        self.unit = tuple(tuple(map(float, row)) for row in size)
        self.raw = jnp.asarray(start / size, jnp.result_type(float))
        self.active = jnp.asarray(chosen)

    @property
    def coefficients(self) -> Float[Array, "candidates rates"]:
        """The coefficients in the units of the data, zero where they are not active."""
        return jnp.where(self.active, self.raw * jnp.asarray(self.unit, self.raw.dtype), 0.0)

    def __call__(self, t: Any, x: Float[Array, " inputs"], args: Any = None) -> Float[Array, " rates"]:
        return self.library(x) @ self.coefficients.astype(x.dtype)
