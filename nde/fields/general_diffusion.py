"""A diffusion that mixes its noises: a bounded matrix."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from nde.fields.checks import check_sizes
from nde.fields.mlp import append_time
from nde.terms import NoiseKind


class GeneralDiffusion(eqx.Module):
    r"""A matrix of diffusion coefficients, $\sigma_{ij}(t, y) = \sigma_{\max} \tanh \mathrm{MLP}_{ij}(y)$.

    Each of `noise_size` independent Brownian motions moves every state. Entries are bounded by $\pm\sigma_{\max}$, so
    the noise in a state is at most $\sigma_{\max} \sqrt{\mathrm{noise\_size}}$ per square root of time. They may have
    either sign and $\sigma \sigma^T$ may be singular, so a density or a Girsanov weight needs
    `nde.fields.DiagonalDiffusion` instead.

    Declares general noise, or scalar noise if `noise_size` is one: see `nde.fields.NoiseKind`.

    **Arguments of the constructor:**

    - `state_size`, `noise_size`: rows and columns of the matrix.
    - `width`, `depth`: of the network's hidden layers.
    - `time`: whether the network sees the time too. Measure time so that the horizon is of order one then.
    - `largest`: the bound $\sigma_{\max}$, in units of state per square root of time.
    - `key`: a JAX random key, for the initial weights.

    **Call:** `field(t, y, args)` with `y` of shape `(state_size,)`; returns `(state_size, noise_size)`. `args` is not
    used, nor `t` unless `time`.

    **Raises:** `ValueError` for a size below one, a depth below zero or a `largest` that is not positive.

    **Source:** Kidger, Foster, Li, Oberhauser, Lyons, *Neural SDEs as Infinite-Dimensional GANs*, ICML 2021, section 3.
    """

    network: eqx.nn.MLP
    shape: tuple[int, int] = eqx.field(static=True)
    largest: float = eqx.field(static=True)
    time: bool = eqx.field(static=True)

    def __init__(
        self,
        state_size: int,
        noise_size: int,
        width: int,
        depth: int,
        *,
        largest: float,
        time: bool = False,
        activation: Callable[[Array], Array] = jax.nn.softplus,
        key: PRNGKeyArray,
    ):
        check_sizes("GeneralDiffusion", state_size=state_size, noise_size=noise_size, width=width, depth=depth)
        if not largest > 0:
            raise ValueError(f"GeneralDiffusion needs largest > 0, but got largest={largest}.")
        self.network = eqx.nn.MLP(
            state_size + time,
            state_size * noise_size,
            width,
            depth,
            activation=activation,
            final_activation=jnp.tanh,
            key=key,
        )
        self.shape = (state_size, noise_size)
        self.largest = largest
        self.time = time

    @property
    def noise(self) -> NoiseKind:
        """`NoiseKind.SCALAR` for one Brownian motion, else `NoiseKind.GENERAL`."""
        return NoiseKind.SCALAR if self.shape[1] == 1 else NoiseKind.GENERAL

    def __call__(self, t: Any, y: Float[Array, " state"], args: Any = None) -> Float[Array, "state noise"]:
        entries = self.network(append_time(t, y) if self.time else y)
        return self.largest * entries.reshape(self.shape)
