"""The numbers that a law of noise has learned, by name and in the units of the values."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from nde.objectives import AbstractLikelihood, LogNormalLikelihood

KINDS = {
    "raw_scale": "noise",
    "raw_degrees": "degrees of freedom",
    "raw_additive": "additive noise",
    "raw_proportional": "proportional noise",
}
"""What each array of `nde.objectives.likelihoods` is called, before the channel that it is of."""


@dataclass(frozen=True)
class NoiseNumbers:
    """One array of a law: the array itself, its names, and its values, which grow with it."""

    raw: Float[Array, " channels"]
    names: tuple[str, ...]
    value: Float[Array, " channels"]


def noise_numbers(law: AbstractLikelihood, channels: Sequence[str], unit: ArrayLike = 1.0) -> list[NoiseNumbers]:
    """Every array that a law has learned, through laws in units, by channel or censored.

    **Arguments:** `channels`: the names of its channels; `unit`: of its values, a number for each or one for all.
    """
    scale = jnp.broadcast_to(jnp.asarray(unit, jnp.result_type(float)), (len(channels),))
    laws, inner = getattr(law, "laws", None), getattr(law, "law", None)
    if laws is not None:
        parts = zip(laws, channels, scale, strict=True)
        return [found for one, name, size in parts for found in noise_numbers(one, [name], size)]
    if inner is not None:
        own = jnp.asarray(getattr(law, "unit", 1.0), scale.dtype)
        return noise_numbers(inner, channels, scale * jnp.broadcast_to(own, scale.shape))
    found = []
    for field, called in KINDS.items():
        raw = getattr(law, field, None)
        if raw is not None:
            names = tuple(f"{called} of {channel}" for channel in channels)
            value = getattr(law, field.removeprefix("raw_"), jax.nn.softplus(raw))
            # scales around a value are in its unit; shares of it, logarithms and tails are in none
            bare = field in ("raw_degrees", "raw_proportional") or isinstance(law, LogNormalLikelihood)
            found.append(NoiseNumbers(raw, names, value if bare else value * scale.astype(value.dtype)))
    return found
