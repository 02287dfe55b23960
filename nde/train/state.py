"""What training changes, what a loss returns, and what an update reports."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree


class BatchLoss(eqx.Module):
    """What a loss function returns for a batch.

    - `loss`: the scalar to minimise.
    - `parts`: named scalars that are reported beside it.
    - `per_example`: the loss of each example of the batch, shape `(batch,)`; says who is at fault if one is not finite.
    """

    loss: Float[Array, ""]
    parts: dict[str, Float[Array, ""]]
    per_example: Float[Array, " batch"]


LossFunction = Callable[[PyTree, PyTree, Int[Array, ""], PRNGKeyArray], BatchLoss]
"""`(model, batch, step, key) -> BatchLoss`, with `step` counted from zero."""


class TrainState(eqx.Module):
    """All that training changes; a checkpoint is this and nothing else.

    - `step`: number of updates made.
    - `model`, `opt_state`: after that many updates.
    - `best_model`, `best_score`, `best_step`: the model with the lowest validation score so far, its score and step.
    - `averaged`: a running average of the model's parameters (see `nde.train.with_ema`), or `None`.
    - `rate`: by what the optimiser's moves are multiplied, one until training had to go back; `None` for one.
    - `setbacks`: of a training that goes on past what fails, what it remembers of that: see `nde.train.Survival`. Only
      callbacks are given it, for checkpoints.
    """

    step: Int[Array, ""]
    model: PyTree
    opt_state: PyTree
    best_model: PyTree
    best_score: Float[Array, ""]
    best_step: Int[Array, ""]
    averaged: PyTree = None
    rate: Float[Array, ""] | None = None
    setbacks: "Setbacks | None" = None

    @classmethod
    def create(cls, model: PyTree, opt_state: PyTree, averaged: PyTree = None) -> "TrainState":
        """The state before the first update. An update's `init` makes it: see `nde.train.Update`."""
        # An array made from Python numbers is weakly typed until the first update, and the step would compile twice.
        model, opt_state, averaged = jax.tree.map(
            lambda x: jnp.asarray(x, x.dtype) if eqx.is_array(x) else x, (model, opt_state, averaged)
        )
        zero = jnp.zeros((), jnp.int32)
        return cls(zero, model, opt_state, model, jnp.asarray(jnp.inf, jnp.float32), zero, averaged)

    def advanced(self, model: PyTree, opt_state: PyTree) -> "TrainState":
        """The state a step further, with this model and this optimiser's state."""
        return eqx.tree_at(lambda s: (s.step, s.model, s.opt_state), self, (self.step + 1, model, opt_state))

    @property
    def evaluated_model(self) -> PyTree:
        """The model that is validated, kept as the best, and used: with the averaged parameters if there are any."""
        if self.averaged is None:
            return self.model
        parameters, rest = eqx.partition(self.model, eqx.is_inexact_array)
        averaged = jax.tree.map(lambda mean, like: mean.astype(like.dtype), self.averaged, parameters)
        return eqx.combine(averaged, rest)

    def copied(self) -> "TrainState":
        """The same with buffers of its own for what a step changes, so that a step may take them for its results."""

        def copy(tree: PyTree) -> PyTree:
            return jax.tree.map(lambda x: jnp.copy(x) if eqx.is_array(x) else x, tree)

        return replace(self, **{name: copy(getattr(self, name)) for name in CHANGED})

    def is_used_up(self) -> bool:
        """Whether a step has taken its buffers."""
        return any(x.is_deleted() for x in jax.tree.leaves(self) if isinstance(x, jax.Array))


CHANGED = ("step", "model", "opt_state", "averaged")
"""What of a state a step changes."""


class Setbacks(eqx.Module):
    """What a training that goes on past what fails remembers of it.

    - `out`: which examples are left out until the next validation.
    - `skipped`: how many updates in a row could not be made; `returns`: how often training went back; `fresh`: whether
      the state itself is to be gone back to, once a step is made from it.
    - `good_step`, `good_model`, `good_opt_state`, `good_averaged`: of the state to go back to.
    """

    out: Bool[Array, " examples"]
    skipped: Int[Array, ""]
    returns: Int[Array, ""]
    fresh: Bool[Array, ""]
    good_step: Int[Array, ""]
    good_model: PyTree
    good_opt_state: PyTree
    good_averaged: PyTree


class StepReport(eqx.Module):
    """What one update was like.

    - `batch`: the `nde.train.BatchLoss` before it.
    - `gradient_norm`: global norm, before clipping.
    - `finite`: whether the gradient is finite, for each array of parameters in the order of the model's leaves.
    - `is_finite`: whether every loss and gradient that the update used is finite. If not, the update is not made.
    - `left_out`: the examples of the batch that were left out of the update, by name, and why: see `nde.train.fit`.
    - `counts`: of all the solves of the batch together, how many there were, under `solves`, the steps `accepted` and
      `rejected`, and the `evaluations` of their fields on the way forward; empty where they are not counted. Rows that
      fill a batch up, to divide it among devices or turns, are solved and counted too.
    - `seconds`: what was spent on taking the batch from the `data`, and on the `step`.
    """

    batch: BatchLoss
    gradient_norm: Float[Array, ""]
    finite: Bool[Array, " arrays"]
    is_finite: Bool[Array, ""]
    left_out: dict[str, str] = eqx.field(default_factory=dict)
    counts: dict[str, Float[Array, ""]] = eqx.field(default_factory=dict)
    seconds: dict[str, float] = eqx.field(default_factory=dict)


def tree_where(flag: Bool[Array, ""], new: Any, old: Any) -> Any:
    """`new` where the flag is set, else `old`, array by array; what is no array, or is the same, comes from `new`."""
    return jax.tree.map(lambda a, b: jnp.where(flag, a, b) if eqx.is_array(a) and a is not b else a, new, old)
