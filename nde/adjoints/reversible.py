"""The adjoint of reversible methods: no states are kept, each is found again from the next."""

from typing import Any

import diffrax
import jax
import jax.numpy as jnp

from nde.adjoints.base import AbstractAdjoint
from nde.adjoints.sweep import merged, Pulled, Sweep, swept
from nde.solvers import AbstractWayBack, find_way_back


class ReversibleAdjoint(AbstractAdjoint):
    r"""The exact gradient of the discrete solve by a reversible method, in memory that no number of steps adds to.

    The way back finds $(y_n, z_n)$ from $(y_{n+1}, z_{n+1})$, by the method's own inverse, and pulls the cotangent
    through the evaluations of the field that this takes: each is made once, so that a gradient costs what it does by
    `nde.CheckpointAdjoint` with the same solver. Nothing is kept of a fixed grid (`diffrax.ConstantStepSize`,
    `diffrax.StepTo`), whose times are known, and one time a step of an adaptive one, `max_steps` of them. What is a
    constant and what carries a gradient is as for `nde.CheckpointAdjoint`; so is the sum over a batch.

    **Solvers:** `nde.Reversible` round any explicit method, `diffrax.ReversibleHeun`, and any solver whose
    `nde.solvers.SolverTraits` have an inverse. ODEs, CDEs and SDEs alike: a
    Brownian path is asked again for the same increments.

    **Raises:** `ValueError` for another solver, for an event, for dense output (their results keep what this adjoint
    does not), for `diffrax.ReversibleHeun` with a controller that reports jumps, and, in the gradient of an adaptive
    solve, for `max_steps=None`.

    **Limits:** reverse mode, once, and forward mode over it (`jax.hessian`). States are found again up to rounding
    errors, which the equation and the method may make grow on the way back: with a strongly contracting equation over a
    long time they do so exponentially, and the gradient is wrong without a word; use `nde.CheckpointAdjoint` there.
    See the limits of `nde.Reversible` for how much.

    **Source:** McCallum & Foster, 2024, arXiv 2410.11648, algorithm 1; Kidger, Foster, Li, Lyons, 2021, arXiv
    2105.13493, algorithm 2.
    """

    def prepare(self, problem: Any, place: Any) -> None:
        options = problem.options
        solver, name = options["solver"], type(options["solver"]).__name__
        way_back = find_way_back(solver, options["terms"], options["args"])
        if way_back is None:
            raise ValueError(
                f"ReversibleAdjoint needs a reversible solver, but got {name}: wrap it as nde.Reversible({name}()) if "
                "it is an explicit Runge-Kutta method, take diffrax.ReversibleHeun, or use nde.CheckpointAdjoint."
            )
        if options["event"] is not None:
            raise ValueError(
                "ReversibleAdjoint can not differentiate a solve with an event: use nde.CheckpointAdjoint."
            )
        if options["saveat"].dense:
            raise ValueError(
                "ReversibleAdjoint can not differentiate dense output, which keeps every step: save at ts or steps, or "
                "use nde.CheckpointAdjoint."
            )
        if way_back.needs_no_jump and place.made_jump is not None:
            raise ValueError(
                f"ReversibleAdjoint can not take {name} back over a jump of the field, of which the step-size "
                "controller may report some: use nde.Reversible(diffrax.Heun()), or nde.CheckpointAdjoint."
            )
        problem.way_back = _Traced(problem.kernel.watch_back(way_back), problem, place)

    def recorded(self, place: Any) -> Any:
        return place.t if place.reached is None else (place.t, place.reached)

    def rows(self, row_bytes: int, max_steps: int | None, most: int = 512) -> int | None:
        del row_bytes, most
        return max_steps

    def march(self, march: Any, inputs: Any, perturbed: Any) -> Any:
        if march.problem.way_back.grid is not None:
            march = march.without_record()
        elif march.rows is None:
            raise ValueError(
                "nde.diffeqsolve with max_steps=None can not be differentiated backward: the record of its times needs "
                "a bound. Give max_steps, however large."
            )

        return swept(march, inputs, perturbed, _ReversibleSweep)


