"""Gauss–Newton with damping, for wide networks on few data: an update by the Jacobian of all residuals."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from nde.train.player import chosen_parameters, finite_arrays, parameter_mask
from nde.train.state import BatchLoss, StepReport, TrainState
from nde.train.update import Update

TRIES, EASIER, HARDER, LEAST, MOST = 8, 1 / 3, 4.0, 1e-10, 1e4


def gauss_newton_update(
    residuals: Callable[..., Float[Array, " residuals"]],
    *,
    parameters: Callable[[PyTree], Any] | None = None,
    damping: float = 1e-3,
) -> Update:
    r"""An update that lowers a mean of squares by the Levenberg–Marquardt method: with residuals $r$, Jacobian $J$,

    $$\theta \leftarrow \theta - J^\top (J J^\top + \lambda I)^{-1} r
    = \theta - (J^\top J + \lambda I)^{-1} J^\top r,$$

    by whichever system is the smaller, that of the residuals or that of the parameters: a network with more weights
    than there are residuals costs one Cholesky decomposition of the residuals' size. If the mean square has not fallen
    the step is tried again with $\lambda$ four times as large, up to eight times, and not made if none of them lowers
    it; after a step that was made $\lambda$ is a third of what it was. Where first-order methods take thousands of
    steps to fit a smooth field to data without noise, some tens of these go to rounding.

    ```python
    >>> import jax, jax.numpy as jnp
    >>> from nde.train import gauss_newton_update
    >>> update = gauss_newton_update(lambda rate, t, y, key: jnp.exp(-rate * t) - y)
    >>> state, t = update.init(jnp.array([1.0])), jnp.array([[1.0], [2.0]])
    >>> for _ in range(5):
    ...     state, report = update(state, (t, jnp.exp(-0.3 * t)), jax.random.key(0))
    >>> print(f"{state.model[0]:.4f}")
    0.3000

    ```

    **Arguments:**

    - `residuals`: `residuals(model, *arrays, key=key)` of one example, of whose arrays a batch is a tuple: an array of
      one axis, as long for each. The loss is the mean of the squares of all of them.
    - `parameters`: `model -> part`, as of `nde.train.gradient_update`.
    - `damping`: $\lambda$ to begin with, in shares of the mean diagonal entry of the system.

    **Returns:** an `nde.train.Update`, whose `opt_state` is the damping. Make it for all the data in each batch: it is
    exact about the batch, and knows no other.

    **Raises:** `ValueError` for a damping that is not positive; by `init` if there is nothing to train.

    **Limits:** the Jacobian is held whole, `residuals * parameters` numbers, and takes a backward pass for each
    residual. Residuals that draw are held fixed within an update, not from one to the next. A solve in them
    needs `throw=False`: a step that is too long must be able to fail. For some hundred parameters
    `nde.train.then_least_squares` goes to the minimum in a step, by a library's method.

    **Source:** Levenberg 1944; Marquardt 1963; Nocedal & Wright, *Numerical Optimization*, 2006, section 10.3. The
    system of the residuals is that of the kernel $J J^\top$, as Gauss–Newton is written for wide networks by Cai et
    al., *Gram-Gauss-Newton method*, 2019, arXiv 1905.11675.
    """
    if not damping > 0:
        raise ValueError(f"gauss_newton_update needs damping > 0, but got {damping}.")

    def init(model: PyTree) -> TrainState:
        x, _ = ravel_pytree(chosen_parameters(model, parameters))
        return TrainState.create(model, jnp.asarray(damping, x.dtype))

    def apply(state: TrainState, batch: PyTree, key: PRNGKeyArray) -> tuple[TrainState, StepReport]:
        chosen, rest = eqx.partition(state.model, parameter_mask(state.model, parameters))
        x, unravel = ravel_pytree(chosen)
        keys = jax.random.split(key, len(jax.tree.leaves(batch)[0]))

        def of_example(x: Array, arrays: PyTree, key: PRNGKeyArray) -> tuple[Array, Array]:
            found = residuals(eqx.combine(unravel(x), rest), *arrays, key=key)
            return found, found

        def mean_square(x: Array) -> Array:
            return jnp.mean(jax.vmap(of_example, (None, 0, 0))(x, batch, keys)[0] ** 2)

        jacobian, r = jax.vmap(jax.jacrev(of_example, has_aux=True), (None, 0, 0))(x, batch, keys)
        jacobian, before = jacobian.reshape(r.size, x.size), jnp.mean(r**2)
        moved, damping = _descend(mean_square, _damped_step(jacobian, r.reshape(-1)), x, before, state.opt_state)

        gradient = unravel(2 / r.size * (r.reshape(-1) @ jacobian))
        finite = finite_arrays(state.model, gradient)
        report = StepReport(
            BatchLoss(before, {}, jnp.mean(r**2, axis=1)), optax.tree.norm(gradient), finite,
            jnp.isfinite(before) & jnp.all(finite),
        )  # fmt: skip
        return state.advanced(eqx.combine(unravel(moved), rest), damping), report

    return Update(init, apply)


def _descend(
    mean_square: Callable[[Array], Array], step: Callable[[Array], Array], x: Array, before: Array, damping: Array
) -> tuple[Array, Array]:
    """Where the first step leads that lowers the mean square, or `x` if none does; and the damping to go on with."""

    def attempt(carry: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        tries, damping, _, _ = carry
        tried = x - step(damping)
        fell = mean_square(tried) < before
        return tries + 1, damping * jnp.where(fell, EASIER, HARDER), jnp.where(fell, tried, x), fell

    begin = (jnp.zeros((), jnp.int32), damping, x, jnp.zeros((), bool))
    _, found, moved, _ = jax.lax.while_loop(lambda c: ~c[3] & (c[0] < TRIES), attempt, begin)
    # At a minimum it grows with each step that is not made; from 1e8 on a step would be lost in single precision, and
    # none be made again.
    return moved, jnp.clip(found, LEAST, MOST).astype(damping.dtype)


def _damped_step(jacobian: Float[Array, "residuals parameters"], r: Float[Array, " residuals"]) -> Callable:
    """The step by its damping, the system made once."""
    wide = jacobian.shape[0] <= jacobian.shape[1]
    system = jacobian @ jacobian.T if wide else jacobian.T @ jacobian
    right = r if wide else r @ jacobian
    scale = jnp.mean(jnp.diagonal(system))

    def step(damping: Array) -> Array:
        solved = jax.scipy.linalg.solve(
            system + damping * scale * jnp.eye(len(system), dtype=system.dtype), right, assume_a="pos"
        )
        return solved @ jacobian if wide else solved

    return step
