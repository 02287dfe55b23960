"""`task = "dynamics"`: its series, training, scores and figures, a module each."""

from nde.tasks.dynamics.problem import DynamicsProblem as DynamicsProblem
from nde.tasks.dynamics.task import DynamicsTask as DynamicsTask
