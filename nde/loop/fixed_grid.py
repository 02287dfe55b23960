"""The fixed grid: a `scan`, where the number of steps is known when the solve is traced.

Its carry is the state and the solver's state, and nothing else; what steps compute from their times alone is computed
before it. Its body is checkpointed, so that the backward pass keeps one state a step and recomputes the stages, but for
small values that take long. There is no rule of differentiation of ours in it: every transformation of JAX works, and
works again on its result.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from nde.loop.adaptive_loop import empty_log
from nde.loop.closure_convert import ClosureConverter
from nde.loop.problem import Solve
from nde.loop.pytrees import is_inexact
from nde.loop.saving import empty_value, save_on_grid
from nde.loop.state import DenseOutput, LoopOutcome, LoopState, SaveSpec, StepCounts, StepLog
from nde.loop.times_alone import ahead_of_scan, Body
from nde.paths import NOISE
from nde.steppers import AbstractStepper, any_nonfinite, COSTLY, opaque
from nde.types import Dense, SolverState, State

Carry = tuple[State, SolverState]

KEPT_BYTES = 2_000
"""Of one value of a step, over all steps, that the backward pass keeps instead of computing it again.

A step has some ten of them, so that they take no more room than the record of an adaptive solve.
"""


class GridOptions(NamedTuple):
    """What a scan over a grid shall do.

    - `steps`: how many there are; it takes as many of them as `max_steps` allows.
    - `save_specs`: what each sub saves.
    - `num_checkpoints`: how many states the backward pass may keep; with more steps it keeps those between stretches of
      steps, and takes each stretch again.
    - `guard`: whether a solve that fails shall leave no NaN in the gradient of a loss that masks it. Then the steps are
      counted in a scan of their own first, and those that fail are replaced by the first one.
    - `step_log`: whether every step's times and heuristics are kept.
    """

    steps: int
    save_specs: Sequence[SaveSpec]
    num_checkpoints: int | None
    guard: bool
    step_log: bool


def scan_grid(
    stepper: AbstractStepper, state: LoopState, solve: Solve, subs: Sequence[diffrax.SubSaveAt], options: GridOptions
) -> LoopOutcome:
    """Take the steps of a grid."""
    limit = solve.max_steps
    taken = options.steps if limit is None else min(options.steps, limit)
    grid = _grid(state, solve, options.steps)[: taken + 1]
    inside = solve.saveat.dense or any(sub.ts is not None for sub in subs)
    along = inside or any(sub.steps for sub in subs)
    dense_names: set[str] = set()

    def body(carry: Carry, xs: Any):
        number, (t0, t1) = xs
        step = stepper.step(t0, t1, carry[0], carry[1], None, opaque(number >= 0))
        dense_names.update(step.dense)
        # The ends of a step are those of its neighbours too: kept once, see `_with_ends`.
        dense = {k: v for k, v in step.dense.items() if k not in ("y0", "y1")} if inside else None
        kept = (step.y, dense) if along else None
        last = stepper.last_heuristics(step.solver_state) if options.step_log else None
        return (step.y, step.solver_state), (kept, last)

    start, ends = (state.y, state.solver_state), (grid[:-1], grid[1:])
    turn, xs = ahead_of_scan(body, start, (jnp.arange(taken), ends))
    good = None
    if options.guard:
        # Counted beforehand, without a gradient: what fails must not be in the scan that is differentiated.
        good = _good(turn, start, xs)
        turn, xs = _without_failed_steps(turn, start, xs, good), (good, xs)
    (y, solver_state), (kept, quantities) = _scan(turn, start, xs, options.num_checkpoints)
    ys, dense = kept or (None, None)
    if good is not None:
        y = jax.tree.map(lambda x: jnp.where(good[-1], x, jnp.nan), y)
    last = state._replace(t=grid[-1], tnext=grid[-1], y=y, solver_state=solver_state)
    if solve.saveat.controller_state:
        last = last._replace(controller_state=_controller_state(state, solve, grid))
    infos = _with_ends(state, ys, dense, dense_names) if inside else None
    saved = [
        save_on_grid(solve.solver, sub, spec, grid, ys, infos, solve.args)
        for sub, spec in zip(subs, options.save_specs, strict=True)
    ]
    size = max(limit or 0, taken)
    counts = StepCounts(jnp.int32(taken), jnp.int32(taken))
    dense = _padded_dense(grid, infos, size) if solve.saveat.dense else None
    log = _log(grid, quantities, size) if options.step_log else None
    return LoopOutcome(last, counts, saved, dense, log)


def _grid(state: LoopState, solve: Solve, steps: int) -> jax.Array:
    """All times, as the controller makes them one by one."""
    controller, t1 = solve.stepsize_controller, solve.t1
    if isinstance(controller, diffrax.StepTo):
        # The same time; but diffrax's check that the grid meets both ends hangs on it, and must not be dropped.
        ts = controller.ts if is_inexact(controller.ts) else controller.ts.astype(state.tnext.dtype)
        return ts.at[1].set(state.tnext.astype(ts.dtype))
    # Divided here, for XLA multiplies by the reciprocal of a number that it knows: another rounding than the loop's.
    share = jnp.asarray(np.arange(steps + 1) / steps, t1.dtype)
    return (state.t + (t1 - state.t) * share).at[1].set(state.tnext).at[steps].set(t1)


def _scan(body: Body, carry: Carry, xs: PyTree[jax.Array], num_checkpoints: int | None) -> tuple[Carry, Any]:
    """A scan with its body checkpointed, in stretches where there are more steps than checkpoints."""
    steps = len(jax.tree.leaves(xs)[0])
    body = jax.checkpoint(body, prevent_cse=False, policy=_saveable(steps))
    if num_checkpoints is None or steps <= num_checkpoints:
        return jax.lax.scan(body, carry, xs)
    # Stretches of the square root: as many states are kept between them as within one, and each step is taken twice.
    width = math.isqrt(steps)
    stretches = -(-steps // width)
    missing = stretches * width - steps

    def padded(x: jax.Array):
        rest = jnp.broadcast_to(x[-1], (missing, *x.shape[1:]))
        return jnp.concatenate([x, rest]).reshape(stretches, width, *x.shape[1:])

    more = jax.tree.map(padded, xs)
    # The last stretch is filled with its last step, whose results are thrown away: a scan has one length.
    is_real = jnp.arange(stretches * width).reshape(stretches, width) < steps

    def masked(carry: Any, xs):
        real, xs = xs
        new, out = body(carry, xs)
        return jax.tree.map(lambda a, b: jnp.where(real, a, b), new, carry), out

    def stretch(carry: Any, xs):
        return jax.lax.scan(masked, carry, xs)

    carry, out = jax.lax.scan(jax.checkpoint(stretch, prevent_cse=False), carry, (is_real, more))
    return carry, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:steps], out)


def _saveable(steps: int) -> Callable[..., bool]:
    """What the backward pass keeps of a step beside the state: its noise, and small values that take long to compute.

    To keep all would not do: what XLA fuses into one kernel it would write in ten, each of which computes the stages
    before it again. (Gradient of 64 steps of Tsit5 of y' = p sin y: 26.6 microseconds; with the sines kept 21.8, with
    all 22.8; in a batch of 256, where nothing is small, 1500; with all kept 6200.)
    """
    is_noise = jax.checkpoint_policies.save_only_these_names(NOISE)

    def saveable(primitive: Any, *avals: Any, **params: Any) -> bool:
        costly = primitive.name in COSTLY and all(x.size * x.dtype.itemsize * steps <= KEPT_BYTES for x in avals)
        return costly or is_noise(primitive, *avals, **params)

    return saveable


def _good(body: Body, start: Carry, xs: PyTree[jax.Array]) -> jax.Array:
    """Whether the state is finite at each step's end, and was before."""
    still = jax.lax.stop_gradient
    converter = ClosureConverter()
    first = jax.tree.map(lambda x: x[0], xs)
    step = converter.closure_convert(lambda carry, x: body(carry, x)[0], start, first)
    consts = still(converter.consts)

    def look(carry: Any, x):
        state, good = carry
        state = step(consts, state, x)
        good = good & ~any_nonfinite(state[0])
        return (state, good), good

    return jax.lax.scan(look, (still(start), ~any_nonfinite(start[0])), still(xs))[1]


