"""What moves the ends of accepted steps: the inputs to which the cotangents of these times fall."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Times(NamedTuple):
    """Cotangents of the ends, of the first step's end, of the save times, and of the times to stop at.

    `tnext`, `stops`: `None` where nothing that is differentiated moves them.
    """

    t0: jax.Array
    t1: jax.Array
    tnext: jax.Array | None
    ts: list[jax.Array | None]
    stops: jax.Array | None


def has_moving_stops(problem: Any, perturbed: Any) -> bool:
    """Whether the times at which a controller is told to stop are differentiated, given which inputs are."""
    if problem.stops is None:
        return False
    shared = [perturbed.shared[i] for i in problem.stops.numbers]
    return any(bool(x) for x in [*shared, *jax.tree.leaves(perturbed.place.controller_state)])


class Moving:
    r"""How accepted times $t_0 < t_1 < \dots < t_N$ hang on inputs, each a constant where nothing is said of it.

    - The first is `t0`, and the last is `t1` if the solve came to its end.
    - Of constant steps, those between divide what lies between the ends, and the first ends at `tnext`, `dt0` from the
      start; with an infinite end each is `dt0` long.
    - Of other controllers, a time that is one of those to stop at is that one (see `nde.engine.stops`), and those
      that lead to it divide the stretch from the stop before, or from `t0`, in constant proportions. For where stages
      lie on or beyond the end of their step (Kvaerno 5: 0.23 of it beyond) those of the last step are on the other side
      of a jump there; error control makes that step tiny, and if it alone moved, it would all be by the wrong field.
    """

    def __init__(self, march: Any, perturbed: Any, inputs: Any, outcome: Any):
        self.march, self.batch, self.problem = march, march.batch, march.problem
        self.inputs, self.steps = inputs, outcome.counts.accepted
        self.reached, self.at_end = outcome.place.t, outcome.place.t >= inputs.t1
        self.tnext_wanted = bool(self.problem.grid_moves and perturbed.place.tnext)
        ends = perturbed.place.t or perturbed.t1 or any(bool(x) for x in perturbed.ts)
        stops_move = has_moving_stops(self.problem, perturbed)
        self.wanted = bool(ends or self.tnext_wanted or stops_move)
        self.stops: Any = None
        if stops_move:
            self.stop_numbers = [i for i in self.problem.stops.numbers if perturbed.shared[i]]
            self.mine = [inputs.shared[i] for i in self.stop_numbers], inputs.place.controller_state
            self.stops, self.pull_stops = self._vjp_of_stops()

    def _vjp_of_stops(self):
        function = self.problem.stops
        lifted = self.march.lift(function)
        shared, state = self.mine
        leaves, structure = jax.tree.flatten(state)
        is_float = [jnp.issubdtype(x.dtype, jnp.inexact) for x in leaves]

        def stops(shared, floats):
            every = list(self.inputs.shared)
            for i, x in zip(self.stop_numbers, shared, strict=True):
                every[i] = x
            floats = iter(floats)
            state = structure.unflatten([next(floats) if f else x for x, f in zip(leaves, is_float, strict=True)])
            return lifted(function.pick(every), state)

        ts, pull = jax.vjp(stops, shared, [x for x, f in zip(leaves, is_float, strict=True) if f])

        def pulled(cotangent):
            shared, floats = pull(cotangent)
            floats = iter(floats)
            return shared, structure.unflatten([next(floats) if f else None for f in is_float])

        return ts, pulled

    def begin(self) -> Times | None:
        """No cotangents yet."""
        if not self.wanted:
            return None
        zero = jnp.zeros_like(self.inputs.place.t)
        ts = [None if ts is None else jnp.zeros_like(ts) for ts in self.inputs.ts]
        stops = None if self.stops is None else jnp.zeros_like(self.stops)
        return Times(zero, zero, zero if self.tnext_wanted else None, ts, stops)

    def move(self, times: Times, number: jax.Array, t: jax.Array, cotangent: jax.Array) -> Times:
        """Let the cotangent of the time with a number, which is `t`, fall to what moves it."""
        first, last = number == 0, self.at_end & (number == self.steps) & (number > 0)
        if self.problem.grid_moves:
            return self._move_grid(times, number, t, cotangent, last)
        inner = jnp.where(first | last, 0, cotangent)
        times = times._replace(
            t0=times.t0 + jnp.where(first, cotangent, 0), t1=times.t1 + jnp.where(last, cotangent, 0)
        )
        if self.stops is None:
            return times
        index = jnp.sum(self.stops < t[..., None], axis=-1, dtype=jnp.int32)
        last = jnp.minimum(index, self.stops.shape[-1] - 1)
        stop, before = self.batch.get(self.stops, last), self.batch.get(self.stops, jnp.maximum(index - 1, 0))
        before = jnp.where(index > 0, jnp.maximum(before, self.inputs.place.t), self.inputs.place.t)
        share = jnp.where(stop > before, (t - before) / jnp.where(stop > before, stop - before, 1), 1)
        inner = jnp.where((stop >= t) & (stop <= self.reached), share * inner, 0)
        return times._replace(stops=self.batch.add(times.stops, last[..., None], inner[..., None]))

    def _move_grid(self, times: Times, number, t, cotangent, last) -> Times:
        """The same of a grid of constant steps, of which every time is a sum of its ends and `tnext`, with weights."""
        t0, t1 = self.inputs.place.t, self.inputs.t1
        bounded, apart = jnp.isfinite(t1), t1 > t0
        share = jnp.where(apart & bounded, (t - t0) / jnp.where(apart & bounded, t1 - t0, 1), 0)
        to_t1 = jnp.where(last, 1, jnp.where(number == 1, 0, share))
        to_tnext = jnp.where(last | (bounded & (number != 1)), 0, number).astype(t.dtype)
        times = times._replace(t0=times.t0 + (1 - to_t1 - to_tnext) * cotangent, t1=times.t1 + to_t1 * cotangent)
        return times if times.tnext is None else times._replace(tnext=times.tnext + to_tnext * cotangent)

    def finish(self, times: Times | None, cotangents: Any) -> Any:
        """The cotangents of the inputs, with those of the times among them."""
        if times is None:
            return cotangents
        place = cotangents.place._replace(t=times.t0, tnext=times.tnext)
        cotangents = cotangents._replace(place=place, t1=times.t1, ts=times.ts)
        if times.stops is None:
            return cotangents
        shared, state = self.pull_stops(times.stops)
        sums = list(cotangents.shared)
        for i, x in zip(self.stop_numbers, shared, strict=True):
            sums[i] = sums[i] + x
        return cotangents._replace(shared=sums, place=place._replace(controller_state=state))
