"""How well a density was learnt: what it is compared with, and a figure of it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from scipy import stats

from nde.report.figures import BLUE

Points = Float[np.ndarray, "points size"]
LogDensity = Callable[[Points], Float[np.ndarray, " points"]]


def fit_gaussian(points: Points) -> LogDensity:
    """The Gaussian of greatest likelihood: mean and covariance of the points. Returns its log-density, in nats."""
    mean = points.mean(0)
    factor = np.linalg.cholesky(np.atleast_2d(np.cov(points.T, bias=True)))
    peak = -np.log(np.diag(factor)).sum() - 0.5 * len(mean) * math.log(2 * math.pi)
    return lambda x: peak - 0.5 * (np.linalg.solve(factor, (x - mean).T) ** 2).sum(0)


BANDWIDTHS = tuple(np.geomspace(0.05, 1.0, 14))


def fit_kde(points: Points, validation: Points, bandwidths: Sequence[float] = BANDWIDTHS) -> LogDensity:
    """A Gaussian kernel at each point, whose width is the one of `bandwidths` that suits the validation points best.

    **Arguments:** `points`, `validation`: `(points, size)`; `bandwidths`: in units of the points' own spread, the
    `bw_method` of `scipy.stats.gaussian_kde`.

    **Returns:** its log-density, in nats.

    **Limits:** each point that is asked for visits every point that it was fitted on.

    **Source:** Silverman, *Density Estimation for Statistics and Data Analysis*, 1986, chapter 4.
    """
    laws = [stats.gaussian_kde(points.T, bw_method=width) for width in bandwidths]
    best = laws[int(np.argmax([law.logpdf(validation.T).mean() for law in laws]))]
    return lambda x: best.logpdf(x.T)


def density_rows(log_probs: Mapping[str, Float[np.ndarray, " points"]], method: str) -> list[dict[str, str | float]]:
    """A row for each law: its mean log-density at the held-out points, and how `method` differs from it.

    **Arguments:** `log_probs`: of each law at the same points, in nats; `method`: the one that is compared.

    **Returns:** rows with `method`, `log_likelihood` and its standard error `se` over points, `difference`
    (`method` minus this law, positive where it is better) and `difference_se`, all in nats per point.
    """
    rows = []
    for name, values in log_probs.items():
        differences = log_probs[method] - values
        rows.append(
            {
                "method": name,
                "log_likelihood": float(values.mean()),
                "se": _standard_error(values),
                "difference": float("nan") if name == method else float(differences.mean()),
                "difference_se": float("nan") if name == method else _standard_error(differences),
            }
        )
    return rows


def _standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values)))


@dataclass(frozen=True)
class PlaneGrid:
    """Points in the plane on a square grid from `-extent` to `extent`, `cells` a side, at the cells' centres."""

    extent: float
    cells: int = 160

    def points(self) -> Points:
        """All points, `(cells ** 2, 2)`, row by row from below."""
        axis = (np.arange(self.cells) + 0.5) * 2 * self.extent / self.cells - self.extent
        return np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)

    def integral(self, log_density: Float[np.ndarray, " points"]) -> float:
        """The mass on the grid of a density with these logarithms at its points."""
        return float(np.exp(log_density).sum() * (2 * self.extent / self.cells) ** 2)


LOWEST = -10.0


def plot_plane(
    data: Points, samples: Points, log_densities: Mapping[str, Float[np.ndarray, " cells"]], grid: PlaneGrid
) -> Figure:
    """The data, the model's samples, and each log-density on a grid, side by side on the same square.

    **Arguments:** `data`, `samples`: `(points, 2)`; `log_densities`: by title, at `grid.points()`, in nats; below -10
    they are drawn as -10.
    """
    count = 2 + len(log_densities)
    figure = Figure(figsize=(3.1 * count + 0.9, 3.7), layout="constrained")
    panels = figure.subplots(1, count, sharex=True, sharey=True)
    limit = grid.extent
    for axes, title, points in zip(panels, ("data", "samples of the flow"), (data, samples), strict=False):
        axes.plot(*points.T, ".", color=BLUE, ms=1.6, mew=0, alpha=0.6, rasterized=True)
        axes.set_title(title, fontsize=10)
    highest = max(float(np.max(values)) for values in log_densities.values())
    image = None
    for axes, (title, values) in zip(panels[2:], log_densities.items(), strict=True):
        picture = np.maximum(values, LOWEST).reshape(grid.cells, grid.cells)
        box = (-limit, limit, -limit, limit)
        image = axes.imshow(picture, origin="lower", extent=box, cmap="viridis", vmin=LOWEST, vmax=highest)
        axes.set_title(title, fontsize=10)
    for axes in panels:
        axes.set(xlim=(-limit, limit), ylim=(-limit, limit), xlabel="x", aspect="equal")
        axes.tick_params(labelsize=8)
    panels[0].set_ylabel("y")
    if image is not None:
        figure.colorbar(image, ax=panels[2:], label="log-density (nats)", shrink=0.85)
    return figure
