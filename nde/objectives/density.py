"""The loss of a density."""

from typing import Any, Protocol

from jaxtyping import Array, Float, PRNGKeyArray

from nde.objectives.terms import Terms
from nde.regularise import AbstractRegulariser


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


def density_loss(
    model: Any,
    x: Float[Array, " size"],
    *,
    step: Array | int = 0,
    key: PRNGKeyArray | None = None,
    regulariser: AbstractRegulariser | None = None,
) -> Terms:
    """What a density pays for one point, in nats: `nde.objectives.negative_log_likelihood` as a training loss.

    **Arguments:** `x`: of shape `(size,)`; `key`: for a random estimate, or a regulariser that draws; `regulariser`:
    makes the penalty, of a flow (`model.solve`).

    **Returns:** `nde.objectives.Terms`.
    """
    if regulariser is None:
        return Terms(loss=negative_log_likelihood(model, x, key=key))
    log_prob, penalty, _ = model.solve(x, regulariser=regulariser, key=key)
    return Terms(loss=-log_prob, penalty=penalty)
