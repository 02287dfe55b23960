"""The backward pass of the continuous adjoint, over a whole batch."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nde.adjoints.adjoint_equation import AdjointState, TrialStep
from nde.loop import add_by_id, Consts, is_inexact, Loop, LoopInputs, LoopOutcome, partition_inexact
from nde.types import State, Time


class _SweepState(NamedTuple):
    """What the backward pass carries.

    `left`: for each sub, how many of its rows are still to be met; `consts`: the sums, by number; `ts`: the cotangents
    of the save times; `tries`: steps tried.
    """

    back: AdjointState
    left: list[jax.Array]
    consts: dict[int, jax.Array]
    ts: list[jax.Array | None]
    tries: jax.Array


class AdjointEquationSweep:
    """One backward pass, over a flat batch: see `nde.adjoints.ContinuousAdjoint`, whose cotangents `run` gives."""

    def __init__(
        self,
        loop: Loop,
        perturbed: LoopInputs,
        inputs: LoopInputs,
        outcome: LoopOutcome,
        cotangents: LoopOutcome,
        times_active: bool,
    ):
        self.loop, self.batch, self.problem = loop, loop.batch, loop.problem
        self.equation: Any = loop.problem.adjoint_functions
        self.specs = loop.saving.specs
        self.inputs, self.outcome, self.ct, self.times_active = inputs, outcome, cotangents, times_active
        self.consts = Consts(inputs.consts, [bool(p) for p in perturbed.consts])
        self.t0 = inputs.state.t
        self.scale = self._scale()
        self.active = (self.scale > 0) & jnp.isfinite(self.scale)
        still = jax.tree.map(lambda x: jnp.where(jnp.isfinite(x), x, 0), inputs.state.y)
        self.safe_y = still
        self.rows = [self._row_times(k) for k in range(len(self.specs))]
        self.limit, max_steps = None, loop.problem.solve.max_steps
        if max_steps is not None:
            self.limit = max_steps + sum(ts.shape[-1] for ts in self.rows if ts is not None)

    def _scale(self):
        """The largest cotangent of each example: the costate is solved for in units of it, being linear."""
        largest = jnp.zeros(self.batch.shape, self.t0.dtype)
        axes = len(self.batch.shape)
        for x in jax.tree.leaves((self.ct.state.y, [saved.ys for saved in self.ct.saved])):
            if is_inexact(x) and math.prod(x.shape[axes:]):
                size = jnp.max(jnp.abs(x), axis=tuple(range(axes, x.ndim)))
                largest = jnp.maximum(largest, size.astype(largest.dtype))
        return largest

    def _row_times(self, k: int):
        """The times of the rows of sub `k`; `None` if it saves nothing on the way."""
        spec, saved, ts = self.specs[k], self.outcome.saved[k], self.inputs.ts[k]
        if saved.ts is not None:
            return saved.ts
        if ts is None:
            return None
        before = jnp.broadcast_to(self.t0[..., None], (*self.t0.shape, spec.skip))
        after = jnp.full((*self.t0.shape, spec.size - spec.skip - ts.shape[-1]), jnp.inf, ts.dtype)
        return jnp.concatenate([before, ts, after], axis=-1)

    def run(self):
        """The cotangents of the inputs."""
        carry = self._begin()

        # One loop for jumps and steps: what was saved at the time reached is met before each step.
        def goes_on(carry: Any):
            going = self.batch.any(self._running(carry))
            return going if self.limit is None else going & (carry.tries < self.limit)

        def turn(carry: Any):
            return self._step(self._add_saved(carry))

        carry = jax.lax.while_loop(goes_on, turn, carry)
        return self._finish(self._add_saved(carry))

    def _running(self, carry: _SweepState):
        return self.active & (carry.back.t > self.t0)

    def _begin(self) -> _SweepState:
        end, counts = self.outcome.state, self.outcome.counts
        y = self.batch.where(self.active, end.y, self.safe_y)
        costate = self._scaled(self.ct.state.y)
        span = end.t - self.t0
        h = jnp.where(span > 0, span / jnp.maximum(counts.accepted, 1).astype(span.dtype), 1)
        if self.equation.grid is not None:
            h = jnp.full_like(h, jnp.inf)  # the grid's times are stops, and the steps lead from one to the next
        begin = self.loop.vmapped(self.equation.begin)
        back = begin(self.equation.begin.consts_of(self.inputs.consts), end.t, h, self.t0, y, costate)
        return _SweepState(
            back=back,
            left=[saved.filled for saved in self.outcome.saved],
            consts=self.consts.zeros(),
            ts=[None if ts is None else jnp.zeros_like(ts) for ts in self.inputs.ts],
            tries=jnp.int32(0),
        )

    def _scaled(self, tree: State):
        """A cotangent in the units of the costate, and zero for the examples that have none."""
        unit = jnp.where(self.active, 1 / jnp.where(self.active, self.scale, 1), 0)
        return jax.tree.map(lambda x: x * _fit(unit, x).astype(x.dtype), tree)

    def _unscaled(self, tree: State):
        return jax.tree.map(lambda x: x * _fit(self.scale, x).astype(x.dtype), tree)

    def _due(self, k: int, carry: _SweepState):
        """The time of the last row of sub `k` not met yet, -inf if there is none."""
        ts, index = self.rows[k], carry.left[k]
        assert ts is not None
        t = self.batch.get(ts, jnp.maximum(index - 1, 0))
        return jnp.where(index > self.specs[k].skip, t, -jnp.inf)

    def _add_saved(self, carry: _SweepState) -> _SweepState:
        for k, ts in enumerate(self.rows):
            if ts is not None:

                def is_due(carry: Any, k: int = k):
                    return self.active & (self._due(k, carry) >= carry.back.t)

                def add(carry: Any, k: int = k, is_due=is_due):
                    return self._add_row(k, carry, is_due(carry))

                carry = jax.lax.while_loop(lambda c, d=is_due: self.batch.any(d(c)), add, carry)
        return carry

    def _add_row(self, k: int, carry: _SweepState, due: jax.Array) -> _SweepState:
        """Let the costate jump by the cotangent of one row of sub `k`."""
        back, index = carry.back, carry.left[k] - due.astype(jnp.int32)
        saved, spec = self.ct.saved[k], self.specs[k]
        row = jnp.clip(index, 0, spec.size - 1)

        def pick(x: jax.Array):
            picked = self.batch.get(x, row)
            return jnp.where(_fit(due, picked), picked, 0)

        closed = self.problem.end_saves[k]
        ids, values = self.consts.active_in(closed)
        y = self.batch.where(due, back.y, self.safe_y)
        t = jnp.where(due, back.t, self.t0)

        def save(values: Sequence[jax.Array], t: Time, y: State):
            return partition_inexact(self.loop.saving.at_end[k](self.consts.replaced(closed, ids, values), t, y))[0]

        _, pull = jax.vjp(save, values, t, y)
        consts, t_ct, jump = pull(jax.tree.map(pick, partition_inexact(saved.ys)[0]))
        carry = carry._replace(consts=add_by_id(carry.consts, ids, consts))
        new_left, new_ts = list(carry.left), list(carry.ts)
        new_left[k] = index
        totals = new_ts[k]
        if totals is not None and self.times_active:
            t_ct = t_ct + self._along(t, y, jump)
            if saved.ts is not None:
                t_ct = t_ct + pick(saved.ts)
            number = jnp.clip(index - spec.skip, 0, totals.shape[-1] - 1)
            new_ts[k] = self.batch.add(totals, number[..., None], jnp.where(due, t_ct, 0)[..., None])
        costate = jax.tree.map(jnp.add, back.costate, self._scaled(jump))
        fresh = self.equation.fresh
        new = self.loop.vmapped(fresh)(fresh.consts_of(self.inputs.consts), t, self.t0, y, costate)
        back = back._replace(costate=costate, solver=self.batch.where(due, new, back.solver))
        return carry._replace(back=back, left=new_left, ts=new_ts)

    def _along(self, t: Time, y: State, costate: State):
        """A costate times the derivative of the state by time."""
        rate = self.equation.rate
        moved = self.loop.vmapped(rate)(rate.consts_of(self.inputs.consts), t, y)
        axes = len(self.batch.shape)
        parts = jax.tree.map(lambda a, b: jnp.sum(a * b, axis=tuple(range(axes, a.ndim))), costate, moved)
        return sum(x.real.astype(t.dtype) for x in jax.tree.leaves(parts))

    def _stop(self, carry: _SweepState):
        """The time that the next step may not pass."""
        t, stop = carry.back.t, self.t0
        for k, ts in enumerate(self.rows):
            if ts is not None:
                stop = jnp.maximum(stop, self._due(k, carry))
        if self.equation.grid is not None:
            below = self.equation.below
            stop = jnp.maximum(stop, self.loop.vmapped(below)(below.consts_of(self.inputs.consts), t))
        return stop

    def _step(self, carry: _SweepState) -> _SweepState:
        running, back, equation = self._running(carry), carry.back, self.equation
        consts = equation.advance.consts_of(self.inputs.consts)
        tried = self.loop.vmapped(equation.advance)(consts, back, self._stop(carry))
        accepted = running & tried.accepted
        new = self.batch.where(running, tried.back, back)
        carry = carry._replace(back=new, tries=carry.tries + 1)
        return self._integrate(carry, tried, accepted) if self.consts else carry

    def _integrate(self, carry: _SweepState, tried: TrialStep, accepted: jax.Array) -> _SweepState:
        """Add the integral over an accepted step to the gradients of the parameters."""
        closed = self.equation.change
        ids, values = self.consts.active_in(closed)
        low, high = (jnp.where(accepted, t, self.t0) for t in (tried.low, tried.high))
        ts = jnp.where(accepted[..., None], tried.ts, self.t0[..., None])
        axis = len(self.batch.shape)
        safe = jax.tree.map(lambda x: jnp.expand_dims(x, axis), self.safe_y)
        ys = jax.tree.map(lambda a, b: jnp.where(_fit(accepted, a), a, b), tried.ys, safe)

        def weighted(x: jax.Array):
            weights = jnp.asarray(self.equation.weights, x.dtype)
            weights = weights.reshape((1,) * axis + (-1,) + (1,) * (x.ndim - axis - 1)) * _fit(self.scale, x).astype(
                x.dtype
            )
            return jnp.where(_fit(accepted, x), weights * x, 0)

        change = self.loop.vmapped(closed)
        out, pull = jax.vjp(lambda values: change(self.consts.replaced(closed, ids, values), low, high, ts, ys), values)
        cotangent = jax.tree.map(lambda x, o: weighted(x).astype(o.dtype), tried.costates, out)
        return carry._replace(consts=add_by_id(carry.consts, ids, pull(cotangent)[0]))

    def _finish(self, carry: _SweepState):
        """The cotangents; NaN where the backward pass did not come to its end, or began with an infinity or a NaN."""
        lost = self._running(carry) | ~jnp.isfinite(self.scale)
        any_lost = jnp.any(lost)
        costate = self._unscaled(carry.back.costate)
        # A backward pass that ran out of steps has no gradient: NaN, and never a number that looks like one.
        y_ct = jax.tree.map(lambda x: jnp.where(_fit(lost, x), jnp.nan, x), costate)
        nothing: Any = jax.tree.map(lambda _: None, self.inputs)
        sums = {i: jnp.where(any_lost, jnp.nan, x) for i, x in carry.consts.items() if is_inexact(x)}
        state, t1, ts = nothing.state._replace(y=y_ct), None, nothing.ts
        if self.times_active:
            start = jnp.where(self.active, -self._along(self.t0, self.safe_y, costate), 0)
            end = self.outcome.state
            end_y = self.batch.where(self.active, end.y, self.safe_y)
            moved = jnp.where(self.active, self._along(end.t, end_y, self.ct.state.y), 0)
            reached = end.t >= self.inputs.t1
            t1 = jnp.where(reached, moved + self.ct.state.t, 0)
            state, ts = state._replace(t=start), carry.ts
        return nothing._replace(consts=self.consts.cotangents(sums), state=state, t1=t1, ts=ts)


def _fit(x: jax.Array, like: jax.Array):
    """One value an example, with axes for those of a value of the batch."""
    return x.reshape(x.shape + (1,) * (like.ndim - x.ndim))
