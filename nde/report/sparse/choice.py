"""Which terms an equation needs, by the likelihood of the data themselves."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from nde.report.inference import LogDensity, maximise, Optimum

TRIES, MOST_MOVES = 3, 60


@dataclass(frozen=True, eq=False)
class Stepwise:
    """Where a stepwise choice of terms ended.

    - `active`: `(size,)`, which of the unknowns of the density there are; those that are no candidates always are.
    - `optimum`: the maximum with the others held at zero, a `nde.report.Optimum`.
    - `criterion`: its value there; `path`: what was done on the way, with the criterion after it.
    """

    active: Bool[np.ndarray, " size"]
    optimum: Optimum
    criterion: float
    path: tuple[tuple[str, float], ...]


def extended_bic(loss: float, free: int, values: int, *, chosen: int, candidates: int, gamma: float = 1.0) -> float:
    r"""$2\ell + k \log n + 2\gamma \log \binom{p}{m}$: Schwarz's criterion, with a price for each set that was open.

    **Arguments:** `loss`: $\ell$, the negative log likelihood at its minimum, in nats; `free`: $k$, how many numbers
    were fitted to `values` $= n$; `chosen`: $m$, how many of `candidates` $= p$ terms; `gamma`: 0 is Schwarz's own.

    Of twenty candidates and sixty values Schwarz's price, $\log n$ each, lets one in by chance in 0.58 of all data
    sets, $1 - P(\chi^2_1 < \log 60)^{20}$; with $\gamma = 1$, which assumes each *number* of terms as likely as another
    rather than each set, in few.

    **Source:** Chen & Chen, *Extended Bayesian information criteria for model selection with large model spaces*,
    Biometrika 2008, equation 2.
    """
    return 2 * loss + free * math.log(values) + 2 * gamma * math.log(math.comb(candidates, chosen))


def stepwise(
    density: LogDensity,
    candidates: Sequence[str],
    starts: Sequence[Mapping[str, float]] = ({},),
    *,
    gamma: float = 1.0,
    tries: int = TRIES,
) -> Stepwise:
    r"""Drop, add or exchange a term at a time, each set fitted anew, for as long as the extended BIC falls.

    At each optimum the curvature foretells what any neighbouring set would cost, $\ell + \min_s (g^\top s + \tfrac12
    s^\top H s)$ over steps $s$ to it; the most promising are fitted, and the best of them is taken if it is better.

    **Arguments:**

    - `density`: of all unknowns, the coefficients of all candidates among them, which are zero where a term is not.
    - `candidates`: names of coefficients that may be held at zero.
    - `starts`: sets of terms to begin with, each with values of their coefficients; one without any, if not given. Few
      terms are the better start: of many, nearly alike along the data, no fit finds the minimum.
    - `gamma`: of `nde.report.extended_bic`; `tries`: how many sets are fitted before a step.

    **Returns:** a `nde.report.Stepwise`, the best of those that the starts led to.

    **Raises:** `ValueError` for a name that is no unknown, a start that is no candidate, or if none can be solved.

    **Limits:** a greedy path can end beside the best set; and data that cannot tell two sets apart choose by chance.

    **Source:** Mangan, Kutz, Brunton, Proctor, *Model selection for dynamical systems via sparse regression and
    information criteria*, Proc. R. Soc. A 2017, who refit and compare by AIC; there all sets on a path of thresholds.
    """
    if unknown := [name for start in starts for name in start if name not in candidates]:
        raise ValueError(f"stepwise starts from candidates, but '{unknown[0]}' is none of {', '.join(candidates)}.")
    search = _Search(
        density, np.isin(np.array(density.names), [density.names[density.index(x)] for x in candidates]), gamma
    )
    best = min((search.descended(start, tries) for start in starts), key=lambda one: one.criterion)
    if not math.isfinite(best.criterion):
        raise ValueError("stepwise could solve none of its starts; the step that is solved first fails.")
    return best


class _Search:
    """Fits of sets of terms, compiled once for all sets, and what neighbours promise."""

    def __init__(self, density: LogDensity, candidates: Bool[np.ndarray, " size"], gamma: float):
        self.density, self.candidates, self.gamma = density, candidates, gamma
        self.refit = jax.jit(lambda start, free: maximise(density.curve, start, free))

    def descended(self, start: Mapping[str, float], tries: int) -> Stepwise:
        """From a start down to a set that no neighbour improves on."""
        names = self.density.names
        position = np.array(self.density.initial_vector)
        for name, value in start.items():
            position[self.density.index(name)] = value
        state = self.fitted(~self.candidates | np.isin(np.array(names), list(start)), position)
        path = [("start", state.criterion)]
        for _ in range(MOST_MOVES if math.isfinite(state.criterion) else 0):
            found = [self.fitted(each, np.asarray(state.optimum.position)) for each in self.neighbours(state)[:tries]]
            best = min(found, key=lambda one: one.criterion, default=state)
            if not best.criterion < state.criterion - 1e-6:
                break
            moved = [
                ("+ " if now else "- ") + name
                for name, was, now in zip(names, state.active, best.active, strict=True)
                if was != now
            ]
            path.append((", ".join(moved), best.criterion))
            state = best
        return replace(state, path=tuple(path))

    def price(self, loss: float, active: np.ndarray) -> float:
        chosen, every = int((active & self.candidates).sum()), int(self.candidates.sum())
        free = int(active.sum())
        return extended_bic(loss, free, self.density.count, chosen=chosen, candidates=every, gamma=self.gamma)

    def fitted(self, active: np.ndarray, start: Float[np.ndarray, " size"]) -> Stepwise:
        free = jnp.asarray(active)
        optimum = self.refit(jnp.where(free, jnp.asarray(start), 0.0), free)
        loss = float(optimum.curve.loss)
        return Stepwise(active, optimum, self.price(loss, active) if math.isfinite(loss) else math.inf, ())

    def neighbours(self, state: Stepwise) -> list[np.ndarray]:
        """The sets that differ by one term or an exchange of two, by what they promise."""
        there, absent = np.flatnonzero(state.active & self.candidates), np.flatnonzero(~state.active)
        moves = [(i,) for i in (*there, *absent)] + list(product(there, absent))
        curve = state.optimum.curve
        position, slope, bend = (
            np.asarray(x, float) for x in (state.optimum.position, curve.gradient, curve.curvature)
        )
        sets, promised = [], []
        for move in moves:
            active = state.active.copy()
            active[list(move)] ^= True
            sets.append(active)
            promised.append(self.price(_foretold(float(curve.loss), position, slope, bend, active), active))
        return [sets[i] for i in np.argsort(promised, kind="stable")]


def _foretold(loss: float, position: np.ndarray, slope: np.ndarray, bend: np.ndarray, active: np.ndarray) -> float:
    """The minimum of the quadratic approximation over positions that are zero where a set is not active."""
    step = np.where(active, 0.0, -position)
    size = np.sqrt(np.maximum(np.diagonal(bend)[active], 1e-300))
    inner = bend[np.ix_(active, active)] / size[:, None] / size
    pull = (slope + bend @ step)[active] / size
    step[active] = -np.linalg.lstsq(inner, pull, rcond=1e-12)[0] / size
    return float(loss + slope @ step + 0.5 * step @ bend @ step)
