"""Levenberg–Marquardt after another optimiser: the last digits of a fit whose loss is a sum of squares."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix
from jaxtyping import Array, PRNGKeyArray, PyTree

from nde.train.state import StepReport, TrainState, tree_where
from nde.train.update import Update

TOLERANCE = 1e-8
MOST_ITERATIONS = 30


def then_least_squares(
    update: Update,
    residuals: Callable[[PyTree, PyTree], Array],
    *,
    after: int,
    settle: Callable[[PyTree, PyTree], PyTree] = lambda model, batch: model,
) -> Update:
    r"""`update` for the first steps, then in each step the problem of least squares, $\min_\theta |r(\theta)|^2 / 2$.

    The Gauss–Newton matrix $J^\top J$ holds nearly all of the curvature of a loss whose residuals are small, or nearly
    linear, and costs first derivatives alone; so the method of Levenberg and Marquardt takes some ten steps to where a
    quasi-Newton method takes a hundred. Its damping makes each step a descent.

    A normal law has scales besides, which the residuals are divided by. They are held within a step, and `settle` puts
    them where they are likeliest after it: a few steps come to the maximum of both.

    **Arguments:** `update`: the first; `residuals`: `(model, batch) -> array`, weighted, of any shape, differentiable
    forward; `after`: how many steps `update` makes; `settle`: `(model, batch) -> model`.

    **Returns:** an `nde.train.Update` whose report is that of `update`: loss and gradient before the step. A step makes
    up to 30 iterations, and is not made where it would raise the sum of squares.

    **Raises:** `ValueError` if `after` is negative, or `update` averages its parameters or shares its batches.

    **Limits:** each batch must be all the data. Jacobian and its factors are dense, residuals by parameters: for some
    hundred parameters, and not for some ten thousand.

    **Source:** Marquardt, *An algorithm for least-squares estimation of nonlinear parameters*, 1963; Nocedal & Wright,
    *Numerical Optimization*, 2006, section 10.3; as in optimistix.
    """
    if after < 0:
        raise ValueError(f"then_least_squares needs after >= 0, but got {after}.")
    if update.sharing is not None:
        raise ValueError("then_least_squares holds all residuals on one device, and needs an update without sharing.")

    def init(model: PyTree) -> TrainState:
        state = update.init(model)
        if state.averaged is not None:
            raise ValueError("then_least_squares needs an update without an average of its parameters.")
        return state

    def apply(state: TrainState, batch: PyTree, key: PRNGKeyArray) -> tuple[TrainState, StepReport]:
        new, report = update(state, batch, key)
        old, static = eqx.partition((state.model, state.opt_state), eqx.is_array)
        first = eqx.filter((new.model, new.opt_state), eqx.is_array)

        def second() -> PyTree:
            model = settle(minimise_squares(residuals, state.model, batch), batch)
            return eqx.filter(model, eqx.is_array), old[1]

        model, opt_state = eqx.combine(jax.lax.cond(state.step < after, lambda: first, second), static)
        return eqx.tree_at(lambda s: (s.model, s.opt_state), new, (model, opt_state)), report

    return Update(init, apply)


def minimise_squares(residuals: Callable[[PyTree, PyTree], Array], model: PyTree, batch: PyTree) -> PyTree:
    """The model with its inexact arrays where the sum of squares has a minimum near by; as it was if none is lower."""
    parameters, rest = eqx.partition(model, eqx.is_inexact_array)

    def function(parameters: PyTree, args: None) -> Array:
        del args
        return residuals(eqx.combine(parameters, rest), batch)

    # optimistix mixes numbers of several dtypes and ranks, which the strict modes refuse.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        solver = optimistix.LevenbergMarquardt(rtol=TOLERANCE, atol=TOLERANCE)
        found = optimistix.least_squares(function, solver, parameters, max_steps=MOST_ITERATIONS, throw=False).value
        before, after = (jnp.sum(function(x, None) ** 2) for x in (parameters, found))
    found = jax.tree.map(lambda x, like: x.astype(like.dtype), found, parameters)
    return eqx.combine(tree_where(after <= before, found, parameters), rest)
