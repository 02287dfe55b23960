r"""Itô and Stratonovich: one equation in either reading, for diagonal noise."""

import enum
from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from nde.terms.jaxpr_dependence import dependence
from nde.terms.noise import noise_kind, NoiseKind


class Interpretation(enum.StrEnum):
    """How a stochastic integral is read; a drift that is right for one of them declares it as `interpretation`."""

    ITO = "Itô"
    STRATONOVICH = "Stratonovich"


def to_stratonovich(terms: diffrax.MultiTerm) -> diffrax.MultiTerm:
    r"""The Stratonovich equation with the solutions of an Itô equation with diagonal noise:

    $$dy_i = f_i\,dt + g_i\,dW_i \quad\longrightarrow\quad
      dy_i = \bigl(f_i - \tfrac12\,g_i\,\partial_{y_i} g_i\bigr)\,dt + g_i \circ dW_i.$$

    **Arguments:** `terms`: `MultiTerm(ODETerm(drift), ControlTerm(diffusion, path))` with diagonal noise: the
    `diffusion(t, y, args)` returns a `lineax.DiagonalLinearOperator` or another operator that lineax knows to be
    diagonal, or a scalar for a scalar state; $g_i$ may depend on all of $y$.

    **Returns:** the same with another drift, which declares `interpretation = "Stratonovich"`: `nde.diffeqsolve`
    refuses it to a solver that converges to the Itô solution.

    **Raises:** `ValueError` for other terms, and for a drift that declares to be Stratonovich's already. When the drift
    is first traced, `ValueError` if the noise is not diagonal, or if $g$ depends on $y$ by an operation whose
    derivative jumps, such as `relu`, `leaky_relu`, `abs`, `max`, `min`, or `where` by a comparison: it is named. The
    formula needs a $g$ with a continuous derivative. `softplus`, `silu`, `tanh`, `gelu`, `sin` and `exp` are fine.

    **Limits:** one Jacobian-vector product of the diffusion per evaluation of the drift if each $g_i$ depends on its
    own $y_i$ alone, which is so if its operations show it, or if the diffusion declares
    `noise = NoiseKind.DIAGONAL`, which is believed. Else one per state: the diagonal of a Jacobian costs as much.
    The new drift holds the diffusion too: to train it, convert inside of the function that is differentiated.

    **Source:** Kloeden & Platen, *Numerical Solution of Stochastic Differential Equations*, 1992, section 4.9,
    equations (9.10) and (9.11).
    """
    return _converted(terms, Interpretation.STRATONOVICH, "to_stratonovich")


def to_ito(terms: diffrax.MultiTerm) -> diffrax.MultiTerm:
    r"""The Itô equation with the solutions of a Stratonovich equation with diagonal noise:

    $$dy_i = f_i\,dt + g_i \circ dW_i \quad\longrightarrow\quad
      dy_i = \bigl(f_i + \tfrac12\,g_i\,\partial_{y_i} g_i\bigr)\,dt + g_i\,dW_i.$$

    All else is as in `nde.to_stratonovich`, whose inverse it is: of terms that one of them made, the other gives
    back the drift that they were made of.
    """
    return _converted(terms, Interpretation.ITO, "to_ito")


def interpretation_of(terms: PyTree[Any]) -> Interpretation | None:
    """The reading that the drift of `MultiTerm(ODETerm(drift), ...)` declares, if it does."""
    drift = terms.terms[0] if isinstance(terms, diffrax.MultiTerm) and terms.terms else None
    declared = getattr(getattr(drift, "vector_field", None), "interpretation", None)
    return Interpretation(declared) if declared in tuple(Interpretation) else None


def _converted(terms: Any, to: Interpretation, name: str) -> diffrax.MultiTerm:
    kinds = [type(term) for term in terms.terms] if isinstance(terms, diffrax.MultiTerm) else type(terms).__name__
    if kinds != [diffrax.ODETerm, diffrax.ControlTerm]:
        found = kinds if isinstance(kinds, str) else f"MultiTerm({', '.join(kind.__name__ for kind in kinds)})"
        raise ValueError(f"{name} needs MultiTerm(ODETerm(drift), ControlTerm(diffusion, path)), but got {found}.")
    drift, diffusion = terms.terms
    if interpretation_of(terms) is to:
        raise ValueError(f"{name} was given a drift that is right for the {to} reading already.")
    field = drift.vector_field
    back = isinstance(field, _CorrectedDrift) and field.diffusion is diffusion.vector_field
    field = field.drift if back else _CorrectedDrift(field, diffusion.vector_field, to, name)
    return diffrax.MultiTerm(diffrax.ODETerm(field), diffusion)


class _CorrectedDrift(eqx.Module):
    """A drift with the correction for another reading; `name`: of the function that made it, for its errors."""

    drift: Callable[..., PyTree[Array]]
    diffusion: Callable[..., Any]
    interpretation: Interpretation = eqx.field(static=True)
    name: str = eqx.field(static=True)

    def __call__(self, t: Any, y: PyTree[Array], args: Any) -> PyTree[Array]:
        half = 0.5 if self.interpretation is Interpretation.ITO else -0.5
        correction = self._own_derivatives(lambda y: _diagonal(self.diffusion(t, y, args), y, self.name), y)
        return jax.tree.map(lambda f, c: f + half * c, self.drift(t, y, args), correction)

    def _own_derivatives(self, g: Callable[..., PyTree[Array]], y: PyTree[Array]) -> PyTree[Array]:
        r"""$g_i\,\partial_{y_i} g_i$."""
        found = dependence(g, y)
        kinks = [each.kink for each in found if each.kink is not None]
        if kinks:
            raise ValueError(
                f"{self.name} needs a diffusion whose derivative in y is continuous, but this one depends on y by "
                f"{kinks[0]}. Take a smooth function, as softplus for relu."
            )
        if all(each.leaf is None for each in found):
            return jax.tree.map(jnp.zeros_like, y)
        elementwise = all(each.leaf in (None, i) for i, each in enumerate(found))
        if elementwise or noise_kind(self.diffusion) is NoiseKind.DIAGONAL:
            return jax.jvp(g, (y,), (g(y),))[1]
        flat, unravel = ravel_pytree(y)

        def one(direction: Float[Array, " state"]) -> Array:
            value, moved = jax.jvp(lambda x: ravel_pytree(g(unravel(x)))[0], (flat,), (direction,))
            return jnp.sum(value * direction) * jnp.sum(moved * direction)

        return unravel(jax.vmap(one)(jnp.eye(flat.size, dtype=flat.dtype)))


def _diagonal(g: Any, y: PyTree[Array], name: str) -> PyTree[Array]:
    """The factors in front of each state's own noise, in the shape of the state."""
    if isinstance(g, lx.DiagonalLinearOperator) and jax.tree.structure(g.diagonal) == jax.tree.structure(y):
        return g.diagonal
    if isinstance(g, lx.AbstractLinearOperator) and lx.is_diagonal(g):
        return ravel_pytree(y)[1](lx.diagonal(g))
    scalars = [jnp.shape(x) == () for x in (*jax.tree.leaves(g), *jax.tree.leaves(y))]
    if not isinstance(g, lx.AbstractLinearOperator) and all(scalars):
        return g
    found = type(g).__name__ if isinstance(g, lx.AbstractLinearOperator) else jax.tree.map(jnp.shape, g)
    raise ValueError(
        f"{name} needs diagonal noise, that is a diffusion that returns a lineax.DiagonalLinearOperator (as "
        f"nde.terms.diffusion_term makes of a diagonal), but this one returns {found}."
    )
