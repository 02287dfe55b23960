"""One step of a solver, in the form that the loops want it. No loop, no adjoint and no batch is known here.

base.py            what a stepper is; any solver by its own `step`
explicit_rk.py     explicit Runge–Kutta methods, unrolled
stochastic_rk.py   stochastic Runge–Kutta methods, unrolled
table.py           which stepper a solver gets
instrumented.py    a stepper that measures its steps; heuristics.py: what a user asks for and sees of that
fusion_barrier.py  what keeps XLA from fusing the stages of a step
"""

from nde.steppers.base import AbstractStepper as AbstractStepper, any_nonfinite as any_nonfinite, Step as Step
from nde.steppers.fusion_barrier import COSTLY as COSTLY, opaque as opaque
from nde.steppers.heuristics import (
    check_heuristics as check_heuristics,
    Heuristics as Heuristics,
    HeuristicSpec as HeuristicSpec,
    make_heuristics as make_heuristics,
    QUANTITIES as QUANTITIES,
    Quantity as Quantity,
    StepLog as StepLog,
    STEPS as STEPS,
)
from nde.steppers.instrumented import InstrumentedStepper as InstrumentedStepper
from nde.steppers.stochastic_rk import StochasticRKStepper as StochasticRKStepper
from nde.steppers.table import make_stepper as make_stepper
