"""Minimisation in turn, over one part of a model and then another, and what keeps each turn near where it began."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from nde.train.state import StepReport, TrainState
from nde.train.update import Update


def in_turn(*updates: Update, moves: int = 1) -> Update:
    r"""An update that makes `moves` moves by the first of some updates, as many by the next, and so on, in a round.

    With updates of disjoint `parameters` it is alternating minimisation,
    $\theta \leftarrow \arg\min_\theta L(\theta, \xi)$, $\xi \leftarrow \arg\min_\xi L(\theta, \xi)$, some moves each.

    ```python
    weights = gradient_update(loss, optax.adam(1e-3), parameters=lambda model: model.ode)
    contexts = gradient_update(loss, optax.adam(1e-3), parameters=lambda model: model.contexts)
    update = in_turn(weights, contexts, moves=10)
    ```

    **Arguments:** `updates`: two or more `nde.train.Update`s, of losses that report the same parts,
    and of one `sharing`; `moves`: of each.

    **Returns:** an `nde.train.Update`; a step of it is a move of one of them.

    **Raises:** `ValueError` for fewer than two updates or fewer than one move, and for different sharings; by `init`
    for one with an average of the parameters: take `nde.train.with_ema` of the whole.
    """
    if len(updates) < 2 or moves < 1:
        raise ValueError(f"in_turn needs two updates or more and moves >= 1, but got {len(updates)} and {moves=}.")

    if any(update.sharing is not updates[0].sharing for update in updates):
        raise ValueError("in_turn needs updates that share their batches in the same way: give all one `sharing`.")

    def init(model: PyTree) -> TrainState:
        states = [update.init(model) for update in updates]
        if any(state.averaged is not None for state in states):
            raise ValueError("in_turn needs updates without an average: take with_ema of the whole.")
        return TrainState.create(model, tuple(state.opt_state for state in states))

    def apply(state: TrainState, batch: PyTree, key: PRNGKeyArray) -> tuple[TrainState, StepReport]:
        arrays, static = eqx.partition(state, eqx.is_array)

        def turn(i: int, arrays: Any) -> tuple[Any, StepReport]:
            whole = eqx.combine(arrays, static)
            own = eqx.tree_at(lambda s: s.opt_state, whole, whole.opt_state[i])
            new, report = updates[i](own, batch, key)
            states = (*whole.opt_state[:i], new.opt_state, *whole.opt_state[i + 1 :])
            return eqx.filter(eqx.tree_at(lambda s: s.opt_state, new, states), eqx.is_array), report

        turns = [lambda arrays, i=i: turn(i, arrays) for i in range(len(updates))]
        arrays, report = jax.lax.switch(state.step // moves % len(updates), turns, arrays)
        return eqx.combine(arrays, static), report

    return Update(init, apply, updates[0].sharing)


class ProximalState(NamedTuple):
    """Moves so far, where the last round of them began, and the state of the optimiser within."""

    moves: Int[Array, ""]
    anchor: PyTree
    inner: PyTree


def proximal(
    optimiser: optax.GradientTransformation, weight: float, *, every: int
) -> optax.GradientTransformationExtraArgs:
    r"""An optimiser of $L(\theta) + \tfrac\beta2 |\theta - \theta_k|^2$, with $\theta_k$ from where `every` moves go.

    With `nde.train.in_turn` and as many moves a turn it is proximal alternating minimisation, whose turns can not undo
    each other, and which converges where the plain one may go round.

    **Arguments:** `optimiser`: an optax transformation; `weight`: $\beta$; `every`: so many moves a round.

    **Raises:** `ValueError` for a weight below zero or fewer than one move.

    **Limits:** the loss that is reported is $L$ alone. Not for an optimiser with a line search, which would measure
    that loss.

    **Source:** Attouch, Bolte, Redont, Soubeyran, *Proximal alternating minimization and projection methods for
    nonconvex problems*, Mathematics of Operations Research 2010; Li, Zhu, Tang, *Alternating minimizations converge to
    second-order optimal solutions*, ICML 2019.
    """
    if weight < 0 or every < 1:
        raise ValueError(f"proximal needs weight >= 0 and every >= 1, but got {weight=} and {every=}.")
    inner = optax.with_extra_args_support(optimiser)

    def init(params: PyTree) -> ProximalState:
        return ProximalState(jnp.zeros((), jnp.int32), params, inner.init(params))

    def update(updates: PyTree, state: Any, params: Any = None, **extra: Any):
        fresh = state.moves % every == 0
        anchor = jax.tree.map(lambda now, old: jnp.where(fresh, now, old), params, state.anchor)
        pulled = jax.tree.map(
            lambda g, now, old: g + jnp.asarray(weight, g.dtype) * (now - old), updates, params, anchor
        )
        changes, new = inner.update(pulled, state.inner, params, **extra)
        return changes, ProximalState(state.moves + 1, anchor, new)

    return optax.GradientTransformationExtraArgs(init, update)
