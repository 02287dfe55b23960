"""Which combinations of parameters the data determine, and which they leave open, in words."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import ArrayLike, Float


@dataclass(frozen=True)
class Direction:
    """A combination of parameters, a unit vector in their logarithms.

    - `weights`: of each parameter, by name: how much its logarithm moves.
    - `information`: the eigenvalue of the Fisher information along it; its inverse is the variance of a move.
    - `flat`: whether the data leave it open.
    """

    weights: dict[str, float]
    information: float
    flat: bool

    @property
    def deviation(self) -> float:
        """The standard deviation of a move along it; infinite without information."""
        return math.inf if self.information <= 0 else 1 / math.sqrt(self.information)

    def text(self) -> str:
        """`a up with b down`, with what weighs least left out."""
        largest = max(abs(w) for w in self.weights.values())
        ranked = sorted(self.weights.items(), key=lambda pair: -abs(pair[1]))
        named = [(name, w) for name, w in ranked if abs(w) >= SMALLEST_NAMED * largest]
        lead = named[0][1]
        ups = [f"{name} {'up' if w * lead > 0 else 'down'}" for name, w in named]
        share = ", ".join(f"{name} {w * math.copysign(1, lead):+.2f}" for name, w in named)
        moved = ups[0] if len(ups) == 1 else f"{ups[0]} with {' and '.join(ups[1:])}"
        return f"{moved} ({share} in logarithms)"


SMALLEST_NAMED = 0.1


@dataclass(frozen=True)
class Identifiability:
    """The spectrum of the Fisher information of the logarithms of the parameters, the other unknowns fitted anew.

    - `directions`: from the best determined to the least.
    """

    directions: Sequence[Direction]

    @property
    def spectrum(self) -> Float[np.ndarray, " size"]:
        """The eigenvalues, falling."""
        return np.array([direction.information for direction in self.directions])

    @property
    def condition(self) -> float:
        """The largest over the smallest; infinite if that is zero."""
        values = self.spectrum
        return math.inf if values[-1] <= RELATIVE * values[0] else float(values[0] / values[-1])

    @property
    def flat(self) -> list[Direction]:
        """The combinations that the data leave open."""
        return [direction for direction in self.directions if direction.flat]

    def sentences(self) -> list[str]:
        """What it says, a line each: of the parameters as a whole, or of each combination that is left open."""
        if not self.directions:
            return []
        if not self.flat:
            least = self.directions[-1]
            return [
                f"the data determine every parameter (condition {self.condition:.3g}; least of all, to "
                f"{100 * least.deviation:.2g} %, {least.text()})"
            ]
        return [f"not determined: {each.text()} {_leaves(each)}" for each in self.flat]


def _leaves(direction: Direction) -> str:
    if math.isinf(direction.deviation) or direction.deviation > LARGEST_SAID:
        return "leaves the fit as it was"
    return f"changes the fit little: the data leave a factor of {math.exp(Z90 * direction.deviation):.3g} either way"


FLAT = math.log(10.0)
"""How wide half a 90 % interval of a combination of logarithms is that is called flat: a factor of ten either way."""
RELATIVE = 1e-10
"""An eigenvalue so much smaller than the largest is rounding, and is called flat whatever it says."""
LARGEST_SAID = 10.0
Z90 = 1.6448536269514722


def identifiability(
    names: Sequence[str], values: ArrayLike, slopes: ArrayLike, curvature: ArrayLike, *, parameters: Sequence[str]
) -> Identifiability:
    r"""The Fisher information of $\log p$, for the parameters $p$ of an equation, and where it is flat.

    With $F$ the information of all unknowns, in the order parameters, others,
    $S = F_{pp} - F_{po} F_{oo}^{-1} F_{op}$ is that of the parameters when the others are fitted anew, and
    $D S D$ with $D = \mathrm{diag}(|p| \,\partial\theta / \partial p)$ that of their logarithms (of a parameter below
    zero, of its absolute value): its eigenvectors are products of powers of the parameters, and the square root of an
    inverse eigenvalue is the relative error of one.

    A combination is flat where the interval of 90 % would be wider than a factor of ten to either side, or its
    eigenvalue is below 1e-10 of the largest.

    **Arguments:** `names`, `values`: of all unknowns, in their own units; `slopes`: $\partial p / \partial\theta$ of
    each; `curvature`: $F$, in $\theta$, without any prior; `parameters`: the names that are asked about.

    **Limits:** it is local: at the fit. Two separate fits that are as good are not seen; a profile sees farther.

    **Source:** Raue et al., *Structural and practical identifiability analysis of partially observed dynamical models
    by exploiting the profile likelihood*, Bioinformatics 2009; Gutenkunst et al., *Universally sloppy parameter
    sensitivities in systems biology models*, 2007.
    """
    matrix = np.asarray(curvature, np.float64)
    scale = np.abs(np.asarray(values, np.float64)) / np.maximum(np.abs(np.asarray(slopes, np.float64)), 1e-300)
    chosen = np.array([names.index(name) for name in parameters], int)
    if not len(chosen):
        return Identifiability([])
    others = np.setdiff1d(np.arange(len(names)), chosen)
    inner = matrix[np.ix_(chosen, chosen)]
    if len(others):
        across, outer = matrix[np.ix_(chosen, others)], matrix[np.ix_(others, others)]
        inner = inner - across @ np.linalg.pinv(outer, rcond=1e-13, hermitian=True) @ across.T
    information = inner * scale[chosen][:, None] * scale[chosen]
    eigenvalues, vectors = np.linalg.eigh(information)
    limit = max((Z90 / FLAT) ** 2, RELATIVE * eigenvalues[-1])
    found = [
        Direction(dict(zip(parameters, vectors[:, i].tolist(), strict=True)), max(float(value), 0.0), value < limit)
        for i, value in reversed(list(enumerate(eigenvalues.tolist())))
    ]
    return Identifiability(found)
