"""What the loops carry, record and return: the named tuples that loop, reverse sweep and adjoints hand to one another.

Each is of one example, or of a *flat batch*: then every array has one batch axis in front (see
`nde.loop.batching.FlatBatch`).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from diffrax import RESULTS
from jaxtyping import PyTree

from nde.steppers import StepLog as StepLog


class EventState(NamedTuple):
    """What an event looks back on: the last step tried, its ends and dense output, and each condition then.

    `values` and `mask` have the structure of `event.cond_fn`: the conditions' values, and which of them ended the
    solve.
    """

    tprev: jax.Array
    tnext: jax.Array
    dense: PyTree[jax.Array]
    values: PyTree[jax.Array]
    mask: PyTree[jax.Array]


class LoopState(NamedTuple):
    """Where a solve stands between two steps.

    - `t`, `tnext`: the time reached, and that at which the step to try next ends.
    - `y`, `solver_state`, `controller_state`: at `t`; the solver's state in its stepper's form.
    - `made_jump`: whether the field jumps at `t`, `None` where the controller never says so; `reached`: then, where the
      last accepted step ended, a little before `t` if there was a jump between.
    - `result`: a `diffrax.RESULTS`, `None` where nothing can fail or end but by its time.
    - `meter`: the progress meter's state.
    - `event`: the `EventState`, `None` without an event.
    """

    t: jax.Array
    tnext: jax.Array
    y: PyTree[jax.Array]
    solver_state: PyTree[jax.Array]
    controller_state: PyTree[jax.Array]
    made_jump: jax.Array | None
    reached: jax.Array | None
    result: RESULTS | None
    meter: PyTree[Any]
    event: EventState | None


class StepOutcome(NamedTuple):
    """One turn of the loop: the `state` after it, the `dense` output of the step, and whether it was `accepted`."""

    state: LoopState
    dense: PyTree[jax.Array]
    accepted: jax.Array


class StepCounts(NamedTuple):
    """Steps tried and accepted, an example."""

    tried: jax.Array
    accepted: jax.Array


class SaveSpec(NamedTuple):
    """What a `diffrax.SubSaveAt` saves.

    `every`: the state after every so many steps (0: none); `size`: the number of rows in all; `skip`: of rows before
    the loop's, for `t0`; `ys`: the shapes of one row.
    """

    every: int
    size: int
    skip: int
    ys: PyTree[jax.ShapeDtypeStruct]


class SaveBuffer(NamedTuple):
    """Rows saved for one `diffrax.SubSaveAt`.

    `ts_index`: how many of its `ts` were passed; `filled`: how many rows are written; `ts`: their times, `None` where
    no steps are saved, and these follow from `filled`; `ys`: their values, `(batch, rows, …)`.
    """

    ts_index: jax.Array
    filled: jax.Array
    ts: jax.Array | None
    ys: PyTree[jax.Array]


class DenseOutput(NamedTuple):
    """Every accepted step's end, `(batch, rows + 1)`, and its dense output, `(batch, rows, …)`."""

    ts: jax.Array
    infos: PyTree[jax.Array]


class LoopOutcome(NamedTuple):
    """What a loop has come to: its last state, its counts and its buffers; `dense`, `step_log`: `None` unless asked."""

    state: LoopState
    counts: StepCounts
    saved: list[SaveBuffer]
    dense: DenseOutput | None
    step_log: StepLog | None


class Checkpoints(NamedTuple):
    """Every `stride`-th accepted state, beginning with the first: packed `rows`, `(rows, batch, width)`.

    The last of the rows are room for a backward pass to replay steps into, see `nde.loop.CheckpointStore`.
    """

    rows: list[jax.Array]
    stride: jax.Array


class LoopInputs(NamedTuple):
    """What a loop begins with.

    `consts`: all arrays that its functions close over, each with the axes of its own levels of `vmap`; and, over the
    flat batch, the `state` at the start, `t1`, and the save times `ts` of each sub, or `None`.
    """

    consts: Sequence[jax.Array]
    state: LoopState
    t1: jax.Array
    ts: list[jax.Array | None]
