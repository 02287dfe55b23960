"""A field that is linear in its parameters: coefficients times candidate functions."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

from nde.fields.candidates import Library
from nde.fields.parameter import Parameter


class LibraryField(eqx.Module):
    r"""A sum of candidate functions with learnable coefficients: $f_i(x) = \sum_j \xi_{ji}\, \theta_j(x)$.

    As the residual of a `nde.fields.Hybrid` it takes the place of the network (`nde.report.with_term`), and its
    coefficients are refitted through the solve. Each is a `nde.fields.Parameter` with a name, so that intervals and
    profiles are made of it as of those of a known system.

    ```python
    >>> import jax.numpy as jnp, nde
    >>> library = nde.fields.library(["prey", "predator"], degree=2)
    >>> coefficients = [[0.0], [0.0], [0.0], [0.0], [0.5], [0.0]]      # of each candidate, in each rate
    >>> field = nde.fields.LibraryField(library, coefficients, outputs=["predator"])
    >>> field(0.0, jnp.array([2.0, 3.0])).tolist(), list(field.parameter_values())
    ([3.0], ['prey * predator in predator'])

    ```

    **Arguments of the constructor:**

    - `library`: a `nde.fields.Library` of `x`.
    - `coefficients`: `(candidates, rates)`; $\xi$ to start from, in the units of the data.
    - `active`: of that shape; which of them there are. The others are zero and no parameters. Those that do not start
      at zero, if `None`.
    - `outputs`: a name for each rate; their numbers if `None`.

    **Call:** `field(t, x, args)` with `x` of shape `(inputs,)`; returns `(rates,)`. `t` and `args` are not used.

    **Raises:** `ValueError` for coefficients of another shape than `(candidates, rates)`, or as many names of rates.

    **Limits:** coefficients are in the units of the data, and may differ in size by orders: Adam, whose steps are alike
    for all, is no way to refit them; `nde.report.maximise` and L-BFGS are.
    """

    parameters: dict[str, Parameter]
    places: tuple[tuple[str, int, int], ...] = eqx.field(static=True)
    library: Library = eqx.field(static=True)
    rates: int = eqx.field(static=True)

    def __init__(
        self,
        library: Library,
        coefficients: ArrayLike,
        *,
        active: ArrayLike | None = None,
        outputs: Sequence[str] | None = None,
    ):
        start = np.asarray(coefficients, np.float64)
        if start.ndim != 2 or len(start) != len(library.candidates):
            raise ValueError(
                f"LibraryField needs coefficients of shape (candidates, rates), with {len(library.candidates)} "
                f"candidates, but got the shape {start.shape}."
            )
        names = tuple(map(str, range(start.shape[1]))) if outputs is None else tuple(outputs)
        if len(set(names)) != start.shape[1]:
            raise ValueError(f"LibraryField needs a name for each of {start.shape[1]} rates, but got {outputs!r}.")
        chosen = start != 0 if active is None else np.broadcast_to(np.asarray(active, bool), start.shape)
        self.library, self.rates = library, start.shape[1]
        self.places = tuple((f"{library.names[j]} in {names[i]}", int(j), int(i)) for i, j in np.argwhere(chosen.T))
        self.parameters = {name: Parameter(start[j, i], name=name) for name, j, i in self.places}

    @property
    def coefficients(self) -> Float[Array, "candidates rates"]:
        """The coefficients in the units of the data, zero where they are not active."""
        nothing = jnp.zeros((len(self.library.candidates), self.rates))
        if not self.places:
            return nothing
        values = jnp.stack([self.parameters[name].value for name, _, _ in self.places])
        rows, columns = (np.array([place[k] for place in self.places]) for k in (1, 2))
        return nothing.astype(values.dtype).at[rows, columns].set(values)

    def parameter_values(self) -> dict[str, Array]:
        """The coefficients that are active, by name: `prey * predator in predator`."""
        return {name: self.parameters[name].value for name, _, _ in self.places}

    def __call__(self, t: Any, x: Float[Array, " inputs"], args: Any = None) -> Float[Array, " rates"]:
        return self.library(x) @ self.coefficients.astype(x.dtype)
