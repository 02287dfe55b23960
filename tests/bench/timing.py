"""Times of several functions, called in turn in one process, so that what else the machine does meets all alike."""

import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax


def milliseconds(function: Callable[[], Any], calls: int = 1) -> float:
    """The time of a call, the mean of some in a row; a short one runs once more before, for the caches' sake."""
    if calls > 1:
        jax.block_until_ready(function())
    start = time.perf_counter()
    for _ in range(calls):
        jax.block_until_ready(function())
    return 1e3 * (time.perf_counter() - start) / calls


def medians_in_turn(
    functions: Mapping[str, Callable[[], Any]], rounds: int = 15, budget_s: float = 20.0, least_ms: float = 3.0
) -> dict[str, float]:
    """Median milliseconds of each function, taken in turn.

    A call of less than `least_ms` is repeated until that is filled, for a single one of some microseconds is mostly
    its own measurement. There are at least three rounds, and no more of them than fit into `budget_s`.
    """
    for function in functions.values():  # the first call compiles
        jax.block_until_ready(function())
    calls = {name: math.ceil(least_ms / milliseconds(function)) for name, function in functions.items()}
    times: dict[str, list[float]] = {name: [] for name in functions}
    end = time.perf_counter() + budget_s
    for done in range(rounds):
        if done >= 3 and time.perf_counter() > end:
            break
        for name, function in functions.items():
            times[name].append(milliseconds(function, calls[name]))
    return {name: statistics.median(kept) for name, kept in times.items()}


def load() -> float:
    """The machine's load over the last minute: what else was running."""
    return round(os.getloadavg()[0], 1)


def processor() -> dict[str, Any]:
    """What it was measured on."""
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "device": jax.devices()[0].device_kind,
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
    }
