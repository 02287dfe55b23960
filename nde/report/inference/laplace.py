"""Intervals from the curvature of a log density at its maximum."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray
from scipy import stats

from nde.report.inference.bounds import OPEN
from nde.report.inference.density import LogDensity


@dataclass(frozen=True)
class Interval:
    """What the data say of one unknown, in its own units.

    - `name`, `value`: of the unknown, and where the density is largest.
    - `low`, `high`: the ends of the interval; a bound, or infinite, where the data leave it `open`.
    - `open_below`, `open_above`: whether they do, on either side.
    - `at_bound`: whether the density is largest at a bound of the unknown, where it has no curvature: then `low` and
      `high` are the bound itself, and a profile says how far from it the unknown may be.
    """

    name: str
    value: float
    low: float
    high: float
    open_below: bool = False
    open_above: bool = False
    at_bound: bool = False

    def text(self) -> str:
        """`birth 0.48 (0.44 to 0.53)`; an open end is said to be open."""
        if self.at_bound:
            return f"{self.name} {self.value:.4g} (at its bound)"
        low = "open" if self.open_below else f"{self.low:.4g}"
        high = "open" if self.open_above else f"{self.high:.4g}"
        return f"{self.name} {self.value:.4g} ({low} to {high})"


def laplace_intervals(
    density: LogDensity, position: ArrayLike, curvature: ArrayLike, *, level: float = 0.9
) -> list[Interval]:
    r"""Central intervals of each unknown, by Laplace's $\theta \mid x \approx \mathcal N(\hat\theta, H^{-1})$.

    The normal law stands in the coordinates without bounds, and its quantiles are brought to the unknown's own units by
    the transform, which grows: so no interval leaves the bounds, and that of a rate is not symmetric.

    **Arguments:** `position`: $\hat\theta$, the maximum; `curvature`: $H$, of the negative log density there, observed
    or expected; `level`: the probability within.

    **Returns:** a `nde.report.Interval` for each of `density.names`, in this order.

    **Raises:** `ValueError` for a level that does not lie between 0 and 1.

    **Limits:** good where the density is nearly normal in these coordinates; a profile asks the density itself.

    **Source:** MacKay, *Choice of Basis for Laplace Approximation*, 1998.
    """
    if not 0 < level < 1:
        raise ValueError(f"a level of intervals lies between 0 and 1, but is {level}.")
    centre = jnp.asarray(position)
    deviations = np.sqrt(np.diagonal(covariance(curvature)))
    away = float(stats.norm.ppf(0.5 + level / 2)) * deviations
    # a coordinate's own quantile, mapped by its own transform; far out the value is its bound
    ends = [np.asarray(density.transform(centre + jnp.asarray(sign * away, centre.dtype))) for sign in (-1, 1)]
    values = np.asarray(density.transform(centre))
    rows = zip(density.names, values, np.minimum(*ends), np.maximum(*ends), away > OPEN, strict=True)
    return [Interval(name, float(v), float(low), float(high), bool(o), bool(o)) for name, v, low, high, o in rows]


def covariance(curvature: ArrayLike) -> Float[np.ndarray, "size size"]:
    """The inverse of a curvature, where it is flat with a variance that is huge and finite.

    An eigenvalue, in units of the diagonal, below 1e-14 of the largest is rounding: it is taken to be that.
    """
    matrix = np.asarray(curvature, np.float64)
    diagonal = np.diagonal(matrix)
    root = np.sqrt(np.where(diagonal > 0, diagonal, 1e-14))
    values, vectors = np.linalg.eigh(matrix / root[:, None] / root)
    values = np.maximum(values, 1e-14 * max(values.max(), 1.0))
    scaled = vectors / root[:, None]
    return (scaled / values) @ scaled.T


def laplace_draws(
    position: ArrayLike, curvature: ArrayLike, count: int, *, key: PRNGKeyArray
) -> Float[Array, "n size"]:
    r"""Draws of $\mathcal N(\hat\theta, H^{-1})$, `(count, size)`, in the coordinates without bounds."""
    centre = jnp.asarray(position)
    spread = covariance(curvature)
    values, vectors = np.linalg.eigh(spread)
    root = jnp.asarray(vectors * np.sqrt(np.maximum(values, 0.0)), centre.dtype)
    return centre[None] + jax.random.normal(key, (count, centre.shape[0]), centre.dtype) @ root.T


@dataclass(frozen=True)
class Criteria:
    r"""How well a fit describes its data, at the price of what it was free to choose.

    - `log_likelihood`: $\log L$, in nats, at the fit; `free`: $k$, how many numbers were fitted; `count`: $n$ values.
    """

    log_likelihood: float
    free: float
    count: int

    @property
    def aic(self) -> float:
        r"""Akaike's criterion, $2k - 2\log L$; lower is better."""
        return 2 * self.free - 2 * self.log_likelihood

    @property
    def bic(self) -> float:
        r"""Schwarz's criterion, $k \log n - 2 \log L$; lower is better."""
        return self.free * math.log(self.count) - 2 * self.log_likelihood

    def text(self) -> str:
        """One line."""
        free = f"{self.free:g}" if float(self.free).is_integer() else f"{self.free:.1f} effective"
        return (
            f"log likelihood {self.log_likelihood:.2f}, AIC {self.aic:.2f}, BIC {self.bic:.2f} "
            f"({free} free numbers, {self.count} values)"
        )


def effective_number(curvature: ArrayLike, prior: ArrayLike) -> float:
    r"""How many numbers the data determine: $\mathrm{tr}\bigl(H^{-1} (H - P)\bigr)$, with $P$ the prior's part of $H$.

    Without a prior all of them, as many as there are.

    **Source:** MacKay, *Bayesian Interpolation*, 1992, its $\gamma$.
    """
    total = np.asarray(curvature, np.float64)
    return float(np.trace(covariance(total) @ (total - np.asarray(prior, np.float64))))
