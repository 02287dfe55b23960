"""The adaptive loop and its adjoint over a whole batch, whatever levels of `vmap` there are around the solve."""

import math

import jax

from nde.adjoints import AbstractAdjoint, RecordSize
from nde.loop import (
    AdaptiveLoop,
    bind_batched,
    count_bytes,
    FlatBatch,
    has_active_stops,
    LoopInputs,
    LoopOptions,
    LoopOutcome,
    TracedProblem,
    VmapLevels,
)


def run_batched(
    problem: TracedProblem,
    adjoint: AbstractAdjoint,
    options: LoopOptions,
    inputs: LoopInputs,
) -> LoopOutcome:
    """The outcome of the loop, one example as its caller sees it, differentiated as the adjoint says."""
    return bind_batched(_BatchedLoop(problem, adjoint, options), inputs)


class _BatchedLoop:
    """What `nde.loop.bind_batched` runs."""

    def __init__(self, problem: TracedProblem, adjoint: AbstractAdjoint, options: LoopOptions):
        self.problem, self.adjoint, self.options = problem, adjoint, options

    def run(self, levels: VmapLevels, inputs: LoopInputs) -> LoopOutcome:
        loop = AdaptiveLoop(self.problem, levels, self.options)
        return _unflattened(loop.batch, loop.run(_flattened(loop.batch, inputs))[0])

    def run_differentiable(self, levels: VmapLevels, inputs: LoopInputs, perturbed: LoopInputs) -> LoopOutcome:
        _refuse_moving_knots(self.problem, perturbed)
        batch_size = math.prod(level.size for level in levels)
        cheap = self.problem.stepper.is_fusible
        size = RecordSize(
            count_bytes(self.problem.state), self.options.max_steps, batch_size=batch_size, cheap_steps=cheap
        )
        checkpoints = self.adjoint.num_checkpoints(size)
        loop = AdaptiveLoop(self.problem, levels, self.options, checkpoints, self.adjoint.recorded)
        return _unflattened(loop.batch, self.adjoint.run_loop(loop, _flattened(loop.batch, inputs), perturbed))


def _flattened(batch: FlatBatch, inputs: LoopInputs) -> LoopInputs:
    """The inputs over the flat batch; consts keep the axes of their own levels, so that a weight stays one weight."""
    consts = len(inputs.consts)
    leaves, structure = jax.tree.flatten(inputs)
    return structure.unflatten([x if i < consts else batch.broadcast_input(i, x) for i, x in enumerate(leaves)])


def _unflattened(batch: FlatBatch, outcome: LoopOutcome) -> LoopOutcome:
    return jax.tree.map(batch.unflatten, outcome)


def _refuse_moving_knots(problem: TracedProblem, perturbed: LoopInputs) -> None:
    """Refuse a gradient in the times of a path's own values, where steps chosen by their error go across them.

    The path bends there, and a step across a bend has little error, but hardly the right derivative by its time.
    """
    moving = any(perturbed.consts[i] for i in problem.knot_ids)
    if moving and problem.problem.controls_error and not has_active_stops(problem, perturbed):
        raise ValueError(
            "nde.diffeqsolve has no gradient in the times ts of an interpolated path unless its steps end there: take "
            "diffrax.ClipStepSizeController(…, jump_ts=ts), or hold ts constant (jax.lax.stop_gradient)."
        )
