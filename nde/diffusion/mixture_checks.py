"""Whether numbers make a mixture of Gaussians."""

import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array


def check_values(weights: Array, means: Array, spread: Array, *, of_covariances: bool) -> None:
    """A `ValueError` for values that make no mixture, where they are known."""
    if any(isinstance(x, Tracer) for x in (weights, means, spread)):
        return
    if not (jnp.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0):
        raise ValueError(
            f"GaussianMixture: weights must be finite and not negative, with one above zero, but are {weights}."
        )
    if not jnp.isfinite(means).all():
        raise ValueError("GaussianMixture: means must be finite, but some are not.")
    if not of_covariances and not (jnp.isfinite(spread) & (spread > 0)).all():
        raise ValueError(f"GaussianMixture: std must be finite and above zero, but is {spread}.")
    if of_covariances:
        # By rounding a product such as A A^T is symmetric to some units in the last place, no further.
        apart = jnp.abs(spread - jnp.swapaxes(spread, -1, -2)).max()
        if not apart <= 100 * jnp.finfo(spread.dtype).eps * jnp.abs(spread).max():
            raise ValueError("GaussianMixture: covariances must be finite and symmetric, but one is not.")
        least = jnp.linalg.eigvalsh(spread).min()
        if not least > 0:
            raise ValueError(
                f"GaussianMixture: covariances must be positive definite, but one has the eigenvalue {least:g}."
            )
