"""Whether a backward pass over recorded states is parallel in time."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from nde.adjoints.checkpoint_sweep import CheckpointSweep
from nde.adjoints.linear_steps import carried_shapes, FEW_PARAMETERS, SMALL_STATE
from nde.adjoints.time_parallel import TimeParallelSweep
from nde.loop import Backward, Loop, LoopInputs


def chosen_backward(loop: Loop, perturbed: LoopInputs, parallel: bool | None) -> Backward:
    """The backward pass of a loop, for an answer of the user's or none."""

    def in_time(*given: Any) -> LoopInputs:
        return TimeParallelSweep(loop, perturbed, *given).run()

    def replay(*given: Any) -> LoopInputs:
        return CheckpointSweep(loop, perturbed, *given).run()

    if parallel and not _is_real(loop):
        raise ValueError(
            "CheckpointAdjoint(parallel=True) needs a state of real numbers of one dtype, the solver's own state "
            "included: take parallel=None, which goes back step by step where this does not hold."
        )
    if parallel is None and _pays(loop):
        return _unless_transformed(in_time, replay)
    return in_time if parallel else replay


def _unless_transformed(one: Backward, other: Backward) -> Backward:
    """The backward pass of `one` solve; the `other` where the gradient stands under a `vmap`, of which the loop within
    knows nothing, and where it is itself differentiated.
    """

    def backward(*given: Any) -> LoopInputs:
        arrays, rest = eqx.partition(given, lambda x: x.dtype != jax.dtypes.float0)

        def run_other(arrays: Any) -> LoopInputs:
            return other(*eqx.combine(arrays, rest))

        @jax.custom_batching.custom_vmap
        def run_one(arrays: Any) -> LoopInputs:
            return one(*eqx.combine(arrays, rest))

        @run_one.def_vmap
        def _run_vmap(axis_size: int, in_batched: list[Any], arrays: Any) -> tuple[LoopInputs, Any]:
            axes = jax.tree.map(lambda is_batched: 0 if is_batched else None, in_batched[0])
            out = jax.vmap(run_other, in_axes=(axes,), axis_size=axis_size)(arrays)
            return out, jax.tree.map(lambda _: True, out)

        # JAX can not linearise a `custom_vmap`: reverse mode twice would be refused by another message than ours.
        run = jax.custom_jvp(lambda arrays: run_one(arrays))
        run.defjvp(lambda primals, tangents: jax.jvp(run_other, primals, tangents))
        return run(arrays)

    return backward


def _pays(loop: Loop) -> bool:
    """Whether it is faster, as far as shapes say, and changes nothing that a field does beside its value.

    Processor time of a gradient by the replay over that by this (Tsit5 at 1e-6, 30 save times, two cores with other
    work on them). Fields without matrix products: a state of 2, 1.5; of 4, 1.4; of 8, 0.85. A state of 2 in a batch of
    4, 1.2; of 16, 0.76. Networks of width 8 and 32 on a state of 2, 0.85 and 0.7: the work of each step is a matrix
    product more often than in a replay. Compiling takes 1.3 to 1.5 times as long.
    """
    step = loop.problem.step
    if loop.batch.levels or not loop.problem.stepper.is_fusible or not _is_real(loop) or step.calls_host:
        return False
    numbers = sum(x.size for x in step.consts_of(loop.problem.consts))
    return numbers <= FEW_PARAMETERS and sum(x.size for x in jax.tree.leaves(carried_shapes(loop))) <= SMALL_STATE


def _is_real(loop: Loop) -> bool:
    dtypes = {x.dtype for x in jax.tree.leaves(carried_shapes(loop))}
    return len(dtypes) == 1 and jnp.issubdtype(dtypes.pop(), jnp.floating)
