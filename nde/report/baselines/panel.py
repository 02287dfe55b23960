"""What the baselines share: the checks of a panel, and the search for a maximum of the likelihood."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray
from numpy.typing import ArrayLike
from scipy.optimize import minimize

Times = Float[ndarray, "series rows"]
Values = Float[ndarray, "series rows channels"]
Mask = Bool[ndarray, "series rows channels"]

# Searches run in units of a channel's standard deviation. With a floor to the spread, a channel that never
# changes has a finite likelihood.
MIN_STD = 1e-3
LOG_STD = (np.log(MIN_STD), np.log(20.0))


def checked_panel(
    times: ArrayLike, values: ArrayLike, mask: ArrayLike, channels: int | None = None
) -> tuple[Times, Values, Mask]:
    """The checked panel in float64, with zero for every value outside the mask."""
    t, x, m = np.asarray(times, np.float64), np.asarray(values, np.float64), np.asarray(mask)
    if x.ndim != 3 or t.shape != x.shape[:2] or m.shape != x.shape:
        raise ValueError(
            "a panel is times (series, rows) with values and mask (series, rows, channels); "
            f"got times {t.shape}, values {x.shape}, mask {m.shape}"
        )
    if m.dtype != np.bool_:
        raise ValueError(f"a mask is boolean, got {m.dtype}; convert it with `mask.astype(bool)`")
    if channels is not None and x.shape[-1] != channels:
        raise ValueError(f"the baseline was fitted to {channels} channels, got values with {x.shape[-1]}")
    if not (np.diff(t, axis=1) >= 0).all():
        raise ValueError("times must not decrease within a series; sort its rows, pad with its last time")
    x = np.where(m, x, 0.0)
    if not np.isfinite(x).all():
        raise ValueError("the mask is true at a value that is not finite; make it false there")
    return t, x, m


def training_panel(times: ArrayLike, values: ArrayLike, mask: ArrayLike) -> tuple[Times, Values, Mask]:
    """The checked panel, refused if a channel has no observed value."""
    t, x, m = checked_panel(times, values, mask)
    empty = np.flatnonzero(~m.any((0, 1)))
    if empty.size:
        raise ValueError(f"channel {empty[0]} of 0 to {x.shape[-1] - 1} has no observed value; leave it out")
    return t, x, m


def least(loss: Callable, starts: list[ndarray], bounds: list) -> tuple[ndarray, float]:
    """Where `loss(theta) -> (value, gradient)` is least among L-BFGS's ends, and its value."""
    options = {"ftol": 1e-12, "gtol": 1e-5, "maxiter": 500}
    runs = [minimize(loss, x0, jac=True, method="L-BFGS-B", bounds=bounds, options=options) for x0 in starts]
    best = min(runs, key=lambda run: run.fun)
    return best.x, best.fun
