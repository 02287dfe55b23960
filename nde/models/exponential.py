"""Exponentials of many small matrices at once, and their products."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

_UNROLLED = 32
"""Matrices up to this size are multiplied term by term: XLA's batched product on a CPU calls a routine a matrix, which
takes 110 ms for 65536 products of 4 × 4, and term by term 0.4 ms; for 4096 of 16 × 16, 1.6 and 0.6 ms."""


def multiply(a: Inexact[Array, "*rows n n"], b: Inexact[Array, "*rows n m"]) -> Inexact[Array, "*rows n m"]:
    """The products of small matrices, as `a @ b`."""
    if a.shape[-1] > _UNROLLED:
        return a @ b
    terms = [a[..., j, None] * b[..., j, None, :] for j in range(a.shape[-1])]
    return sum(terms[1:], terms[0])


@jax.custom_vjp
def matrix_exponential(matrices: Float[Array, "*rows n n"]) -> Float[Array, "*rows n n"]:
    r"""The exponential of each matrix, to rounding, by Taylor's polynomial with scaling and squaring.

    Each matrix is halved until its norm is below one at which the polynomial is exact to rounding, of degree 8 in
    single and 16 in double precision, and the result squared as often; the loop of squarings runs as long as the one
    that needs most of them.

    **Arguments:** `matrices`: square ones, small, of any number.

    **Limits:** the gradient is that of reverse mode, of first order: the derivative of the exponential is self-adjoint,
    $L(A)^* = L(A^\top)$, and so the backward pass is a forward derivative at the transposed matrices, which goes
    through a loop of unknown length.

    **Source:** Higham, *Functions of Matrices*, 2008, sections 10.3 and 10.6 (scaling and squaring; Fréchet
    derivative); the polynomial by Paterson & Stockmeyer, ibid., section 4.2.
    """
    return _exponential(matrices)


def _exponential(matrices):
    degree, radius = (8, 0.6) if jnp.finfo(matrices.dtype).bits <= 32 else (16, 0.8)
    barrier = jax.lax.optimization_barrier  # or each product is computed anew within each that it enters
    norm = jax.lax.stop_gradient(jnp.max(jnp.sum(jnp.abs(matrices), -2), -1))
    halvings = jnp.ceil(jnp.log2(jnp.maximum(norm / radius, 1.0)))[..., None, None]
    halvings = jnp.where(jnp.isfinite(halvings), halvings, 0.0)  # what is broken is not squared for ever
    m = matrices * jnp.exp2(-halvings)
    one = jnp.eye(m.shape[-1], dtype=m.dtype)[(None,) * (m.ndim - 2)]
    m2 = barrier(multiply(m, m))
    powers = [one, m, m2, barrier(multiply(m2, m))]
    fourth = barrier(multiply(m2, m2))

    def part(k: int) -> Array:
        return sum((powers[i] / math.factorial(k + i) for i in range(1, 4)), one / math.factorial(k))

    found = part(degree - 4) + fourth / math.factorial(degree)
    for k in range(degree - 8, -1, -4):
        found = part(k) + multiply(fourth, barrier(found))

    def more(state):
        return jnp.any(state[1] > 0)

    def square(state):
        result, left = state
        return jnp.where(left > 0, multiply(result, result), result), left - 1

    return jax.lax.while_loop(more, square, (barrier(found), halvings))[0]


def _forward(matrices):
    return _exponential(matrices), matrices


def _backward(matrices, cotangent):
    return (jax.jvp(_exponential, (matrices.swapaxes(-1, -2),), (cotangent,))[1],)


matrix_exponential.defvjp(_forward, _backward)
