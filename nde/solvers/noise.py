"""Which solvers may have which noise."""

from typing import Any

import diffrax

from nde.solvers.traits import traits_of
from nde.terms import name_of, noise_kind, NoiseKind, unwrap_solver


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
    inheriting from `AbstractItoSolver` or `AbstractStratonovichSolver`, and for which noise by its
    `nde.solvers.SolverTraits`.

    **Source:** the docstrings and the SDE solver table of diffrax 0.7.2; Kloeden & Platen 1992, section 10.3, for
    commutative noise.
    """
    kind = noise_kind(diffusion) if kind is None else kind
    known, name = traits_of(solver), type(unwrap_solver(solver)[0]).__name__
    if not known.interpretations:
        raise ValueError(
            f"{name_of(diffusion)} makes {kind} noise, but {name} declares neither the Itô nor the Stratonovich "
            "solution of an SDE. Take one that does, as diffrax.Euler (Itô) or diffrax.Heun (Stratonovich)."
        )
    if not known.noise:
        raise ValueError(
            f"{name_of(diffusion)} makes {kind} noise, but {name} solves diffrax's underdamped Langevin terms only. "
            "Take a solver for any SDE, as diffrax.SPaRK."
        )
    if kind not in known.noise:
        needs = ", ".join(each for each in NoiseKind if each in known.noise)
        raise ValueError(
            f"{name_of(diffusion)} makes {kind} noise, but {name} is made for {needs} noise. Take a solver for any "
            "noise, as diffrax.Euler (Itô) or diffrax.SPaRK (Stratonovich). (A diffusion that declares no kind is "
            "judged by its operations and values: it may declare one, as noise = NoiseKind.COMMUTATIVE.)"
        )
