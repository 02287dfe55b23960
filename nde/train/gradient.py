"""The gradient of a loss: of a whole batch, or added up over devices and over turns."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from nde.train.averages import Average
from nde.train.state import BatchLoss, LossFunction
from nde.train.tally import Tally, with_tally


class Part(eqx.Module):
    """What one device is given of a batch.

    - `arrays`: the rows of the examples' arrays.
    - `places`: `(rows,)`, the place of each in the batch, on which its random numbers depend.
    - `counted`: `(rows,)`, false for rows that only make the batch a multiple of the devices.
    - `padded`: how many rows all parts of the batch have. Static.
    - `turns`: into how many equal pieces the part is cut, whose gradients are made one after another. Static.
    - `axis`: the mesh axis over which the devices are, `None` for one device. Static.
    """

    arrays: PyTree
    places: Int[Array, " rows"]
    counted: Bool[Array, " rows"]
    padded: int = eqx.field(static=True)
    turns: int = eqx.field(static=True, default=1)
    axis: str | None = eqx.field(static=True, default=None)

    def reduced(self, tree: PyTree[Array]) -> PyTree[Array]:
        """The sum over the devices."""
        return tree if self.axis is None else jax.lax.psum(tree, self.axis)


class Slope(NamedTuple):
    """A loss at some parameters.

    - `batch`: what it says; `gradient`: by the parameters; `value`: the loss as a function of them.
    - `tally`: what was counted on the way to the gradient, if it was.
    """

    batch: BatchLoss
    gradient: PyTree
    value: Callable[[PyTree], Array]
    tally: Tally | None


def slope(
    loss: LossFunction,
    parameters: PyTree,
    rest: PyTree,
    batch: Any,
    step: Array,
    key: PRNGKeyArray,
    *,
    tally: Tally | None = None,
) -> Slope:
    """The gradient of a loss by parameters, of which `rest` makes a model; `batch`: its arrays, or a `Part` of them.

    `tally`: where the model counts, if it is to.

    **Raises:** `ValueError` for a part of a batch and a loss that can not be had of one.
    """
    if isinstance(batch, Part):
        return _slope_of_part(loss, parameters, rest, batch, step, key, tally)

    def whole(parameters: PyTree, tally: Tally | None = None) -> tuple[Array, BatchLoss]:
        result = loss(_model(parameters, rest, tally), batch, step, key)
        return result.loss, result

    (_, result), (gradient, counted) = jax.value_and_grad(whole, (0, 1), has_aux=True)(parameters, tally)
    return Slope(result, gradient, lambda parameters: whole(parameters)[0], counted)


def _model(parameters: PyTree, rest: PyTree, tally: Tally | None) -> PyTree:
    model = eqx.combine(parameters, rest)
    return model if tally is None else with_tally(model, tally)


def _slope_of_part(
    loss: LossFunction,
    parameters: PyTree,
    rest: PyTree,
    part: Part,
    step: Array,
    key: PRNGKeyArray,
    tally: Tally | None,
) -> Slope:
    averages = getattr(loss, "averages", None)
    if averages is None:
        raise ValueError(
            "Several devices, and accumulation, need a loss that is made of averages over examples: make it by "
            "nde.train.batch_loss."
        )
    rows = part.arrays, jax.random.split(key, part.padded)[part.places], part.counted

    def objective(parameters: PyTree, tally: Tally | None, rows: Any, divisors: list[Array] | None):
        """The sums over some rows; the loss as if `divisors` were its weights: the whole batch's, if they are known."""
        arrays, keys, counted = rows
        found = averages(_model(parameters, rest, tally), arrays, step, keys)
        sums = [average.sums(counted) for average in found.losses]
        amounts, weights = [amount for amount, _ in sums], [weight for _, weight in sums]
        if divisors is None:
            divisors = _divisors(part, weights)
        loss = sum((a / w).astype(amounts[0].dtype) for a, w in zip(amounts, divisors, strict=True))
        parts = {name: average.sums(counted) for name, average in found.parts.items()}
        return loss, (weights, parts, found.per_example)

    def evaluate(parameters: PyTree, tally: Tally | None = None) -> tuple[BatchLoss, PyTree, Tally | None]:
        gradient_of = jax.value_and_grad(objective, (0, 1), has_aux=True)
        if part.turns == 1:
            (value, (weights, parts, each)), gradient = gradient_of(parameters, tally, rows, None)
        else:
            divisors = _weights(averages, eqx.combine(parameters, rest), part, rows, step)
            turns = jax.tree.map(lambda x: x.reshape(part.turns, -1, *x.shape[1:]), rows)

            def turn(total: PyTree, rows: Any):
                found, gradient = gradient_of(parameters, tally, rows, divisors)
                return jax.tree.map(jnp.add, total, gradient), found

            nothing = jax.tree.map(jnp.zeros_like, (parameters, tally))
            gradient, (value, (weights, parts, each)) = jax.lax.scan(turn, nothing, turns)
            value, weights, parts = jax.tree.map(partial(jnp.sum, axis=0), (value, weights, parts))
        # One sum over the devices, of all that there is.
        each = jnp.zeros(part.padded, each.dtype).at[part.places].set(each.reshape(-1))
        value, weights, parts, each, (gradient, counted) = part.reduced((value, weights, parts, each, gradient))
        if len(weights) == 1:  # the loss is linear in what it was divided by: one, until now
            value, gradient = jax.tree.map(lambda x: x / weights[0].astype(x.dtype), (value, gradient))
        said = {name: amount / weight for name, (amount, weight) in parts.items()}
        return BatchLoss(value, said, each), gradient, counted

    batch, gradient, counted = evaluate(parameters, tally)
    return Slope(batch, gradient, _with_own_gradient(evaluate), counted)


def _weights(averages: Any, model: PyTree, part: Part, rows: Any, step: Array) -> list[Array]:
    """The weights of all the averages that the loss is the sum of, over the batch; ones for a single one.

    They do not depend on the solves, which the compiler therefore leaves out of this.
    """
    arrays, keys, counted = rows
    losses: tuple[Average, ...] = averages(model, arrays, step, keys).losses
    weights = [average.sums(counted)[1] for average in losses]
    return _divisors(part, weights)


def _divisors(part: Part, weights: list[Array]) -> list[Array]:
    """What the sums of a loss are divided by: the batch's weights; ones of a single average, divided at the end."""
    return part.reduced(weights) if len(weights) > 1 else [jnp.ones_like(weights[0])]


def _with_own_gradient(
    evaluate: Callable[[PyTree], tuple[BatchLoss, PyTree, Any]],
) -> Callable[[PyTree], Float[Array, ""]]:
    """The loss as a function, for a line search: its derivative would not be the sum over the devices by itself."""

    @jax.custom_vjp
    def value(parameters: PyTree) -> Array:
        return evaluate(parameters)[0].loss

    def forward(parameters: PyTree):
        batch, gradient, _ = evaluate(parameters)
        return batch.loss, gradient

    value.defvjp(forward, lambda gradient, slope: (jax.tree.map(lambda g: slope.astype(g.dtype) * g, gradient),))
    return value
