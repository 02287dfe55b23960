"""From a diffusion and a Brownian path to diffrax's term."""

from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import lineax as lx
from jaxtyping import Array, Float

from nde.terms.noise import name_of, noise_kind, NoiseKind


class _AsDiagonal(eqx.Module):
    """A diffusion that returns its diagonal, as one that returns the operator which multiplies by it."""

    diffusion: Any

    @property
    def noise(self) -> Any:
        """What the diffusion declares; not there if it declares none, so that its operations are looked at."""
        return self.diffusion.noise

    @property
    def __name__(self) -> str:
        return name_of(self.diffusion)

    def __call__(self, t: Any, y: Float[Array, " state"], args: Any) -> lx.DiagonalLinearOperator:
        return lx.DiagonalLinearOperator(self.diffusion(t, y, args))


def diffusion_term(
    diffusion: Callable[..., Any], path: diffrax.AbstractPath, *, diagonal: bool | None = None
) -> diffrax.ControlTerm:
    r"""The term $\sigma(t, y)\,dW$ of an SDE: second in `diffrax.MultiTerm(diffrax.ODETerm(drift), ...)`.

    **Arguments:** `diffusion`: `f(t, y, args)` that returns a matrix of shape `(state, noise)`, or the diagonal, of
    shape `(state,)`; `path`: a Brownian path of shape `(noise,)`, that is `(state,)` for a diagonal; `diagonal`: which
    of the two it returns. If `None`, a diagonal if it declares `noise = NoiseKind.DIAGONAL`.

    **Returns:** a `diffrax.ControlTerm`, which multiplies by a diagonal elementwise and never builds its matrix.

    **Raises:** `ValueError` if the declared kind of noise is unknown; at the solve, diffrax's if the shapes do not fit.
    """
    diagonal = noise_kind(diffusion) is NoiseKind.DIAGONAL if diagonal is None else diagonal
    return diffrax.ControlTerm(_AsDiagonal(diffusion) if diagonal else diffusion, path)
