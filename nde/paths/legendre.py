r"""White noise on an interval in Legendre coordinates, in which W, H and K are independent.

On an interval of length $h$ let $\phi_k(x) = \sqrt{2k+1}\,P_k(2x - 1)$, the orthonormal Legendre polynomials on
$[0, 1]$, and

$$\xi_k = h^{-1/2} \int \phi_k(v / h)\,dW_v, \qquad W = \sqrt h\,\xi_0, \quad
  H = -\tfrac12 \sqrt{h/3}\,\xi_1, \quad K = \tfrac1{12} \sqrt{h/5}\,\xi_2.$$

The $\xi_k$ are independent standard normals. W is the increment, H the space–time and K the space–time–time Lévy area
(Foster 2020, definition 4.2.1; Foster, Lyons, Oberhauser 2020, arXiv 1904.06998, on polynomial expansions of Brownian
motion). Joining intervals, and splitting one into two, are orthogonal maps of the coordinates, so nothing cancels.
"""

import functools
import math
import operator
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

# How many coordinates each kind of increment is made of.
ORDERS: dict[Any, int] = {
    diffrax.BrownianIncrement: 1,
    diffrax.SpaceTimeLevyArea: 2,
    diffrax.SpaceTimeTimeLevyArea: 3,
}
# Of the coordinates, in W, H and K.
FACTORS = (1.0, -0.5 / math.sqrt(3), 1 / (12 * math.sqrt(5)))


# A small matrix of arrays, entry by entry: one kernel makes them all, over whatever the arrays run over.
Matrix = tuple[tuple[Any, ...], ...]


def polynomials(x: Array, order: int) -> tuple[Any, ...]:
    r"""The first `order` (at most three) of the $\phi_k$ at `x`."""
    y = 2 * x - 1
    return (1.0, math.sqrt(3) * y, math.sqrt(5) * (1.5 * y**2 - 0.5))[:order]


def product(a: Matrix, b: Matrix) -> Matrix:
    """The product of two small matrices; the entry 0 is no array, and costs nothing."""

    def entry(k: int, j: int) -> Any:
        terms = [x * row[j] for x, row in zip(a[k], b, strict=True) if not (_is_zero(x) or _is_zero(row[j]))]
        return functools.reduce(operator.add, terms) if terms else 0

    return tuple(tuple(entry(k, j) for j in range(len(b[0]))) for k in range(len(a)))


def _is_zero(x: Any) -> bool:
    return isinstance(x, int) and x == 0


def overlap(order: int, scale: Array, start: Array, a: Array, b: Array) -> Matrix:
    r"""The integrals $\int_a^b \phi_k(s + c y)\,\phi_j(y)\,dy$, `scale` being $c$ and `start` $s$: `order` rows."""
    nodes, weights = np.polynomial.legendre.leggauss(order)  # exact: the degree is at most 2 (order - 1)
    places = [a + (b - a) * (0.5 + 0.5 * float(x)) for x in nodes]
    outer = [polynomials(start + scale * y, order) for y in places]
    inner = [
        tuple(0.5 * float(w) * (b - a) * p for p in polynomials(y, order)) for y, w in zip(places, weights, strict=True)
    ]
    return product(tuple(zip(*outer, strict=True)), tuple(inner))


def split(order: int, theta: Array) -> Matrix:
    r"""What the new noise adds to the left part when an interval is split at the fraction `theta`; row i, column j.

    With $M_l$ and $M_r$ the matrices that make the whole's coordinates of the parts', $\xi = M_l \xi^l + M_r \xi^r$,
    the law of the parts given the whole is $\xi^l = M_l^\top \xi + N_l z$, $\xi^r = M_r^\top \xi + N_r z$ with $z$
    standard normal and $(N_l; N_r)$ the orthonormal complement of $(M_l\,M_r)$. The one chosen is lower triangular;
    here is $N_l$, and $(N_r)_{ij}(\theta) = -(-1)^{i+j} (N_l)_{ij}(1 - \theta)$. The law is that of Jelinčič, Foster,
    Kidger 2024, theorem 3.7, and Foster 2020, theorems 6.1.4 and 6.1.6.
    """
    rest = 1 - theta
    p, root = theta * rest, jnp.sqrt(rest)
    if order == 1:
        return ((root,),)
    if order == 2:
        d = jnp.sqrt(1 - 3 * p)
        return ((d * root, 0), (math.sqrt(3) * theta**2 * root / d, rest * root / d))
    e, d = jnp.sqrt(1 - 8 * p + 20 * p**2), jnp.sqrt(1 - 5 * p + 5 * p**2)
    return (
        (root * e, 0, 0),
        (math.sqrt(3) * theta**2 * root * (10 * theta**2 - 15 * theta + 6) / e, rest * root * d / e, 0),
        (
            math.sqrt(5) * theta**3 * root * (theta - rest) / e,
            math.sqrt(15) * theta**4 * rest * root / (d * e),
            rest**2 * root / d,
        ),
    )


def structure(name: str, shape: Any) -> PyTree[jax.ShapeDtypeStruct]:
    """What an increment looks like, from a constructor's argument `shape`; `ValueError` if it does not say."""
    if isinstance(shape, tuple) and all(isinstance(size, int) for size in shape):
        shape = jax.ShapeDtypeStruct(shape, jnp.result_type(float))
    for leaf in jax.tree.leaves(shape):
        if not isinstance(leaf, jax.ShapeDtypeStruct) or not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                f"{name} needs shape to be a tuple of integers, or a pytree of jax.ShapeDtypeStruct with real floating "
                f"dtypes, but got {leaf!r}."
            )
    return shape


def check_levy_area(name: str, levy_area: Any, known: tuple[Any, ...]) -> None:
    """`ValueError` if a path cannot make that kind of increment."""
    if levy_area not in known:
        names = ", ".join(kind.__name__ for kind in known)
        raise ValueError(
            f"{name} needs levy_area to be one of {names}, but got {getattr(levy_area, '__name__', levy_area)!r}."
        )


def increment(kind: Any, dt: Array, xi: PyTree[Array]) -> Any:
    """The increment over a length of time `dt` with Legendre coordinates `xi`, each leaf of shape `(order, *shape)`.

    A negative `dt` is the increment from the later to the earlier time, which has the other sign in W and K, not in H.
    """
    sign = jnp.where(dt < 0, -1, 1)

    def part(k: int) -> Any:
        factor = FACTORS[k] * jnp.sqrt(jnp.abs(dt)) * (1 if k == 1 else sign)
        return jax.tree.map(lambda x: factor.astype(x.dtype) * x[k], xi)

    parts = {name: part(k) for k, name in enumerate("WHK"[: ORDERS[kind]])}
    return kind(dt=jax.tree.map(lambda x: dt.astype(x.dtype), xi), **parts)


@jax.custom_jvp
def constant_time(t: Array) -> Array:
    """`t`; an attempt to differentiate by it is an error, since a Brownian path has no derivative."""
    return t


def _refuse_tangent(primals, tangents):
    if not isinstance(tangents[0], jax.custom_derivatives.SymbolicZero):
        raise ValueError(
            "A Brownian path was differentiated by time: it has no derivative. Hold the times of an SDE's steps "
            "constant (jax.lax.stop_gradient), or differentiate by something else."
        )
    return primals[0], tangents[0]


constant_time.defjvp(_refuse_tangent, symbolic_zeros=True)
