"""Adjoints: how gradients go back through a solve."""

from nde.adjoints.base import AbstractAdjoint as AbstractAdjoint
from nde.adjoints.checkpoint import CheckpointAdjoint as CheckpointAdjoint
from nde.adjoints.continuous import ContinuousAdjoint as ContinuousAdjoint
from nde.adjoints.moving import has_moving_stops as has_moving_stops
from nde.adjoints.reversible import ReversibleAdjoint as ReversibleAdjoint
