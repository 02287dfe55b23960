"""What a network predicts of a noisy state, and one prediction as another."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from nde.diffusion.schedules import AbstractSchedule
from nde.terms import scaled

PREDICTIONS = ("data", "noise", "score", "velocity")
r"""Of $x_t = \alpha_t x_0 + \sigma_t \varepsilon$ the mean given $x_t$ of: the data $x_0$; the noise $\varepsilon$;
the score $\nabla \log p_t(x_t) = -\varepsilon / \sigma_t$; the velocity
$\dot\alpha_t x_0 + \dot\sigma_t \varepsilon$, which is the field of the probability-flow ODE."""


def check_prediction(name: str, predicts: str, what: str = "predicts") -> None:
    """A `ValueError` for what is none of `PREDICTIONS`, naming whose, and what of it."""
    if predicts not in PREDICTIONS:
        raise ValueError(f"{name}: {what} must be one of {', '.join(PREDICTIONS)}, but got {predicts!r}.")


def convert(value: Any, predicts: str, to: str, schedule: AbstractSchedule, t: Any, x: Any) -> Any:
    r"""A prediction of one kind as one of another, by $x - c = \alpha (x_0 - c) + \sigma \varepsilon$.

    **Arguments:** `value`: what was predicted at `t` and `x`, of the structure of `x`; `predicts`, `to`: two of
    `nde.diffusion.PREDICTIONS`; `schedule`: $\alpha$, $\sigma$ and the centre $c$, of which data are counted too.

    **Returns:** the other prediction, of the structure and dtype of `x`.

    **Raises:** `ValueError` for a kind that there is not.

    **Limits:** data from noise divide by $\alpha_t$, noise from data by $\sigma_t$.
    """
    check_prediction("convert", predicts)
    check_prediction("convert", to)
    if predicts == to:
        return value
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    alpha_rate, sigma_rate = schedule.rates(t)
    turn = sigma_rate * alpha - sigma * alpha_rate  # never zero: gamma falls
    deviation, centre = schedule.deviation(x), schedule.centre
    # The noise as a multiple of the state and one of the prediction.
    of_noise = {
        "data": (1 / sigma, -alpha / sigma),
        "noise": (jnp.zeros_like(sigma), jnp.ones_like(sigma)),
        "score": (jnp.zeros_like(sigma), -sigma),
        "velocity": (-alpha_rate / turn, alpha / turn),
    }
    of_data = {
        "data": (jnp.zeros_like(sigma), jnp.ones_like(sigma)),
        "noise": (1 / alpha, -sigma / alpha),
        "score": (1 / alpha, sigma**2 / alpha),
        "velocity": (sigma_rate / turn, -sigma / turn),
    }
    if predicts == "data":
        value = schedule.deviation(value)
    if to == "data":
        data = _combined(of_data[predicts], deviation, value)
        return data if centre is None else jax.tree.map(jnp.add, data, centre)
    if to == "velocity":
        noise = _combined(of_noise[predicts], deviation, value)
        data = _combined(of_data[predicts], deviation, value)
        return _combined((alpha_rate, sigma_rate), data, noise)
    noise = _combined(of_noise[predicts], deviation, value)
    return noise if to == "noise" else scaled(-1 / sigma, noise)


def converted(prediction: Callable, predicts: str, to: str, schedule: AbstractSchedule) -> Callable:
    """The function `(t, x, args)` of one prediction as that of another, see `convert`.

    **Raises:** `ValueError` for a kind that there is not.
    """
    check_prediction("converted", predicts)
    check_prediction("converted", to)
    if predicts == to:
        return prediction
    return lambda t, x, args: convert(prediction(t, x, args), predicts, to, schedule, t, x)


def thresholded(prediction: Callable, *, quantile: float = 0.995, limit: float = 1.0) -> Callable:
    r"""A prediction of the data that is kept within their range: clipped to $[-q, q]$ and multiplied by `limit` $/ q$.

    $q$ is the `quantile` of the absolute values of a prediction, at least `limit`: guidance that is too strong pushes
    many entries out of the range at once, and saturates them where they are clipped alone.

    **Arguments:** `prediction`: of the data, called `prediction(t, x, args)`; `quantile`: 1 clips nothing but rescales;
    `limit`: the greatest absolute value of the data.

    **Raises:** `ValueError` for a quantile outside of (0, 1] or a limit that is not positive.

    **Source:** Saharia et al., *Photorealistic text-to-image diffusion models with deep language understanding*, 2022,
    arXiv 2205.11487, section 2.3; for solvers Lu et al. 2022, arXiv 2211.01095, section 4.
    """
    if not (0 < quantile <= 1 and limit > 0):
        raise ValueError(f"thresholded needs 0 < quantile <= 1 and limit > 0, but got {quantile=} and {limit=}.")

    def bounded(t, x, args):
        data = jax.tree.map(jnp.asarray, prediction(t, x, args))
        sizes = jnp.concatenate([jnp.abs(leaf).ravel() for leaf in jax.tree.leaves(data)])
        reach = jnp.maximum(jnp.quantile(sizes, quantile), limit)
        return jax.tree.map(lambda leaf: jnp.clip(leaf, -reach, reach) * (limit / reach).astype(leaf.dtype), data)

    return bounded


def _combined(factors: tuple[Any, Any], x: Any, value: Any) -> Any:
    return jax.tree.map(lambda x, v: x + v.astype(x.dtype), scaled(factors[0], x), scaled(factors[1], value))
