"""The default adjoint: replay one accepted step at a time, and pull the gradient back through it."""

from typing import Any, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp

from nde.adjoints.base import AbstractAdjoint
from nde.adjoints.sweep import Carry, merged, Pulled, split, Sweep, swept

RECORD_BYTES = 36_000
"""Of one example's record, from which the number of its rows follows where the user gives none."""


class CheckpointAdjoint(AbstractAdjoint):
    r"""The exact gradient of the discrete solve on the grid that it accepted, in bounded memory.

    The forward loop records accepted places $(t_n, y_n)$ and the solver's state; the way back replays a step at a time,

    $$\lambda_n = \lambda_{n+1}\,\partial_y \Phi(t_n, t_{n+1}, y_n, \theta), \qquad
    g \mathrel{+}= \lambda_{n+1}\,\partial_\theta \Phi,$$

    with $\Phi$ the step. Rejected steps cost nothing on the way back. Over a batch, a parameter that its examples share
    gets one gradient, summed in the loop, and not one an example.

    **Times.** Save times and event times carry gradients. Accepted times are constants, with these exceptions, where
    they are inputs:

    - the first moves with `t0`, and the last with `t1`;
    - a step that ends or begins at one of `step_ts` or `jump_ts` of a `diffrax.ClipStepSizeController`, or at one of
      `ts` of a `diffrax.StepTo`, moves with it, and those that lead to it from the stop before in proportion. So the
      gradient in the time at which a field jumps, say of a dose, is right where the controller is told that time, and
      zero where it is not. Equal times share theirs equally, and one that is `t0` or `t1` too leaves it to these;
    - at constant steps, all times move with the ends, and the first step's end with `dt0`.

    A controller of one's own that stops at given times says so by a method `stop_times(controller_state)`, which
    returns them as its state or its fields hold them; without it they have gradient zero. So have, being what only
    chooses steps, the tolerances of a controller and the first step `dt0` of an adaptive one.

    **Arguments:** `checkpoints`: how many places the record holds; `"all"` for all of `max_steps`; `None` for 256 to
    512, by the size of a place, and for more where the grid is known beforehand and a state is small. A solve with more
    accepted steps keeps every second, fourth … and recomputes the rest, which costs one forward solve more.

    **Limits:** reverse mode, once, and forward mode over it (`jax.hessian`); `max_steps=None` can not be
    differentiated. Where the grid is known beforehand the solve is a `scan`, for which every transformation of JAX
    works.

    **Source:** Zhuang et al., *Adaptive checkpoint adjoint method for gradient estimation in neural ODE*, 2020,
    algorithms 1 and 2.
    """

    checkpoints: int | Literal["all"] | None = eqx.field(default=None, static=True)
    scans: ClassVar[bool] = True

    def __check_init__(self):
        number = self.checkpoints
        if number is not None and number != "all" and not (isinstance(number, int) and number >= 2):
            raise ValueError(
                f'CheckpointAdjoint: checkpoints must be an integer of at least 2, "all" or None, not {number!r}.'
            )

    def rows(self, row_bytes: int, max_steps: int | None, most: int = 512) -> int | None:
        if max_steps is None:
            return None
        rows = max(256, min(most, RECORD_BYTES // max(row_bytes, 1)))
        if self.checkpoints == "all":
            rows = max_steps
        elif self.checkpoints is not None:
            rows = self.checkpoints
        rows = max(2, min(rows, max_steps))
        return rows + rows % 2

    def march(self, march: Any, inputs: Any, perturbed: Any) -> Any:
        if march.rows is None:
            raise ValueError(
                "nde.diffeqsolve with max_steps=None can not be differentiated backward: the record of its steps needs "
                "a bound. Give max_steps, however large; memory hardly depends on it."
            )

        return swept(march, inputs, perturbed, _CheckpointSweep)


class _CheckpointSweep(Sweep):
    """A way back whose steps are replayed from the record."""

    def run(self):
        """The cotangents of the inputs."""
        carry = self._begin()
        most = self.batch.most(self.steps)
        if self.march.spare:
            carry = self._in_windows(carry, most)
        else:
            carry = self._through(carry, self.record.rows, 0, most, self.steps)
        return self._finish(carry)

    def _in_windows(self, carry, most):
        """Back through one window of the record after another, each copied to a few rows of its own.

        Where the record was never thinned, a window is so many of its rows; else it is what lies between two of them.
        """
        stride, whole = self.record.stride, self.record.stride == 1
        width = jnp.where(whole, self.march.spare, stride)

        def window(state):
            number, carry = state
            number = number - 1
            first = number * width
            steps = jnp.clip(self.steps - first, 0, width)
            rows = self._window(jnp.where(whole, first, number))
            rows, steps = jax.lax.cond(whole, lambda rows, steps: (rows, steps), self._replay, rows, steps)
            return number, self._through(carry, rows, first, jnp.minimum(width, most - first), steps)

        return jax.lax.while_loop(lambda s: s[0] > 0, window, (-(-most // width), carry))[1]

    def _window(self, first):
        """Rows of the record from `first` on: where these are too few, the last ones, but `first` first."""

        def cut(rows):
            part = jax.lax.dynamic_slice_in_dim(rows, first, min(self.march.spare, len(rows)))
            return part.at[0].set(jax.lax.dynamic_index_in_dim(rows, first, keepdims=False))

        return [cut(rows) for rows in self.record.rows]

    def _replay(self, rows, steps):
        """Fill a window with the places of `steps` steps from its first place on; say how many there are."""
        size = self.march.spare
        place = self._unpacked(rows, 0)

        def going(state):
            _, place, have = state
            return (have < steps) & self.problem.running(place, self.inputs.t1)

        def turn(state):
            rows, place, have = state
            new = self.march.advance(self.inputs, place)
            go = going(state)
            accepted = new.accepted & go
            place, have = self.batch.where(go, new.place, place), have + accepted.astype(jnp.int32)
            return self.march.put_rows(rows, jnp.where(accepted, have - 1, size), place), place, have

        start = (rows, place, jnp.minimum(steps, 1))
        rows, _, have = jax.lax.while_loop(lambda s: self.batch.any(going(s)), turn, start)
        return rows, have

    def _through(self, carry, rows, first, count, steps):
        """Back through `count` steps, whose places stand in `rows` and whose numbers begin at `first`."""

        def back(state):
            i, carry = state
            i = i - 1
            live = (i < steps) & self.wanted
            place = self._unpacked(rows, i)
            return i, self._step(carry, self.batch.where(live, place, self.start), first + i, live)

        return jax.lax.while_loop(lambda s: s[0] > 0, back, (count, carry))[1]

    def _step(self, carry: Carry, place, number, live) -> Carry:
        """Back through step `number`, from `place` to the carry's end, for the live examples."""
        t0, t1 = place.t, jnp.where(live, carry.end, place.tnext)
        y1, dense, pull = self._replayed(place, t0, t1, live)
        before = t0 if place.reached is None else place.reached
        return self._pull(carry, t0, t1, y1, dense, pull, number, live, before)

    def _replayed(self, place, t0, t1, live):
        """The step from a place: the state at its end, its dense output, and how to pull cotangents through it."""
        floats, merge_state = split(place.solver_state)
        numbers, mine = self._shared_of(self.problem.step)
        known = self.problem.with_truth(self.inputs.shared, self.batch.any(live))

        def step(shared, t0, t1, y, floats):
            inputs = merged(known, numbers, shared)
            state = merge_state(floats)
            out = self.march.step(self.problem.step.pick(inputs), t0, t1, y, state, place.made_jump)
            return out[0], split(out[1])[0], out[2] if self.needs_dense else None

        if self.times_wanted:
            (y1, _, dense), pull = jax.vjp(step, mine, t0, t1, place.y, floats)
        else:
            (y1, _, dense), pull = jax.vjp(lambda s, y, f: step(s, t0, t1, y, f), mine, place.y, floats)

        def pulled(y_ct, state_ct, dense_ct):
            shared, *rest = pull((y_ct, state_ct, dense_ct))
            t0_ct, t1_ct = (rest[0], rest[1]) if self.times_wanted else (None, None)
            return Pulled(dict(zip(numbers, shared, strict=True)), t0_ct, t1_ct, rest[-2], rest[-1])

        return y1, dense, pulled
