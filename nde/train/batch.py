"""The loss of a batch from an objective of one example."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, PRNGKeyArray, PyTree

from nde.train.averages import Average, Averages
from nde.train.state import BatchLoss


class ExampleTerms(Protocol):
    """What an objective says of one example, a pytree of arrays; the methods are of a batch of them, stacked."""

    @property
    def penalty(self) -> Array | None:
        """A penalty of each example, if there is one; its mean is added to the loss."""
        ...

    def losses(self) -> tuple[Average, ...]:
        """The loss of the batch is the sum of their values."""
        ...

    def per_example(self) -> Array:
        """The loss of each example."""
        ...

    def parts(self) -> dict[str, Average]:
        """What is reported beside the loss, by name."""
        ...


@dataclass(frozen=True)
class ObjectiveLoss:
    """A `nde.train.LossFunction` that `nde.train.batch_loss` made, which can also be had of a part of a batch."""

    objective: Callable[..., ExampleTerms]
    share: Callable[[Array], ArrayLike]

    def __call__(self, model: PyTree, batch: tuple[Any, ...], step: Array, key: PRNGKeyArray) -> BatchLoss:
        """The loss of a whole batch, each example with a key of its own, split from `key`."""
        found = self.averages(model, batch, step, jax.random.split(key, len(jax.tree.leaves(batch)[0])))
        first, *others = [average.value() for average in found.losses]
        loss = sum((value.astype(first.dtype) for value in others), first)
        return BatchLoss(loss, {name: part.value() for name, part in found.parts.items()}, found.per_example)

    def averages(self, model: PyTree, batch: tuple[Any, ...], step: Array, keys: PRNGKeyArray) -> Averages:
        """The means that the loss is the sum of, over the examples of a part of a batch, with a key for each."""

        def example(arrays: tuple[Any, ...], key: Array) -> ExampleTerms:
            return self.objective(model, *arrays, step=step, key=key)

        terms = jax.vmap(example)(batch, keys)
        losses, parts = terms.losses(), terms.parts()
        if terms.penalty is not None:
            share = jnp.asarray(self.share(step), terms.penalty.dtype)
            losses, parts = (*losses, Average(share * terms.penalty)), parts | {"penalty": Average(terms.penalty)}
        return Averages(losses, parts, terms.per_example())


def batch_loss(
    objective: Callable[..., ExampleTerms], *, share: Callable[[Array], ArrayLike] = lambda step: 1.0
) -> ObjectiveLoss:
    r"""The loss of a batch: what the objective says of each of its examples, averaged, plus a share of the penalties.

    $L = \ell + s_n\,\overline{p}$, with $\ell$ what the terms make of the batch, $p$ their penalties, if they have any,
    and $s_n$ the share of them that counts at step $n$.

    **Arguments:** `objective`: `objective(model, *arrays, step=step, key=key)` for one example, of whose arrays a batch
    is a tuple; hand in what else it takes by `functools.partial`. `share`: `step -> share`, such as one that falls over
    the training.

    **Returns:** a `nde.train.LossFunction`. The key of an example depends on the batch's key and the example's place in
    the batch alone, so that the loss is the same however a batch is shared among devices.
    """
    return ObjectiveLoss(objective, share)
