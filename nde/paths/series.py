"""Paths through irregular, partly missing series: time, the values, and how often each was observed."""

from collections.abc import Callable
from typing import Literal

import diffrax
import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float

from nde.dtypes import as_floats
from nde.paths.hermite import hermite_path
from nde.paths.linear import linear_path, rectilinear_path
from nde.paths.natural_cubic import natural_cubic_path

Interpolation = Literal["hermite", "linear", "rectilinear", "natural_cubic"]
SeriesPath = diffrax.CubicInterpolation | diffrax.LinearInterpolation

INTERPOLATIONS: dict[str, Callable[[Array, Array, Array], SeriesPath]] = {
    "hermite": hermite_path,
    "linear": linear_path,
    "rectilinear": rectilinear_path,
    "natural_cubic": natural_cubic_path,
}
"""Each makes a path of times `(rows,)`, values `(rows, channels)` and which of them are known, the first row's all."""

CAUSAL = ("rectilinear",)
"""Those whose path up to a row hangs on no later row."""


def series_path(
    ts: ArrayLike,
    values: ArrayLike,
    mask: ArrayLike | None = None,
    *,
    interpolation: Interpolation = "hermite",
    scaled: bool = False,
    time_scale: float | None = None,
) -> SeriesPath:
    r"""A path of `1 + 2 * channels` channels through a series: time, the values, and the count of their observations.

    Each channel goes through its own observations. A row that lacks a channel leaves its values as they are. A channel
    that is missing at the first row starts from zero there; after its last observation it is constant. Time and counts
    are known in every row. What lies between is the `interpolation`'s:

    - `"hermite"`: a cubic that begins with the slope of the line before, and looks ahead to the next observation of its
      channel (`nde.paths.hermite_path`).
    - `"linear"`: a line, which looks ahead as far.
    - `"rectilinear"`: the last value is held while the clock runs to the next row, then the values go to theirs, so
      that the path up to a row knows no later row (`nde.paths.rectilinear_path`).
    - `"natural_cubic"`: the smoothest curve through all observations; it looks ahead to the last.

    **Arguments:** `ts` of shape `(rows,)`; `values` and `mask` of shape `(rows, channels)`; a value is missing where
    the mask is `False` or the value NaN. Rows at the end that repeat the last time are padding and hold no observation.
    `scaled`, `time_scale`: of time and counts, as for `nde.models.NeuralCDE`; where `time_scale` is `None`, a scaled
    clock knows how long the series is.

    **Returns:** the path, from `ts[0]` to `ts[-1]`. Its member `ts` has the times between which it is smooth.

    **Raises:** `ValueError` if `ts`, `values` and `mask` differ in length, if there are fewer than two rows, or for an
    interpolation of another name; an error at run time if the times do not increase, or if a row that repeats a time
    holds an observation.

    **Source:** Kidger et al. 2020, arXiv 2005.08926, section 3 (time and counts as channels); Morrill et al. 2021,
    arXiv 2106.11028 (the interpolations, and what each looks ahead).
    """
    check_interpolation(interpolation)
    ts, values, observed = _check_series(ts, values, mask)
    repeats = jnp.concatenate([jnp.zeros(1, bool), ts[1:] == ts[:-1]])
    clock, counts = ts, jnp.cumsum(observed, axis=0, dtype=ts.dtype)
    if scaled:
        span = ts[-1] - ts[0]
        # a series of one row and its padding has no length
        unit = jnp.where(span > 0, span, 1) if time_scale is None else jnp.asarray(time_scale, ts.dtype)
        clock, counts = (ts - ts[0]) / unit, jnp.log1p(counts)
    channels = jnp.concatenate([clock[:, None], jnp.where(observed, values, 0.0), counts], axis=1)
    always = jnp.ones((ts.shape[0], 1), bool)
    known = jnp.concatenate([always, observed, jnp.broadcast_to(always, observed.shape)], axis=1)
    known = (known & ~repeats[:, None]).at[0].set(True)
    return INTERPOLATIONS[interpolation](ts, channels, known)


def check_interpolation(name: str) -> None:
    """**Raises:** `ValueError` if there is no interpolation of this name."""
    if name not in INTERPOLATIONS:
        raise ValueError(f"there is no interpolation '{name}'; there are {', '.join(INTERPOLATIONS)}.")


def _check_series(ts, values, mask) -> tuple[Float[Array, " rows"], Array, Bool[Array, "rows channels"]]:
    """Times and values as floats of one type, and what was observed."""
    ts, values = as_floats(ts, values)
    mask = jnp.ones(values.shape, bool) if mask is None else jnp.asarray(mask)
    if ts.ndim != 1 or ts.shape[0] < 2 or values.ndim != 2 or values.shape[0] != ts.shape[0]:
        wrong = True
    else:
        wrong = mask.shape != values.shape
    if wrong:
        raise ValueError(
            "a series needs ts of shape (rows,), with two rows or more, values and mask of shape (rows, channels), but "
            f"got ts of shape {ts.shape}, values of shape {values.shape} and mask of shape {mask.shape}."
        )
    observed = mask.astype(bool) & ~jnp.isnan(values)
    ts = eqx.error_if(ts, ~(ts[1:] >= ts[:-1]), "a series needs times ts that increase, but a row lies before another.")
    repeats = jnp.concatenate([jnp.zeros(1, bool), ts[1:] == ts[:-1]])
    ts = eqx.error_if(
        ts,
        repeats & ((ts != ts[-1]) | jnp.any(observed, axis=1)),
        "a series needs times ts that increase strictly, but for rows without observations that repeat the last time.",
    )
    return ts, values, observed
