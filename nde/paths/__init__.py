"""Paths: functions of time that drive an equation, as controls or as noise."""

from nde.paths.brownian_grid import BrownianGrid as BrownianGrid
from nde.paths.brownian_tree import TreeState as TreeState, VirtualBrownianTree as VirtualBrownianTree
