"""A controlled equation along the knots of its path."""

from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from nde.paths import Pieces, pieces_of


class KnotTerm(diffrax.AbstractTerm):
    r"""The equation $dy = f(t, y)\,dX(t)$ with the number of the knot for its time: on the piece from knot $i$ on,

    $$\frac{dy}{ds} = f(t, y)\,\frac{dX}{ds}, \qquad t = t_i + (s - i)\,h_i, \quad i \le s \le i + 1.$$

    The solution at $s = i$ is $y(t_i)$. A step of an explicit Runge–Kutta method from $s = i$ to $i + 1$ is the one
    from $t_i$ to $t_{i+1}$, but knows in which piece it is: it needs no search for it, its stages at both ends see the
    slopes of that piece where the path bends, and what it takes of the path is the same number of numbers in every
    step, all of them known before the first. So series of different times, in one batch, step along their own
    knots, and where knots repeat a time, as padding does, the steps have no length and change nothing.

    ```python
    >>> import jax.numpy as jnp, nde
    >>> path = nde.LinearInterpolation(jnp.array([0.0, 0.1, 3.0]), jnp.array([[0.0], [1.0], [4.0]]))
    >>> term = nde.terms.KnotTerm(lambda t, y, args: y[:, None], path)  # y = exp(X)
    >>> y = nde.diffeqsolve(term, nde.Tsit5(), 0.0, 2.0, 0.1, jnp.ones(1)).ys[-1]
    >>> round(float(jnp.log(y)[0]), 5)
    4.0

    ```

    **Arguments:** `field`: any callable `f(t, y, args)` that returns a matrix `(state_size, channels)`, or that has a
    method `product(t, y, dx, args)`, the matrix times `dx`; `path`: a `diffrax.LinearInterpolation` or a
    `diffrax.CubicInterpolation` of an array `(knots, channels)`, which is solved from 0 to `knots - 1`, in steps that
    do not go past a knot: `dt0` is one over a whole number.

    **Raises:** `TypeError` for another path; `ValueError` by a solver that takes more of a term than its product with a
    control, as implicit ones and `diffrax.ReversibleHeun` do.
    """

    field: Callable[..., Any]
    pieces: Pieces

    def __init__(self, field: Callable[..., Any], path: Any):
        self.field, self.pieces = field, pieces_of(path)

    def vf(self, t: Any, y: Any, args: Any) -> Any:
        del t
        return self.field(self.pieces.starts[0], y, args)  # what a matrix there is: no solver takes its values

    def contr(self, t0: Any, t1: Any, **kwargs: Any) -> "_Reach":
        rates = self.pieces.rates
        number = jnp.clip(jnp.floor((t0 + t1) / 2), 0, len(rates) - 1)  # no integer: a control has a cotangent
        return _Reach(number, (t1 - t0).astype(rates.dtype) * rates[number.astype(jnp.int32)])

    def prod(self, vf: Any, control: "_Reach") -> Any:
        raise ValueError(
            "steps from knot to knot are for solvers that take of a term its products alone, as nde.Midpoint(), "
            "nde.Heun() or nde.Tsit5() do."
        )

    def vf_prod(self, t: Any, y: Any, args: Any, control: "_Reach") -> Any:
        number = jnp.abs(control.number)  # which turns its sign where diffrax turns time
        share = (t - number).astype(control.rates.dtype)
        dx = control.rates[-1]
        for rate in control.rates[-2::-1]:
            dx = rate + share * dx
        start, width = (x[number.astype(jnp.int32)] for x in (self.pieces.starts, self.pieces.widths))
        return product(self.field, start + share * width, y, args, dx)

    def is_vf_expensive(self, t0: Any, t1: Any, y: Any, args: Any) -> bool:
        del t0, t1, y, args
        return True  # so that no solver keeps a field without its control


class _Reach(NamedTuple):
    """What a step takes of the path: the number of its piece, and the rates of that times how far the step goes."""

    number: Array
    rates: Float[Array, "degree channels"]


def product(field: Callable[..., Any], t: Any, y: Any, args: Any, dx: ArrayLike) -> Any:
    """A field's matrix times the increment of a path; by its own method `product(t, y, dx, args)` where it has one."""
    own = getattr(field, "product", None)
    return field(t, y, args) @ dx if own is None else own(t, y, dx, args)
