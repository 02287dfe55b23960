"""What a sample of a latent path is, and the divergence of its start."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float


class LatentPath(eqx.Module):
    """One sample of a latent path, and what it cost.

    - `zs`: the latent states at the times asked for, shape `(asked, state)`.
    - `kl_initial`: KL divergence of the initial state's posterior from its prior, in nats.
    - `kl_path`: KL divergence of the path's posterior from its prior along this sample, up to the last of the times
      asked for, in nats.
    - `penalty`: what a regulariser makes of the solve; zero without one.
    """

    zs: Float[Array, "asked state"]
    kl_initial: Float[Array, ""]
    kl_path: Float[Array, ""]
    penalty: Float[Array, ""]


def normal_kl(mean, log_std, prior_mean, prior_log_std) -> Float[Array, ""]:
    r"""$\mathrm{KL}\bigl(\mathcal N(m, s^2) \,\|\, \mathcal N(m', s'^2)\bigr)$ of diagonal normals, in nats, summed."""
    distance = (mean - prior_mean) * jnp.exp(-prior_log_std)
    ratio = jnp.exp(2 * (log_std - prior_log_std))
    return 0.5 * jnp.sum(ratio + distance**2 - 1) - jnp.sum(log_std - prior_log_std)