def _without_failed_steps(body: Body, start: Carry, xs: PyTree[jax.Array], good: jax.Array) -> Body:
    """The body with the steps from the first that gives no finite state on replaced by one that does.

    A select outside such a step would not do: zero times the infinite derivative inside is NaN.
    """
    still = jax.lax.stop_gradient
    safe = jax.tree.map(lambda x: jnp.where(good[0] | (not is_inexact(x)), x, jnp.zeros_like(x)), still(start))
    first = still(jax.tree.map(lambda x: x[0], xs))

    def guarded(carry: Any, xs):
        good, x = xs
        state, x = jax.tree.map(lambda a, b: jnp.where(good, a, b), (carry, x), (safe, first))
        new, out = body(state, x)
        new = jax.tree.map(lambda a, b: jnp.where(good, a, b), new, carry)
        return new, jax.tree.map(lambda x: jnp.where(good, x, jnp.nan) if is_inexact(x) else x, out)

    return guarded


def _with_ends(state: LoopState, ys: State, dense: Dense | None, names: set[str]) -> Dense:
    """The dense output of all steps; the ends' states, if it has them, stand only once in the scan's output."""
    before = jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest[:-1]]), state.y, ys)
    return {name: x for name, x in {"y0": before, "y1": ys, **(dense or {})}.items() if name in names}


def _padded_dense(grid: jax.Array, infos: Dense | None, size: int) -> DenseOutput:
    """Dense output in the size that diffrax gives it."""

    def padded(x: jax.Array, size):
        rest = jnp.full((size - len(x), *x.shape[1:]), empty_value(x), x.dtype)
        return jnp.concatenate([x, rest])

    return DenseOutput(padded(grid, size + 1), jax.tree.map(lambda x: padded(x, size), infos))


def _log(grid: jax.Array, quantities: jax.Array | None, size: int) -> StepLog:
    """The log of all steps, in the size that the adaptive loop gives it."""
    steps = StepLog(*jax.lax.stop_gradient((grid[1:], jnp.diff(grid))), quantities)
    rest = empty_log(size - len(steps.ts), grid[0], None if quantities is None else quantities[0])
    return jax.tree.map(lambda *x: jnp.concatenate(x), steps, rest)


def _controller_state(state: LoopState, solve: Solve, grid: jax.Array) -> PyTree[jax.Array]:
    """What the controller's state is after all steps."""
    controller = solve.stepsize_controller

    order: Any = None  # which no controller of a known grid asks for

    def turn(controller_state, ends):
        t0, t1 = ends
        *_, controller_state, result = controller.adapt_step_size(
            t0, t1, state.y, state.y, None, None, order, controller_state
        )
        del result
        return controller_state, None

    return jax.lax.scan(turn, state.controller_state, (grid[:-1], grid[1:]))[0]
