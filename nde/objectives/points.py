"""The loss of a model of points, as it is trained: matched, or by its likelihood."""

from typing import Any

from jaxtyping import Array, Float, PRNGKeyArray

from nde.objectives.density import density_loss
from nde.objectives.matching import Matching
from nde.objectives.terms import Terms
from nde.regularise import AbstractRegulariser


def point_loss(
    model: Any,
    x1: Float[Array, " size"],
    x0: Float[Array, " size"] | None = None,
    label: Any = None,
    *,
    matching: Matching,
    step: Array | int = 0,
    key: PRNGKeyArray,
    regulariser: AbstractRegulariser | None = None,
) -> Terms:
    """What a model pays for one point: by `matching` if it has `residuals`, else its negative log-density.

    **Arguments:** those of `nde.objectives.Matching`; a model with a likelihood alone takes no source and no label.
    """
    if hasattr(model, "residuals"):
        return matching(model, x1, x0, label, step=step, key=key, regulariser=regulariser)
    return density_loss(model, x1, step=step, key=key, regulariser=regulariser)
