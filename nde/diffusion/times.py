"""Times at which a sampler steps, from the noise to the data."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from nde.diffusion.schedules import AbstractSchedule


def uniform_times(schedule: AbstractSchedule, steps: int, *, ends: tuple[Any, Any] | None = None) -> jax.Array:
    """Times that are even in $t$, see `log_snr_times`."""
    first, last = _ends("uniform_times", schedule, steps, ends)
    return jnp.linspace(last, first, steps + 1)


def log_snr_times(schedule: AbstractSchedule, steps: int, *, ends: tuple[Any, Any] | None = None) -> jax.Array:
    r"""Times that are even in the logarithm of $\gamma_t = \alpha_t / \sigma_t$.

    **Arguments:** `schedule`; `steps`: how many; `ends`: the time near the data and the one near the noise, those of
    the schedule unless given.

    **Returns:** `steps + 1` times, falling from the noise's end to the data's, exact at both: give them to
    `diffrax.StepTo`.

    **Raises:** `ValueError` for less than one step, or ends that are not in their order or at which $\alpha$ or
    $\sigma$ is zero.

    **Source:** Lu et al., *DPM-Solver*, 2022, arXiv 2206.00927, appendix D.
    """
    return _even_in("log_snr_times", lambda gamma: jnp.log(gamma), lambda u: jnp.exp(u), schedule, steps, ends)


def karras_times(
    schedule: AbstractSchedule, steps: int, *, rho: float = 7.0, ends: tuple[Any, Any] | None = None
) -> jax.Array:
    r"""Times that are even in $(\sigma_t / \alpha_t)^{1 / \rho}$, see `log_snr_times`.

    **Source:** Karras et al. 2022, arXiv 2206.00364, equation 5.
    """
    if not rho > 0:
        raise ValueError(f"karras_times needs rho > 0, but got {rho=}.")
    return _even_in("karras_times", lambda g: g ** (-1 / rho), lambda u: u**-rho, schedule, steps, ends)


def _even_in(name: str, to: Callable, back: Callable, schedule: AbstractSchedule, steps: int, ends: Any) -> jax.Array:
    first, last = _ends(name, schedule, steps, ends)
    u = jnp.linspace(to(schedule.gamma(last)), to(schedule.gamma(first)), steps + 1)
    return schedule.time(back(u)).at[0].set(last).at[-1].set(first)


def _ends(name: str, schedule: AbstractSchedule, steps: int, ends: Any) -> tuple[jax.Array, jax.Array]:
    """The two ends, as arrays of one dtype, checked where their values are known."""
    if steps < 1:
        raise ValueError(f"{name} needs at least one step, but got {steps=}.")
    first, last = (jnp.asarray(t, jnp.result_type(float)) for t in (schedule.ends if ends is None else ends))
    known = not any(isinstance(x, Tracer) for x in jax.tree.leaves((first, last, schedule)))
    if known:
        if not first < last:
            raise ValueError(
                f"{name} goes from the noise to the data, and needs ends=(t near the data, t near the noise) with the "
                f"first below the second, but got {float(first):g} and {float(last):g}."
            )
        for t in (first, last):
            gamma = float(schedule.gamma(t))
            if not 0 < gamma < float("inf"):
                raise ValueError(
                    f"{name}: at t = {float(t):g} the {type(schedule).__name__} has alpha / sigma = {gamma:g}; times "
                    f"must end before, at {schedule.ends[0]:g} and {schedule.ends[1]:g} for instance."
                )
    return first, last
