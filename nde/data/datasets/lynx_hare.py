"""Hare and lynx pelts bought by the Hudson's Bay Company."""

from importlib import resources
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Float
from numpy import ndarray

from nde.data.datasets.base import Dataset
from nde.data.panel import Panel


def lynx_hare_path() -> Path:
    """The table as it ships with nde: `year`, `hare_thousands`, `lynx_thousands`."""
    return Path(str(resources.files("nde.data") / "lynx_hare.csv"))


def load_lynx_hare() -> tuple[Float[ndarray, " years"], Float[ndarray, "years 2"]]:
    """Pelts of hare and lynx, in thousands a year, 1900 to 1920: the cycle of a prey and its predator.

    **Returns:** years since 1900, shape `(21,)`, and pelts of hare and of lynx, shape `(21, 2)`.

    **Source:** E. P. Odum, *Fundamentals of Ecology*, 1953, after D. A. MacLulich 1937; as tabulated by P. Howard.
    """
    table = pl.read_csv(lynx_hare_path())
    return table["year"].to_numpy() - 1900.0, table.select("hare_thousands", "lynx_thousands").to_numpy()


def lynx_hare_panel() -> Panel:
    """The pelts as a panel of one series, in thousands, with times in years since 1900."""
    years, pelts = load_lynx_hare()
    return Panel(
        ids=("Hudson's Bay",),
        channels=("hare", "lynx"),
        times=years[None],
        values=pelts[None],
        mask=np.ones((1, *pelts.shape), bool),
        lengths=np.array([len(years)]),
        origin=np.array([1900.0]),
        time_unit="years",
    )


LYNX_HARE = Dataset(lynx_hare_panel, "series")
