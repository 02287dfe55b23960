"""The loss of a batch from an objective of one example."""

from collections.abc import Callable
from typing import Any, Protocol

import jax
from jaxtyping import Array, ArrayLike, PyTree

from nde.train.state import BatchLoss, LossFunction


class ExampleTerms(Protocol):
    """What an objective says of one example, a pytree of arrays; the methods are of a batch of them, stacked."""

    @property
    def penalty(self) -> Array | None:
        """A penalty of each example, if there is one; its mean is added to the loss."""
        ...

    def mean(self) -> Array:
        """The loss of the batch."""
        ...

    def per_example(self) -> Array:
        """The loss of each example."""
        ...

    def parts(self) -> dict[str, Array]:
        """Named scalars that are reported beside the loss."""
        ...


def batch_loss(
    objective: Callable[..., ExampleTerms], *, share: Callable[[Array], ArrayLike] = lambda step: 1.0
) -> LossFunction:
    r"""The loss of a batch: what the objective says of each of its examples, averaged, plus a share of the penalties.

    $L = \ell + s_n\,\overline{p}$, with $\ell$ what the terms make of the batch, $p$ their penalties, if they have any,
    and $s_n$ the share of them that counts at step $n$.

    **Arguments:** `objective`: `objective(model, *arrays, step=step, key=key)` for one example, of whose arrays a batch
    is a tuple; hand in what else it takes by `functools.partial`. `share`: `step -> share`, such as one that falls over
    the training.
    """

    def loss(model: PyTree, batch: tuple[Any, ...], step: Array, key: Array) -> BatchLoss:
        def example(arrays: tuple[Any, ...], key: Array) -> ExampleTerms:
            return objective(model, *arrays, step=step, key=key)

        keys = jax.random.split(key, len(jax.tree.leaves(batch)[0]))
        terms = jax.vmap(example)(batch, keys)
        result = BatchLoss(terms.mean(), terms.parts(), terms.per_example())
        return result if terms.penalty is None else result.with_penalty(terms.penalty, share(step))

    return loss
