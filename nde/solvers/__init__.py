"""Solvers: the methods that diffrax lacks, and what the engine makes of a method.

diffrax's own solvers are used as they are; explicit Runge-Kutta methods are unrolled ([`nde.solvers.explicit`][]).

**Reversible methods.** A step can be undone exactly, up to rounding, so that a gradient needs no states but the last
([`nde.ReversibleAdjoint`][]). [`nde.Reversible`][] makes one of any explicit method; `diffrax.ReversibleHeun` is one
already, and gets its way back here. The price is stability: see the limits of each.
"""

from nde.solvers.find import find_way_back as find_way_back
from nde.solvers.reversible import Reversible as Reversible
