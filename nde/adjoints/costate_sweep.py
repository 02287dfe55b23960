"""The way back of the continuous adjoint, over a whole batch."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nde.adjoints.costate import Back, Tried
from nde.adjoints.sweep import split


class _Carry(NamedTuple):
    """What the way back carries.

    `left`: for each sub, how many of its rows are still to be met; `shared`: the sums, by number; `ts`: the cotangents
    of the save times; `tries`: steps tried.
    """

    back: Back
    left: list[jax.Array]
    shared: dict[int, jax.Array]
    ts: list[jax.Array | None]
    tries: jax.Array


class CostateSweep:
    """One way back, over a flat batch: see `nde.adjoints.ContinuousAdjoint`, whose cotangents `run` gives."""

    def __init__(self, march, perturbed, inputs, outcome, cotangents, times_wanted):
        self.march, self.batch, self.problem, self.way = march, march.batch, march.problem, march.problem.way_back
        self.inputs, self.outcome, self.ct, self.times_wanted = inputs, outcome, cotangents, times_wanted
        self.wanted_shared = [i for i, p in enumerate(perturbed.shared) if p]
        self.t0 = inputs.place.t
        self.scale = self._scale()
        self.wanted = (self.scale > 0) & jnp.isfinite(self.scale)
        still = jax.tree.map(lambda x: jnp.where(jnp.isfinite(x), x, 0), inputs.place.y)
        self.safe_y = still
        self.rows = [self._row_times(k) for k in range(len(march.plans))]
        self.limit = None
        if march.max_steps is not None:
            self.limit = march.max_steps + sum(ts.shape[-1] for ts in self.rows if ts is not None)

    def _scale(self):
        """The largest cotangent of each example: the costate is solved for in units of it, being linear."""
        largest = jnp.zeros(self.batch.shape, self.t0.dtype)
        axes = len(self.batch.shape)
        for x in jax.tree.leaves((self.ct.place.y, [saved.ys for saved in self.ct.saved])):
            if jnp.issubdtype(x.dtype, jnp.inexact) and math.prod(x.shape[axes:]):
                most = jnp.max(jnp.abs(x), axis=tuple(range(axes, x.ndim)))
                largest = jnp.maximum(largest, most.astype(largest.dtype))
        return largest

    def _row_times(self, k: int):
        """The times of the rows of sub `k`; `None` if it saves nothing on the way."""
        plan, saved, ts = self.march.plans[k], self.outcome.saved[k], self.inputs.ts[k]
        if saved.ts is not None:
            return saved.ts
        if ts is None:
            return None
        before = jnp.broadcast_to(self.t0[..., None], (*self.t0.shape, plan.skip))
        after = jnp.full((*self.t0.shape, plan.rows - plan.skip - ts.shape[-1]), jnp.inf, ts.dtype)
        return jnp.concatenate([before, ts, after], axis=-1)

    def run(self):
        """The cotangents of the inputs."""
        carry = self._begin()

        def goes_on(carry):
            going = self.batch.any(self._running(carry))
            return going if self.limit is None else going & (carry.tries < self.limit)

        def turn(carry):
            return self._step(self._meet_all(carry))

        carry = jax.lax.while_loop(goes_on, turn, carry)
        return self._finish(self._meet_all(carry))

    def _running(self, carry: _Carry):
        return self.wanted & (carry.back.t > self.t0)

    def _begin(self) -> _Carry:
        place, counts = self.outcome.place, self.outcome.counts
        y = self.batch.where(self.wanted, place.y, self.safe_y)
        costate = self._scaled(self.ct.place.y)
        span = place.t - self.t0
        h = jnp.where(span > 0, span / jnp.maximum(counts.accepted, 1).astype(span.dtype), 1)
        if self.way.grid is not None:
            h = jnp.full_like(h, jnp.inf)  # the grid's times are stops, and the steps lead from one to the next
        begin = self.march.lift(self.way.begin)
        back = begin(self.way.begin.pick(self.inputs.shared), place.t, h, self.t0, y, costate)
        return _Carry(
            back=back,
            left=[saved.filled for saved in self.outcome.saved],
            shared={i: jnp.zeros_like(self.inputs.shared[i]) for i in self.wanted_shared},
            ts=[None if ts is None else jnp.zeros_like(ts) for ts in self.inputs.ts],
            tries=jnp.int32(0),
        )

    def _scaled(self, tree):
        """A cotangent in the units of the costate, and zero for the examples that have none."""
        unit = jnp.where(self.wanted, 1 / jnp.where(self.wanted, self.scale, 1), 0)
        return jax.tree.map(lambda x: x * _fit(unit, x).astype(x.dtype), tree)

    def _unscaled(self, tree):
        return jax.tree.map(lambda x: x * _fit(self.scale, x).astype(x.dtype), tree)

    def _due(self, k: int, carry: _Carry):
        """The time of the last row of sub `k` not met yet, -inf if there is none."""
        ts, index = self.rows[k], carry.left[k]
        t = self.batch.get(ts, jnp.maximum(index - 1, 0))
        return jnp.where(index > self.march.plans[k].skip, t, -jnp.inf)

    def _meet_all(self, carry: _Carry) -> _Carry:
        for k, ts in enumerate(self.rows):
            if ts is not None:

                def is_due(carry, k=k):
                    return self.wanted & (self._due(k, carry) >= carry.back.t)

                def meet(carry, k=k, is_due=is_due):
                    return self._meet(k, carry, is_due(carry))

                carry = jax.lax.while_loop(lambda c, d=is_due: self.batch.any(d(c)), meet, carry)
        return carry

    def _meet(self, k: int, carry: _Carry, due) -> _Carry:
        """Let the costate jump by the cotangent of one row of sub `k`."""
        back, index = carry.back, carry.left[k] - due.astype(jnp.int32)
        saved, plan = self.ct.saved[k], self.march.plans[k]
        row = jnp.clip(index, 0, plan.rows - 1)

        def pick(x):
            picked = self.batch.get(x, row)
            return jnp.where(_fit(due, picked), picked, 0)

        function = self.problem.end_saves[k]
        numbers, mine, with_mine = self._shared_of(function)
        y = self.batch.where(due, back.y, self.safe_y)
        t = jnp.where(due, back.t, self.t0)
        _, pull = jax.vjp(lambda mine, t, y: split(self.march.end_saves[k](with_mine(mine), t, y))[0], mine, t, y)
        shared, t_ct, jump = pull([pick(x) for x in split(saved.ys)[0]])
        carry = self._with_shared(carry, numbers, shared)
        new_left, new_ts = list(carry.left), list(carry.ts)
        new_left[k] = index
        sums = new_ts[k]
        if sums is not None and self.times_wanted:
            t_ct = t_ct + self._along(t, y, jump)
            if saved.ts is not None:
                t_ct = t_ct + pick(saved.ts)
            number = jnp.clip(index - plan.skip, 0, sums.shape[-1] - 1)
            new_ts[k] = self.batch.add(sums, number[..., None], jnp.where(due, t_ct, 0)[..., None])
        costate = jax.tree.map(jnp.add, back.costate, self._scaled(jump))
        return carry._replace(back=back._replace(costate=costate), left=new_left, ts=new_ts)

    def _along(self, t, y, costate):
        """A costate times the derivative of the state by time."""
        rate = self.way.rate
        moved = self.march.lift(rate)(rate.pick(self.inputs.shared), t, y)
        axes = len(self.batch.shape)
        parts = jax.tree.map(lambda a, b: jnp.sum(a * b, axis=tuple(range(axes, a.ndim))), costate, moved)
        return sum(x.real.astype(t.dtype) for x in jax.tree.leaves(parts))

    def _stop(self, carry: _Carry):
        """The time that the next step may not pass."""
        t, stop = carry.back.t, self.t0
        for k, ts in enumerate(self.rows):
            if ts is not None:
                stop = jnp.maximum(stop, self._due(k, carry))
        if self.way.grid is not None:
            below = self.way.below
            stop = jnp.maximum(stop, self.march.lift(below)(below.pick(self.inputs.shared), t))
        return stop

    def _step(self, carry: _Carry) -> _Carry:
        running, back, way = self._running(carry), carry.back, self.way
        shared = way.advance.pick(self.inputs.shared)
        tried = self.march.lift(way.advance)(shared, back, self._stop(carry))
        accepted = running & tried.accepted
        new = self.batch.where(running, tried.back, back)
        carry = carry._replace(back=new, tries=carry.tries + 1)
        return self._integrate(carry, tried, accepted) if self.wanted_shared else carry

    def _integrate(self, carry: _Carry, tried: Tried, accepted) -> _Carry:
        """Add the integral over an accepted step to the gradients of the parameters."""
        numbers, mine, with_mine = self._shared_of(self.way.change)
        low, high = (jnp.where(accepted, t, self.t0) for t in (tried.low, tried.high))
        ts = jnp.where(accepted[..., None], tried.ts, self.t0[..., None])
        axis = len(self.batch.shape)
        safe = jax.tree.map(lambda x: jnp.expand_dims(x, axis), self.safe_y)
        ys = jax.tree.map(lambda a, b: jnp.where(_fit(accepted, a), a, b), tried.ys, safe)

        def weighted(x):
            weights = jnp.asarray(self.way.weights, x.dtype)
            weights = weights.reshape((1,) * axis + (-1,) + (1,) * (x.ndim - axis - 1)) * _fit(self.scale, x).astype(
                x.dtype
            )
            return jnp.where(_fit(accepted, x), weights * x, 0)

        change = self.march.lift(self.way.change)
        out, pull = jax.vjp(lambda mine: change(with_mine(mine), low, high, ts, ys), mine)
        cotangent = jax.tree.map(lambda x, o: weighted(x).astype(o.dtype), tried.costates, out)
        return self._with_shared(carry, numbers, pull(cotangent)[0])

    def _shared_of(self, function):
        """A function's inputs that are differentiated: their numbers, they, and its inputs with others for them."""
        numbers = [i for i in function.numbers if i in self.wanted_shared]

        def with_mine(mine):
            inputs = list(self.inputs.shared)
            for i, x in zip(numbers, mine, strict=True):
                inputs[i] = x
            return function.pick(inputs)

        return numbers, [self.inputs.shared[i] for i in numbers], with_mine

    def _with_shared(self, carry: _Carry, numbers, more) -> _Carry:
        sums = dict(carry.shared)
        for i, x in zip(numbers, more, strict=True):
            sums[i] = sums[i] + x
        return carry._replace(shared=sums)

    def _finish(self, carry: _Carry):
        """The cotangents; NaN where the way back did not come to its end, or began with an infinity or a NaN."""
        lost = self._running(carry) | ~jnp.isfinite(self.scale)
        any_lost = jnp.any(lost)
        costate = self._unscaled(carry.back.costate)
        y_ct = jax.tree.map(lambda x: jnp.where(_fit(lost, x), jnp.nan, x), costate)
        nothing = jax.tree.map(lambda _: None, self.inputs)
        shared: list[Any] = [None] * len(self.inputs.shared)
        for i, x in carry.shared.items():
            shared[i] = jnp.where(any_lost, jnp.nan, x) if jnp.issubdtype(x.dtype, jnp.inexact) else None
        place, t1, ts = nothing.place._replace(y=y_ct), None, nothing.ts
        if self.times_wanted:
            start = jnp.where(self.wanted, -self._along(self.t0, self.safe_y, costate), 0)
            end = self.outcome.place
            end_y = self.batch.where(self.wanted, end.y, self.safe_y)
            moved = jnp.where(self.wanted, self._along(end.t, end_y, self.ct.place.y), 0)
            reached = end.t >= self.inputs.t1
            t1 = jnp.where(reached, moved + self.ct.place.t, 0)
            place, ts = place._replace(t=start), carry.ts
        return nothing._replace(shared=shared, place=place, t1=t1, ts=ts)


def _fit(x, like):
    """One value an example, with axes for those of a value of the batch."""
    return x.reshape(x.shape + (1,) * (like.ndim - x.ndim))
