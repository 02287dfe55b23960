"""What kind of noise a diffusion makes, and which solvers may have it."""

import enum
from typing import Any

import diffrax

from nde.terms.inspect import unwrap_solver


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


# The solvers of diffrax 0.7.2 that do not say by a tableau which noise they need; all others take any kind.
_NEED_COMMUTATIVE = (diffrax.ItoMilstein, diffrax.StratonovichMilstein)
_COMMUTATIVE = frozenset(NoiseKind) - {NoiseKind.GENERAL}


def noise_kind(diffusion: Any) -> NoiseKind:
    """The kind that a diffusion declares by its attribute `noise`; `NoiseKind.GENERAL` for one that declares none.

    **Raises:** `ValueError` if the declaration is no `nde.terms.NoiseKind`, naming the known ones.
    """
    declared = getattr(diffusion, "noise", NoiseKind.GENERAL)
    if declared not in tuple(NoiseKind):
        known = ", ".join(NoiseKind)
        raise ValueError(f"{_name(diffusion)} declares noise={declared!r}, but the kinds of noise are {known}.")
    return NoiseKind(declared)


def check_noise(diffusion: Any, solver: diffrax.AbstractSolver, kind: NoiseKind | None = None) -> None:
    """Refuse a solver that does not solve an SDE with this diffusion's kind of noise.

    | solver (diffrax 0.7.2) | noise |
    |---|---|
    | `SEA`, `ShARK`, `SRA1`, and any SRK with an additive-noise tableau | additive |
    | `ItoMilstein`, `StratonovichMilstein` | additive, diagonal, scalar, commutative |
    | `Euler`, `EulerHeun`, `Heun`, `Midpoint`, `Ralston`, `ReversibleHeun`, `SPaRK`, `GeneralSHARK`, `SlowRK` | any |
    | `ALIGN`, `ShOULD`, `QUICSORT` | none: they take diffrax's Langevin terms, not a diffusion |
    | any that is neither an `AbstractItoSolver` nor an `AbstractStratonovichSolver` | none |

    Wrapped solvers (`HalfSolver`) are judged by what they wrap. `SlowRK` keeps its order, 1.5, for commutative noise
    only, and falls to 0.5 for general noise; that is not refused.

    **Arguments:** `diffusion`: declares its kind as `noise`, and is taken as general if it does not; `solver`: a
    diffrax solver; `kind`: the kind to go by instead, for a diffusion that declares none.

    **Raises:** `ValueError` naming the diffusion, its kind of noise, the solver and what the solver needs.

    **Limits:** a declaration is believed, not verified. A solver of your own that converges for SDEs says so by
    inheriting from `AbstractItoSolver` or `AbstractStratonovichSolver`.

    **Source:** the docstrings and the SDE solver table of diffrax 0.7.2; Kloeden & Platen 1992, section 10.3, for
    commutative noise.
    """
    kind = noise_kind(diffusion) if kind is None else kind
    solver, _ = unwrap_solver(solver)
    name = type(solver).__name__
    if not isinstance(solver, diffrax.AbstractItoSolver | diffrax.AbstractStratonovichSolver):
        raise ValueError(
            f"{_name(diffusion)} makes {kind} noise, but {name} declares neither the Itô nor the Stratonovich solution "
            "of an SDE. Take one that does, as diffrax.Euler (Itô) or diffrax.Heun (Stratonovich)."
        )
    if isinstance(solver, diffrax.AbstractFosterLangevinSRK):
        raise ValueError(
            f"{_name(diffusion)} makes {kind} noise, but {name} solves diffrax's underdamped Langevin terms only. Take "
            "a solver for any SDE, as diffrax.SPaRK."
        )
    accepted = _accepted(solver)
    if kind not in accepted:
        needs = ", ".join(each for each in NoiseKind if each in accepted)
        raise ValueError(
            f"{_name(diffusion)} makes {kind} noise, but {name} is made for {needs} noise. Take a solver for any "
            "noise, as diffrax.Euler (Itô) or diffrax.SPaRK (Stratonovich). (A diffusion that declares no kind is "
            "judged by its operations and values: it may declare one, as noise = NoiseKind.COMMUTATIVE.)"
        )


def _accepted(solver: diffrax.AbstractSolver) -> frozenset[NoiseKind]:
    if isinstance(solver, diffrax.AbstractSRK) and solver.tableau.is_additive_noise():
        return frozenset({NoiseKind.ADDITIVE})
    return _COMMUTATIVE if isinstance(solver, _NEED_COMMUTATIVE) else frozenset(NoiseKind)


def _name(diffusion: Any) -> str:
    return getattr(diffusion, "__name__", type(diffusion).__name__)
