"""The way back of an adjoint of the engine: what is common to those that go step by step."""

import abc
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nde.adjoints.moving import Moving, Times


def swept(march: Any, inputs: Any, perturbed: Any, sweep: Any) -> Any:
    """The march's outcome, whose cotangents go back by a `sweep`."""

    @jax.custom_vjp
    def run(inputs):
        return march.run(inputs)[0]

    def forward(inputs):
        outcome, record = march.run(inputs)
        return outcome, (inputs, outcome, record)

    def backward(residual, cotangents):
        inputs, outcome, record = residual
        return (sweep(march, perturbed, inputs, outcome, record, cotangents).run(),)

    run.defvjp(forward, backward)
    return run(inputs)


class Pulled(NamedTuple):
    """Cotangents of what a step begins with; `shared`: by number; `t0`, `t1`: `None` if times are not wanted."""

    shared: dict[int, jax.Array]
    t0: jax.Array | None
    t1: jax.Array | None
    y: Any
    solver_state: list[jax.Array]


class Carry(NamedTuple):
    """What the way back carries: the cotangents of state and solver's state, the sums, and where it stands.

    `shared`: by number; `times`: `None` where they are not differentiated; `end`: the end of the step to
    come; `ts_index`, `filled`: rows still to be met, for each sub.
    """

    y: Any
    solver_state: Any
    shared: dict[int, jax.Array]
    times: Times | None
    end: jax.Array
    ts_index: list[jax.Array]
    filled: list[jax.Array]


class _Met(NamedTuple):
    """Cotangents of a step's results, as they are met: of its state, its dense output, its ends; and the carry."""

    y: Any
    dense: Any
    carry: Carry
    t0: jax.Array
    t1: jax.Array


