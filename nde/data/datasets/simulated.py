"""Data that are made, not measured: a pendulum with drag and noisy spirals, the same for the same seed."""

import numpy as np
from jaxtyping import Float
from scipy.integrate import solve_ivp

from nde.data.datasets.base import Dataset
from nde.data.panel import Panel

DRAG, LENGTH, GRAVITY = 0.15, 1.0, 9.81


def pendulum_drag(velocity: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    r"""The drag of `nde.data.make_pendulum`: $-c\,|\omega|\,\omega$ with $c = 0.15$, in rad/s²."""
    return -DRAG * np.abs(velocity) * velocity


def make_pendulum(
    *, points: int = 40, span: float = 8.0, ahead: float = 3.0, noise: float = 0.05, seed: int = 0
) -> Panel:
    r"""The angle of a pendulum of one metre with quadratic drag, released at rest at 2 rad, at irregular times.

    $\dot\theta = \omega$, $\dot\omega = -9.81 \sin\theta - 0.15\,|\omega|\,\omega$.

    **Arguments:** `points`: noisy angles at uniform times in $[0, \mathrm{span}]$ seconds, the first at zero; `ahead`:
    the series goes on to `ahead * span` at the same rate; `noise`: standard deviation, in radians; `seed`.

    **Returns:** a panel of one series with the channel `angle`.
    """
    generator = np.random.default_rng(seed)
    inside = np.sort(generator.uniform(0, span, points - 1))
    later = np.sort(generator.uniform(span, ahead * span, round((ahead - 1) * points)))
    times = np.concatenate([[0.0], inside, later])

    def rates(t, y):
        return y[1], -GRAVITY / LENGTH * np.sin(y[0]) + pendulum_drag(y[1])

    path = solve_ivp(rates, (0, times[-1]), (2.0, 0.0), t_eval=times, rtol=1e-9, atol=1e-9).y[0]
    angle = path + noise * generator.standard_normal(len(times))
    return _panel(times[None], angle[None, :, None], ("angle",), "s")


def make_spirals(*, series: int = 40, points: int = 30, noise: float = 0.03, seed: int = 0) -> Panel:
    r"""Noisy spirals in the plane onto the unit circle, from inside and outside, at irregular times in [0, 6].

    $\dot y = \tfrac14 (1 - |y|^2)\,y + \tfrac32 J y$ with $J$ the turn by a right angle (the Stuart–Landau oscillator),
    from starts at radius 0.3 to 2.

    **Arguments:** `series` trajectories of `points` noisy points each, the first at time zero; `noise`: standard
    deviation of each coordinate; `seed`.

    **Returns:** a panel with the channels `x` and `y`.
    """
    generator = np.random.default_rng(seed)
    times = np.concatenate([np.zeros((series, 1)), np.sort(generator.uniform(0, 6, (series, points - 1)))], axis=1)
    angle, radius = generator.uniform(0, 2 * np.pi, series), generator.uniform(0.3, 2.0, series)
    starts = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)

    def rates(t, y):
        return 0.25 * (1 - y @ y) * y + 1.5 * np.array([-y[1], y[0]])

    paths = [
        solve_ivp(rates, (0, 6), start, t_eval=row, rtol=1e-8, atol=1e-8).y.T
        for row, start in zip(times, starts, strict=True)
    ]
    values = np.stack(paths) + noise * generator.standard_normal((series, points, 2))
    return _panel(times, values, ("x", "y"), "time")


def _panel(times: np.ndarray, values: np.ndarray, channels: tuple[str, ...], unit: str) -> Panel:
    series, rows = times.shape
    return Panel(
        ids=tuple(str(i) for i in range(series)),
        channels=channels,
        times=times,
        values=values,
        mask=np.ones(values.shape, bool),
        lengths=np.full(series, rows),
        origin=np.zeros(series),
        time_unit=unit,
    )


def _one_pendulum(seed: int = 0, size: int | None = None) -> Panel:
    if size not in (None, 1):
        raise ValueError(f"the pendulum is one series, but size={size}.")
    return make_pendulum(seed=seed)


PENDULUM = Dataset(_one_pendulum, "series", made=True, truth={"added to velocity by velocity": pendulum_drag})
SPIRALS = Dataset(lambda seed=0, size=None: make_spirals(series=size or 40, seed=seed), "series", made=True)
