"""The loops that take a solve's steps, and the reverse sweep that takes them back. They know steppers, and no solver.

state.py            what loops carry, record and return
problem.py          a solve as functions of one example; closure_convert.py makes inputs of what these close over;
                    vectors_first.py: in a batch their products are not transposed
adaptive_loop.py    the adaptive loop over a whole batch
fixed_grid.py       a `scan` over a grid that is known; times_alone.py: what of its steps is computed before it
saving.py           what `SaveAt` asks for; save_cotangents.py: its reverse
events.py           events, looked for and located
checkpoints.py      the bounded record of accepted states; packing.py keeps it to few arrays
reverse_sweep.py    the backward pass, step by step; interface.py: what an adjoint may ask of a loop
accepted_times.py   what the ends of steps depend on; controller_stops.py: the times that a controller was told
batching.py         the primitive that sees the batch; derivative_guards.py refuses what it can not differentiate
"""

from nde.loop.accepted_times import has_active_stops as has_active_stops
from nde.loop.adaptive_loop import AdaptiveLoop as AdaptiveLoop, LoopOptions as LoopOptions
from nde.loop.batching import bind_batched as bind_batched, FlatBatch as FlatBatch, VmapLevels as VmapLevels
from nde.loop.checkpoints import CheckpointStore as CheckpointStore
from nde.loop.closure_convert import add_by_id as add_by_id, ClosedFunction as ClosedFunction, Consts as Consts
from nde.loop.events import locate_event as locate_event
from nde.loop.fixed_grid import GridOptions as GridOptions, scan_grid as scan_grid
from nde.loop.interface import Backward as Backward, Loop as Loop
from nde.loop.packing import Packing as Packing
from nde.loop.problem import (
    Convert as Convert,
    NONFINITE as NONFINITE,
    Problem as Problem,
    Solve as Solve,
    TracedProblem as TracedProblem,
)
from nde.loop.pytrees import (
    count_bytes as count_bytes,
    is_inexact as is_inexact,
    partition_inexact as partition_inexact,
)
from nde.loop.reverse_sweep import (
    PullStep as PullStep,
    ReverseSweep as ReverseSweep,
    StepCotangents as StepCotangents,
    SweepState as SweepState,
)
from nde.loop.save_cotangents import (
    masked as masked,
    OutputCotangents as OutputCotangents,
    ReverseStep as ReverseStep,
    SaveCotangents as SaveCotangents,
    SaveCursor as SaveCursor,
)
from nde.loop.saving import (
    cut_after as cut_after,
    save_ends as save_ends,
    Saving as Saving,
    SolveEnds as SolveEnds,
    with_times as with_times,
)
from nde.loop.state import (
    Checkpoints as Checkpoints,
    EventState as EventState,
    LoopInputs as LoopInputs,
    LoopOutcome as LoopOutcome,
    LoopState as LoopState,
    SaveBuffer as SaveBuffer,
    SaveSpec as SaveSpec,
    StepOutcome as StepOutcome,
)
