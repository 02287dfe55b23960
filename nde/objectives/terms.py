"""What an objective says of one example, and how a batch of it becomes one loss."""

from abc import abstractmethod

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class AbstractTerms(eqx.Module):
    """What an objective says of one example. `jax.vmap` stacks them; the methods are of such a batch.

    `penalty` is what a regulariser makes of the example's solve, and no part of the loss; `None` without one.
    """

    penalty: eqx.AbstractVar[Array | None]

    @abstractmethod
    def mean(self) -> Float[Array, ""]:
        """The loss of the batch, to be minimised."""

    @abstractmethod
    def per_example(self) -> Float[Array, " batch"]:
        """The loss of each example."""

    @abstractmethod
    def parts(self) -> dict[str, Float[Array, ""]]:
        """Named scalars that are reported beside the loss."""


class Terms(AbstractTerms):
    """A loss and what else is reported, both to be averaged over the examples.

    - `loss`: of the example.
    - `reported`: named scalars.
    - `penalty`: see `nde.objectives.AbstractTerms`.
    """

    loss: Float[Array, "*batch"]
    reported: dict[str, Float[Array, "*batch"]] = eqx.field(default_factory=dict)
    penalty: Float[Array, "*batch"] | None = None

    def mean(self) -> Float[Array, ""]:
        return jnp.mean(self.loss)

    def per_example(self) -> Float[Array, " batch"]:
        return self.loss

    def parts(self) -> dict[str, Float[Array, ""]]:
        return jax.tree.map(jnp.mean, self.reported)
