"""Paths: functions of time that drive an equation, as controls or as noise.

`nde.paths.BrownianGrid` is Brownian motion for steps of one size, `nde.paths.VirtualBrownianTree` for any
times. Both draw by counter, so that a path is a function of its key and the times alone, and both give the Lévy areas
that solvers ask for.
"""

from nde.paths.brownian_grid import BrownianGrid as BrownianGrid
from nde.paths.brownian_tree import VirtualBrownianTree as VirtualBrownianTree
from nde.paths.counter import NOISE as NOISE
from nde.paths.levy_area import davie_foster_area as davie_foster_area, SpaceSpaceLevyArea as SpaceSpaceLevyArea
