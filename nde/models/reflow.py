"""Reflow: a flow trained on its own pairs, and how straight it has become."""

from collections.abc import Callable
from typing import Any, Protocol

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from nde.models.numerics import equal_steps, Numerics


class Carrier(Protocol):
    """A flow that carries a source forward; `nde.InterpolantModel` is one."""

    velocity: Callable[..., Any]

    def forward(self, x0: Any, args: PyTree[Any] = None, /) -> Array:
        """Where a point of the source is carried."""
        ...


def reflow_pairs(
    model: Carrier, x0: Float[Array, "points size"], args: PyTree[Any] = None
) -> tuple[Float[Array, "points size"], Float[Array, "points size"]]:
    r"""The pairs that a flow makes of source points: $(x_0, x_1)$ with $x_1$ the end of its ODE from $x_0$.

    A flow that is trained on them along straight lines, as by `nde.objectives.Matching`, has the same law and
    straighter paths, for no two of which cross, and its transport costs no more, by any convex cost.

    **Arguments:** `x0`: `(points, size)`; `args`: the conditions, with a leading axis of points, or `None`.

    **Source:** Liu, Gong, Liu, *Flow straight and fast: learning to generate and transfer data with rectified flow*,
    2022, arXiv 2209.03003, section 2.
    """

    @eqx.filter_jit
    def ends(model, x0, args):
        return jax.vmap(lambda x, a: model.forward(x, a))(x0, args)

    return x0, ends(model, x0, args)


def flow_paths(
    model: Carrier, x0: Float[Array, "points size"], args: PyTree[Any] = None, *, steps: int = 40
) -> Float[Array, "points steps+1 size"]:
    """The paths of source points, by so many equal midpoint steps, with their starts.

    **Arguments:** `x0`: `(points, size)`, of the source; `args`: the conditions, with a leading axis of points.
    """
    numerics = equal_steps(Numerics(), steps, 1 / steps, diffrax.Midpoint())

    @eqx.filter_jit
    def paths(model, x0, args):
        def one(x0, args):
            ts = jnp.linspace(0, 1, steps + 1, dtype=x0.dtype)
            return numerics.solve(diffrax.ODETerm(model.velocity), 0.0, 1.0, x0, args, saveat=diffrax.SaveAt(ts=ts)).ys

        return jax.vmap(one)(x0, args)

    return paths(model, x0, args)


def straightness(
    model: Carrier, x0: Float[Array, "points size"], args: PyTree[Any] = None, *, steps: int = 50
) -> Float[Array, ""]:
    r"""How far the paths are from straight lines, $S = \int_0^1 \mathbb E\,|x_1 - x_0 - b(t, x_t)|^2\,dt$.

    Zero for a flow that one step of Euler's method solves. The paths are those of `flow_paths`, each of whose steps
    is the velocity at its middle times its length; the integral is by these middles.

    **Arguments:** as of `flow_paths`.

    **Source:** Liu, Gong, Liu 2022, arXiv 2209.03003, section 2.
    """
    paths = flow_paths(model, x0, args, steps=steps)
    off = (paths[:, -1:] - paths[:, :1]) - steps * jnp.diff(paths, axis=1)
    return jnp.mean(jnp.sum(off**2, axis=2))
