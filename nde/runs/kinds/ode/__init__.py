"""ODE models of one or several series as a kind of run: known systems, hybrids and neural ODEs side by side."""

from nde.runs.kinds.ode.kind import ODEKind as ODEKind
from nde.runs.kinds.ode.problem import ODEProblem as ODEProblem
