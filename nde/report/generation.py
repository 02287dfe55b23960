"""How well samples are like the data: a row of scores, and figures of both."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from nde.report.figures import BLUE, GREY, ORANGE
from nde.report.transport_floor import FlooredDistance, transport_distance

Points = Float[np.ndarray, "points size"]
COMPARED = {"W2": "wasserstein", "sliced": "sliced_wasserstein", "energy": "energy"}
"""The distances in a table of samples, by its columns."""


def sample_distances(samples: Points, reference: Points, *, repeats: int = 5) -> dict[str, FlooredDistance]:
    """How far samples lie from points of the law that they should have, and how far such points from each other.

    **Arguments:** `samples`, `reference`: `(points, size)`; `repeats`: of the random halves that are compared.

    **Returns:** for each of `W2`, `sliced` and `energy` the distance with its floor.

    **Raises:** `ValueError` as `nde.report.transport_distance`, which see.
    """
    return {
        name: transport_distance(samples, reference, distance, repeats=repeats) for name, distance in COMPARED.items()
    }


def bits_per_dimension(log_probs: Float[np.ndarray, " points"], size: int, cell: float) -> Float[np.ndarray, " points"]:
    r"""$-(\log p(x) + d \log c) / (d \log 2)$: what a rounded value costs whose cell of width $c$ was spread evenly.

    On average an upper bound of the cost of the rounded values themselves.

    **Arguments:** `log_probs`: in nats; `size`: $d$; `cell`: $c$, in the units of the density.

    **Source:** Theis, van den Oord, Bethge, *A note on the evaluation of generative models*, 2016, arXiv 1511.01844.
    """
    return -(np.asarray(log_probs) / size + np.log(cell)) / np.log(2)


DRAWN = 3000


def plot_clouds(
    clouds: Mapping[str, Points],
    *,
    names: tuple[str, str] = ("x", "y"),
    colours: Mapping[str, np.ndarray] | None = None,
    paths: Mapping[str, Float[np.ndarray, "points times size"]] | None = None,
    span: Points | None = None,
) -> Figure:
    """Clouds of points side by side on the same axes, by their first two coordinates; of points of size one histograms.

    **Arguments:** `clouds`: by title, `(points, size)`; `names`: of the two coordinates; `colours`: by title the class
    of each point; `paths`: by title the ways that some points took, grey, from orange starts;
    `span`: points that all lie within the axes, those of the first cloud unless given.
    """
    count, size = len(clouds), next(iter(clouds.values())).shape[1]
    figure = Figure(figsize=(3.0 * count + 0.4, 3.4), layout="constrained")
    panels = np.ravel(figure.subplots(1, count, sharex=True, sharey=True))
    for axes, (title, points) in zip(panels, clouds.items(), strict=True):
        axes.set_title(title, fontsize=10)
        axes.tick_params(labelsize=8)
        axes.set_xlabel(names[0])
        if size == 1:
            axes.hist(points[:, 0], bins=60, density=True, color=BLUE)
            continue
        for way in (paths or {}).get(title, ()):
            axes.plot(*way[:, :2].T, color=GREY, lw=0.4, alpha=0.5)
            axes.plot(*way[0, :2], ".", color=ORANGE, ms=3, mew=0)
        _scatter(axes, points[:DRAWN], None if colours is None or title not in colours else colours[title][:DRAWN])
    panels[0].set_ylabel(names[1] if size > 1 else "density")
    if size > 1:
        shown = next(iter(clouds.values())) if span is None else span
        low, high = shown[:, :2].min(0), shown[:, :2].max(0)
        middle, reach = (high + low) / 2, (high - low) * 0.56
        limits = np.stack([middle - reach, middle + reach])
        panels[0].set(xlim=limits[:, 0], ylim=limits[:, 1])
    return figure


def _scatter(axes: Any, points: Points, classes: np.ndarray | None) -> None:
    size = 2.2 if len(points) > 1500 else 4.0
    style: dict[str, Any] = {"marker": ".", "ls": "", "ms": size, "mew": 0, "alpha": 0.6, "rasterized": True}
    if classes is None:
        axes.plot(*points[:, :2].T, color=BLUE, **style)
        return
    for label in np.unique(classes):
        axes.plot(*points[classes == label, :2].T, color=f"C{int(label) % 10}", **style)


def plot_images(
    pictures: Mapping[str, Points], shape: tuple[int, int], *, limits: tuple[float, float], rows: int = 6
) -> Figure:
    """Images in square sheets side by side, `rows` times as many in each.

    **Arguments:** `pictures`: by title, `(images, height * width)`; `shape`: `(height, width)`; `limits`: what is white
    and what is black.
    """
    count, (height, width) = len(pictures), shape
    figure = Figure(figsize=(2.6 * count + 0.3, 2.9), layout="constrained")
    for axes, (title, images) in zip(np.ravel(figure.subplots(1, count)), pictures.items(), strict=True):
        sheet = np.full((rows * (height + 1) - 1, rows * (width + 1) - 1), limits[0])
        for i, image in enumerate(images[: rows**2]):
            top, left = (i // rows) * (height + 1), (i % rows) * (width + 1)
            sheet[top : top + height, left : left + width] = image.reshape(height, width)
        axes.imshow(sheet, cmap="gray_r", vmin=limits[0], vmax=limits[1])
        axes.set_title(title, fontsize=10)
        axes.set_axis_off()
    return figure
