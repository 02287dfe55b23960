"""How many steps a fixed grid has, as far as that is known before a solve is traced."""

from types import ModuleType
from typing import Any

import diffrax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from nde.types import ScalarLike


def count_steps(
    controller: diffrax.AbstractStepSizeController,
    t0: ScalarLike,
    t1: ScalarLike,
    dt0: ScalarLike | None,
    time_dtype: Any,
) -> int | None:
    """How many steps a solve takes, where that is known before it is traced; else `None`.

    It is for `diffrax.StepTo`, and for `diffrax.ConstantStepSize` between ends that are numbers: see `whole_steps`.
    """
    if isinstance(controller, diffrax.StepTo):
        return len(controller.ts) - 1
    if not isinstance(controller, diffrax.ConstantStepSize):
        return None
    if dt0 is None or any(isinstance(x, Tracer) or jnp.ndim(x) for x in (t0, t1, dt0)):
        return None
    start, end, step = (float(np.asarray(x, time_dtype)) for x in (t0, t1, dt0))
    if not np.isfinite(end - start) or start == end or step == 0 or not np.isfinite(step):
        return None
    return int(whole_steps(np, start, end, abs(step), float(jnp.finfo(time_dtype).eps)))


def whole_steps(xp: ModuleType, t0: Any, t1: Any, step: Any, eps: float) -> Any:
    """How many steps of at most a given length lead from a time to another; `xp` is NumPy or `jax.numpy`.

    A number within the rounding of the times (`eps`: of their dtype) of a whole one is that one: 60 steps of 0.01 lead
    from 10 to 10.6 in single precision, where the ratio, 60.00004, would make 61.
    """
    ratio = abs(t1 - t0) / step
    nearest = xp.round(ratio)
    rounding = eps * ((abs(t0) + abs(t1)) / step + 2 * ratio)
    return xp.maximum(xp.where(ratio - nearest <= rounding, nearest, xp.ceil(ratio)), 1)
