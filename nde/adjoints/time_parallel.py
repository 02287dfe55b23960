r"""A backward pass that is parallel in time.

All accepted states are recorded, so that a block of K steps can be linearised side by side. With $z$ the state and what
of the solver's is carried beside it, $\Phi$ a step, and $b_n$, $c_n$ the cotangents that come in on the way,

$$J_n = \partial_z \Phi(t_n, t_{n+1}, z_n, \theta), \qquad \lambda_n = (\lambda_{n+1} + c_n) J_n + b_n, \qquad
g = \sum_n (\lambda_{n+1} + c_n)\,\partial_\theta \Phi,$$

only the middle one is a recursion, and it is one of small products. $c_n$ comes from what was saved at the end of a
step, $b_n$ from what was saved inside. It is the gradient of the replay, up to rounding.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from nde.adjoints.checkpoint_sweep import CheckpointSweep, Segment
from nde.adjoints.linear_steps import are_few, carried_shapes, contract, costates, Linear, pull_rows, Restart
from nde.loop import (
    add_by_id,
    Loop,
    LoopState,
    masked,
    OutputCotangents,
    Packing,
    partition_inexact,
    ReverseStep,
    SaveCotangents,
    SaveCursor,
    Saving,
    SweepState,
)
from nde.types import SolverState, Time

BLOCK = 32
"""Steps that are linearised side by side."""


class _Block(NamedTuple):
    """Steps side by side, `(steps, batch, …)`.

    `number`, `(steps,)`, `active`, `before`: as in a `ReverseStep`; `is_last`: of the solve; `state`: where each
    begins; `t1`: its end.
    """

    number: jax.Array
    active: jax.Array
    is_last: jax.Array
    before: Time
    state: LoopState
    t1: Time


class TimeParallelSweep(CheckpointSweep):
    """A backward pass over the recorded states, a block of steps at once."""

    def __init__(self, loop: Loop, *given: Any):
        super().__init__(loop, *given)
        self.restart: Restart = loop.problem.adjoint_functions
        self.packing = Packing(carried_shapes(loop))
        # The steps of a block are themselves a batch: one save time of each at once. With more, interpolation would be
        # a product of small matrices a step, for each of which a CPU calls a library.
        one = Saving(loop.problem, loop.saving.specs, loop.batch, chunk=1)
        self.save_cotangents = SaveCotangents(one, self.inputs, self.ct.saved, self.consts, self.times_active)

    def _through(self, sweep: SweepState, rows: list[jax.Array], segment: Segment) -> SweepState:
        size = min(BLOCK, len(rows[0]))

        def back(carry: Any):
            end, sweep = carry
            start = jnp.maximum(end - size, 0)
            state = self.store.get_many(rows, segment.begins + start, size)
            numbers = start + jnp.arange(size, dtype=start.dtype)
            block = self._block(sweep, state, numbers, jnp.minimum(end, segment.steps), segment.first)
            return start, self._step_block(sweep, block)

        return jax.lax.while_loop(lambda c: c[0] > 0, back, (segment.longest, sweep))[1]

    def _block(
        self, sweep: SweepState, state: LoopState, numbers: jax.Array, end: jax.Array, first: jax.Array
    ) -> _Block:
        """The steps of these numbers below `end`; the others begin where they do no harm."""
        place = self._column(numbers)
        active = (place < end[None]) & self.has_cotangent[None]
        before = state.t if state.reached is None else state.reached
        t1 = jnp.where(place + 1 < end[None], jnp.roll(before, -1, axis=0), sweep.end[None])
        safe = jax.tree.map(lambda x: jnp.broadcast_to(x, (len(numbers), *x.shape)), self.safe_start)
        state = self.batch.where(active, state, safe)
        is_last = active & (first + place + 1 == self.steps[None])
        return _Block(first + numbers, active, is_last, before, state, jnp.where(active, t1, state.tnext))

    def _column(self, numbers: jax.Array) -> jax.Array:
        """Numbers, one a step, beside `(steps, batch)`."""
        return numbers.reshape(len(numbers), *(1,) * len(self.batch.shape))

    def _step_block(self, sweep: SweepState, block: _Block) -> SweepState:
        """Back through the steps of a block."""
        batch, active = self.batch, block.active
        given_ct, carried_ct = eqx.partition(sweep.solver_state, self.restart.which)
        linear = self._linearised(block)
        z1, _, dense = linear.outputs
        y1, _ = self.packing.unpack([z1])
        steps = ReverseStep(block.number, active, block.state.t, block.t1, y1, dense, block.before)
        outputs, log_ct = jax.vmap(self._outputs)(steps, block.is_last, self._cursors(sweep, block))
        given_cts = jax.tree.map(lambda x: jnp.broadcast_to(x, (len(active), *x.shape)), given_ct)
        others = (masked(batch, block.is_last, given_cts), outputs.dense)
        (c,) = self.packing.pack(masked(batch, active, (outputs.y, eqx.partition(log_ct, self.restart.which)[1])))
        pulled_rows = pull_rows(linear, others)
        size = linear.z.shape[-1]
        jacobians = jnp.moveaxis(pulled_rows[2][:size], 0, -2)
        same = jnp.broadcast_to(jnp.eye(size, dtype=z1.dtype), jacobians.shape)
        jacobians = batch.where(active, jacobians, same)
        (last,) = self.packing.pack((sweep.y, carried_ct))
        b = masked(batch, active, pulled_rows[2][size])
        costate, ends = costates(last, jacobians, b, c)
        ends = masked(batch, active, ends)
        values, times, _, given = contract(pulled_rows, ends) if linear.few else linear.pull((ends, *others))
        y, carried = self.packing.unpack([costate])
        given = jax.tree.map(lambda x, old: batch.where(active[0], x[0], old), given, given_ct)
        consts = add_by_id(sweep.consts, list(outputs.consts), [jnp.sum(x, 0) for x in outputs.consts.values()])
        return SweepState(
            y=y,
            solver_state=eqx.combine(given, carried),
            consts=add_by_id(consts, linear.ids, values),
            times=self._sum_times(sweep, steps, outputs, times, block.is_last),
            end=jnp.where(active[0], block.before[0], sweep.end),
            cursors=self._cursors_before(sweep, block),
        )

    def _linearised(self, block: _Block) -> Linear:
        """The steps and their VJP, all at once."""
        closed, again, which = self.problem.step, self.restart.function, self.restart.which
        ids, values = self._active_consts()
        opaque = self.problem.with_opaque_true(self.consts, self.batch.any(block.active))
        state = block.state
        floats, _ = partition_inexact(state.solver_state)
        given, carried = eqx.partition(floats, which)
        (z,) = self.packing.pack((state.y, carried))

        def step(values, times, z, given, fixed):
            times_of_step, solver_state, jump, number = fixed
            t0, t1 = times_of_step if times is None else times
            y, carried = self.packing.unpack([z])
            if again is not None:
                found = self.loop.vmapped(again)(opaque.replaced(again, ids, values), t0, y, solver_state)
                given = self.batch.where(number == 0, given, found)
                jump = None if jump is None else jnp.zeros_like(jump)
            start = partition_inexact(solver_state)[1](eqx.combine(given, carried))
            out = self.loop.step(opaque.replaced(closed, ids, values), t0, t1, y, start, jump)
            given, carried = eqx.partition(partition_inexact(out[1])[0], which)
            return self.packing.pack((out[0], carried))[0], given, out[2] if self.needs_dense else None

        times = (state.t, block.t1)
        fixed = (times, state.solver_state, state.made_jump, block.number)
        few = not self.batch.levels and are_few(values, z.dtype, times if self.times_active else ())
        if few:
            values = [jnp.broadcast_to(x, (len(z), *x.shape)) for x in values]
        steps = jax.vmap(step, (0 if few else None, 0, 0, 0, 0))
        outputs, pull = jax.vjp(
            lambda v, t, z, g: steps(v, t, z, g, fixed), values, times if self.times_active else None, z, given
        )
        return Linear(z, outputs, pull, ids, few)

    def _active_consts(self) -> tuple[list[int], list[jax.Array]]:
        """The differentiated consts that a step closes over, with what it begins anew."""
        functions = [f for f in (self.problem.step, self.restart.function) if f is not None]
        found = {i: x for f in functions for i, x in zip(*self.consts.active_in(f), strict=True)}
        return list(found), list(found.values())

    def _outputs(
        self, step: ReverseStep, is_last: jax.Array, cursors: list[SaveCursor]
    ) -> tuple[OutputCotangents, SolverState]:
        """The cotangents of what one step put out itself; those of the solver's state at its end, of its log."""
        saves = [*self.problem.saves, *self.problem.end_saves]
        consts = {i: jnp.zeros_like(x) for f in saves for i, x in zip(*self.consts.active_in(f), strict=True)}
        zero, y = jnp.zeros_like(step.t0), jax.tree.map(jnp.zeros_like, step.y1)
        times = self.accepted_times.begin()
        outputs = OutputCotangents(y, self._dense_cotangent(step, is_last), zero, zero, consts, times, cursors)
        nothing = jax.tree.map(jnp.zeros_like, partition_inexact(self.inputs.state.solver_state)[0])
        return self.save_cotangents.add(step, outputs), self._with_step_log(nothing, step)

    def _cursors(self, sweep: SweepState, block: _Block) -> list[SaveCursor]:
        """Which rows are still to be met at each step of a block: of the last one, the sweep's."""
        done = self._column(block.number + 1)
        is_end = done >= jnp.max(jnp.where(block.active, done, 0), axis=0, keepdims=True)

        def cursor(k, now: SaveCursor) -> SaveCursor:
            at = jax.vmap(lambda done, t: self._cursor(k, done, t))(block.number + 1, block.t1)
            return jax.tree.map(lambda a, b: jnp.where(is_end, a[None], jnp.minimum(a[None], b)), now, at)

        return [cursor(k, now) for k, now in enumerate(sweep.cursors)]

    def _cursors_before(self, sweep: SweepState, block: _Block) -> list[SaveCursor]:
        """The same before the block's first step."""
        found = [self._cursor(k, block.number[0], block.before[0]) for k in range(len(sweep.cursors))]
        return [self.batch.where(block.active[0], a, b) for a, b in zip(found, sweep.cursors, strict=True)]

    def _cursor(self, k: int, done: jax.Array, t: Time) -> SaveCursor:
        """The rows of a sub that were written after so many steps, of which the last ended at `t`."""
        ts, spec = self.inputs.ts[k], self.loop.saving.specs[k]
        index = jnp.zeros(t.shape, done.dtype)
        if ts is not None:
            index = jnp.where(done == 0, 0, jnp.sum(ts <= t[..., None], axis=-1, dtype=done.dtype))
        return SaveCursor(index, spec.skip + index + (done // spec.every if spec.every else 0))

    def _sum_times(self, sweep: SweepState, steps: ReverseStep, outputs: OutputCotangents, ends, is_last: jax.Array):
        """The cotangents of times, with those of a block's ends and of what was saved in it."""
        if sweep.times is None:
            return None

        def fallen(step, t0_ct, t1_ct, is_last):
            times = self.accepted_times.begin()
            assert times is not None
            return self._add_times(times, step, t0_ct, t1_ct, is_last)

        more = jax.vmap(fallen)(steps, ends[0] + outputs.t0, ends[1] + outputs.t1, is_last)
        return jax.tree.map(lambda old, x, y: old + jnp.sum(x, 0) + jnp.sum(y, 0), sweep.times, outputs.times, more)
