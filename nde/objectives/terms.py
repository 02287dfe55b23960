"""What an objective says of one example, and how a batch of it becomes one loss."""

from abc import abstractmethod

import equinox as eqx
from jaxtyping import Array, Float

from nde.train import Average


class AbstractTerms(eqx.Module):
    """What an objective says of one example. `jax.vmap` stacks them; the methods are of such a batch.

    `penalty` is what a regulariser makes of the example's solve, and no part of the loss; `None` without one.
    """

    penalty: eqx.AbstractVar[Array | None]

    @abstractmethod
    def losses(self) -> tuple[Average, ...]:
        """The loss of the batch, to be minimised, is the sum of these averages."""

    @abstractmethod
    def per_example(self) -> Float[Array, " batch"]:
        """The loss of each example."""

    @abstractmethod
    def parts(self) -> dict[str, Average]:
        """What is reported beside the loss, by name."""

    def mean(self) -> Float[Array, ""]:
        """The loss of the batch."""
        first, *others = [average.value() for average in self.losses()]
        return sum(others, first)


class Terms(AbstractTerms):
    """A loss and what else is reported, both to be averaged over the examples.

    - `loss`: of the example.
    - `reported`: named scalars.
    - `penalty`: see `nde.objectives.AbstractTerms`.
    """

    loss: Float[Array, "*batch"]
    reported: dict[str, Float[Array, "*batch"]] = eqx.field(default_factory=dict)
    penalty: Float[Array, "*batch"] | None = None

    def losses(self) -> tuple[Average, ...]:
        return (Average(self.loss),)

    def per_example(self) -> Float[Array, " batch"]:
        return self.loss

    def parts(self) -> dict[str, Average]:
        return {name: Average(value) for name, value in self.reported.items()}
