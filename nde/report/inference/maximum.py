"""The maximum of a log density, by Levenberg-Marquardt."""

from collections.abc import Callable
from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from nde.report.inference.density import Curve


class Optimum(eqx.Module):
    """Where a maximisation ended.

    - `position`, `curve`: the best position that was met, and the `nde.report.Curve` there.
    - `converged`: whether a further step promised less than the tolerance.
    - `start_loss`: the loss at the start.
    - `evaluations`: how many positions were tried, refused ones included.
    """

    position: Float[Array, " size"]
    curve: Curve
    converged: Bool[Array, ""]
    start_loss: Float[Array, ""]
    evaluations: Int[Array, ""]


class _State(eqx.Module):
    best: Float[Array, " size"]
    curve: Curve
    trial: Float[Array, " size"]
    damping: Float[Array, ""]
    done: Bool[Array, ""]
    start_loss: Float[Array, ""]
    count: Int[Array, ""]


def maximise(
    curve: Callable[[Float[Array, " size"]], Curve],
    start: Float[Array, " size"],
    free: Bool[Array, " size"] | None = None,
    *,
    evaluations: int = 60,
    tolerance: float = 1e-8,
) -> Optimum:
    r"""Lower a loss by steps $s = -(H + \mu\,\mathrm{diag} H)^{-1} g$, with $\mu$ smaller after each that does.

    A trial that is worse, or whose equations could not be solved, is refused, and $\mu$ grows. All of it is made of JAX
    operations and no gradient is taken backward: `jax.vmap` fits many data sets at once, and `jax.jit` compiles the
    loss once for all that is held.

    **Arguments:**

    - `curve`: `position -> nde.report.Curve`.
    - `start`: where to begin.
    - `free`: which coordinates move; all if `None`. The others stay as in `start`: for profiles.
    - `evaluations`: how many positions may be tried.
    - `tolerance`: in nats; it ends when the step that is next promises to lower the loss by less, or when the last one
      lowered it by less: of a parameter that goes to its bound every step promises the same, and none keeps it.

    **Returns:** a `nde.report.Optimum`; its loss is infinite if not even `start` could be computed.

    **Limits:** it finds the minimum nearest by.

    **Source:** Marquardt, *An Algorithm for Least-Squares Estimation of Nonlinear Parameters*, 1963.
    """
    size, dtype = start.shape[0], start.dtype
    moves = jnp.ones(size, dtype) if free is None else free.astype(dtype)
    nothing, zero = jnp.zeros((size, size), dtype), jnp.zeros((), dtype)
    # The first trial is the start itself, against a loss of infinity: so the loss is compiled once, in the loop.
    first = _State(
        start, Curve(zero + jnp.inf, jnp.zeros(size, dtype), nothing, nothing, zero), start,
        jnp.asarray(1e-2, dtype), jnp.asarray(False), jnp.asarray(jnp.inf, dtype), jnp.asarray(0),
    )  # fmt: skip

    def body(state: _State) -> _State:
        new = curve(state.trial)
        new = replace(new, prior_loss=jnp.asarray(new.prior_loss, dtype))
        better = new.loss < state.curve.loss  # of a loss that is no number, false
        best = jnp.where(better, state.trial, state.best)
        kept = jax.tree.map(lambda a, b: jnp.where(better, a, b), new, state.curve)
        damping = jnp.where(better, jnp.maximum(state.damping / 10, 1e-10), state.damping * 5)
        step, promised = _step(kept, best, moves, damping)
        # Refused again and again, it stands at the bottom to within rounding.
        done = (promised < tolerance) | (damping > 1e8) | ~jnp.isfinite(kept.loss)
        done = done | (better & (state.curve.loss - new.loss < tolerance))
        start_loss = jnp.where(state.count == 0, new.loss, state.start_loss)
        return _State(best, kept, best + step, damping, done, start_loss, state.count + 1)

    last = jax.lax.while_loop(lambda state: ~state.done & (state.count < evaluations), body, first)
    converged = last.done & jnp.isfinite(last.curve.loss)
    return Optimum(last.best, last.curve, converged, last.start_loss, last.count)


def _step(curve: Curve, position: Array, moves: Array, damping: Array) -> tuple[Array, Array]:
    """The step of a damping, and by how much it promises to lower the loss."""
    held = 1 - moves
    curvature = curve.curvature * moves[:, None] * moves[None, :] + jnp.diag(held)
    gradient = curve.gradient * moves
    size = jnp.diagonal(curvature)
    # A coordinate that the loss does not know has no curvature; without a floor the system would be singular.
    scale = jnp.where(size > 0, size, jnp.ones_like(size))
    root = jnp.sqrt(scale)
    system = curvature / root[:, None] / root[None, :] + jnp.diag(jnp.broadcast_to(damping + 1e-12, size.shape))
    step = -jnp.linalg.solve(system, gradient / root) / root
    step = jnp.where(jnp.isfinite(step), step, jnp.zeros_like(step))
    # Beside a bound a step may be thousands long; after it no derivative would be left to come back by.
    longest = LONGEST * (1.0 + jnp.abs(position))
    return jnp.clip(step, -longest, longest), -0.5 * (gradient @ step)


LONGEST = 3.0
