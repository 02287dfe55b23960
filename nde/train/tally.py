"""What a model counts while its loss is computed, such as the steps of its solves, brought out beside the gradient."""

import operator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PyTree

COUNTS = ("solves", "accepted", "rejected", "evaluations")


class Tally(eqx.Module):
    r"""Where a model adds up its solves, their steps that were accepted and rejected, and evaluations of their fields.

    A solve may lie within any `jax.vmap`, scan or loop of a loss, out of which no number can be handed but through all
    that stand around it. Derivatives come out by themselves, summed over all uses: so what is counted is made the
    derivative of the loss by `sums`, on which nothing else depends.

    - `sums`: `(4,)`, zero.
    """

    sums: Float[Array, " counts"]

    @classmethod
    def zero(cls) -> "Tally":
        """One that has counted nothing."""
        return cls(jnp.zeros(len(COUNTS), jnp.float32))

    def named(self) -> dict[str, Array]:
        """What was counted, of its derivative."""
        return dict(zip(COUNTS, self.sums, strict=True))


class AbstractTallied(eqx.Module):
    """What counts, if it is given a tally: its field `tally`, which is `None` in a model as it is made."""


def with_tally(model: PyTree, tally: Tally | None) -> PyTree:
    """The model whose parts that can count do so on a tally."""

    def given(part: Any) -> Any:
        if not isinstance(part, AbstractTallied):
            return part
        return eqx.tree_at(operator.attrgetter("tally"), part, tally, is_leaf=lambda x: x is None)

    return jax.tree.map(given, model, is_leaf=lambda part: isinstance(part, AbstractTallied))


def tallied(tree: PyTree[Array], tally: Tally | None, counts: tuple[ArrayLike, ...]) -> PyTree[Array]:
    """The tree, with numbers in the order of `COUNTS` on the tally, if there is one.

    They count once for each time that a derivative is taken through what stands in the tree.

    **Limits:** with a tally derivatives are had in reverse mode alone.
    """
    if tally is None:
        return tree
    found = jnp.stack([jnp.asarray(x, jnp.float32) for x in counts])
    return _tallied(tree, tally.sums, jax.lax.stop_gradient(found))


@jax.custom_vjp
def _tallied(tree: PyTree[Array], sums: Array, counts: Array) -> PyTree[Array]:
    del sums, counts
    return tree


def _forward(tree: PyTree[Array], sums: Array, counts: Array) -> tuple[PyTree[Array], Array]:
    del sums
    return tree, counts


def _backward(counts: Array, cotangent: PyTree[Array]) -> tuple[PyTree[Array], Array, None]:
    # Under a jax.vmap the numbers may be the same for all examples, but each has its own cotangent: by that they are
    # added up over the examples.
    for leaf in jax.tree.leaves(cotangent):
        if jnp.issubdtype(leaf.dtype, jnp.inexact) and leaf.size:
            own = leaf.reshape(-1)[0]
            return cotangent, jnp.where(own == own, counts, counts), None
    return cotangent, counts, None


_tallied.defvjp(_forward, _backward)
