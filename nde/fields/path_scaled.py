"""The channels of a path, each on its own scale."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from nde.terms import product


class PathScaledField(eqx.Module):
    r"""A field of the scaled path: $f(t, y)\,\mathrm{diag}(s)$, so that $dy = f(t, y)\,d(s \odot X)$.

    The counts and the clock of a path grow with the length of a series, its values do not. Scales that let each channel
    run over a range of order one keep a bounded field from being all about the counts.

    **Arguments of the constructor:**

    - `field`: any callable `f(t, y, args)` that returns a matrix `(state_size, path_size)`.
    - `scales`: $s$, `path_size` numbers; fixed, not trained.

    **Call:** `field(t, y, args)` as `field`; `field.product(t, y, dx, args)` is the matrix times `dx`.

    **Raises:** `ValueError` if the matrix has another number of columns than there are scales.
    """

    field: Callable[..., Any]
    scales: tuple[float, ...] = eqx.field(static=True)

    def __init__(self, field: Callable[..., Any], scales: Sequence[float]):
        self.field, self.scales = field, tuple(float(scale) for scale in scales)

    def __call__(self, t: Any, y: Float[Array, " state"], args: Any = None) -> Float[Array, "state path"]:
        matrix = self.field(t, y, args)
        if matrix.shape[-1] != len(self.scales):
            raise ValueError(
                f"PathScaledField has {len(self.scales)} scales, but its field returned a matrix {matrix.shape}; "
                "give a scale for each channel of the path."
            )
        return matrix * jnp.asarray(self.scales, matrix.dtype)[None, :]

    def product(
        self, t: Any, y: Float[Array, " state"], dx: Float[Array, " path"], args: Any = None
    ) -> Float[Array, " state"]:
        """The matrix times `dx`: the path is scaled, and not every entry of the matrix."""
        return product(self.field, t, y, args, dx * jnp.asarray(self.scales, dx.dtype))
