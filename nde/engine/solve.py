"""`diffeqsolve`: the one function through which every model of nde is solved."""

from collections.abc import Sequence
from typing import Any

import diffrax
import equinox as eqx
import jax.numpy as jnp
from jaxtyping import ArrayLike, PyTree

from nde.adjoints import AbstractAdjoint, CheckpointAdjoint
from nde.engine.checks import are_apart, Call, check_call, check_heuristics_fit
from nde.engine.diffrax_entry import EngineLoop
from nde.engine.unchecked_times import save_times, UncheckedTimes
from nde.steppers import check_heuristics, HeuristicSpec, STEPS
from nde.types import ScalarLike


def diffeqsolve(  # noqa: PLR0913  (its keywords are the interface)
    terms: PyTree[diffrax.AbstractTerm],
    solver: diffrax.AbstractSolver,
    t0: ScalarLike,
    t1: ScalarLike,
    dt0: ScalarLike | None,
    y0: PyTree[ArrayLike],
    args: PyTree[Any] = None,
    *,
    saveat: diffrax.SaveAt = diffrax.SaveAt(t1=True),  # noqa: B008  (immutable, as all defaults here)
    stepsize_controller: diffrax.AbstractStepSizeController = diffrax.ConstantStepSize(),  # noqa: B008
    adjoint: diffrax.AbstractAdjoint = CheckpointAdjoint(),  # noqa: B008
    event: diffrax.Event | None = None,
    max_steps: int | None = 4096,
    throw: bool = True,
    progress_meter: diffrax.AbstractProgressMeter = diffrax.NoProgressMeter(),  # noqa: B008
    solver_state: PyTree[ArrayLike] | None = None,
    controller_state: PyTree[ArrayLike] | None = None,
    made_jump: ScalarLike | None = None,
    heuristics: str | Sequence[str] | HeuristicSpec = (),
    discrete_terminating_event: Any = None,
) -> diffrax.Solution:
    r"""Solve $dy = f(t, y)\,dx(t)$ from `t0` to `t1`: `diffrax.diffeqsolve` 0.7.2, with a loop and a gradient of ours.

    A user of diffrax changes one import. Terms, solvers, step-size controllers, `SaveAt`, `Event`, progress meters,
    result codes and the solution are diffrax's own, and its entry checks and prepares every solve. Explicit Runge-Kutta
    methods are unrolled; a grid that is known beforehand (`StepTo`, or constant steps between ends that are numbers and
    not traced) is a `scan`, for which every transformation of JAX works; every other solve is a loop over the whole
    batch, differentiated by its adjoint.

    ```python
    >>> import jax.numpy as jnp, nde
    >>> controller = nde.PIDController(rtol=1e-6, atol=1e-6)
    >>> term, options = nde.ODETerm(lambda t, y, args: -y), {"stepsize_controller": controller}
    >>> solution = nde.diffeqsolve(term, nde.Tsit5(), 0.0, 1.0, None, jnp.ones(1), **options)
    >>> [round(float(y), 4) for y in solution.ys[-1]]
    [0.3679]

    ```

    **Arguments:** `terms`, `solver`, `t0`, `t1`, `dt0`, `y0`, `args` and the keywords of `diffrax.diffeqsolve`:
    `saveat`, `stepsize_controller`, `event`, `max_steps`, `throw`, `progress_meter`, `solver_state`,
    `controller_state`, `made_jump`. `adjoint`: one of `nde.adjoints`; one of diffrax's own hands the call to
    diffrax. `heuristics`: which of the solver's own estimates to return, of `"error"`, `"unscaled_error"` and
    `"stiffness"`; with `"steps"` each step's, too, and its time and length, in arrays of `max_steps`; or a
    `nde.HeuristicSpec`.

    **Returns:** a `diffrax.Solution`. Its `stats` hold, of each example, `num_steps`, `num_accepted_steps`,
    `num_rejected_steps` and `num_field_evaluations`, which is `None` where the method does not fix their number;
    of an SDE these are the drift's. With `heuristics` they hold `heuristics`, a `nde.Heuristics`.

    **Raises:** what diffrax raises. For an SDE, `ValueError` too where solver, path, diffusion and times do not fit one
    another, as `nde.engine.check_sde` says: diffrax gives a Milstein method any noise, and a solver of
    additive noise a diffusion that depends on the state. `ValueError` for heuristics that the solver or the controller
    can not give; and for a gradient in the times `ts` of an interpolated path, in the terms or `args`, under error
    control, unless they are told to the controller as its `jump_ts` or `step_ts`, for the path bends there.

    With `throw=True` a failed solve is an error, and so is its gradient, under `jit` too. With `throw=False` the
    failure is in `result`, and an example whose outputs the loss masks adds nothing to the gradient, NaN or not. Nor
    has such a solve a host callback, so that it can be exported and lowered for any platform: wrong times are a
    `ValueError` where they are known when the solve is traced (numbers, and arrays made outside of `jit`), and are not
    looked for where they are not, but for NaN. What paths check is their own: `diffrax.VirtualBrownianTree` does so in
    every step, by a callback.

    **Differs from diffrax** on purpose: a NaN or infinity in the last state of a solve without error control is the
    failure `RESULTS.nonfinite`, which diffrax reports as a success; a gradient in a time (`t0`, `t1`, `step_ts` or
    `jump_ts` of a `diffrax.ClipStepSizeController`) holds the other accepted times fixed, where diffrax holds the step
    sizes (both tend to the same as the tolerance falls; see `nde.CheckpointAdjoint` for which times move with
    what); where time is not at issue the two gradients agree to rounding. A jump at `t1` itself is met just before it,
    where diffrax may step past it. `controller_state` has no gradient: it
    is zero, as in diffrax.

    **Times.** The number of constant steps between two numbers is a whole one within rounding: 0.1 goes ten times into
    1. NaN in `t0`, `t1`, `dt0` or save times is a `ValueError` where it is known, else the failure
    `RESULTS.nonfinite`, and save times from it on are not met. Which times have a gradient, those of jumps and of
    `StepTo` among them, says `nde.CheckpointAdjoint`. A jump is stepped over from one neighbour of its time to the
    other, as in diffrax: what the field does in between, two units in the last place, is lost at each. In float32
    that is $10^{-7}$ of the time: three jumps near t = 2020 cost an error of 4e-4, near 100 000 one of 0.02. Start the
    clock near zero, or use float64.

    **Second derivatives.** Where steps are chosen by their error, take forward over reverse mode: `jax.hessian`, or
    `jax.jvp` of `jax.grad`. Reverse mode twice is a `ValueError`, and forward mode alone a `TypeError`: these have
    `diffrax.DirectAdjoint()`, forward mode also `diffrax.ForwardMode()`. On a grid that is known beforehand, with
    `nde.CheckpointAdjoint`, every transformation works.

    **Limits:** see the adjoint's; the sum over a batch is one gradient only where `vmap` stands inside `grad`.

    **Source:** Kidger, *On Neural Differential Equations*, 2021 (diffrax); for the gradient see
    `nde.adjoints.CheckpointAdjoint`.
    """
    options = {
        "saveat": saveat,
        "stepsize_controller": stepsize_controller,
        "event": event,
        "max_steps": max_steps,
        "throw": throw,
        "progress_meter": progress_meter,
        "solver_state": solver_state,
        "controller_state": controller_state,
        "made_jump": made_jump,
        "discrete_terminating_event": discrete_terminating_event,
    }
    call = Call(terms, solver, t0, t1, dt0, y0, args)
    times = check_call(call, options | {"adjoint": adjoint})
    spec = check_heuristics(heuristics)
    check_heuristics_fit(spec, adjoint, max_steps)
    if isinstance(adjoint, AbstractAdjoint):
        unchecked = None
        if not throw:
            grid = stepsize_controller.ts if isinstance(stepsize_controller, diffrax.StepTo) else None
            unchecked = UncheckedTimes(t0, t1, dt0, save_times(saveat), grid)
            unchecked.check(times.dtype)
        adjoint = EngineLoop(adjoint, are_apart(t0, t1), times.steps, unchecked, spec)
    solution = diffrax.diffeqsolve(terms, solver, t0, t1, dt0, y0, args, adjoint=adjoint, **options)
    return _turned(solution) if STEPS in spec.names else solution


def _turned(solution: diffrax.Solution) -> diffrax.Solution:
    """The solution with the times of its steps as the user counts them."""
    sign = jnp.where(solution.t0 <= solution.t1, 1, -1)

    def turn(ts):
        return jnp.where(jnp.isinf(ts), ts, ts * sign)

    return eqx.tree_at(lambda s: s.stats["heuristics"].ts, solution, replace_fn=turn)
