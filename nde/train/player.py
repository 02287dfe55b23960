"""Who lowers a loss by parameters of its own: one move of an optimiser."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from nde.train.gradient import slope
from nde.train.state import BatchLoss, LossFunction
from nde.train.tally import Tally


@dataclass(frozen=True, eq=False)
class Player:
    """Who lowers a loss of its own by parameters of its own: one side of `nde.train.adversarial_update`.

    - `loss`: `(model, batch, step, key) -> nde.train.BatchLoss` of the whole model; to be minimised.
    - `optimiser`: an optax transformation, of these parameters alone.
    - `parameters`: `model -> part`, the part of the model (or a tuple of parts) whose inexact arrays the player moves,
      as the first argument of `equinox.tree_at`; all of the model if `None`.
    - `project`: `model -> model`, made after each move, such as a clip of the weights that keeps a discriminator
      Lipschitz; nothing if `None`.
    - `counted`: whether the solves of the loss are counted: see `nde.train.Tally`.
    """

    loss: LossFunction
    optimiser: optax.GradientTransformation
    parameters: Callable[[PyTree], Any] | None = None
    project: Callable[[PyTree], PyTree] | None = None
    counted: bool = False

    def mask(self, model: PyTree) -> PyTree:
        """Whether each leaf of the model is a parameter of this player's."""
        return parameter_mask(model, self.parameters)

    def init(self, model: PyTree) -> PyTree:
        """The optimiser's state before the first move.

        **Raises:** `ValueError` if the player has no parameters.
        """
        chosen = chosen_parameters(model, self.parameters)
        with jax.numpy_dtype_promotion("standard"):  # as in `move`
            return self.optimiser.init(chosen)

    def move(
        self,
        model: PyTree,
        opt_state: PyTree,
        batch: PyTree,
        step: Array,
        key: PRNGKeyArray,
        *,
        rate: Array | None = None,
    ) -> "Move":
        """One step of the optimiser along the gradient of the loss, times a rate; `batch`: its arrays, or a part."""
        parameters, rest = eqx.partition(model, self.mask(model))
        tally = Tally.zero() if self.counted else None
        result, gradient, value, counted = slope(self.loss, parameters, rest, batch, step, key, tally=tally)
        # JAX's gradient of a real loss by a complex parameter is the conjugate of the direction of steepest ascent.
        gradient = jax.tree.map(jnp.conj, gradient)
        # optax multiplies its count of steps, an integer, and norms over arrays of all dtypes with the gradient, which
        # strict promotion refuses. The state keeps its dtypes: with others the next step would compile anew.
        with jax.numpy_dtype_promotion("standard"):
            optimiser = optax.with_extra_args_support(self.optimiser)  # what follows is for a line search
            changes, new = optimiser.update(
                gradient, opt_state, parameters, value=result.loss, grad=gradient, value_fn=value
            )
            if rate is not None:
                changes = jax.tree.map(lambda x: x * rate.astype(x.dtype), changes)
            moved = eqx.combine(optax.apply_updates(parameters, changes), rest)
            norm = optax.tree.norm(gradient)
        if self.project is not None:
            moved = self.project(moved)
        counts = {} if counted is None else counted.named()
        return Move(moved, _like(new, opt_state), result, norm, finite_arrays(model, gradient), counts)


def parameter_mask(model: PyTree, parameters: Callable[[PyTree], Any] | None) -> PyTree:
    """Whether each leaf of a model is an inexact array, of the part (or tuple of parts) that `parameters` picks."""
    everything = jax.tree.map(eqx.is_inexact_array, model)
    if parameters is None:
        return everything
    nothing = jax.tree.map(lambda _: False, model)
    return eqx.tree_at(parameters, nothing, parameters(everything))


def chosen_parameters(model: PyTree, parameters: Callable[[PyTree], Any] | None) -> PyTree:
    """The inexact arrays of a model that `parameters` picks, and `None` elsewhere.

    **Raises:** `ValueError` if there are none.
    """
    chosen = eqx.filter(model, parameter_mask(model, parameters))
    if not jax.tree.leaves(chosen):
        raise ValueError("There is nothing to train: no inexact array is among the parameters.")
    return chosen


class Move(eqx.Module):
    """What a player's move made: model and optimiser's state after it, the loss and the gradient's flags before it, and
    what was counted on the way."""

    model: PyTree
    opt_state: PyTree
    batch: BatchLoss
    gradient_norm: Float[Array, ""]
    finite: Bool[Array, " arrays"]
    counts: dict[str, Float[Array, ""]]

    def is_finite(self) -> Bool[Array, ""]:
        return jnp.isfinite(self.batch.loss) & jnp.all(self.finite)


def _like(new: PyTree, old: PyTree) -> PyTree:
    return jax.tree.map(lambda x, like: x.astype(like.dtype) if eqx.is_array(like) else x, new, old)


def finite_arrays(model: PyTree, gradient: PyTree) -> Bool[Array, " arrays"]:
    """Whether the gradient is finite, for each array of parameters of the model; true of those it is not by."""
    finite = jax.tree.map(lambda g: jnp.all(jnp.isfinite(g)), gradient)
    unmoved = jax.tree.map(lambda x: jnp.asarray(True), eqx.filter(model, eqx.is_inexact_array))
    return jnp.stack(jax.tree.leaves(eqx.combine(finite, unmoved)))
