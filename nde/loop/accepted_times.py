"""What moves the ends of accepted steps: the inputs to which the cotangents of these times fall."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from nde.loop.closure_convert import add_by_id, Consts
from nde.loop.interface import Loop
from nde.loop.problem import TracedProblem
from nde.loop.pytrees import partition_inexact
from nde.loop.state import LoopInputs, LoopOutcome
from nde.types import State, Time


class TimeCotangents(NamedTuple):
    """Cotangents of the ends, of the first step's end, of the save times, and of the times to stop at.

    `tnext`, `stops`: `None` where nothing that is differentiated moves them.
    """

    t0: Time
    t1: Time
    tnext: Time | None
    ts: list[jax.Array | None]
    stops: jax.Array | None


def has_active_stops(problem: TracedProblem, perturbed: LoopInputs) -> bool:
    """Whether the times at which a controller is told to stop are differentiated, given which inputs are."""
    if problem.stops is None:
        return False
    consts = [perturbed.consts[i] for i in problem.stops.const_ids]
    return any(bool(x) for x in [*consts, *jax.tree.leaves(perturbed.state.controller_state)])


class AcceptedTimes:
    r"""How accepted times $t_0 < t_1 < \dots < t_N$ depend on inputs, each a constant where nothing is said of it.

    - The first is `t0`, and the last is `t1` if the solve came to its end.
    - Of constant steps, those between divide what lies between the ends, and the first ends at `tnext`, `dt0` from the
      start; with an infinite end each is `dt0` long.
    - Of other controllers, a time that is one of those to stop at is that one (see `nde.loop.controller_stops`), and
      those that lead to it divide the stretch from the stop before, or from `t0`, in constant proportions. For where
      stages lie on or beyond the end of their step (Kvaerno 5: 0.23 of it beyond) those of the last step are on the
      other side of a jump there; error control makes that step tiny, and if it alone moved, it would all be by the
      wrong field.

    `active`: whether any time is differentiated.
    """

    def __init__(self, loop: Loop, consts: Consts, perturbed: LoopInputs, inputs: LoopInputs, end: LoopOutcome):
        self.batch, self.problem = loop.batch, loop.problem
        self.grid_moves = loop.problem.problem.grid_moves
        self.inputs, self.steps = inputs, end.counts.accepted
        self.reached, self.at_end = end.state.t, end.state.t >= inputs.t1
        self.tnext_active = bool(self.grid_moves and perturbed.state.tnext)
        ends = perturbed.state.t or perturbed.t1 or any(bool(x) for x in perturbed.ts)
        stops_move = has_active_stops(self.problem, perturbed)
        self.active = bool(ends or self.tnext_active or stops_move)
        self.stops: jax.Array | None = None
        if stops_move:
            self.stops, self._pull_stops, self._stop_ids = self._vjp_of_stops(loop, consts)

    def _vjp_of_stops(self, loop: Loop, consts: Consts):
        """The times to stop at, and their VJP in the consts and the controller's state that they come from."""
        closed = self.problem.stops
        assert closed is not None
        vmapped, (ids, values) = loop.vmapped(closed), consts.active_in(closed)
        floats, combine = partition_inexact(self.inputs.state.controller_state)

        def stops(values: Sequence[jax.Array], floats: State):
            return vmapped(consts.replaced(closed, ids, values), combine(floats))

        ts, pull = jax.vjp(stops, values, floats)
        return ts, pull, ids

    def begin(self) -> TimeCotangents | None:
        """No cotangents yet."""
        if not self.active:
            return None
        zero = jnp.zeros_like(self.inputs.state.t)
        ts = [None if ts is None else jnp.zeros_like(ts) for ts in self.inputs.ts]
        stops = None if self.stops is None else jnp.zeros_like(self.stops)
        return TimeCotangents(zero, zero, zero if self.tnext_active else None, ts, stops)

    def add(self, times: TimeCotangents, number: jax.Array, t: Time, cotangent: Time) -> TimeCotangents:
        """Let the cotangent of the time with a number, which is `t`, fall to what moves it."""
        first, last = number == 0, self.at_end & (number == self.steps) & (number > 0)
        if self.grid_moves:
            return self._add_on_grid(times, number, t, cotangent, last)
        # Times between the ends are constants, as in diffrax, unless the controller was told one of them.
        inner = jnp.where(first | last, 0, cotangent)
        times = times._replace(
            t0=times.t0 + jnp.where(first, cotangent, 0), t1=times.t1 + jnp.where(last, cotangent, 0)
        )
        if self.stops is None or times.stops is None:
            return times
        index = jnp.sum(self.stops < t[..., None], axis=-1, dtype=jnp.int32)
        # Which stop a time leads to: the first that is not before it.
        row = jnp.minimum(index, self.stops.shape[-1] - 1)
        stop, before = self.batch.get(self.stops, row), self.batch.get(self.stops, jnp.maximum(index - 1, 0))
        before = jnp.where(index > 0, jnp.maximum(before, self.inputs.state.t), self.inputs.state.t)
        # The proportion is a constant, of a second derivative too: beside a jump its parts are units in the last place.
        share = jnp.where(stop > before, (t - before) / jnp.where(stop > before, stop - before, 1), 1)
        share = jax.lax.stop_gradient(share)
        inner = jnp.where((stop >= t) & (stop <= self.reached), share * inner, 0)
        return times._replace(stops=self.batch.add(times.stops, row[..., None], inner[..., None]))

    def _add_on_grid(
        self, times: TimeCotangents, number: jax.Array, t: Time, cotangent: Time, last: jax.Array
    ) -> TimeCotangents:
        """The same of a grid of constant steps, of which every time is a sum of its ends and `tnext`, with weights."""
        t0, t1 = self.inputs.state.t, self.inputs.t1
        bounded, apart = jnp.isfinite(t1), t1 > t0
        share = jnp.where(apart & bounded, (t - t0) / jnp.where(apart & bounded, t1 - t0, 1), 0)
        to_t1 = jnp.where(last, 1, jnp.where(number == 1, 0, share))
        # With an infinite end every step is `dt0` long, and the n-th time moves n times as far as the first.
        to_tnext = jnp.where(last | (bounded & (number != 1)), 0, number).astype(t.dtype)
        times = times._replace(t0=times.t0 + (1 - to_t1 - to_tnext) * cotangent, t1=times.t1 + to_t1 * cotangent)
        return times if times.tnext is None else times._replace(tnext=times.tnext + to_tnext * cotangent)

    def finish(self, times: TimeCotangents | None, cotangents: LoopInputs) -> LoopInputs:
        """The cotangents of the inputs, with those of the times among them."""
        if times is None:
            return cotangents
        state = cotangents.state._replace(t=times.t0, tnext=times.tnext)
        cotangents = cotangents._replace(state=state, t1=times.t1, ts=times.ts)
        if times.stops is None:
            return cotangents
        values, controller_state = self._pull_stops(times.stops)
        sums = add_by_id(dict(enumerate(cotangents.consts)), self._stop_ids, values)
        state = state._replace(controller_state=controller_state)
        return cotangents._replace(consts=list(sums.values()), state=state)
