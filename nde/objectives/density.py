"""The loss of a density."""

from typing import Protocol

from jaxtyping import Array, Float, PRNGKeyArray


class DensityModel(Protocol):
    """What the loss asks of a model; `nde.models.ContinuousNormalizingFlow` is one."""

    def log_prob(self, x: Array, /, *, key: PRNGKeyArray | None = None) -> Array:
        """The log-density at a point, in nats."""
        ...


def negative_log_likelihood(
    model: DensityModel, x: Float[Array, " size"], *, key: PRNGKeyArray | None = None
) -> Float[Array, ""]:
    r"""What a density pays for one point, $-\log p(x)$, in nats; its mean over data is their cross-entropy with `p`.

    **Arguments:** `x`: of shape `(size,)`; `key`: for a model whose log-density is a random estimate.

    **Source:** Grathwohl et al. 2019, arXiv 1810.01367, equation 3.
    """
    return -model.log_prob(x, key=key)
