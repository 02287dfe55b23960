"""The times of a solve as its caller gave them: what a solve without host callbacks goes by.

diffrax's entry checks times by `equinox.error_if`, whose result hangs on a host callback, for as long as anything reads
it. Where the engine reads the times that were given instead, the compiler drops the checks.
"""

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import ArrayLike

from nde.diffrax_internals import EntryState, replace_state
from nde.loop import Solve
from nde.terms import is_sub
from nde.types import ScalarLike


class UncheckedTimes(eqx.Module):
    """`t0`, `t1` and `dt0`; `ts`: the save times of each sub that has any; `grid`: `StepTo`'s, or `None`."""

    t0: ScalarLike
    t1: ScalarLike
    dt0: ScalarLike | None
    ts: list[ArrayLike]
    grid: jax.Array | None

    def check(self, dtype: Any) -> None:
        """Check the times that are known already, in the dtype that they will have: as diffrax's entry does.

        **Raises:** `ValueError` for a first step backward, and for save times or a grid out of order or place.
        """
        t0, t1, dt0, *ts = (_known(x, dtype) for x in (self.t0, self.t1, self.dt0, *self.ts))
        ends = None if t0 is None or t1 is None else (t0, t1)
        if ends is not None and dt0 is not None and (ends[1] - ends[0]) * dt0 < 0:
            raise ValueError(f"Must have (t1 - t0) * dt0 >= 0, but got t0 = {t0}, t1 = {t1} and dt0 = {dt0}.")
        for times in ts:
            if times is not None:
                _check_save_times(times, ends)
        grid = None if self.grid is None else _known(self.grid, self.grid.dtype)  # its own, as the controller has it
        if grid is not None:
            _check_grid(grid, ends)

    def restore(self, solve: Solve) -> Solve:
        """The solve with the times as they were given, in the direction in which it goes."""
        if self.ts:
            ts = [self._turned(x, solve) for x in self.ts]
            solve = solve._replace(saveat=eqx.tree_at(save_times, solve.saveat, ts))
        if self.grid is not None:
            grid = self.grid * self._direction(solve)
            controller = eqx.tree_at(lambda c: c.ts, solve.stepsize_controller, grid)
            solve = solve._replace(stepsize_controller=controller)
        if self.dt0 is not None:
            solve = solve._replace(dt0=self._turned(self.dt0, solve))
        return solve

    def restart(
        self, start: EntryState, solve: Solve, has_solver_state: bool, has_controller_state: bool
    ) -> EntryState:
        """The state of diffrax's entry, with what hangs on its first step made again."""
        terms, solver, controller, args = solve.terms, solve.solver, solve.stepsize_controller, solve.args
        t0, t1, dt0, controller_state = solve.t0, solve.t1, solve.dt0, start.controller_state
        if isinstance(controller, diffrax.StepTo):
            tnext = controller.ts[1]
        elif dt0 is None:
            return start
        elif has_controller_state:
            tnext = t0 + dt0
        else:
            order: Any = solver.error_order(terms)
            tnext, controller_state = controller.init(terms, t0, t1, start.y, dt0, args, solver.func, order)
        tnext = jnp.minimum(tnext, t1)
        solver_state = start.solver_state if has_solver_state else solver.init(terms, t0, tnext, start.y, args)
        return replace_state(start, tnext=tnext, solver_state=solver_state, controller_state=controller_state)

    def _turned(self, times: ArrayLike, solve: Solve) -> jax.Array:
        return jnp.asarray(times, solve.t0.dtype) * self._direction(solve)

    def _direction(self, solve: Solve) -> jax.Array:
        t0, t1 = (jnp.asarray(x, solve.t0.dtype) for x in (self.t0, self.t1))
        return jnp.where(t0 < t1, 1, -1)


def _known(x: ArrayLike | None, dtype: Any) -> np.ndarray | None:
    """A time or times as NumPy has them, if they are known; complex ones are left to the entry to refuse."""
    return None if x is None or isinstance(x, Tracer) or np.iscomplexobj(x) else np.asarray(x, dtype)


def _check_save_times(ts: np.ndarray, ends: tuple[np.ndarray, np.ndarray] | None) -> None:
    falls, rises = np.any(ts[1:] < ts[:-1]), np.any(ts[1:] > ts[:-1])
    against = falls and rises if ends is None else falls if ends[0] < ends[1] else rises
    if against:
        raise ValueError("saveat.ts must be increasing or decreasing, as t0 and t1 are.")
    if ends is not None and np.any((ts < min(ends)) | (ts > max(ends))):
        raise ValueError(f"saveat.ts must lie between t0 = {ends[0]} and t1 = {ends[1]}.")


def _check_grid(ts: np.ndarray, ends: tuple[np.ndarray, np.ndarray] | None) -> None:
    steps = np.diff(ts)
    if not (np.all(steps > 0) or np.all(steps < 0)):
        raise ValueError("`StepTo(ts=...)` must be strictly increasing (or strictly decreasing if t0 > t1).")
    if ends is not None and (ts[0] != ends[0] or ts[-1] != ends[1]):
        raise ValueError(
            f"Must have `t0==ts[0]` and `t1==ts[-1]` for `StepTo(ts=...)`, but got t0 = {ends[0]} and t1 = {ends[1]}."
        )


def save_times(saveat: diffrax.SaveAt | None) -> list[Any]:
    """The times of each sub that has any."""
    subs = [] if saveat is None else jax.tree.leaves(saveat.subs, is_leaf=is_sub)
    return [sub.ts for sub in subs if sub.ts is not None]
