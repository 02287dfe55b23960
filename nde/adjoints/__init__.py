"""Adjoints: how gradients go back through a solve."""

from nde.adjoints.base import AbstractAdjoint as AbstractAdjoint, RecordSize as RecordSize
from nde.adjoints.checkpoint import CheckpointAdjoint as CheckpointAdjoint
from nde.adjoints.continuous import ContinuousAdjoint as ContinuousAdjoint
from nde.adjoints.reversible import ReversibleAdjoint as ReversibleAdjoint
