"""What kind of noise a diffusion makes."""

import enum
from typing import Any


class NoiseKind(enum.StrEnum):
    r"""The kind of noise that a diffusion $\sigma(t, y)\,dW$ makes; a diffusion declares its own as `noise`.

    Kinds matter because a solver of high order leaves out terms that only vanish for some of them. All but `GENERAL`
    are commutative: the vector fields $\sigma_j$, the columns of $\sigma$, have brackets
    $\sigma_j' \sigma_k - \sigma_k' \sigma_j = 0$, so that no Lévy area is needed for strong order one.
    """

    ADDITIVE = "additive"
    """$\\sigma(t)$ does not depend on the state."""
    DIAGONAL = "diagonal"
    """$\\sigma = \\mathrm{diag}(\\sigma_i)$, each $\\sigma_i$ a function of its own state $y_i$ alone."""
    SCALAR = "scalar"
    """One Brownian motion drives every state."""
    COMMUTATIVE = "commutative"
    """Of none of the kinds above, but the brackets vanish."""
    GENERAL = "general"
    """Anything, a diagonal matrix whose entries mix states included."""


def noise_kind(diffusion: Any) -> NoiseKind:
    """The kind that a diffusion declares by its attribute `noise`; `NoiseKind.GENERAL` for one that declares none.

    **Raises:** `ValueError` if the declaration is no `nde.terms.NoiseKind`, naming the known ones.
    """
    declared = getattr(diffusion, "noise", NoiseKind.GENERAL)
    if declared not in tuple(NoiseKind):
        known = ", ".join(NoiseKind)
        raise ValueError(f"{name_of(diffusion)} declares noise={declared!r}, but the kinds of noise are {known}.")
    return NoiseKind(declared)


def name_of(diffusion: Any) -> str:
    """What a diffusion is called in errors."""
    return getattr(diffusion, "__name__", type(diffusion).__name__)
