"""Unknowns that have run to a bound of theirs, and how near to it the data still see them."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Array, Bool, Float

from nde.report.inference.density import LogDensity

OPEN = 1e3
"""A standard deviation, of the coordinate without bounds, from which on the data say nothing of it: of the logarithm of
a rate it is a factor of 1e434."""
OUTWARD, FARTHEST = 3.0, 128.0
"""How far is moved outwards; and inwards, beyond where the search began, which a long step may have left far behind."""
UNSEEN, SEEN = 1e-4, 5e-3
"""Changes of the loss, in nats: one that is none, and that by which an unknown is back from its bound."""
STILL = 1e-2


def edges(
    density: LogDensity,
    loss: Callable[[Float[Array, " size"]], Float[Array, ""]],
    position: Float[Array, " size"],
    deviations: Float[np.ndarray, " size"],
) -> tuple[Float[Array, " size"], Bool[np.ndarray, " size"]]:
    r"""Where the unknowns at a bound begin to be seen, and which these are.

    Near a bound, $p \to l$, an unknown without bounds runs off, $r \to \mp\infty$, and takes curvature and gradient
    with it. It is at its bound if a move outwards changes neither the loss nor, beside what a move inwards does, its
    value, and a move inwards raises the loss. Its edge is where that is 0.005 nats: from there it can be moved again.

    **Arguments:** `loss`: the negative log density, mostly compiled; `position`: its maximum; `deviations`: standard
    deviations at it, by curvature. Those below 1000 are not asked about.

    **Returns:** `position` with each of these unknowns at its edge, and a mask of them.

    **Limits:** one unknown is moved at a time: of two that run off together none is found.
    """
    inside, found, least = position, np.zeros(len(deviations), bool), float(loss(position))
    for place in np.flatnonzero(deviations > OPEN):
        farthest = FARTHEST + abs(float(position[place] - density.initial_vector[place]))
        for outward in (-1.0, 1.0):

            def at(move: float, place=place) -> Array:
                return position.at[place].add(move)

            def rise(move: float, at=at) -> float:
                return float(loss(at(move))) - least

            if not abs(rise(outward * OUTWARD)) < UNSEEN:
                continue
            far = 1.0
            while far < farthest and rise(-outward * far) < SEEN:
                far *= 2
            if not rise(-outward * far) >= SEEN:
                continue
            near = 0.0
            for _ in range(30):
                middle = (near + far) / 2
                near, far = (near, middle) if rise(-outward * middle) > SEEN else (middle, far)
            here, beyond, back = (
                float(density.transform(at(move))[place]) for move in (0.0, outward * OUTWARD, -outward * far)
            )
            if abs(beyond - here) < STILL * abs(back - here):
                inside, found[place] = inside.at[place].add(-outward * far), True
                break
    return inside, found
