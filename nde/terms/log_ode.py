"""The field of a log-ODE: that of a controlled equation, its Lie brackets beside it."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nde.paths import split_levels


class LogODEField(eqx.Module):
    r"""The log-ODE of a controlled equation $dy = f(y)\,dX$: what a stretch of `X` does to `y`, by its log-signature.

    With $f_i$ the columns of `f` as vector fields, and $\lambda$ the log-signature of the stretch, a tensor with an
    entry for each word of up to `depth` letters, `y` at the end of the stretch is close to `z(1)` of

    $$\frac{dz}{ds} = \sum_i \lambda_i f_i(z) + \sum_{ij} \lambda_{ij}\,(f_i \cdot \nabla) f_j(z)
      + \sum_{ijk} \lambda_{ijk}\,(f_i \cdot \nabla)(f_j \cdot \nabla) f_k(z) + \dots, \qquad z(0) = y.$$

    Since $\lambda$ is a Lie element the sums are those of brackets, as $\tfrac12 \sum_{ij} \lambda_{ij} [f_i, f_j]$.
    The derivatives are taken forward along the columns: `d` directional ones of `f` for depth two, `d + d**2` for
    three, none of which makes a Jacobian. What a stretch of length `h` of a smooth path leaves is an error of order
    `h^(depth + 1)` at least. (Windows of a smooth path, halved: the error at the end falls as `h^2`, `h^4`, `h^4` at
    depths 1, 2, 3.)

    **Arguments of the constructor:** `field`: any callable `f(t, y, args)` that returns a matrix `(state_size, d)` and
    does not depend on `t`; `depth`: of the log-signatures. Static.

    **Call:** `field(t, y, args)` is the matrix `(state_size, d + d**2 + ...)` of a path of flattened log-signatures
    (`nde.paths.log_signature_path`), so that the log-ODE is a controlled equation again;
    `field.product(t, y, dx, args)` is its product with such an increment.

    **Raises:** `ValueError` for a depth below one.

    **Source:** Walker, McLeod, Qin, Cheng, Li, Lyons, *Log Neural Controlled Differential Equations*, ICML 2024, arXiv
    2402.18512, equations 7 to 10, who take the brackets of a Hall basis: the same vector field; Boutaib, Gyurkó,
    Lyons, Yang, *Dimension-free Euler estimates of rough differential equations*, 2014, arXiv 1307.4708.
    """

    field: Callable[..., Any]
    depth: int = eqx.field(static=True)

    def __check_init__(self) -> None:
        if self.depth < 1:
            raise ValueError(f"LogODEField needs a depth of one or more, but got {self.depth}.")

    def __call__(self, t: Any, y: Float[Array, " state"], args: Any = None) -> Float[Array, "state words"]:
        return jnp.concatenate([jnp.reshape(g, (len(y), -1)) for g in self._along_words(t, y, args)], axis=1)

    def product(
        self, t: Any, y: Float[Array, " state"], dx: Float[Array, " words"], args: Any = None
    ) -> Float[Array, " state"]:
        """The matrix times a flattened log-signature."""
        found = self._along_words(t, y, args)
        levels = split_levels(dx, found[0].shape[1], self.depth)
        return sum((jnp.tensordot(g, level, level.ndim) for g, level in zip(found, levels, strict=True)), 0 * y)

    def _along_words(self, t: Any, y: Array, args: Any) -> list[Array]:
        """The derivatives along `f_i`, ..., `f_j` of `f_k`, level by level, of shape `(state, i, ..., j, k)`."""

        def field(y):
            return self.field(t, y, args)

        found, each = [], field
        for _ in range(self.depth):
            found.append(each(y))
            each = _derived(field, each)
        return found


def _derived(field: Callable[[Array], Array], g: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """The derivatives of `g` along the columns of a field, on an axis after that of the state."""

    def along(y: Array) -> Array:
        return jax.vmap(lambda v: jax.jvp(g, (y,), (v,))[1], in_axes=1, out_axes=1)(field(y))

    return along
