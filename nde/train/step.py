"""One update of a model, compiled once."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from nde.train.failures import TrainingFailed


class BatchLoss(eqx.Module):
    """What a loss function returns for a batch.

    - `loss`: the scalar to minimise.
    - `parts`: named scalars that are reported beside it.
    - `per_example`: the loss of each example of the batch, shape `(batch,)`; says who is at fault if one is not finite.
    """

    loss: Float[Array, ""]
    parts: dict[str, Float[Array, ""]]
    per_example: Float[Array, " batch"]


class TrainState(eqx.Module):
    """All that training changes; a checkpoint is this and nothing else.

    - `step`: number of updates made.
    - `model`, `opt_state`: after that many updates.
    - `best_model`, `best_score`, `best_step`: the model with the lowest validation score so far, its score and step.
    """

    step: Int[Array, ""]
    model: PyTree
    opt_state: PyTree
    best_model: PyTree
    best_score: Float[Array, ""]
    best_step: Int[Array, ""]

    @classmethod
    def create(cls, model: PyTree, optimiser: optax.GradientTransformation) -> "TrainState":
        """The state before the first update."""
        # An array made from Python numbers is weakly typed until the first update, and the step would compile twice.
        model = jax.tree.map(lambda x: jnp.asarray(x, x.dtype) if eqx.is_array(x) else x, model)
        opt_state = optimiser.init(eqx.filter(model, eqx.is_inexact_array))
        zero = jnp.zeros((), jnp.int32)
        return cls(zero, model, opt_state, model, jnp.asarray(jnp.inf, jnp.float32), zero)


class StepReport(eqx.Module):
    """What one update was like: the `nde.train.BatchLoss` before it, and where its gradient is finite.

    - `gradient_norm`: global norm, before clipping.
    - `finite`: one flag for each array of parameters, in the order of `parameter_names`.
    """

    batch: BatchLoss
    gradient_norm: Float[Array, ""]
    finite: Bool[Array, " arrays"]


LossFunction = Callable[[PyTree, PyTree, Int[Array, ""], PRNGKeyArray], BatchLoss]
StepFunction = Callable[[TrainState, PyTree, np.ndarray, PRNGKeyArray], tuple[TrainState, StepReport]]


class NonFiniteLoss(TrainingFailed, FloatingPointError):
    """Training met a loss or a gradient that is not finite, and left the state as it was before that step."""


def make_step(loss_function: LossFunction, optimiser: optax.GradientTransformation) -> StepFunction:
    """Compile one update: take a batch's rows, differentiate the loss, let the optimiser move the parameters.

    **Arguments:**

    - `loss_function`: `(model, batch, step, key) -> BatchLoss`.
    - `optimiser`: an optax transformation.

    **Returns:** `(state, data, indices, key) -> (state, StepReport)`. `data` is a pytree of arrays whose first axis
    counts examples, and stays on the device; `indices` picks the batch; `key` is folded with the step, so a run is a
    function of its seed. An update whose loss or gradient is not finite is not made: the state comes back unchanged.
    """

    @eqx.filter_jit
    def update(state: TrainState, data: PyTree, indices: Array, key: PRNGKeyArray) -> tuple[TrainState, StepReport]:
        batch = jax.tree.map(lambda x: x[indices], data)
        parameters, rest = eqx.partition(state.model, eqx.is_inexact_array)

        def loss(parameters: PyTree) -> tuple[Array, BatchLoss]:
            result = loss_function(
                eqx.combine(parameters, rest), batch, state.step, jax.random.fold_in(key, state.step)
            )
            return result.loss, result

        (_, result), gradient = jax.value_and_grad(loss, has_aux=True)(parameters)
        changes, opt_state = optimiser.update(gradient, state.opt_state, parameters)
        moved = eqx.combine(optax.apply_updates(parameters, changes), rest)
        finite = jnp.stack([jnp.all(jnp.isfinite(g)) for g in jax.tree.leaves(gradient)])
        sound = jnp.isfinite(result.loss) & jnp.all(finite)
        old = (state.step, state.model, state.opt_state)
        new = (state.step + 1, moved, opt_state)
        step, model, opt_state = choose(sound, new, old)
        after = TrainState(step, model, opt_state, state.best_model, state.best_score, state.best_step)
        return after, StepReport(result, optax.tree.norm(gradient), finite)

    return lambda state, data, indices, key: update(state, data, jnp.asarray(indices), key)


def choose(flag: Bool[Array, ""], new: PyTree, old: PyTree) -> PyTree:
    """`new` where the flag is set, else `old`, array by array; what is no array comes from `new`."""
    return jax.tree.map(lambda a, b: jnp.where(flag, a, b) if eqx.is_array(a) else a, new, old)


def culprits(report: StepReport, model: PyTree, names: list[Any]) -> str:
    """Say which part of a non-finite update was not finite: parts of the loss, examples by name, parameters by path."""
    loss = report.batch
    parts = [name for name, value in loss.parts.items() if not np.isfinite(value)]
    bad = [str(name) for name, value in zip(names, np.asarray(loss.per_example), strict=True) if not np.isfinite(value)]
    finite = np.asarray(report.finite)
    paths = parameter_names(model)
    arrays = [path for path, sound in zip(paths, finite, strict=True) if not sound]
    found = {"parts of the loss": parts, "series": bad, "gradients of": arrays}
    return "; ".join(f"{what}: {', '.join(some[:8])}" for what, some in found.items() if some) or "the loss itself"


def parameter_names(model: PyTree) -> list[str]:
    """The path of each array of parameters within the model, such as `.drift.matrix`."""
    leaves = jax.tree_util.tree_leaves_with_path(eqx.filter(model, eqx.is_inexact_array))
    return [jax.tree_util.keystr(path) for path, _ in leaves]
