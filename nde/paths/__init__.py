"""Paths: functions of time that drive an equation, as controls or as noise.

`nde.paths.BrownianGrid` is Brownian motion for steps of one size, `nde.paths.VirtualBrownianTree` for any
times. Both draw by counter, so that a path is a function of its key and the times alone, and both give the Lévy areas
that solvers ask for.

`nde.paths.series_path` is a path through an irregular series of data, some of whose values are missing. How it goes
from one to the next is a row of `nde.paths.INTERPOLATIONS`.
"""

from nde.paths.brownian_grid import BrownianGrid as BrownianGrid
from nde.paths.brownian_tree import VirtualBrownianTree as VirtualBrownianTree
from nde.paths.counter import NOISE as NOISE
from nde.paths.hermite import hermite_path as hermite_path
from nde.paths.levy_area import davie_foster_area as davie_foster_area, SpaceSpaceLevyArea as SpaceSpaceLevyArea
from nde.paths.linear import linear_path as linear_path, rectilinear_path as rectilinear_path
from nde.paths.natural_cubic import natural_cubic_path as natural_cubic_path
from nde.paths.series import (
    CAUSAL as CAUSAL,
    check_interpolation as check_interpolation,
    Interpolation as Interpolation,
    INTERPOLATIONS as INTERPOLATIONS,
    series_path as series_path,
    SeriesPath as SeriesPath,
)