class Sweep(abc.ABC):
    """One way back: a carry is begun, each step pulls it through, from the last to the first, and it is finished.

    A kind of sweep knows where a step began and how to pull cotangents through it. This class knows the rest: what was
    saved in and at the end of a step, which times move, which examples of a batch are still under way.
    """

    def __init__(self, march, perturbed, inputs, outcome, record, cotangents):
        self.march, self.batch, self.problem = march, march.batch, march.problem
        self.perturbed, self.inputs, self.outcome, self.record, self.ct = perturbed, inputs, outcome, record, cotangents
        self.shared_wanted = [i for i, p in enumerate(perturbed.shared) if p]
        self.moving = Moving(march, perturbed, inputs, outcome)
        self.times_wanted = self.moving.wanted
        self.steps = outcome.counts.accepted
        self.wanted = self._touched()
        self.start = self._safe_start()

    @abc.abstractmethod
    def run(self) -> Any:
        """The cotangents of the inputs."""

    def _touched(self):
        """Which examples have any cotangent. The others, say a failed solve that the loss masks, add nothing."""
        axes = len(self.batch.shape)
        touched = jnp.zeros(self.batch.shape, bool)
        for x in jax.tree.leaves(self.ct):
            if jnp.issubdtype(x.dtype, jnp.inexact):
                touched = touched | jnp.any(x != 0, axis=tuple(range(axes, x.ndim)))
        return touched

    def _safe_start(self):
        """A step that can be taken without harm, for the examples that have none to replay."""
        place = self.inputs.place

        def finite(x):
            return jnp.where(jnp.isfinite(x), x, 0) if jnp.issubdtype(x.dtype, jnp.inexact) else x

        y, state = jax.tree.map(finite, (place.y, place.solver_state))
        # The first step that was tried may have been far too long: a hundredth of it hardly moves.
        short = place.t + 0.01 * (place.tnext - place.t)
        tnext = jnp.where(short > place.t, short, place.t + 1)
        return place._replace(y=y, solver_state=state, tnext=tnext)

    def _begin(self) -> Carry:
        ct, place = self.ct.place, self.outcome.place
        times = self.moving.begin()
        if times is not None:
            times = self.moving.move(times, self.steps, place.t, ct.t)
            if self.ct.dense is not None:
                times = times._replace(t0=times.t0 + self.ct.dense.ts[..., 0])
        state, _ = split(place.solver_state)
        state_ct, _ = split(ct.solver_state)
        return Carry(
            y=ct.y,
            solver_state=[c.astype(x.dtype) for c, x in zip(state_ct, state, strict=True)],
            shared={i: jnp.zeros_like(self.inputs.shared[i]) for i in self.shared_wanted},
            times=times,
            end=place.t if place.reached is None else place.reached,
            ts_index=[saved.ts_index for saved in self.outcome.saved],
            filled=[saved.filled for saved in self.outcome.saved],
        )

    def _unpacked(self, rows, i):
        """The places in row `i`."""
        return self.march.packing.unpack([jax.lax.dynamic_index_in_dim(x, i, keepdims=False) for x in rows])

    def _pull(self, carry: Carry, t0, t1, y1, dense, pull, number, live, before) -> Carry:
        """Meet what was saved in and at the end of step `number`, and pull all through it.

        `before`: where the step before it ended: at `t0`, or on the other side of a jump there.
        """
        is_last = live & (number + 1 == self.steps)
        y_ct, state_ct = (
            self._masked(live, carry.y),
            self._with_last(self._masked(live, carry.solver_state), number, live),
        )
        met = _Met(y_ct, self._dense_ct(dense, number, live, is_last), carry, jnp.zeros_like(t0), jnp.zeros_like(t0))
        for k in range(len(carry.filled)):
            met = self._meet_saves(k, met, t0, t1, y1, dense, number, live, before)
        carry = met.carry
        found = pull(met.y, state_ct, met.dense)
        t0_ct, t1_ct = (found.t0 + met.t0, found.t1 + met.t1) if self.times_wanted else (None, None)
        return with_shared(carry, found.shared.keys(), found.shared.values())._replace(
            y=self.batch.where(live, found.y, carry.y),
            solver_state=self.batch.where(live, found.solver_state, carry.solver_state),
            times=self._move_times(carry.times, t0, t1, t0_ct, t1_ct, number, live, is_last),
            end=jnp.where(live, before, carry.end),
        )

    @property
    def needs_dense(self) -> bool:
        """Whether any output depends on a step's inside."""
        inside = any(ts is not None for ts in self.inputs.ts)
        return inside or self.outcome.dense is not None or self.outcome.place.event is not None

    def _masked(self, live, tree):
        return self.batch.where(live, tree, jax.tree.map(jnp.zeros_like, tree))

    def _with_last(self, state_ct, number, live):
        """The cotangent of the solver's state, and in its last leaf of the step's own heuristics, if they are out."""
        history = self.ct.history
        if history is None or history.shape[-1] == 2:
            return state_ct
        axis = len(self.batch.shape)
        row = jax.lax.dynamic_index_in_dim(history, number, axis, keepdims=False)[..., 2:]
        return [*state_ct[:-1], state_ct[-1] + self._masked(live, row)]

    def _dense_ct(self, dense, number, live, is_last):
        """The cotangent of a step's dense output, as far as it was put out itself."""
        if dense is None:
            return None
        total = jax.tree.map(jnp.zeros_like, dense)
        event, kept = self.ct.place.event, self.ct.dense
        if event is not None:
            total = jax.tree.map(jnp.add, total, self._masked(is_last, event.dense))
        if kept is not None:
            axis = len(self.batch.shape)
            row = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, number, axis, keepdims=False), kept.infos)
            total = jax.tree.map(jnp.add, total, self._masked(live, row))
        return total

    def _move_times(self, times, t0, t1, t0_ct, t1_ct, number, live, is_last):
        """Let the cotangents of a step's ends fall to what moves them."""
        if times is None:
            return None
        event = self.ct.place.event
        if event is not None:
            t0_ct = t0_ct + jnp.where(is_last, event.tprev, 0)
            t1_ct = t1_ct + jnp.where(is_last, event.tnext, 0)
        if self.ct.dense is not None:
            axis = len(self.batch.shape)
            t1_ct = t1_ct + jax.lax.dynamic_index_in_dim(self.ct.dense.ts, number + 1, axis, keepdims=False)
        t0_ct, t1_ct = jnp.where(live, t0_ct, 0), jnp.where(live, t1_ct, 0)
        number = jnp.broadcast_to(number, live.shape)
        times = self.moving.move(times, number, t0, t0_ct)
        return self.moving.move(times, number + 1, t1, t1_ct)

    def _meet_saves(self, k, met: _Met, t0, t1, y1, dense, number, live, before) -> _Met:
        """Add the cotangents of what sub `k` saved in and at the end of a step."""
        if self.march.every[k]:
            met = self._meet_end(k, met, t1, y1, number, live)
        if self.inputs.ts[k] is not None:
            met = self._meet_inside(k, met, t0, t1, dense, number, live, before)
        return met

    def _meet_end(self, k, met, t1, y1, number, live):
        due = live & ((number + 1) % self.march.every[k] == 0)
        row = jnp.maximum(met.carry.filled[k] - due.astype(jnp.int32), 0)
        y_ct = self._row(split(self.ct.saved[k].ys)[0], row, due)
        numbers, mine = self._shared_of(self.problem.end_saves[k])

        def save(shared, t, y):
            inputs = merged(self.inputs.shared, numbers, shared)
            return split(self.march.end_saves[k](self.problem.end_saves[k].pick(inputs), t, y))[0]

        _, pull = jax.vjp(save, mine, t1, y1)
        shared, t_ct, more = pull(y_ct)
        t_ct = t_ct + self._row(self.ct.saved[k].ts, row, due)
        carry = _with(met.carry, k, filled=jnp.where(due, row, met.carry.filled[k]))
        return met._replace(
            y=jax.tree.map(jnp.add, met.y, more), t1=met.t1 + t_ct, carry=with_shared(carry, numbers, shared)
        )

    def _meet_inside(self, k, met, t0, t1, dense, number, live, before):
        ts = self.inputs.ts[k]
        numbers, mine = self._shared_of(self.problem.saves[k])

        def save(shared, t0, t1, dense, t):
            inputs = merged(self.inputs.shared, numbers, shared)
            return split(self.march.saves[k](self.problem.saves[k].pick(inputs), t0, t1, dense, t))[0]

        few = self.march.few

        def window(carry):
            """The last few save times to be met, which of them lie in this step, and their rows."""
            index = self.batch.following(carry.ts_index[k] - few, few)
            t = self.batch.get(ts, jnp.maximum(index, 0))
            due = live[..., None] & (index >= 0) & ((t > before[..., None]) | (number == 0))
            return index, t, due, self.batch.following(carry.filled[k] - few, few)

        def meet(met):
            index, t, due, rows = window(met.carry)
            count = jnp.sum(due, axis=-1, dtype=jnp.int32)
            carry = _with(met.carry, k, filled=met.carry.filled[k] - count, ts_index=met.carry.ts_index[k] - count)
            y_ct = self._rows(split(self.ct.saved[k].ys)[0], rows, due)
            t = jnp.where(due, t, t1[..., None])
            if not self.times_wanted:
                _, pull = jax.vjp(lambda s, d: save(s, t0, t1, d, t), mine, dense)
                shared, more = pull(y_ct)
                more = jax.tree.map(jnp.add, met.dense, more)
                return met._replace(dense=more, carry=with_shared(carry, numbers, shared))
            _, pull = jax.vjp(save, mine, t0, t1, dense, t)
            shared, t0_ct, t1_ct, more, t_ct = pull(y_ct)
            t1_ct, t_ct = t1_ct + jnp.sum(jnp.where(due, 0, t_ct), -1), jnp.where(due, t_ct, 0)
            if self.ct.saved[k].ts is not None:
                t_ct = t_ct + self._rows(self.ct.saved[k].ts, rows, due)
            assert carry.times is not None
            times = carry.times._replace(ts=list(carry.times.ts))
            times.ts[k] = self.batch.add(times.ts[k], jnp.maximum(index, 0), t_ct)
            return met._replace(
                dense=jax.tree.map(jnp.add, met.dense, more),
                t0=met.t0 + t0_ct,
                t1=met.t1 + t1_ct,
                carry=with_shared(carry._replace(times=times), numbers, shared),
            )

        return jax.lax.while_loop(lambda m: self.batch.any(window(m.carry)[2]), meet, met)

    def _rows(self, cotangents, rows, due):
        """A few rows an example of saved cotangents, zero where they are not due."""

        def pick(x):
            picked = self.batch.get(x, jnp.clip(rows, 0, x.shape[len(self.batch.shape)] - 1))
            return jnp.where(due.reshape(due.shape + (1,) * (picked.ndim - due.ndim)), picked, 0)

        return jax.tree.map(pick, cotangents)

    def _row(self, cotangents, row, due):
        """One row an example of saved cotangents, zero where it is not due."""
        picked = jax.tree.map(
            lambda x: self.batch.get(x, jnp.minimum(row, x.shape[len(self.batch.shape)] - 1)), cotangents
        )
        return self._masked(due, picked)

    def _shared_of(self, function):
        numbers = [i for i in function.numbers if i in self.shared_wanted]
        return numbers, [self.inputs.shared[i] for i in numbers]

    def _finish(self, carry: Carry):
        nothing = jax.tree.map(lambda _: None, self.inputs)
        shared = [carry.shared.get(i) for i in range(len(self.inputs.shared))]
        place = nothing.place._replace(
            y=self._masked(self.wanted, carry.y),
            solver_state=_unsplit(self.inputs.place.solver_state, carry.solver_state),
        )
        return self.moving.finish(carry.times, nothing._replace(shared=shared, place=place))


