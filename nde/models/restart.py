"""Restart sampling: an ODE whose errors are washed out by noise that is added and removed again."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, PRNGKeyArray, PyTree

from nde.diffusion import AbstractSchedule, diffusion_model_term, log_snr_times
from nde.engine import diffeqsolve
from nde.solvers import ExponentialAdams


class RestartInterval(NamedTuple):
    """From `low`, each of `rounds` times, noise is added up to `high` and removed again in `steps` steps."""

    low: float
    high: float
    rounds: int = 1
    steps: int = 5


def restart_sample(
    prediction: Callable,
    schedule: AbstractSchedule,
    x: Array,
    times: ArrayLike,
    intervals: Sequence[RestartInterval],
    *,
    key: PRNGKeyArray,
    predicts: str = "data",
    solver: diffrax.AbstractSolver | None = None,
    args: PyTree[Any] = None,
) -> Array:
    r"""A sample by the probability-flow ODE with restarts.

    The ODE is solved down to the `low` $t$ of the highest interval; there, noise is added as the forward equation
    adds it,

    $$x_s = c + \frac{\alpha_s}{\alpha_t} (x_t - c) +
    \sqrt{\sigma_s^2 - \tfrac{\alpha_s^2}{\alpha_t^2} \sigma_t^2}\;\varepsilon, \qquad s = \text{high},$$

    and the ODE solved from $s$ to $t$ again, `rounds` times; then it goes on. The added noise forgets a share of the
    errors made so far, as an SDE does, and the steps are those of an ODE, whose own errors are small.

    **Arguments:** `prediction`: called `prediction(t, x, args)`; `schedule`; `x`: the noise to begin with, at the first
    of `times`, which fall to the data; `intervals`: `nde.models.RestartInterval`s, whose `low` ends lie within the
    times, at any place; `predicts`: one of `nde.diffusion.PREDICTIONS`; `solver`: `nde.ExponentialAdams(2)` unless
    given, for `nde.diffusion_model_term` in the data form (the noise form, if noise is predicted).

    **Returns:** the sample at the last time, of the shape of `x`.

    **Raises:** `ValueError` for times that do not fall, an interval that is empty, or whose `low` is not between the
    last time and the first.

    **Limits:** each round costs the evaluations of its steps. Times and intervals are known numbers, the program static
    in them. It acts on one point; use `jax.vmap` over points and keys.

    **Source:** Xu, Deng, Cheng, Tian, Liu, Jaakkola, *Restart sampling for improving generative processes*, NeurIPS
    2023, arXiv 2306.14878, algorithm 1.
    """
    ts = [float(t) for t in np.asarray(times)]
    if any(b >= a for a, b in zip(ts, ts[1:], strict=False)) or len(ts) < 2:
        raise ValueError(f"restart_sample needs times that fall from the noise to the data, but got {ts}.")
    for one in intervals:
        if not (ts[-1] <= one.low < one.high and one.low < ts[0] and one.rounds >= 1 and one.steps >= 1):
            raise ValueError(
                f"restart_sample needs intervals with {ts[-1]:g} <= low < {ts[0]:g}, low < high, rounds and steps of "
                f"at least one, but got {one}."
            )
    term = diffusion_model_term(prediction, schedule, predicts)
    solver = ExponentialAdams(2) if solver is None else solver

    def down(x: Array, grid: Any) -> Array:
        grid = jnp.asarray(grid, jnp.result_type(float))
        steps = diffrax.StepTo(grid)
        solution: Any = diffeqsolve(
            term, solver, grid[0], grid[-1], None, x, args, stepsize_controller=steps, max_steps=grid.size + 1
        )
        return solution.ys[-1]

    for one in sorted(intervals, key=lambda each: -each.low):
        above = [t for t in ts if t > one.low]
        x = down(x, [*above, one.low])
        ts = [one.low, *(t for t in ts if t < one.low)]
        grid = log_snr_times(schedule, one.steps, ends=(one.low, one.high))
        for _ in range(one.rounds):
            key, draw = jax.random.split(key)
            x = down(_noisier(schedule, one.low, one.high, x, draw), grid)
    return down(x, ts) if len(ts) > 1 else x


def _noisier(schedule: AbstractSchedule, low: float, high: float, x: Array, key: PRNGKeyArray) -> Array:
    """A state with the noise that the forward equation adds between two times."""
    share = schedule.alpha(high) / schedule.alpha(low)
    added = jnp.sqrt(schedule.sigma(high) ** 2 - (share * schedule.sigma(low)) ** 2)
    moved = share.astype(x.dtype) * schedule.deviation(x)
    moved = moved + added.astype(x.dtype) * jax.random.normal(key, x.shape, x.dtype)
    return moved if schedule.centre is None else moved + schedule.centre
