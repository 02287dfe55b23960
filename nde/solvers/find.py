"""Which methods are reversible."""

from typing import Any

import diffrax

from nde.solvers.reversible_heun import ReversibleHeunWayBack
from nde.solvers.way_back import AbstractWayBack


def find_way_back(solver: Any, terms: Any, args: Any) -> AbstractWayBack | None:
    """How a solver's steps are taken back, as its own method `way_back(terms, args)` says; `None` if they can't be."""
    if type(solver) is diffrax.ReversibleHeun:
        return ReversibleHeunWayBack(terms, args)
    return solver.way_back(terms, args) if hasattr(solver, "way_back") else None