def _with(carry: Carry, k: int, **places: jax.Array) -> Carry:
    """The carry with the places of sub `k` changed."""
    changed = {
        name: [new if j == k else old for j, old in enumerate(getattr(carry, name))] for name, new in places.items()
    }
    return carry._replace(**changed)


def with_shared(carry: Carry, numbers, more) -> Carry:
    """The carry with more added to the sums of shared inputs of some numbers."""
    sums = dict(carry.shared)
    for i, x in zip(numbers, more, strict=True):
        sums[i] = sums[i] + x
    return carry._replace(shared=sums)


def merged(shared, numbers, mine):
    """All shared inputs, with those of some numbers replaced."""
    merged = list(shared)
    for i, x in zip(numbers, mine, strict=True):
        merged[i] = x
    return merged


def split(tree):
    """The inexact leaves of a tree as a list, and how to put such a list back among the others."""
    leaves, structure = jax.tree.flatten(tree)
    inexact = [jnp.issubdtype(x.dtype, jnp.inexact) for x in leaves]

    def merge(floats):
        floats = iter(floats)
        return structure.unflatten(
            [next(floats) if is_float else x for x, is_float in zip(leaves, inexact, strict=True)]
        )

    return [x for x, is_float in zip(leaves, inexact, strict=True) if is_float], merge


def _unsplit(tree, floats):
    """A tree of cotangents: the given ones at the inexact leaves, `None` at the others."""
    leaves, structure = jax.tree.flatten(tree)
    floats = iter(floats)
    filled = [next(floats) if jnp.issubdtype(x.dtype, jnp.inexact) else None for x in leaves]
    return structure.unflatten(filled)
