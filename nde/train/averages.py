"""Weighted means over examples, kept as the sums that they are ratios of, so that the parts of a batch can be added."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


class Average(eqx.Module):
    r"""A weighted mean over the examples of a batch, $\sum_i a_i / \sum_i w_i$, by what each example adds to it.

    - `amounts`: $a_i$, of each example.
    - `weights`: $w_i$, such as the number of an example's values; `None` for one each. They must not depend on the
      parameters of a model: in the gradient they are constants.
    """

    amounts: Float[Array, "*batch"]
    weights: Float[Array, "*batch"] | None = None

    def value(self) -> Float[Array, ""]:
        """The mean over a batch that is there as a whole."""
        if self.weights is None:
            return jnp.mean(self.amounts)
        return jnp.sum(self.amounts) / jnp.sum(self.weights)

    def sums(self, counted: Bool[Array, " batch"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Both sums over the examples that count: those of two parts of a batch add up to those of the whole."""
        weights = jnp.ones_like(self.amounts) if self.weights is None else self.weights
        # The amount of an example that does not count may be anything, and a NaN times zero would still be one.
        amounts, weights = (jnp.sum(jnp.where(counted, x, 0)) for x in (self.amounts, weights))
        return amounts, jax.lax.stop_gradient(weights)


class Averages(eqx.Module):
    """What a loss says of a batch.

    - `losses`: the loss is the sum of their values.
    - `parts`: what is reported beside it, by name.
    - `per_example`: `(batch,)`, the loss of each example.
    """

    losses: tuple[Average, ...]
    parts: dict[str, Average]
    per_example: Float[Array, " batch"]
