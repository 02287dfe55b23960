"""The default adjoint: replay one accepted step at a time, and pull the gradient back through it."""

import math
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import equinox as eqx

from nde.adjoints.base import AbstractAdjoint, RecordSize
from nde.adjoints.linear_steps import trace_restart
from nde.adjoints.time_parallel_choice import chosen_backward
from nde.loop import Convert, Loop, LoopInputs, LoopOutcome, LoopState, Problem

RECORD_BYTES = 36_000
"""Of one example's record, from which the number of its rows follows where the user gives none."""

GRID_RECORD_BYTES = 2**18
"""The same where the steps are known beforehand: its rows are written as the steps are taken, and one too few costs a
forward solve more. (A neural CDE of 32 states, 500 steps of the midpoint method: 1.4 times the gradient.) A hundred
series of it and 2000 steps keep 24 MiB.
"""

BATCH_RECORD_BYTES = 8 * 2**20
"""Of a whole batch's record of large states, beyond which it has fewer rows than `LEAST_ROWS`. All rows are written
before the first step: for a state of 64 in a batch of 256 and 26 steps, 256 rows, 34 MiB, took a quarter of the
gradient's time. Small states keep their rows in any batch: a record of 27 MiB (states of 4, batch 1024, 490 steps of a
network) is nothing beside the steps, and to replay them from a shorter one took 1.4 times the whole gradient. Steps
without matrix products are replayed for little, and bounded whatever their state: Lotka-Volterra in a batch of 1000
takes 12 MiB of temporary memory for 23, in the same time.
"""

LEAST_ROWS = 256


class CheckpointAdjoint(AbstractAdjoint):
    r"""The exact gradient of the discrete solve on the grid that it accepted, in bounded memory.

    The forward loop records accepted states $(t_n, y_n)$; the backward pass replays a step at a time
    (discretise-then-optimise),

    $$\lambda_n = \lambda_{n+1}\,\partial_y \Phi(t_n, t_{n+1}, y_n, \theta), \qquad
    g \mathrel{+}= \lambda_{n+1}\,\partial_\theta \Phi,$$

    with $\Phi$ the step. Rejected steps cost nothing on the backward pass. Over a batch, a parameter that its examples
    share gets one gradient, summed in the loop, and not one an example.

    **Times.** Save times and event times carry gradients. Accepted times are constants, with these exceptions, where
    they are inputs:

    - the first moves with `t0`, and the last with `t1`;
    - a step that ends or begins at one of `step_ts` or `jump_ts` of a `diffrax.ClipStepSizeController`, or at one of
      `ts` of a `diffrax.StepTo`, moves with it, and those that lead to it from the stop before in proportion. So the
      gradient in the time at which a field jumps, say of a dose, is right where the controller is told that time, and
      zero where it is not. Equal times share theirs equally, and one that is `t0` or `t1` too leaves it to these;
    - at constant steps, all times move with the ends, and the first step's end with `dt0`.

    A controller of one's own that stops at given times says so by a method `stop_times(controller_state)`, which
    returns them as its state or its fields hold them; without it they have gradient zero. So have, being what only
    chooses steps, the tolerances of a controller and the first step `dt0` of an adaptive one.

    **Arguments:** `checkpoints`: how many states the record holds; `"all"` for all of `max_steps`; `None` for 256 to
    512, by the size of a state, and for all steps where the grid is known beforehand and they take up to 256 KiB; for
    fewer, but not than twice the square root of `max_steps`, where a batch's record of large states would exceed 8 MiB.
    A solve with more accepted steps keeps every second, fourth … and recomputes the rest, which costs one forward solve
    more.

    `parallel`: whether the backward pass linearises a block of steps side by side, so that only small products are left
    to go back step by step; the gradient is the same to rounding. `None`: where that is faster by measurements on a
    CPU, which is for one trajectory (no `vmap`) of a state of up to 4 numbers, with a field that has no matrix products
    and few parameters: there the gradient is up to twice as fast. It does the work of several replays, and pays where
    to go from one small step to the next is the cost. Where the grid is known beforehand it says nothing.

    **Raises:** `ValueError` for `parallel=True` where the state is complex, or of several dtypes.

    **Limits:** reverse mode, once, and forward mode over it (`jax.hessian`); `max_steps=None` can not be
    differentiated. Where the grid is known beforehand the solve is a `scan`, for which every transformation of JAX
    works.

    **Source:** Zhuang et al., *Adaptive checkpoint adjoint method for gradient estimation in neural ODE*, 2020,
    algorithms 1 and 2.
    """

    checkpoints: int | Literal["all"] | None = eqx.field(default=None, static=True)
    parallel: bool | None = eqx.field(default=None, static=True)
    scans: ClassVar[bool] = True

    def __check_init__(self):
        number = self.checkpoints
        if number is not None and number != "all" and not (isinstance(number, int) and number >= 2):
            raise ValueError(
                f'CheckpointAdjoint: checkpoints must be an integer of at least 2, "all" or None, not {number!r}.'
            )

    def prepare(self, problem: Problem, state: LoopState) -> Callable[[Convert], Any] | None:
        may_be_parallel = problem.stepper.is_fusible if self.parallel is None else self.parallel
        return trace_restart(problem, state) if may_be_parallel else None

    def num_checkpoints(self, size: RecordSize) -> int | None:
        if size.max_steps is None:
            return None
        least, most = LEAST_ROWS, size.default_max
        if size.batch_size is not None:
            # At twice the square root of the steps the longest segment adds a quarter to the rows; with fewer it would
            # soon need more than they save.
            bounded = max(
                BATCH_RECORD_BYTES // max(size.batch_size * size.state_bytes, 1), 2 * math.isqrt(size.max_steps) + 2
            )
            least, most = min(least, bounded), min(most, bounded) if size.cheap_steps else most
        record_bytes = GRID_RECORD_BYTES if size.known_grid else RECORD_BYTES
        rows = max(least, min(most, record_bytes // max(size.state_bytes, 1)))
        if self.checkpoints == "all":
            rows = size.max_steps
        elif self.checkpoints is not None:
            rows = self.checkpoints
        rows = max(2, min(rows, size.max_steps))
        return rows + rows % 2

    def run_loop(self, loop: Loop, inputs: LoopInputs, perturbed: LoopInputs) -> LoopOutcome:
        if loop.store is None:
            raise ValueError(
                "nde.diffeqsolve with max_steps=None can not be differentiated backward: the record of its steps needs "
                "a bound. Give max_steps, however large; memory hardly depends on it."
            )
        return loop.with_vjp(inputs, chosen_backward(loop, perturbed, self.parallel))