class _Traced:
    """A method's way back, traced together with the problem.

    - `pieces`: the functions that it evaluates, by name.
    - `grid`: `(number, start) -> t`, the time of a place on a grid that the controller knows, else `None`.
    """

    def __init__(self, method: AbstractWayBack, problem: Any, place: Any):
        self.method, self.place = method, place
        self.controller, self.moves = problem.options["stepsize_controller"], problem.grid_moves
        self.pieces: dict[str, Any] = {}
        self.grid: Any = None

    def trace(self, hoist: Any) -> None:
        """Trace the functions; `hoist(function, *examples)` makes inputs of what a function closes over."""
        place = self.place
        pieces = self.method.pieces(place.t, place.tnext, place.y, place.solver_state)
        self.pieces = {name: hoist(piece.function, *piece.examples) for name, piece in pieces.items()}
        if self.moves or isinstance(self.controller, diffrax.StepTo):
            self.grid = hoist(self._time, jnp.int32(0), place)

    def _time(self, number, start):
        """The time of the place with a number: by the controller's own word on the step before, as in the loop."""
        state = start.controller_state
        index = state[0] if self.moves else state
        index = index + number.astype(jnp.asarray(index).dtype) - 2
        state = (index, *state[1:]) if self.moves else index
        _, _, t, *_ = self.controller.adapt_step_size(start.t, start.t, start.y, start.y, None, None, None, state)
        if self.moves:
            t = jnp.where(number == 1, start.tnext, t)
        return jnp.where(number == 0, start.t, t)


class _ReversibleSweep(Sweep):
    """A way back whose steps begin where the method's inverse says."""

    def __init__(self, *given):
        super().__init__(*given)
        self.way_back = self.problem.way_back

    def run(self):
        """The cotangents of the inputs."""
        carry, last, start = self._begin(), self.outcome.place, self.start
        way_back, call = self.way_back.method, _Calls(self)
        tail = way_back.end(call, start.t, start.tnext, last.y, last.solver_state)
        safe = way_back.end(call, start.t, start.tnext, start.y, start.solver_state)

        def back(state):
            i, carry, tail = state
            i = i - 1
            live = (i < self.steps) & self.wanted
            begin, before = self._times(i)
            t0, t1 = self.batch.where(live, (begin, carry.end), (start.t, start.tnext))
            call = _Calls(self)
            step = way_back.back(call, t0, t1, self.batch.where(live, tail, safe), self.needs_dense)
            carry = self._pull(carry, t0, t1, step.y1, step.dense, self._pulled(step, call), i, live, before)
            return i, carry, self.batch.where(live, step.tail, tail)

        most = self.batch.most(self.steps)
        return self._finish(jax.lax.while_loop(lambda s: s[0] > 0, back, (most, carry, tail))[1])

    def _times(self, number):
        """The times of the places with a number, and where the steps to them ended."""
        if self.way_back.grid is None:
            recorded = self._unpacked(self.record.rows, number)
            return recorded if isinstance(recorded, tuple) else (recorded, recorded)
        numbers, grid = jnp.broadcast_to(number, self.batch.shape), self.way_back.grid
        time = self.march.lift(grid)(grid.pick(self.inputs.shared), numbers, self.inputs.place)
        return time, time

    def _pulled(self, step, call):
        """A step's pull in the form of a sweep."""
        structure = jax.tree.structure(self.inputs.place.solver_state)

        def pulled(y_ct, state_ct, dense_ct):
            t0, t1, y, state = step.pull(y_ct, structure.unflatten(state_ct), dense_ct)
            return Pulled(call.shared, t0, t1, y, jax.tree.leaves(state))

        return pulled


class _Calls:
    """Evaluates the pieces of a reversible method over the batch; see `nde.solvers.Call`.

    `shared`: the cotangents, by number, of what the pieces close over, as far as they were pulled.
    """

    def __init__(self, sweep: _ReversibleSweep):
        self.sweep = sweep
        self.shared: dict[int, jax.Array] = {}

    def __call__(self, name, t0, t1, *arguments):
        sweep = self.sweep
        hoisted = sweep.way_back.pieces[name]
        piece = sweep.march.lift(hoisted)
        numbers, mine = sweep._shared_of(hoisted)

        def evaluate(mine, times, arguments):
            shared = merged(sweep.inputs.shared, numbers, mine)
            return piece(hoisted.pick(shared), *times, *arguments)

        times = (t0, t1)
        if sweep.times_wanted:
            value, back = jax.vjp(evaluate, mine, times, arguments)
        else:
            value, back = jax.vjp(lambda mine, arguments: evaluate(mine, times, arguments), mine, arguments)

        def pull(cotangent):
            shared, *times_ct, arguments_ct = back(cotangent)
            for i, x in zip(numbers, shared, strict=True):
                self.shared[i] = self.shared[i] + x if i in self.shared else x
            return (*(times_ct[0] if times_ct else (0.0, 0.0)), *arguments_ct)

        return value, pull
